"""Turns the example's .npz into the two idx files that train.c reads: python make_idx.py FILE.npz FOLDER."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np

_BYTES = 8  # idx's number for unsigned bytes


def write_idx(path: Path, array: np.ndarray) -> None:
    """Two zero bytes, type, number of axes, the sizes (big-endian), the bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, _BYTES, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def main(source: str, folder: str) -> None:
    with np.load(source) as arrays:
        write_idx(Path(folder) / "train-images-idx3-ubyte", arrays["data"])
        write_idx(Path(folder) / "train-labels-idx1-ubyte", arrays["label"])


if __name__ == "__main__":
    main(*sys.argv[1:])
