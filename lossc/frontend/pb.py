"""Small helpers around Caffe's messages: names of enum values, arrays to blobs and back."""

from __future__ import annotations

import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from lossc.errors import WeightsError
from lossc.frontend import caffe_pb2
from lossc.frontend.caffe_pb2 import BlobProto

MAX_AXES = 32  # Caffe's kMaxBlobAxes
MAX_COUNT = 2**40  # 4 TiB of floats: larger is damage, and NumPy's own sizes must not overflow

_VALUES = {"data": "<f4", "diff": "<f4", "double_data": "<f8", "double_diff": "<f8"}


def enum_name(message: Any, field: str) -> str:
    """The name of the value of an enum field, such as "MAX" for ``pool`` of a PoolingParameter."""
    value: int = getattr(message, field)
    name: str = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number[value].name
    return name


@cache
def raw() -> Any:
    """Caffe's messages once more, but the values of a BlobProto are bytes: a namespace of classes.

    On the wire a packed repeated float and a string of bytes look alike, so both classes read and write the same
    files; but bytes go to and from NumPy without a Python object for each number.
    """
    schema = FileDescriptorProto()
    caffe_pb2.DESCRIPTOR.CopyToProto(schema)
    blob = next(message for message in schema.message_type if message.name == "BlobProto")
    for field in blob.field:
        if field.name in _VALUES:
            field.type = FieldDescriptorProto.TYPE_BYTES
            field.ClearField("options")
    pool = descriptor_pool.DescriptorPool()
    file = pool.AddSerializedFile(schema.SerializeToString()) or pool.FindFileByName(schema.name)
    messages = {name: message_factory.GetMessageClass(type_) for name, type_ in file.message_types_by_name.items()}
    return SimpleNamespace(**messages)


def blob_shape(blob: Any) -> tuple[int, ...]:
    """The shape of a BlobProto: its ``shape``, or the four old fields (then always four axes).

    Raises WeightsError for what no array can have.
    """
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        shape = (blob.num, blob.channels, blob.height, blob.width)
    else:
        shape = tuple(blob.shape.dim)
    if len(shape) > MAX_AXES:
        raise WeightsError(f"an array of {len(shape)} axes; at most {MAX_AXES} can be")
    if any(size < 0 for size in shape) or math.prod(max(size, 1) for size in shape) > MAX_COUNT:
        raise WeightsError(f"an array of the impossible shape {shape}")
    return shape


def blob_to_array(blob: Any, *, diff: bool = False, dtype: npt.DTypeLike = np.float32) -> np.ndarray:
    """The values of a BlobProto (or its gradient) as a new array of its shape.

    ``blob`` is of caffe_pb2 or of raw(). Raises WeightsError where number of values and shape do not agree.
    """
    shape = blob_shape(blob)
    count: int = math.prod(shape)
    if not isinstance(blob, raw().BlobProto):
        blob = raw().BlobProto.FromString(blob.SerializeToString())
    kind = "diff" if diff else "data"
    name = f"double_{kind}" if getattr(blob, f"double_{kind}") else kind
    chunks = getattr(blob, name)
    values = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    wire = np.dtype(_VALUES[name])
    if not values and count:
        # Written one number after the other, not packed, which the bytes of raw() do not see.
        plain = BlobProto.FromString(blob.SerializeToString())
        values = np.array(getattr(plain, f"double_{kind}") or getattr(plain, kind), wire).tobytes()
    if len(values) != count * wire.itemsize:
        raise WeightsError(f"{len(values) // wire.itemsize} values for an array of shape {shape}")
    return np.frombuffer(values, wire).reshape(shape).astype(dtype)


def raw_blob(values: npt.ArrayLike, diff: npt.ArrayLike | None = None) -> Any:
    """A BlobProto of raw() with the values and, where given, the gradient. float64 stays, all else becomes float32."""
    array = np.asarray(values)
    blob = raw().BlobProto()
    blob.shape.dim.extend(array.shape)
    blob.shape.SetInParent()  # no axes: a scalar, not an array without a shape
    for kind, each in (("data", array), ("diff", diff)):
        if each is not None:
            each = np.asarray(each)
            if each.shape != array.shape:
                raise WeightsError(f"a gradient of shape {each.shape} for an array of shape {array.shape}")
            name = f"double_{kind}" if each.dtype == np.float64 else kind
            if each.size:
                getattr(blob, name).append(np.ascontiguousarray(each, _VALUES[name]).tobytes())
    return blob


def array_to_blob(values: npt.ArrayLike, diff: npt.ArrayLike | None = None) -> BlobProto:
    """A BlobProto of caffe_pb2 with the values and, where given, the gradient: the inverse of blob_to_array."""
    return BlobProto.FromString(raw_blob(values, diff).SerializeToString())
