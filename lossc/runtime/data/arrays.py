"""Records held as two arrays: .npz files and folders of MNIST's idx files."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from lossc.errors import DataError

#: Magic numbers of idx files (big-endian): two zero bytes, type 8 = unsigned byte, number of axes.
_MAGIC = {1: 0x0801, 3: 0x0803}


class ArrayRecords:
    """Images [N, C, H, W] (uint8 or float32; in memory or mapped) and labels [N]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self._images = images
        self._labels = labels
        self.shape: tuple[int, int, int] = images.shape[1:]

    def __len__(self) -> int:
        return len(self._images)

    def take(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Views of the records, without a copy."""
        return self._images[start : start + count], self._labels[start : start + count]

    def close(self) -> None:
        """Nothing to let go of: a mapping ends with its array."""


def open_npz(path: Path) -> ArrayRecords:
    """``data`` or ``images`` [N, H, W] or [N, C, H, W], ``label`` or ``labels`` [N]. Raises DataError."""
    name = str(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            images = _member(file, ("data", "images"), name)
            labels = _member(file, ("label", "labels"), name)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot be read as .npz: {error}", fix="write it with numpy.savez", file=name) from None
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(
            f"images of shape {images.shape}", fix="give N x H x W or N x C x H x W, none of them 0", file=name
        )
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(f"images of type {images.dtype}", fix="save them as uint8 or float32", file=name)
    if labels.dtype.kind not in "iuf" or labels.size != len(labels):
        raise DataError(
            f"labels of shape {labels.shape}, type {labels.dtype}", fix="give one number for each image", file=name
        )
    return _paired(images, labels.reshape(-1), name, name)


def _member(file: np.lib.npyio.NpzFile, names: tuple[str, str], path: str) -> np.ndarray:
    for name in names:
        if name in file:
            array: np.ndarray = np.atleast_1d(file[name])
            return array
    raise DataError(
        f"holds no array {names[0]!r} or {names[1]!r}, but {', '.join(map(repr, file.files)) or 'nothing'}",
        fix="numpy.savez(path, data=images, label=labels)",
        file=path,
    )


def open_idx_folder(folder: Path, prefix: str) -> ArrayRecords:
    """``PREFIX-images-idx3-ubyte`` and ``PREFIX-labels-idx1-ubyte``, or these with ``.gz``. Raises DataError."""
    image_path = _idx_path(folder, f"{prefix}-images-idx3-ubyte")
    label_path = _idx_path(folder, f"{prefix}-labels-idx1-ubyte")
    images, labels = _read_idx(image_path, 3), _read_idx(label_path, 1)
    if 0 in images.shape:
        raise DataError(f"images of shape {images.shape}: there is nothing to read", file=str(image_path))
    return _paired(images[:, None], labels, str(image_path), str(label_path))


def _idx_path(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(
        f"{name} is missing, with or without .gz",
        fix="put all four idx files into this folder: train-* for TRAIN, t10k-* for TEST",
        file=str(folder),
    )


def _read_idx(path: Path, axes: int) -> np.ndarray:
    """The bytes of an idx file in their shape; a file that is not compressed is mapped, not read."""
    header = struct.Struct(f">{1 + axes}I")
    content: np.ndarray
    try:
        if path.suffix == ".gz":
            content = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)
        elif path.stat().st_size:
            content = np.memmap(path, np.uint8, "r")
        else:
            content = np.empty(0, np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", fix="download it again", file=str(path)) from None
    start = content[: header.size].tobytes()
    if len(start) < 4 or int.from_bytes(start[:4], "big") != _MAGIC[axes]:
        raise DataError(
            f"starts with the bytes {start[:4].hex(' ') or '(none)'}: an idx{axes} file of bytes starts with "
            f"{_MAGIC[axes].to_bytes(4, 'big').hex(' ')}",
            fix="check that images and labels were not exchanged, and download it again",
            file=str(path),
        )
    shape = header.unpack(start)[1:] if len(start) == header.size else ()
    if not shape or len(content) - header.size != math.prod(shape):
        promised = f"{math.prod(shape) + header.size:,} bytes" if shape else "a longer header"
        raise DataError(
            f"has {len(content):,} bytes, its header promises {promised}", fix="download it again", file=str(path)
        )
    return content[header.size :].reshape(shape)


def _paired(images: np.ndarray, labels: np.ndarray, image_name: str, label_name: str) -> ArrayRecords:
    if len(images) != len(labels):
        raise DataError(
            f"{len(labels)} labels for {len(images)} images"
            + (f" of {image_name}" if image_name != label_name else ""),
            fix="use the labels that belong to these images",
            file=label_name,
        )
    return ArrayRecords(np.ascontiguousarray(images), labels)
