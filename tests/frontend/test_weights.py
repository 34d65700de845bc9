"""Weights and states: round trips, and one clear error for every file that is not what it should be."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from lossc.errors import UsageError, WeightsError
from lossc.frontend import files
from lossc.frontend.caffe_pb2 import BlobProto, NetParameter, SolverState
from lossc.frontend.pb import array_to_blob, blob_to_array, raw, raw_blob
from lossc.frontend.weights import (
    SolverStateData,
    read_blob,
    read_state,
    read_weights,
    write_blob,
    write_state,
    write_weights,
)

NET = NetParameter(name="n")
NET.layer.add(name="data", type="Input", top=["x"])
NET.layer.add(name="conv1/3x3", type="Convolution", bottom=["x"], top=["y"])
NET.layer.add(name="ip", type="InnerProduct", bottom=["y"], top=["z"])

rng = np.random.default_rng(0)
WEIGHTS = {
    "conv1/3x3": [rng.standard_normal((2, 3, 3, 3), np.float32), rng.standard_normal(2, np.float32)],
    "ip": [rng.standard_normal((4, 5), np.float32)],
}
STATE = SolverStateData(7, "snap_iter_7.caffemodel", 2, [rng.standard_normal((3, 2), np.float32) for _ in range(12)])
ENDINGS = ["", ".h5"]

arrays = st_np.arrays(
    np.float32, st_np.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4), elements=st.floats(width=32)
)


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert len(a[name]) == len(b[name])
        for x, y in zip(a[name], b[name], strict=True):
            assert x.dtype == y.dtype and x.shape == y.shape
            np.testing.assert_array_equal(x, y)


def fails(read, path) -> WeightsError:
    with pytest.raises(WeightsError) as caught:
        read(path)
    assert caught.value.file == str(path)
    assert caught.value.fix and "\n" not in caught.value.message
    return caught.value


@given(arrays)
def test_blobs_and_arrays(values):
    blob = array_to_blob(values, -values)
    np.testing.assert_array_equal(blob_to_array(blob), values)
    np.testing.assert_array_equal(blob_to_array(blob, diff=True), -values)
    assert blob_to_array(blob).shape == values.shape
    if not np.isnan(values).any():  # which of the many NaNs it is may change
        assert blob.SerializeToString() == raw_blob(values, -values).SerializeToString()


def test_blobs_in_double_precision():
    values = np.array([[1 / 3, 2.0]])
    blob = array_to_blob(values)
    assert len(blob.double_data) == 2 and not blob.data
    assert blob_to_array(blob).dtype == np.float32
    assert blob_to_array(blob, dtype=np.float64)[0, 0] == 1 / 3


def test_blobs_on_the_wire_in_other_ways():
    """Numbers one by one, and numbers in two packed pieces: legal, if rare."""
    head = BlobProto(shape={"dim": [2]}).SerializeToString()
    one, two = struct.pack("<f", 1.5), struct.pack("<f", -2)
    for wire in (b"\x2d" + one + b"\x2d" + two, b"\x2a\x04" + one + b"\x2a\x04" + two, b"\x2a\x08" + one + two):
        assert blob_to_array(raw().BlobProto.FromString(head + wire)).tolist() == [1.5, -2]
        assert blob_to_array(BlobProto.FromString(head + wire)).tolist() == [1.5, -2]


@pytest.mark.parametrize(
    "shape, count",
    [([3], 2), ([-1], 1), ([2**40, 2**40], 1), ([], 2), ([1] * 33, 1), ([0, 2**62], 0), ([2, -3, -1], 6)],
)
def test_impossible_blobs(shape, count, tmp_path):
    blob = BlobProto(shape={"dim": shape}, data=[1] * count)
    with pytest.raises(WeightsError):
        blob_to_array(blob)
    net = NetParameter()
    net.layer.add(name="bad").blobs.append(blob)
    path = tmp_path / "m.caffemodel"
    path.write_bytes(net.SerializeToString())
    error = fails(read_weights, path)
    assert error.layer == "bad" and "blob 0" in error.message


@pytest.mark.parametrize("ending", ENDINGS)
def test_weights_round_trip(tmp_path, ending):
    path = tmp_path / f"m.caffemodel{ending}"
    write_weights(path, NET, WEIGHTS)
    equal(read_weights(path), WEIGHTS)
    diffs = {name: [-each for each in several] for name, several in WEIGHTS.items()}
    write_weights(path, NET, WEIGHTS, diffs)
    equal(read_weights(path), WEIGHTS)
    if ending:
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["diff/ip/0"], diffs["ip"][0])
            assert "data/data" in file
    else:
        net = NetParameter.FromString(path.read_bytes())
        assert [layer.name for layer in net.layer] == ["data", "conv1/3x3", "ip"]
        np.testing.assert_array_equal(blob_to_array(net.layer[2].blobs[0], diff=True), diffs["ip"][0])
    assert os.listdir(tmp_path) == [path.name]


@given(st.lists(arrays, max_size=4))
def test_any_arrays_round_trip(tmp_path_factory, several):
    folder = tmp_path_factory.mktemp("any")
    for ending in ENDINGS:
        write_weights(folder / f"m{ending}", NET, {"ip": several})
        equal(read_weights(folder / f"m{ending}"), {"ip": several} if several else {})
        write_state(folder / f"s{ending}", SolverStateData(1, "", 0, several))
        equal({"h": read_state(folder / f"s{ending}").history}, {"h": several})


def test_shared_parameters(tmp_path):
    net = NetParameter()
    for name in ("a", "b"):
        layer = net.layer.add(name=name, type="InnerProduct")
        layer.param.add(name="w")
        layer.param.add()
    weights = {name: [np.ones((2, 2), np.float32), np.full(2, i, np.float32)] for i, name in enumerate("ab")}
    write_weights(tmp_path / "m", net, weights)
    equal(read_weights(tmp_path / "m"), weights)
    write_weights(tmp_path / "m.h5", net, weights, weights)
    found = read_weights(tmp_path / "m.h5")
    equal({"a": found["a"], "b": found["b"][1:]}, {"a": weights["a"], "b": weights["b"][1:]})
    assert found["b"][0] is None
    with h5py.File(tmp_path / "m.h5") as file:
        assert sorted(file["diff/b"]) == ["0", "1"]


def test_old_formats(tmp_path):
    old = {"num": 1, "channels": 1, "height": 2, "width": 3, "data": range(6)}
    v1, v0 = NetParameter(), NetParameter()
    v1.layers.add(name="ip", blobs=[old])
    v0.layers.add(layer={"name": "ip", "blobs": [old]})
    for net in (v1, v0):
        (tmp_path / "m").write_bytes(net.SerializeToString())
        equal(read_weights(tmp_path / "m"), {"ip": [np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)]})
    v1.layer.add(name="new")
    (tmp_path / "m").write_bytes(v1.SerializeToString())
    assert "two formats" in fails(read_weights, tmp_path / "m").message


def test_double_precision_round_trip(tmp_path):
    values = {"ip": [np.array([1 / 3])]}
    for ending in ENDINGS:
        write_weights(tmp_path / f"m{ending}", NET, values)
        equal(read_weights(tmp_path / f"m{ending}", dtype=np.float64), values)
        assert read_weights(tmp_path / f"m{ending}")["ip"][0].dtype == np.float32


@pytest.mark.parametrize("ending", ENDINGS)
def test_state_round_trip(tmp_path, ending):
    path = tmp_path / f"s.solverstate{ending}"
    write_state(path, STATE)
    state = read_state(path)
    assert (state.iter, state.learned_net, state.current_step) == (7, "snap_iter_7.caffemodel", 2)
    equal({"h": state.history}, {"h": STATE.history})


def test_state_in_hdf5_is_of_caffes_types(tmp_path):
    write_state(tmp_path / "s.h5", STATE)
    with h5py.File(tmp_path / "s.h5") as file:
        assert (file["iter"].dtype, file["iter"].shape) == (np.int32, (1,))
        text = file["learned_net"].id.get_type()
        assert (text.get_size(), text.get_strpad()) == (len(STATE.learned_net) + 1, h5py.h5t.STR_NULLTERM)
        assert file["learned_net"][()] == STATE.learned_net.encode()


def test_state_without_some_fields(tmp_path):
    (tmp_path / "s").write_bytes(SolverState(iter=3).SerializeToString())
    assert read_state(tmp_path / "s") == SolverStateData(3)


def test_binaryproto(tmp_path):
    values = rng.standard_normal((3, 4, 4), np.float32)
    write_blob(tmp_path / "mean.binaryproto", values)
    np.testing.assert_array_equal(read_blob(tmp_path / "mean.binaryproto"), values)
    write_weights(tmp_path / "m", NET, WEIGHTS)
    assert "holds no array" in fails(read_blob, tmp_path / "m").message
    assert "is damaged" in fails(read_weights, tmp_path / "mean.binaryproto").message


@pytest.mark.parametrize("ending", ENDINGS)
def test_mistaken_files(tmp_path, ending):
    model, state = tmp_path / f"m.caffemodel{ending}", tmp_path / f"s.solverstate{ending}"
    write_weights(model, NET, WEIGHTS)
    write_state(state, STATE)
    assert fails(read_weights, state).message == "is a solver's state, not weights"
    assert fails(read_state, model).message == "holds weights, not a solver's state"


@pytest.mark.parametrize("read", [read_weights, read_state])
def test_files_of_other_kinds(tmp_path, read):
    path = tmp_path / "file"
    path.write_text('layer { name: "ip" }')
    assert "is text" in fails(read, path).message
    path.write_bytes(b"")
    assert "is empty" in fails(read, path).message
    path.write_bytes(rng.bytes(1000))
    assert "is damaged" in fails(read, path).message
    path.write_bytes(files.HDF5_SIGNATURE + rng.bytes(1000))
    assert "is damaged" in fails(read, path).message
    with h5py.File(path, "w") as file:
        file["data"] = np.ones(3)
    assert "HDF5 file without" in fails(read, path).message
    assert "no such file" in fails(read, tmp_path / "absent").message
    assert "is a folder" in fails(read, tmp_path).message


def test_names_that_are_no_text(tmp_path):
    path = tmp_path / "m"
    net = NetParameter()
    net.layer.add(name="QQ", blobs=[{"data": [1]}])
    path.write_bytes(net.SerializeToString().replace(b"QQ", b"\xff\xfe"))
    assert "is damaged" in fails(read_weights, path).message


def test_two_layers_of_one_name(tmp_path):
    net = NetParameter()
    for _ in range(2):
        net.layer.add(name="ip", blobs=[{"data": [1]}])
    (tmp_path / "m").write_bytes(net.SerializeToString())
    assert fails(read_weights, tmp_path / "m").layer == "ip"


@pytest.mark.parametrize("ending", ENDINGS)
def test_truncated_and_damaged_files(tmp_path, ending):
    """Every cut of a file, and many flipped bytes: the right arrays, other numbers in them, or a WeightsError."""
    for read, write in (
        (read_weights, lambda p: write_weights(p, NET, WEIGHTS)),
        (read_state, lambda p: write_state(p, STATE)),
    ):
        whole, path = tmp_path / f"whole{ending}", tmp_path / f"cut{ending}"
        write(whole)
        data = whole.read_bytes()
        step = max(1, len(data) // 150)
        refused = 0
        for size in range(0, len(data), step):
            flipped = bytearray(data)
            flipped[size] ^= 0xFF
            for damaged in (data[:size], flipped):
                path.write_bytes(damaged)
                try:
                    read(path)
                except WeightsError as error:
                    assert error.file == str(path)
                    refused += 1
        assert refused > 100


def test_hostile_hdf5(tmp_path):
    path = tmp_path / "m.h5"

    def written(make):
        with h5py.File(path, "w") as file:
            make(file)
        return fails(read_weights, path).message

    huge = (2**20, 2**20)
    assert "stores next to nothing" in written(
        lambda f: f.create_dataset("data/ip/0", huge, np.float32, chunks=(64, 64))
    )
    assert "not an array of numbers" in written(lambda f: f.create_dataset("data/ip/0", data="text"))
    assert "no parameter" in written(lambda f: f.create_dataset("data/ip/weights", data=[1.0]))
    assert "no parameter" in written(lambda f: f.create_dataset("data/ip/99999999", data=[1.0]))
    outside = [(str(tmp_path / "secret"), 0, 4)]
    assert "other files" in written(lambda f: f.create_dataset("data/ip/0", (1,), np.float32, external=outside))


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match="no layer named ip2"):
        write_weights(tmp_path / "m", NET, {"ip2": []})
    with pytest.raises(UsageError, match="not an array of numbers"):
        write_weights(tmp_path / "m", NET, {"ip": ["text"]})
    with pytest.raises(UsageError, match="differ in number or shape"):
        write_weights(tmp_path / "m", NET, {"ip": [np.ones(2)]}, {"ip": [np.ones(3)]})
    for ending in ENDINGS:
        for path in (tmp_path / "nowhere" / f"m{ending}", tmp_path / f"folder{ending}"):
            (tmp_path / f"folder{ending}").mkdir(exist_ok=True)
            with pytest.raises(WeightsError, match="cannot be written: .*(No such file|is a folder)") as caught:
                write_weights(path, NET, WEIGHTS)
            assert caught.value.file == str(path)
    assert all(entry.is_dir() for entry in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a//b", "/ip", "."])
def test_names_that_hdf5_cannot_hold(tmp_path, name):
    net = NetParameter()
    net.layer.add(name=name)
    with pytest.raises(WeightsError, match="no HDF5 group"):
        write_weights(tmp_path / "m.h5", net, {name: [np.ones(1)]})
    write_weights(tmp_path / "m", net, {name: [np.ones(1)]})
    assert list(read_weights(tmp_path / "m")) == [name]


def test_two_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PROTOBUF_LIMIT", 100)
    for write, value in ((write_state, STATE), (lambda path, net: write_weights(path, net, WEIGHTS), NET)):
        with pytest.raises(WeightsError, match="ends at 2 GiB"):
            write(tmp_path / "large", value)
        assert not list(tmp_path.glob("large*"))
    (tmp_path / "m").write_bytes(b"\n" * 101)
    assert "HDF5" in fails(read_weights, tmp_path / "m").fix


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_leaves_the_old_file(tmp_path, ending):
    """A limit on the size of files stands for a disk without room; it is set in a process of its own."""
    path = tmp_path / f"m.caffemodel{ending}"
    write_weights(path, NET, WEIGHTS)
    before = path.read_bytes()
    code = f"""if True:
        import numpy as np
        from lossc.errors import WeightsError
        from lossc.frontend.caffe_pb2 import NetParameter
        from lossc.frontend.weights import write_weights
        net = NetParameter()
        net.layer.add(name="ip")
        try:
            write_weights({str(path)!r}, net, {{"ip": [np.ones(1_000_000, np.float32)]}})
        except WeightsError as error:
            assert "cannot be written" in str(error), error
        else:
            raise SystemExit("written")
    """

    def small():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=small, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_links_stay(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "latest.caffemodel"
    link.symlink_to(tmp_path / "real" / "m.caffemodel")
    write_weights(link, NET, WEIGHTS)
    assert link.is_symlink()
    equal(read_weights(tmp_path / "real" / "m.caffemodel"), WEIGHTS)
