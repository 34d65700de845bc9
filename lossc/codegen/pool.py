"""C text of the pooling kernels: MAX and AVE over two spatial axes, forward and backward, as Caffe's Pooling.

Five algorithms. *Lines* (AVE of windows one column wide, as LRN across channels): whole lines are added up, and maps
may be part of it: see pool_lines. *Phases* (small windows): rows and columns are dealt out by their remainder modulo
the stride, so that every window position of consecutive outputs is a contiguous vector; backward, each element collects
from the windows that cover it. *Windows* (global pooling, large windows): one output after the other, vectors run along
the rows of its window. *Scatter* (backward of MAX where a row has few outputs for a vector, or masks hold indices):
each output's gradient goes to its maximum, one after the other. *Blocks*, where channels lie in blocks: see
pool_blocks.

Large results are streamed past the caches, as maps do. gcc 12 was seen to miscompile rows of plain C that lie apart in
a buffer (outer-loop and block vectorisation), so what *phases* moves between rows and buffers is explicit vectors
wherever the stride allows.
"""

from __future__ import annotations

import math
from typing import Protocol

from lossc.codegen.environment import render
from lossc.codegen.mapplan import STREAM_BYTES
from lossc.codegen.pool_blocks import BlocksView, blocks_view
from lossc.codegen.pool_lines import line_view
from lossc.codegen.pool_phases import BackwardView, ForwardView, backward_view, forward_view
from lossc.codegen.pool_spec import NO_MAXIMUM, PoolSpec
from lossc.errors import InternalError, ShapeError

#: Times in those of one step of *phases* (compare the position, add the gradient; 0.3 ns on Zen 4): what a vector
#: takes beside its steps, and what *scatter* takes for one output.
_STEPS_OF_STORING, _STEPS_OF_SCATTER = 10, 3


class Isa(Protocol):
    """What this module asks of an instruction set."""

    @property
    def name(self) -> str: ...

    def lanes(self, dtype: str) -> int: ...


