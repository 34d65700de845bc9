"""What a pooling kernel is to compute, in numbers and parameter names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: A byte mask holds the position in the window, and this where no maximum exists.
NO_MAXIMUM = 255
#: Up to here a window's positions are written out, one line each.
UNROLLED = 49
#: Bytes of stack that a pooling may take at most.
STACK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Result:
    """What a pooling along lines stores: the parameter, the address and the value, in C; ``steps`` counts elements
    between images, channels, lines and to the first of all, whatever there is."""

    name: str
    at: str
    value: str
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Maps:
    """Maps that are part of a pooling along lines, as C statements at image ``n``, channel ``c``, line ``h`` and column
    ``w`` (ptrdiff_t) of the first of ``m`` (int) lanes.

    ``take`` reads an element of the source and defines ``out``, which windows see; ``give`` reads ``acc`` and defines
    ``out``, the result, and the values of ``more``. ``reads`` names the parameters that they read, the source's too.
    """

    take: tuple[str, ...]
    give: tuple[str, ...]
    more: tuple[Result, ...]
    reads: tuple[str, ...]


@dataclass(frozen=True)
class PoolSpec:
    """One pooling kernel: x [n, channels, *in_shape], y and mask [n, channels, *out_shape].

    ``x``, ``y``, ``mask`` are parameter names; backward's x and y are the gradients. ``x_strides`` and ``y_strides``
    are (image, channel) in elements; planes are contiguous, and so is the mask as a whole. ``mask_kind``: "index" is
    h * W + w in the plane as a real, -1 where no maximum exists; "byte" is the position i * kernel[1] + j in the
    window, 255 where none exists. ``alpha`` (a C literal) scales the result, ``accumulate`` adds to what is there.
    ``block``: 0, or the channels in a block that lies position by position, in x, y and mask alike (as in a ConvSpec);
    the mask is in bytes then, if there is one. ``x_bf16`` and ``y_bf16``, forward in blocks alone: such a blob lies in
    memory as bfloat16 (``uint16_t``); arithmetic is in float32, and results are rounded when they are stored.
    ``maps``: those that are part of an AVE pooling along lines.
    """

    name: str
    comment: str
    direction: Literal["forward", "backward"]
    method: Literal["MAX", "AVE"]
    n: int
    channels: int
    in_shape: tuple[int, int]
    out_shape: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    x: str
    y: str
    mask: str | None
    mask_kind: Literal["none", "index", "byte"]
    x_strides: tuple[int, int]
    y_strides: tuple[int, int]
    alpha: str
    accumulate: bool
    block: int = 0
    x_bf16: bool = False
    y_bf16: bool = False
    maps: Maps | None = None
