"""HDF5Data: rows of datasets, file after file, with any number of tops of any shape."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import lossc
from lossc.errors import DataError
from lossc.frontend.caffe_pb2 import HDF5DataParameter
from lossc.runtime.data import Hdf5Source, open_hdf5

NET = """\
layer { name: "data" type: "HDF5Data" top: "x" top: "y" top: "z" SETTINGS }
layer { name: "s" type: "Silence" bottom: "x" bottom: "y" bottom: "z" }
layer { name: "p" type: "Power" bottom: "x" top: "p" }
"""
SIZES = (4, 3, 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with three files of 4, 3 and 1 rows; row k is full of k in all three datasets."""
    first = 0
    for k, size in enumerate(SIZES):
        rows = np.arange(first, first + size)
        first += size
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            file["x"] = np.broadcast_to(rows[:, None, None], (size, 2, 3)).astype(np.float32)
            file["y"] = rows.astype(np.int64)
            file["z"] = np.broadcast_to(rows[:, None], (size, 5)).astype(np.float64)
            file["unused"] = np.zeros(2)
    (tmp_path / "list.txt").write_text("0.h5\n1.h5\n\n2.h5\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def take(source: Hdf5Source, batches: int) -> list[int]:
    """The numbers of the rows that come, the same in every top."""
    rows: list[int] = []
    for _ in range(batches):
        tops = [np.full(shape, -1.0, np.float32) for shape in source.shapes]
        source.next(*tops)
        for top in tops:
            assert (top.reshape(len(top), -1) == tops[1][:, None]).all()
        rows += [int(k) for k in tops[1]]
    return rows


def opened(batch_size: int = 3, shuffle: bool = False, source: str = "list.txt", seed: int = 1) -> Hdf5Source:
    param = HDF5DataParameter(source=source, batch_size=batch_size, shuffle=shuffle)
    return open_hdf5(param, ["x", "y", "z"], seed=seed)


def test_batches_run_on_from_file_to_file(folder: Path) -> None:
    source = opened(3)
    assert source.shapes == ((3, 2, 3), (3,), (3, 5)) and len(source) == 8
    assert take(source, 5) == [k % 8 for k in range(15)]
    assert take(opened(20), 1) == [k % 8 for k in range(20)]
    assert take(opened(3, source="1.h5"), 2) == [4, 5, 6, 4, 5, 6]


def test_shuffling_takes_each_row_once_a_pass(folder: Path) -> None:
    rows = take(opened(4, True), 20)
    passes = [rows[k : k + 8] for k in range(0, 80, 8)]
    assert all(sorted(each) == list(range(8)) for each in passes)
    assert len({tuple(each) for each in passes}) > 5
    for each in passes:  # files are taken whole, one after the other
        owners = [0 if k < 4 else 1 if k < 7 else 2 for k in each]
        assert len([1 for a, b in zip(owners, owners[1:], strict=False) if a != b]) == 2
    assert rows == take(opened(4, True), 20) != take(opened(4, True, seed=2), 20)


@pytest.mark.parametrize("shuffle", [False, True])
def test_going_on_from_a_state(folder: Path, shuffle: bool) -> None:
    for before in range(6):
        source = opened(3, shuffle)
        take(source, before)
        state = json.loads(json.dumps(source.get_state()))
        wanted = take(source, 7)
        other = opened(3, shuffle, seed=9)
        take(other, 2)
        other.set_state(state)
        assert take(other, 7) == wanted
    with pytest.raises(DataError, match="other HDF5 files"):
        opened(3, source="1.h5").set_state(state)


def test_a_net_reads_them(folder: Path) -> None:
    (folder / "net.prototxt").write_text(
        NET.replace("SETTINGS", 'hdf5_data_param { source: "list.txt" batch_size: 3 }')
    )
    net = lossc.Net("net.prototxt", lossc.TRAIN)
    for first in (0, 3):
        net.forward()
        for name, shape in (("x", (3, 2, 3)), ("y", (3,)), ("z", (3, 5))):
            values = net.blobs[name].data
            assert values.shape == shape
            np.testing.assert_array_equal(values.reshape(3, -1)[:, 0], np.arange(first, first + 3))
    other = lossc.Net("net.prototxt", lossc.TRAIN, data="1.h5")
    other.forward()
    np.testing.assert_array_equal(other.blobs["y"].data, [4, 5, 6])


def _write(path: str, **datasets: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("", "no source"),
        ('hdf5_data_param { source: "list.txt" }', "batch_size is 0"),
        ('hdf5_data_param { source: "none.txt" batch_size: 2 }', "does not exist"),
        ('hdf5_data_param { source: "empty.txt" batch_size: 2 }', "no list of HDF5 files"),
        ('hdf5_data_param { source: "gone.txt" batch_size: 2 }', "does not exist"),
        ('hdf5_data_param { source: "cut.h5" batch_size: 2 }', "cannot be read as HDF5"),
        ('hdf5_data_param { source: "few.h5" batch_size: 2 }', 'holds no dataset "y", but "x"'),
        ('hdf5_data_param { source: "uneven.h5" batch_size: 2 }', '"y" has 1 row, "x" 2'),
        ('hdf5_data_param { source: "text.h5" batch_size: 2 }', "not an array of numbers"),
        ('hdf5_data_param { source: "other.txt" batch_size: 2 }', "rows of shape"),
        (
            'transform_param { scale: 2 } hdf5_data_param { source: "list.txt" batch_size: 2 }',
            "does not transform data",
        ),
    ],
)
def test_what_cannot_be_read(folder: Path, settings: str, message: str) -> None:
    Path("empty.txt").write_text("\n")
    Path("gone.txt").write_text("nowhere.h5\n")
    Path("cut.h5").write_bytes(Path("0.h5").read_bytes()[:900])
    two = np.zeros((2, 3))
    _write("few.h5", x=two)
    _write("uneven.h5", x=two, y=two[:1], z=two)
    _write("text.h5", x=two, y=np.array([b"a", b"b"]), z=two)
    _write("odd.h5", x=np.zeros((2, 9)), y=np.zeros(2), z=np.zeros((2, 5)))
    Path("other.txt").write_text("0.h5\nodd.h5\n")
    (folder / "net.prototxt").write_text("\n" + NET.replace("SETTINGS", settings))
    with pytest.raises(DataError, match=message) as caught:
        lossc.Net("net.prototxt", lossc.TRAIN)
    assert caught.value.layer == "data" and caught.value.fix
