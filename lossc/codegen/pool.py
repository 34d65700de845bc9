"""C text of the pooling kernels: MAX and AVE over two spatial axes, forward and backward, as Caffe's Pooling.

Four algorithms. *Lines* (AVE of windows one column wide, as LRN across channels): whole lines are added up where they
lie. *Phases* (small windows): rows and columns are dealt out by their remainder modulo the stride, so that every
window position of consecutive outputs is a contiguous vector, across the ends of rows too. *Windows* (global pooling,
large windows): one output after the other, vectors run along the rows of its window. *Scatter* (backward of MAX):
each output's gradient goes to its maximum, which is bound by memory however it is written.

gcc 12 was seen to miscompile rows of plain C that lie apart in a buffer (outer-loop and block vectorisation), so what
*phases* moves between rows and buffers is explicit vectors wherever the stride allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from lossc.codegen.environment import render
from lossc.errors import InternalError, ShapeError

#: Larger windows take the algorithm *windows*: up to here the steps of *phases* are written out, one line each.
_UNROLLED = 49
#: Bytes of stack for a band of rows in *phases*: half of a 32 KB first-level cache.
_BAND_BYTES = 16 * 1024
#: Bytes of stack that *phases* may take at most; a band is one row then.
_STACK_BYTES = 256 * 1024
#: A byte mask holds the position in the window, and this where no maximum exists.
NO_MAXIMUM = 255


class Isa(Protocol):
    """What this module asks of an instruction set."""

    @property
    def name(self) -> str: ...

    def lanes(self, dtype: str) -> int: ...


@dataclass(frozen=True)
class PoolSpec:
    """One pooling kernel: x [n, channels, *in_shape], y and mask [n, channels, *out_shape].

    ``x``, ``y``, ``mask`` are parameter names; backward's x and y are the gradients. ``x_strides`` and ``y_strides``
    are (image, channel) in elements; planes are contiguous, and so is the mask as a whole. ``mask_kind``: "index" is
    h * W + w in the plane as a real, -1 where no maximum exists; "byte" is the position i * kernel[1] + j in the
    window, 255 where none exists. ``alpha`` (a C literal) scales the result, ``accumulate`` adds to what is there.
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


@dataclass(frozen=True)
class Axis:
    """One spatial axis of *phases*. Padded position p = s * q + b lies in phase b at q."""

    size: int
    out: int
    kernel: int
    stride: int
    pad: int
    phases: int  # remainders that are kept
    reach: int  # (kernel - 1) / stride: how far a window reaches in q
    empty: int  # the first output whose window lies outside the image
    even: bool  # no window is clipped at the image and its padding


@dataclass(frozen=True)
class Term:
    """One window position as the phase algorithm sees it."""

    position: int  # i * kernel_w + j; for an index mask i * width + j
    offset: int  # where its vector starts


@dataclass(frozen=True)
class Deal:
    """Column ``column`` + stride * g of a row is element ``start`` + g of a phase; ``more``: one after the last g."""

    column: int
    start: int
    more: bool


@dataclass(frozen=True)
class Phase:
    """Backward: the gradients of one phase; ``terms`` index into ``shifts``: what they add up."""

    offset: int
    terms: tuple[int, ...]


@dataclass(frozen=True)
class PhaseView:
    """All numbers of the algorithm *phases*; offsets and sizes count elements."""

    h: Axis
    w: Axis
    pitch: int
    band: int  # rows of outputs (forward) or of q (backward) at a time
    total: int  # rows of these in all
    buffer_rows: int
    column_phase: int  # from one column phase to the next
    row_phase: int
    phase_size: int
    flat_size: int
    margin: int
    line_size: int  # of an array over the outputs of a row, whole vectors
    groups: int
    deals: tuple[Deal, ...]
    terms: tuple[Term, ...]
    shifts: tuple[int, ...]
    phases: tuple[Phase, ...]
    merged: bool


