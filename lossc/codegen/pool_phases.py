"""The numbers of the pooling algorithm *phases*: where window positions lie once rows and columns are dealt out.

Padded position p = s * q + b lies in phase b at q, along both axes. Offsets and sizes count elements.
"""

from __future__ import annotations

from dataclasses import dataclass

from lossc.codegen.pool_spec import STACK_BYTES, UNROLLED, PoolSpec

#: Bytes of stack for a band of rows. Larger bands read memory in bursts: 16 KB took twice the time on Zen 4.
_BAND_BYTES = 6 * 1024


@dataclass(frozen=True)
class Axis:
    """One spatial axis."""

    size: int
    out: int
    kernel: int
    stride: int
    pad: int
    reach: int  # (kernel - 1) / stride: how far a window reaches in q
    empty: int  # the first output whose window lies outside the image
    even: bool  # no window is clipped at the image and its padding


@dataclass(frozen=True)
class Term:
    """A step of an output: what lies ``offset`` behind the output's own place; ``position`` in the window."""

    position: int
    offset: int


@dataclass(frozen=True)
class Deal:
    """Column ``column`` + stride * g of a row is element ``start`` + g of a phase; ``more``: one after the last g."""

    column: int
    start: int
    more: bool


@dataclass(frozen=True)
class ForwardView:
    """``columns`` are empty where each output takes ``terms`` from the phases. Else windows share rows: the maximum of
    each row's ``columns`` is found once, into lines, from which each output takes ``terms``.
    """

    h: Axis
    w: Axis
    pitch: int
    band: int  # rows of outputs at a time
    buffer_rows: int  # rows of each phase
    row_phases: int
    column_phases: int
    column_phase: int  # from one column phase to the next
    row_phase: int
    phase_size: int
    line: int  # from one row phase to the next, of the lines
    line_size: int
    width_size: int  # of an array over the outputs of a row, whole vectors
    groups: int
    used: int  # columns that some window looks at
    deals: tuple[Deal, ...]
    columns: tuple[Term, ...]
    terms: tuple[Term, ...]
    merged: bool  # rows of outputs follow each other without a gap


@dataclass(frozen=True)
class Part:
    """The gradients of column ``column`` + stride * g: ``terms`` say what they add up."""

    column: int
    terms: tuple[Term, ...]
    more: bool  # there is one behind the last whole group of columns


@dataclass(frozen=True)
class RowPhase:
    """The rows whose padded place leaves ``index``: [top, bottom) in q lie in the image. ``covered``: by any window."""

    index: int
    top: int
    bottom: int
    covered: bool
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class BackwardView:
    """Gradients of outputs lie in rows of ``pitch`` from ``margin`` on, so that all of an element's are in reach."""

    h: Axis
    w: Axis
    pitch: int
    band: int  # rows of q at a time
    total: int  # rows of these in all
    flat_size: int
    margin: int
    width_size: int
    groups: int  # elements of the longest part of a row
    whole: int  # groups that all parts have
    part_size: int  # of an array over a part, whole vectors
    row_phases: tuple[RowPhase, ...]


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def axis(spec: PoolSpec, i: int) -> Axis:
    """The spatial axis ``i``: 0 runs along columns, 1 along rows."""
    size, out, kernel, stride, pad = (t[i] for t in (spec.in_shape, spec.out_shape, spec.kernel, spec.stride, spec.pad))
    return Axis(
        size,
        out,
        kernel,
        stride,
        pad,
        reach=(kernel - 1) // stride,
        empty=min(out, _ceil(size + pad, stride)),
        even=(out - 1) * stride + kernel <= size + 2 * pad,
    )


def _axes(spec: PoolSpec) -> tuple[Axis, Axis] | None:
    """Both axes, or None where windows are so large that the algorithm *windows* is better."""
    h, w = axis(spec, 0), axis(spec, 1)
    return None if spec.out_shape == (1, 1) or h.kernel * w.kernel > UNROLLED else (h, w)


def _band(total: int, bytes_per_row: float) -> int:
    """Rows at a time: as many as the first-level cache takes, in bands of about the same size."""
    most = max(1, int(_BAND_BYTES / bytes_per_row))
    return _ceil(total, _ceil(total, most))


