"""Files of arrays on disk: read whole, written so that a crash or a full disk never leaves half of one."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lossc.errors import WeightsError
from lossc.frontend.paths import path_text
from lossc.frontend.pb import MAX_AXES

PROTOBUF_LIMIT = 2**31 - 1  # bytes of one message
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

# What h5py raises for files that are damaged or not what they seem.
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)

# HDF5's deflate cannot compress by more than this: an array that claims more was made to fill the memory.
_MOST_COMPRESSION = 1032


def read_file(path: str | PathLike[str]) -> bytes:
    """All bytes of a binary file; of an HDF5 file only its signature. Raises WeightsError."""
    name = path_text(path, "a file of weights or a solver's state")
    try:
        with open(name, "rb") as file:
            head = file.read(len(HDF5_SIGNATURE))
            if head == HDF5_SIGNATURE:
                return head
            size = os.fstat(file.fileno()).st_size
            if size > PROTOBUF_LIMIT:
                message = f"has {size:,} bytes, but this format ends at 2 GiB"
                raise WeightsError(message, fix="save it as .h5 (snapshot_format: HDF5)", file=name)
            data = head + file.read()
    except FileNotFoundError:
        raise WeightsError("no such file", fix="check the name and the working directory", file=name) from None
    except IsADirectoryError:
        raise WeightsError("is a folder, not a file", fix="name the file in it", file=name) from None
    except (OSError, ValueError) as error:
        fix = "check its name and its permissions"
        raise WeightsError(f"cannot be read: {_reason(error)}", fix=fix, file=name) from None
    if not data:
        raise WeightsError("is empty", fix="write or download it again", file=name)
    return data


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """A new file beside ``path`` to write to; it takes its place at the end, whole, or goes away.

    Raises WeightsError where it cannot be written.
    """
    target = Path(os.path.realpath(path))  # a link stays, what it points to is replaced
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except HDF5_ERRORS as error:
        fix = "choose a folder that exists, is writable and has room"
        raise WeightsError(f"cannot be written: {_reason(error)}", fix=fix, file=fspath(path)) from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    with suppress(OSError):  # make the new name last too, where a folder can be synchronised
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_chunks(path: str | PathLike[str], chunks: Iterable[bytes]) -> None:
    """Write a protobuf message, given in pieces. Raises WeightsError."""
    with replacing(path) as temporary, open(temporary, "xb") as file:
        for chunk in chunks:
            file.write(chunk)


def check_size(path: str | PathLike[str], count: int) -> None:
    """Refuse a message of more bytes than any protobuf reader takes."""
    if count > PROTOBUF_LIMIT:
        message = f"would have {count:,} bytes, but this format ends at 2 GiB"
        raise WeightsError(message, fix="name it .h5 (snapshot_format: HDF5)", file=fspath(path))


def hdf5_array(dataset: Any, dtype: npt.DTypeLike) -> np.ndarray:
    """The values of an HDF5 dataset. Raises WeightsError for what is no plain array of numbers."""
    import h5py

    problem = None
    if not isinstance(dataset, h5py.Dataset):
        problem = "is a group where an array is expected"
    elif dataset.dtype.kind not in "fiu" or dataset.shape is None or len(dataset.shape) > MAX_AXES:
        problem = f"holds {dataset.dtype} of shape {dataset.shape}, not an array of numbers"
    elif dataset.is_virtual or dataset.external:
        problem = "refers to data in other files"
    elif dataset.nbytes > _MOST_COMPRESSION * dataset.id.get_storage_size():
        problem = f"claims the shape {dataset.shape}, but stores next to nothing"
    if problem:
        raise WeightsError(problem, fix="the file is damaged: write or download it again")
    values: np.ndarray = np.asarray(dataset[()], dtype=dtype)
    return values


def _reason(error: Exception) -> str:
    in_hdf5 = re.search(r"error message = '([^']+)'", str(error))
    return in_hdf5[1] if in_hdf5 else getattr(error, "strerror", None) or str(error)
