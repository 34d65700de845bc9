"""What Caffe's HDF5Data layer reads: rows of datasets, file after file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lossc.errors import DataError, WeightsError, count_of
from lossc.frontend import caffe_pb2
from lossc.frontend.files import HDF5_ERRORS, HDF5_SIGNATURE, hdf5_array
from lossc.runtime.data.places import find_source

_FIX = "write each file with h5py: a dataset for each top, all with the same number of rows"


class Hdf5Source:
    """An endless stream of batches; made by :func:`open_hdf5`.

    ``shapes``: of the tops, (batch, ...) with the axes that follow the first one in the datasets. As in Caffe, batches
    run on from one file to the next, and one file at a time is in memory. ``shuffle`` draws an order of the files for
    each pass over them, and one of the rows whenever a file is begun; the order is not Caffe's.
    """

    def __init__(self, files: Sequence[Path], tops: Sequence[str], batch_size: int, random: Any) -> None:
        self._files = files
        self._tops = tops
        self._random: np.random.Generator | None = random
        self._rows = [_describe(path, tops) for path in files]
        first = self._rows[0]
        for path, shapes in zip(files, self._rows, strict=True):
            for top, shape, wanted in zip(tops, shapes, first, strict=True):
                if shape[1:] != wanted[1:]:
                    message = f'dataset "{top}" has rows of shape {list(shape[1:])}, in {files[0]} {list(wanted[1:])}'
                    raise DataError(message, fix="give every file rows of one shape", file=str(path))
        self.shapes: tuple[tuple[int, ...], ...] = tuple((batch_size, *shape[1:]) for shape in first)
        self._order = list(range(len(files)))
        self._at = 0
        self._row = 0
        self._loaded: int | None = None
        self._shuffle_files()
        self._begin_file()

    def __len__(self) -> int:
        """Rows in one pass over all files."""
        return sum(shapes[0][0] for shapes in self._rows)

    def next(self, *tops: np.ndarray | None) -> None:
        """Writes the next batch into ``tops`` (views of ``shapes``, any real dtype). Raises DataError."""
        batch, done = self.shapes[0][0], 0
        while done < batch:
            if self._row == len(self._permutation):
                self._next_file()
            count = min(batch - done, len(self._permutation) - self._row)
            rows = self._permutation[self._row : self._row + count]
            for top, values in zip(tops, self._arrays, strict=False):
                if top is not None:
                    top[done : done + count] = values[rows]
            done += count
            self._row += count

    def get_state(self) -> dict[str, Any]:
        """What :meth:`set_state` needs for an exact resume."""
        return {"files": self._order, "file": self._at, "row": self._row, "random": self._before}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where ``state`` was taken. Raises DataError where it is that of other files."""
        order = [int(k) for k in state.get("files", ())]
        at, row = int(state.get("file", -1)), int(state.get("row", -1))
        known = sorted(order) == list(range(len(self._files)))
        if not known or not 0 <= at < len(order) or not 0 <= row <= self._rows[order[at]][0][0]:
            fix = "resume with the data that the run was started with"
            raise DataError("the state is that of other HDF5 files", fix=fix, file=str(self._files[0]))
        self._order, self._at = order, at
        if self._random is not None and state.get("random"):
            self._random.bit_generator.state = state["random"]
        self._begin_file()
        self._row = row

    def close(self) -> None:
        """Nothing to let go of: files are closed once they are read."""

    def _next_file(self) -> None:
        self._at += 1
        if self._at == len(self._files):
            self._at = 0
            self._shuffle_files()
        self._begin_file()

    def _shuffle_files(self) -> None:
        if self._random is not None:
            self._order = [int(k) for k in self._random.permutation(len(self._files))]

    def _begin_file(self) -> None:
        """Reads the file at hand, unless it is in memory, and draws the order of its rows."""
        index = self._order[self._at]
        if index != self._loaded:
            self._arrays = _read(self._files[index], self._tops, self._rows[index])
            self._loaded = index
        rows = self._rows[index][0][0]
        self._before: Any = self._random.bit_generator.state if self._random is not None else None
        self._permutation = self._random.permutation(rows) if self._random is not None else np.arange(rows)
        self._row = 0


def open_hdf5(
    param: caffe_pb2.HDF5DataParameter,
    tops: Sequence[str],
    *,
    relative_to: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Hdf5Source:
    """The source that an HDF5Data layer names (Caffe: HDF5DataLayer).

    ``source`` is a text file with the path of one HDF5 file a line or, ours, such a file itself. Paths are looked up in
    the working directory, as Caffe does, then beside the file that names them; ``relative_to`` is the net's folder.
    ``seed`` is that of shuffling. Raises DataError for everything that cannot be read or does not fit together.
    """
    if not param.source:
        raise DataError("no source", fix='give hdf5_data_param { source: "..." }: a text file that lists .h5 files')
    if param.batch_size < 1:
        fix = "give hdf5_data_param { batch_size: N }, N at least 1"
        raise DataError("batch_size is 0", fix=fix, file=param.source)
    path = find_source(param.source, relative_to)
    random = np.random.default_rng(seed) if param.shuffle else None
    return Hdf5Source(_listed(path), tops, param.batch_size, random)


def _listed(path: Path) -> list[Path]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", fix="name a list of .h5 files", file=str(path)) from None
    if data.startswith(HDF5_SIGNATURE):
        return [path]
    try:
        names = [line.strip() for line in data.decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        names = []
    if not names or "\0" in "".join(names):
        fix = "write the path of one .h5 file a line"
        raise DataError("is no list of HDF5 files", fix=fix, file=str(path))
    return [find_source(name, path.parent) for name in names]


def _describe(path: Path, tops: Sequence[str]) -> list[tuple[int, ...]]:
    """The shapes of the datasets named like the tops. Raises DataError."""
    import h5py

    try:
        with h5py.File(path, "r") as root:
            if missing := [top for top in tops if not isinstance(root.get(top), h5py.Dataset)]:
                held = ", ".join(f'"{name}"' for name in root) or "nothing"
                raise DataError(f'holds no dataset "{missing[0]}", but {held}', fix=_FIX, file=str(path))
            shapes = [tuple(root[top].shape or ()) for top in tops]
    except HDF5_ERRORS as error:
        raise _damaged(path, error) from None
    if any(not shape or 0 in shape for shape in shapes):
        raise DataError(f"datasets of shapes {[list(s) for s in shapes]}: no rows", fix=_FIX, file=str(path))
    for top, shape in zip(tops, shapes, strict=True):
        if shape[0] != shapes[0][0]:
            message = f'"{top}" has {count_of(shape[0], "row")}, "{tops[0]}" {shapes[0][0]}'
            raise DataError(message, fix=_FIX, file=str(path))
    return shapes


def _read(path: Path, tops: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    import h5py

    try:
        with h5py.File(path, "r") as root:
            arrays = [hdf5_array(root[top], root[top].dtype) for top in tops]
    except WeightsError as error:
        raise DataError(error.message, fix=_FIX, file=str(path)) from None
    except HDF5_ERRORS as error:
        raise _damaged(path, error) from None
    if [a.shape for a in arrays] != list(shapes):
        raise DataError("has changed while it was used", fix="start again", file=str(path))
    return arrays


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot be read as HDF5: {error}", fix=_FIX, file=str(path))