def forward_view(spec: PoolSpec, lanes: int, real_bytes: int) -> ForwardView | None:
    """The view, or None where windows are large or a band of one row takes too much stack."""
    axes = _axes(spec)
    if axes is None:
        return None
    h, w = axes
    # Rows share their margin: what a vector computes past the last output of a row is not used.
    pitch = w.out + w.reach
    row_phases, column_phases = min(h.stride, h.kernel), min(w.stride, w.kernel)
    shared = spec.method == "MAX" and h.reach > 0 and w.kernel > 1
    line_bytes = (real_bytes + (spec.mask is not None)) if shared else 0
    band = _band(h.out, row_phases * pitch * (column_phases * real_bytes + line_bytes))
    rows = band + h.reach
    # Whole vectors are read from any element on.
    column_phase = _ceil(rows * pitch + lanes - 1, lanes) * lanes
    row_phase = column_phases * column_phase
    if row_phases * column_phase * (column_phases * real_bytes + line_bytes) > STACK_BYTES:
        return None
    column_terms = [Term(j, j % w.stride * column_phase + j // w.stride) for j in range(w.kernel)]

    def row_terms(phase: int) -> list[Term]:
        return [Term(i * w.kernel, i % h.stride * phase + i // h.stride * pitch) for i in range(h.kernel)]

    terms = row_terms(column_phase if shared else row_phase)
    used = min(w.size, pitch * w.stride - w.pad)
    return ForwardView(
        h,
        w,
        pitch,
        band,
        rows,
        row_phases,
        column_phases,
        column_phase,
        row_phase,
        phase_size=row_phases * row_phase,
        line=column_phase,
        line_size=row_phases * column_phase,
        width_size=_ceil(w.out, lanes) * lanes,
        groups=used // w.stride,
        used=used,
        deals=tuple(
            Deal(t, (t + w.pad) % w.stride * column_phase + (t + w.pad) // w.stride, t < used % w.stride)
            for t in range(w.stride)
            if (t + w.pad) % w.stride < column_phases
        ),
        columns=tuple(column_terms) if shared else (),
        terms=tuple(terms)
        if shared
        else tuple(Term(i.position + j.position, i.offset + j.offset) for i in terms for j in column_terms),
        merged=pitch == w.out
        and spec.mask_kind != "index"
        and (spec.method == "MAX" or (h.even and w.even))
        and (h.empty, w.empty) == (h.out, w.out),
    )


def backward_view(spec: PoolSpec, lanes: int, real_bytes: int) -> BackwardView | None:
    """The view, or None where windows are large or a band of one row takes too much stack."""
    axes = _axes(spec)
    if axes is None:
        return None
    h, w = axes
    pitch = max(w.out + w.reach, _ceil(w.size + w.pad, w.stride))
    total = _ceil(h.size + h.pad, h.stride)
    flat_bytes = real_bytes + (spec.mask is not None)
    band = _band(total, pitch * flat_bytes)
    # Whole vectors are read from any element on, and one element more where a part has none in the last group.
    flat = _ceil(w.reach + (band + h.reach) * pitch + lanes, lanes) * lanes
    if flat * flat_bytes > STACK_BYTES:
        return None
    base = w.reach + h.reach * pitch
    positions = [(i, j) for i in range(h.kernel) for j in range(w.kernel)]
    shift_of = {(i, j): (i // h.stride) * pitch + j // w.stride for i, j in positions}

    def part(b: int, column: int) -> Part:
        c, start = (column + w.pad) % w.stride, (column + w.pad) // w.stride
        covers = [p for p in positions if (p[0] % h.stride, p[1] % w.stride) == (b, c)]
        # Later windows hold the position nearer to their start: largest shifts first is Caffe's order of adding up.
        covers.sort(key=lambda p: (-shift_of[p], p))
        terms = tuple(Term(i * w.kernel + j, base + start - shift_of[i, j]) for i, j in covers)
        return Part(column, terms, more=column < w.size % w.stride)

    return BackwardView(
        h,
        w,
        pitch,
        band,
        total,
        flat,
        margin=w.reach,
        width_size=_ceil(w.out, lanes) * lanes,
        groups=_ceil(w.size, w.stride),
        whole=w.size // w.stride,
        part_size=_ceil(_ceil(w.size, w.stride), lanes) * lanes,
        row_phases=tuple(
            RowPhase(
                b,
                max(0, _ceil(h.pad - b, h.stride)),
                _ceil(h.size + h.pad - b, h.stride),
                b < h.kernel,
                tuple(part(b, column) for column in range(w.stride)),
            )
            for b in range(h.stride)
        ),
    )