def pool_code(spec: PoolSpec, isa: Isa, dtype: str) -> tuple[str, tuple[str, ...]]:
    """The static C function of ``spec`` and its parameter declarations, in order x, y (, mask); of one with maps those
    that it reads, the result, what is stored beside it.

    Every thread of a team calls it; each plane is computed by one thread. ``dtype``: "float32" or "float64", the
    IR's "f32" and "f64" mean the same.

    Raises ShapeError if an index mask cannot hold the plane's size, InternalError if the spec contradicts itself.
    """
    bits = 32 if dtype in ("f32", "float32") else 64
    real = "float" if bits == 32 else "double"
    forward, is_max = spec.direction == "forward", spec.method == "MAX"
    lanes = isa.lanes(f"float{bits}")
    lines = line_view(spec, lanes, bits // 8)
    scatter = is_max and not forward and not spec.block and not _collects(spec, lanes)
    view: ForwardView | BackwardView | BlocksView | None = None
    if spec.block:
        view = blocks_view(spec, lanes, bits // 8)
    elif not scatter and not lines:
        view = (forward_view if forward else backward_view)(spec, lanes, bits // 8)
        scatter = is_max and not forward and view is None
    if spec.maps is not None and lines is None:
        raise InternalError(f"pooling {spec.name}: maps are part of poolings along lines alone")
    _check(spec, bits, counts_in_plane=spec.mask_kind == "index" or (view is None and forward))
    planes, in_size, out_size = spec.n * spec.channels, math.prod(spec.in_shape), math.prod(spec.out_shape)
    x_type, y_type = ("uint16_t" if half else real for half in (spec.x_bf16, spec.y_bf16))
    params = [
        f"{'const ' if forward else ''}{x_type} *restrict {spec.x}",
        f"{'' if forward else 'const '}{y_type} *restrict {spec.y}",
    ]
    if spec.maps is not None:
        stored = dict.fromkeys(result.name for result in spec.maps.more)
        params = [f"const {real} *restrict {name}" for name in spec.maps.reads] + [params[1 if forward else 0]]
        params += [f"{real} *restrict {name}" for name in stored]
    if spec.mask is not None:
        kind = real if spec.mask_kind == "index" else "unsigned char"
        params.append(f"{'' if forward else 'const '}{kind} *restrict {spec.mask}")
    form = "scatter" if scatter else "lines" if lines else f"phases_{spec.direction}" if view else "windows"
    form = f"blocks_{view.form}" if isinstance(view, BlocksView) else form
    text = render(
        f"pool_{form}.c.j2",
        lines or view,
        spec=spec,
        params=", ".join(params),
        real=real,
        x_type=x_type,
        y_type=y_type,
        load_x=f"vf{bits}_load{'_bf16' if spec.x_bf16 else ''}",
        store_y=f"vf{bits}_store{'_bf16' if spec.y_bf16 else ''}",
        v=f"vf{bits}",
        vi=f"vi{bits}",
        vb=f"vb{bits}",
        m=f"mf{bits}",
        lanes=f"VF{bits}_LANES",
        literal=lambda value: f"{value}.0f" if bits == 32 else f"{value}.0",
        lowest=f"({real})-FLT_MAX",
        planes=planes,
        in_size=in_size,
        out_size=out_size,
        offsets=[i * spec.in_shape[1] + j for i in range(spec.kernel[0]) for j in range(spec.kernel[1])]
        if scatter or (forward and view)
        else [],
        is_max=is_max,
        uneven=view is not None and not is_max and not (view.h.even and view.w.even),
        empties=view is not None and is_max and (view.h.empty, view.w.empty) != (view.h.out, view.w.out),
        scaled=spec.alpha.rstrip("fF") not in ("1", "1.", "1.0"),
        streamed=_streamed(spec, lanes, bits // 8),
        no_maximum=NO_MAXIMUM,
    )
    return text, tuple(params)


def _collects(spec: PoolSpec, lanes: int) -> bool:
    """Whether vectors that ask every window for its maximum beat one scalar step for each output."""
    vectors = math.ceil(spec.in_shape[1] / spec.stride[1] / lanes)  # of a row of windows
    steps = vectors * (math.prod(spec.kernel) + _STEPS_OF_STORING)
    return spec.mask_kind == "byte" and steps <= _STEPS_OF_SCATTER * spec.out_shape[1]


def _streamed(spec: PoolSpec, lanes: int, real_bytes: int) -> bool:
    """Whether the result is large, is not read, and is written in whole aligned vectors."""
    forward = spec.direction == "forward"
    shape, strides = (spec.out_shape, spec.y_strides) if forward else (spec.in_shape, spec.x_strides)
    large = spec.n * spec.channels * math.prod(shape) * real_bytes >= STREAM_BYTES
    if spec.block:  # positions are whole vectors, rows and blocks whole positions
        return large and not spec.accumulate and not spec.y_bf16 and strides[0] % lanes == 0
    vectors = forward or spec.stride[1] <= 2  # elements of wider strides are put in place one by one
    steps = [shape[1], *strides, *(s for result in (spec.maps.more if spec.maps else ()) for s in result.steps)]
    return large and vectors and not spec.accumulate and all(s % lanes == 0 for s in steps)


def _check(spec: PoolSpec, bits: int, *, counts_in_plane: bool) -> None:
    if (spec.mask is None) != (spec.mask_kind == "none"):
        raise InternalError(f"pooling {spec.name}: mask {spec.mask!r} and mask_kind {spec.mask_kind!r} do not agree")
    if spec.mask is not None and spec.method == "AVE":
        raise InternalError(f"pooling {spec.name}: AVE has no mask")
    if spec.block and (spec.channels % spec.block or spec.mask_kind == "index"):
        raise InternalError(f"pooling {spec.name}: {spec.channels} channels in blocks, mask_kind {spec.mask_kind!r}")
    if (spec.x_bf16 or spec.y_bf16) and not (spec.block and spec.direction == "forward" and bits == 32):
        raise InternalError(f"pooling {spec.name}: bfloat16 is for float32 in blocks, forward")
    if spec.y_bf16 and spec.accumulate:
        raise InternalError(f"pooling {spec.name}: nothing is added to a result of bfloat16")
    if spec.direction == "backward" and spec.method == "MAX" and spec.mask is None:
        raise InternalError(f"pooling {spec.name}: the gradient of MAX needs its mask")
    if spec.mask_kind == "byte" and spec.kernel[0] * spec.kernel[1] > NO_MAXIMUM:
        raise InternalError(f"pooling {spec.name}: a window of {spec.kernel} has no byte mask")
    if any(p >= k for p, k in zip(spec.pad, spec.kernel, strict=True)):
        raise ShapeError(f"pooling {spec.name}: pad {spec.pad} is not smaller than the kernel {spec.kernel}")
    # Reals count exactly up to 2^24 (float) or 2^53 (double).
    exact = 2 ** (24 if bits == 32 else 53)
    if spec.mask is not None and counts_in_plane and spec.in_shape[0] * spec.in_shape[1] > exact:
        raise ShapeError(
            f"pooling {spec.name}: an index into a plane of {spec.in_shape} does not fit a real",
            fix="pool smaller planes, or build with float64",
        )