@dataclass(frozen=True)
class LineView:
    """All numbers of the algorithm *lines*: line ``row`` of ``to`` sums up lines row - before to row + after."""

    to: str
    from_: str
    to_strides: tuple[int, int]
    from_strides: tuple[int, int]
    rows_to: int
    rows_from: int
    width: int
    before: int
    after: int


def pool_code(spec: PoolSpec, isa: Isa, dtype: str) -> tuple[str, tuple[str, ...]]:
    """The static C function of ``spec`` and its parameter declarations, in order x, y (, mask).

    Every thread of a team calls it; each plane is computed by one thread. ``dtype``: "float32" or "float64", the
    IR's "f32" and "f64" mean the same.

    Raises ShapeError if an index mask cannot hold the plane's size, InternalError if the spec contradicts itself.
    """
    bits = 32 if dtype in ("f32", "float32") else 64
    real = "float" if bits == 32 else "double"
    forward, is_max = spec.direction == "forward", spec.method == "MAX"
    scatter = is_max and not forward
    lines = _line_view(spec)
    view = None if scatter or lines else _phase_view(spec, isa.lanes(f"float{bits}"), bits // 8)
    _check(spec, bits, counts_in_plane=spec.mask_kind == "index" or (view is None and forward))
    params = [
        f"{'const ' if forward else ''}{real} *restrict {spec.x}",
        f"{'' if forward else 'const '}{real} *restrict {spec.y}",
    ]
    if spec.mask is not None:
        kind = real if spec.mask_kind == "index" else "unsigned char"
        params.append(f"{'' if forward else 'const '}{kind} *restrict {spec.mask}")
    form = "scatter" if scatter else "lines" if lines else f"phases_{spec.direction}" if view else "windows"
    text = render(
        f"pool_{form}.c.j2",
        lines or view,
        spec=spec,
        params=", ".join(params),
        real=real,
        v=f"vf{bits}",
        vi=f"vi{bits}",
        m=f"mf{bits}",
        lanes=f"VF{bits}_LANES",
        literal=lambda value: f"{value}.0f" if bits == 32 else f"{value}.0",
        lowest=f"({real})-FLT_MAX",
        planes=spec.n * spec.channels,
        in_size=spec.in_shape[0] * spec.in_shape[1],
        out_size=spec.out_shape[0] * spec.out_shape[1],
        offsets=[i * spec.in_shape[1] + j for i in range(spec.kernel[0]) for j in range(spec.kernel[1])]
        if scatter
        else [],
        is_max=is_max,
        uneven=view is not None and not is_max and not (view.h.even and view.w.even),
        empties=view is not None and is_max and (view.h.empty, view.w.empty) != (view.h.out, view.w.out),
        scaled=spec.alpha.rstrip("fF") not in ("1", "1.", "1.0"),
        no_maximum=NO_MAXIMUM,
    )
    return text, tuple(params)


def _check(spec: PoolSpec, bits: int, *, counts_in_plane: bool) -> None:
    if (spec.mask is None) != (spec.mask_kind == "none"):
        raise InternalError(f"pooling {spec.name}: mask {spec.mask!r} and mask_kind {spec.mask_kind!r} do not agree")
    if spec.mask is not None and spec.method == "AVE":
        raise InternalError(f"pooling {spec.name}: AVE has no mask")
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


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _axis(spec: PoolSpec, i: int) -> Axis:
    size, out, kernel, stride, pad = (t[i] for t in (spec.in_shape, spec.out_shape, spec.kernel, spec.stride, spec.pad))
    return Axis(
        size,
        out,
        kernel,
        stride,
        pad,
        phases=min(stride, kernel) if spec.direction == "forward" else stride,
        reach=(kernel - 1) // stride,
        empty=min(out, _ceil(size + pad, stride)),
        even=(out - 1) * stride + kernel <= size + 2 * pad,
    )


def _line_view(spec: PoolSpec) -> LineView | None:
    """The view, where windows are one column wide and meet one another line by line, none clipped at the padding."""
    (kernel, one), (pad, no_pad) = spec.kernel, spec.pad
    rows_x, rows_y, width = spec.in_shape[0], spec.out_shape[0], spec.in_shape[1]
    even = rows_y == rows_x + 2 * pad - kernel + 1 and spec.out_shape[1] == width
    if spec.method != "AVE" or one != 1 or spec.stride != (1, 1) or no_pad or not even:
        return None
    before, after = pad, kernel - 1 - pad
    if spec.direction == "forward":
        return LineView(spec.y, spec.x, spec.y_strides, spec.x_strides, rows_y, rows_x, width, before, after)
    return LineView(spec.x, spec.y, spec.x_strides, spec.y_strides, rows_x, rows_y, width, after, before)


def _phase_view(spec: PoolSpec, lanes: int, real_bytes: int) -> PhaseView | None:
    """The view, or None where windows are large or a band of one row takes too much stack."""
    h, w = _axis(spec, 0), _axis(spec, 1)
    if spec.out_shape == (1, 1) or h.kernel * w.kernel > _UNROLLED:
        return None
    forward = spec.direction == "forward"
    # Rows share their margin: what a vector computes past the last output of a row is not used.
    pitch = w.out + w.reach if forward else max(w.out + w.reach, _ceil(w.size + w.pad, w.stride))
    total = h.out if forward else _ceil(h.size + h.pad, h.stride)
    margin = w.reach

    def sizes(band: int) -> tuple[int, int, int]:
        phase_rows = band + h.reach if forward else band
        flat_rows = band if forward else band + h.reach
        # Whole vectors are read and written from any element on.
        phase = _ceil(phase_rows * pitch + lanes - 1, lanes) * lanes
        flat = _ceil(margin + flat_rows * pitch + lanes - 1, lanes) * lanes
        return phase_rows, phase, flat

    def stack(band: int) -> int:
        _, phase, flat = sizes(band)
        return (h.phases * w.phases * phase + 2 * flat) * real_bytes

    band = next((b for b in range(total, 1, -1) if stack(b) <= _BAND_BYTES), 1)
    band = _ceil(total, _ceil(total, band))
    if stack(band) > _STACK_BYTES:
        return None
    rows, phase, flat = sizes(band)
    row_phase = w.phases * phase
    positions = [(i, j) for i in range(h.kernel) for j in range(w.kernel)]
    shift_of = [(i // h.stride) * pitch + j // w.stride for i, j in positions]
    phase_of = [(i % h.stride) * row_phase + (j % w.stride) * phase for i, j in positions]
    # What backward reads for a phase starts `shift` elements before the gradient's own place.
    shifts = sorted(set(shift_of), reverse=True)
    base = margin + h.reach * pitch
    # Later windows hold the position nearer to their start: largest shifts first is Caffe's order of adding up.
    order = sorted(range(len(positions)), key=lambda p: (-shift_of[p], p))
    used = min(w.size, pitch * w.stride - w.pad)
    return PhaseView(
        h,
        w,
        pitch,
        band,
        total,
        rows,
        phase,
        row_phase,
        h.phases * row_phase,
        flat,
        margin,
        line_size=_ceil(w.out, lanes) * lanes,
        groups=used // w.stride,
        deals=tuple(
            Deal(t, (t + w.pad) % w.stride * phase + (t + w.pad) // w.stride, t < used % w.stride)
            for t in range(w.stride)
            if (t + w.pad) % w.stride < w.phases
        ),
        terms=tuple(
            Term(i * w.size + j if spec.mask_kind == "index" else i * w.kernel + j, phase + shift)
            for (i, j), phase, shift in zip(positions, phase_of, shift_of, strict=True)
        ),
        shifts=tuple(base - s for s in shifts),
        phases=tuple(
            Phase(offset, tuple(shifts.index(shift_of[p]) for p in order if phase_of[p] == offset))
            for offset in sorted(set(phase_of))
        ),
        merged=forward
        and pitch == w.out
        and spec.mask_kind != "index"
        and (spec.method == "MAX" or (h.even and w.even))
        and (h.empty, w.empty) == (h.out, w.out),
    )
