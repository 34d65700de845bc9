"""Batches in file order, wrapping around at the end, as Caffe's Data layer gives them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lossc.errors import DataError
from lossc.frontend import caffe_pb2
from lossc.runtime.data.arrays import open_idx_folder, open_npz
from lossc.runtime.data.lmdb_records import open_lmdb
from lossc.runtime.data.places import find_source
from lossc.runtime.data.transform import Transform


class Records(Protocol):
    """Labelled images in a fixed order. ``images`` of :meth:`take` are [n, C, H, W], or a list where sizes differ."""

    shape: tuple[int, int, int]

    def __len__(self) -> int: ...

    def take(self, start: int, count: int) -> tuple[np.ndarray | Sequence[np.ndarray], np.ndarray]:
        """Records start ... start + count - 1, which all exist, and their labels [count]."""
        ...

    def close(self) -> None: ...


class DataSource:
    """An endless stream of batches; made by :func:`open_source`.

    ``shapes``: of the tops, data (batch, C, H, W) after cropping and label (batch,).
    """

    def __init__(self, records: Records, transform: Transform, batch_size: int, *, name: str, skip: int = 0) -> None:
        self._records = records
        self._transform = transform
        self._batch = batch_size
        self._name = name
        self._position = skip % len(records)
        self.shapes: tuple[tuple[int, ...], ...] = ((batch_size, *transform.shape), (batch_size,))

    def __len__(self) -> int:
        """Records in one pass over the source."""
        return len(self._records)

    @property
    def position(self) -> int:
        """The record that the next batch starts with; settable, 0 <= position < len(self)."""
        return self._position

    @position.setter
    def position(self, value: int) -> None:
        if not 0 <= value < len(self):
            raise DataError(
                f"position {value} is not in a source of {len(self)} records",
                fix="resume with the data that the run was started with",
                file=self._name,
            )
        self._position = value

    def skip(self, n: int) -> None:
        """Passes over ``n`` records. Random cropping and mirroring is not drawn for them."""
        self._position = (self._position + n) % len(self)

    def next(self, data: np.ndarray, label: np.ndarray | None = None) -> None:
        """Writes the next batch into ``data`` [batch, C, H, W] and ``label`` [batch] (views, any real dtype).

        Raises DataError where a view's shape differs from ``shapes`` or a record cannot be read.
        """
        for what, view, shape in (("data", data, self.shapes[0]), ("label", label, self.shapes[1])):
            if view is not None and view.shape != shape:
                raise DataError(f"the {what} view has shape {view.shape}, a batch is {shape}", file=self._name)
        done = 0
        while done < self._batch:
            count = min(self._batch - done, len(self) - self._position)
            images, labels = self._records.take(self._position, count)
            self._transform(images, data[done : done + count])
            if label is not None:
                label[done : done + count] = labels
            done += count
            self.skip(count)

    def get_state(self) -> dict[str, Any]:
        """Position and random state: what :meth:`set_state` needs for an exact resume."""
        return {"position": self._position, "random": self._transform.random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where ``state`` was taken."""
        self.position = state["position"]
        self._transform.random.bit_generator.state = state["random"]

    def close(self) -> None:
        """Lets go of files; the source cannot be used afterwards."""
        self._records.close()


def open_source(
    data_param: caffe_pb2.DataParameter,
    transform_param: caffe_pb2.TransformationParameter,
    phase: int | str,
    *,
    relative_to: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> DataSource:
    """The source that a Data layer names (Caffe: DataLayer, DataTransformer).

    ``source`` is an LMDB of Datum records, an ``.npz`` file (``data`` or ``images``, ``label`` or ``labels``), or a
    folder of MNIST's idx files (``train-*`` in phase TRAIN, ``t10k-*`` in TEST, gzipped or not). A relative path is
    looked up in the working directory, as Caffe does, then in the folder ``relative_to``. ``phase`` is "TRAIN" or
    "TEST", or the enum's value. ``seed`` is that of random crops, mirroring and rand_skip.

    Raises DataError for everything that cannot be read or does not fit together.
    """
    train = _is_train(phase)
    if not data_param.source:
        raise DataError("no source", fix='give data_param { source: "..." }')
    if data_param.HasField("backend") and data_param.backend == caffe_pb2.DataParameter.LEVELDB:
        raise _leveldb(data_param.source)
    if data_param.batch_size < 1:
        raise DataError(
            "batch_size is 0", fix="give data_param { batch_size: N }, N at least 1", file=data_param.source
        )
    path = find_source(data_param.source, relative_to)
    random = np.random.default_rng(seed)
    records, encoded = _open(path, transform_param, train)
    try:
        mean = find_source(transform_param.mean_file, relative_to) if transform_param.HasField("mean_file") else None
        transform = Transform(transform_param, records.shape, train, random, encoded=encoded, mean_path=mean)
    except DataError as error:
        records.close()
        raise error.located(file=str(path)) from None
    skip = int(random.integers(data_param.rand_skip)) if data_param.rand_skip else 0
    return DataSource(records, transform, data_param.batch_size, name=str(path), skip=skip)


def _is_train(phase: int | str) -> bool:
    names = {"TRAIN": True, "TEST": False, caffe_pb2.TRAIN: True, caffe_pb2.TEST: False}
    if phase not in names:
        raise DataError(f"the phase {phase!r} is not known", fix="use TRAIN or TEST")
    return names[phase]


def _open(path: Path, transform_param: caffe_pb2.TransformationParameter, train: bool) -> tuple[Records, bool]:
    """The records, and whether they are encoded images."""
    if path.is_file() and path.suffix == ".npz":
        return open_npz(path), False
    if path.is_dir() and (path / "CURRENT").exists() and any(path.glob("MANIFEST-*")):
        raise _leveldb(str(path))
    if (path / "data.mdb").exists() or path.suffix == ".mdb":
        return open_lmdb(path, transform_param)
    if path.is_dir() and any(path.glob("*-idx[13]-ubyte*")):
        return open_idx_folder(path, "train" if train else "t10k"), False
    raise DataError(
        "is neither an LMDB, nor an .npz file, nor a folder of idx files",
        fix="a folder must hold data.mdb, or train-images-idx3-ubyte and its three companions",
        file=str(path),
    )


def _leveldb(source: str) -> DataError:
    return DataError(
        "LevelDB is not read",
        fix="write the data as LMDB (convert_imageset -backend lmdb) or as .npz, and set backend: LMDB",
        file=source,
    )
