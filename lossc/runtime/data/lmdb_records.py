"""Caffe's Datum records in an LMDB, in the order of their keys."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
from google.protobuf.message import DecodeError

from lossc.errors import DataError
from lossc.frontend.caffe_pb2 import Datum, TransformationParameter
from lossc.runtime.data.arrays import ArrayRecords

if TYPE_CHECKING:
    import lmdb

#: Raw records that take no more bytes than this are read into memory once.
_PRELOAD_BYTES = 1 << 30


class _Environment:
    """An open LMDB. LMDB allows one a process and file, so all readers of a file share it."""

    _open: WeakValueDictionary[str, _Environment] = WeakValueDictionary()

    def __init__(self, path: Path) -> None:
        import lmdb

        self.name = str(path)
        try:
            self.lmdb: lmdb.Environment = lmdb.open(
                self.name, subdir=path.is_dir(), readonly=True, lock=False, readahead=False, max_readers=1
            )
        except lmdb.Error as error:
            raise DataError(f"cannot be opened as LMDB: {error}", fix="write it again", file=self.name) from None

    def __del__(self) -> None:
        if hasattr(self, "lmdb"):
            self.lmdb.close()

    @classmethod
    def of(cls, path: Path) -> _Environment:
        key = str(path.resolve())
        environment = cls._open.get(key)
        if environment is None:
            environment = cls._open[key] = cls(path)
        return environment


class LmdbRecords:
    """Records read when they are asked for. ``color``: how encoded images are decoded (None: as they are)."""

    def __init__(self, environment: _Environment, color: bool | None, crop: bool) -> None:
        self._environment: _Environment | None = environment
        self._color = color
        self._crop = crop
        self._name = environment.name
        self._transaction: Any = environment.lmdb.begin(buffers=True)
        self._cursor = self._transaction.cursor()
        self._at = -1  # the record that the cursor stands on
        self._count: int = environment.lmdb.stat()["entries"]
        if not self._count:
            raise DataError("holds no records", fix="write it again", file=self._name)
        _, _, first = next(self._datums(0, 1))
        self.encoded = first.encoded
        self.bytes_per_record = 4 * len(first.float_data) or len(first.data)
        self.shape: tuple[int, int, int] = self._image(first, 0).shape

    def __len__(self) -> int:
        return self._count

    def take(self, start: int, count: int) -> tuple[np.ndarray | Sequence[np.ndarray], np.ndarray]:
        """Decoded records; a list where sizes differ, which only cropping makes equal. Raises DataError."""
        labels = np.empty(count, np.float32)
        images = []
        for i, index, datum in self._datums(start, count):
            image = self._image(datum, index)
            if image.shape != self.shape and (not self._crop or image.shape[0] != self.shape[0]):
                raise DataError(
                    f"record {index} is {image.shape}, the first one {self.shape}",
                    fix="resize all images alike, or crop them (crop_size)",
                    file=self._name,
                )
            images.append(image)
            labels[i] = datum.label
        if all(image.shape == self.shape for image in images):
            return np.stack(images), labels
        return images, labels

    def close(self) -> None:
        """Ends the read transaction; the database closes with its last reader."""
        self._cursor.close()
        self._transaction.abort()
        self._environment = None

    def _datums(self, start: int, count: int) -> Iterator[tuple[int, int, Datum]]:
        """(place, index, record) of a run of records."""
        import lmdb

        try:
            for i in range(count):
                self._move(start + i)
                yield i, start + i, Datum.FromString(bytes(self._cursor.value()))
        except DecodeError as error:
            raise DataError(
                f"record {self._at} is no Datum: {error}", fix="write it again, with Caffe's tools", file=self._name
            ) from None
        except lmdb.Error as error:
            raise DataError(f"cannot be read at record {self._at}: {error}", file=self._name) from None

    def _move(self, index: int) -> None:
        if self._at < 0 or index < self._at:
            self._cursor.first()
            self._at = 0
        while self._at < index:
            self._cursor.next()
            self._at += 1

    def _image(self, datum: Datum, index: int) -> np.ndarray:
        """[C, H, W], uint8 or float32."""
        if datum.encoded:
            return _decode(datum.data, self._color, index, self._name)
        shape = (datum.channels, datum.height, datum.width)
        values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
        if not values.size or min(shape) < 1 or values.size != shape[0] * shape[1] * shape[2]:
            raise DataError(
                f"record {index} has {values.size} values for the shape {shape}", fix="write it again", file=self._name
            )
        return values.reshape(shape)


def open_lmdb(path: Path, param: TransformationParameter) -> tuple[ArrayRecords | LmdbRecords, bool]:
    """The records, in memory where they are raw, equal in size and fit; and whether they are encoded images."""
    if param.force_color and param.force_gray:
        raise DataError("force_color and force_gray are both set", fix="keep one of them", file=str(path))
    color = True if param.force_color else False if param.force_gray else None
    records = LmdbRecords(_Environment.of(path), color, bool(param.crop_size))
    if records.encoded or records.bytes_per_record * len(records) > _PRELOAD_BYTES:
        return records, records.encoded
    images, labels = records.take(0, len(records))
    if not isinstance(images, np.ndarray):
        return records, False
    records.close()
    return ArrayRecords(images, labels), False


def _decode(data: bytes, color: bool | None, index: int, name: str) -> np.ndarray:
    """[C, H, W] of a PNG, JPEG or the like, channels in OpenCV's order: blue, green, red."""
    try:
        from PIL import Image  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise DataError(
            "the images are encoded, and Pillow is not installed", fix="pip install pillow", file=name
        ) from None
    try:
        with Image.open(io.BytesIO(data)) as image:
            gray = image.mode in ("1", "L", "LA") if color is None else not color
            pixels = np.asarray(image.convert("L" if gray else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"record {index} cannot be decoded: {error}", fix="write it again", file=name) from None
    return pixels[None] if gray else np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1))
