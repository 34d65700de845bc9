"""The numbers of poolings whose channels lie in blocks, position by position: vectors run along a block's channels.

Every position of a window is whole vectors then, wherever it lies: nothing is dealt out, nothing turned. *Forward*
takes one output after the other. *Lines* (MAX) reads the image row by row, keeps each row's maxima for the windows that
hold the row, and completes an output at its last row: two rows read side by side took twice the time on Zen 4.
*Collect* gives each element the gradients of the windows that cover it, from lines with a margin of windows that do not
exist. *Scatter* (backward of large windows, and of MAX where vectors are short) takes one output after the other to its
window. Offsets and sizes count elements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lossc.codegen.pool_phases import Axis, Term, axis
from lossc.codegen.pool_spec import STACK_BYTES, UNROLLED, PoolSpec

#: Times in those of one step of *collect* (compare the position, add the gradient): *scatter*, for one output.
_STEPS_OF_SCATTER = 3

Form = Literal["forward", "lines", "collect", "scatter"]


@dataclass(frozen=True)
class Part:
    """The gradients of column ``column`` + stride * g: ``terms`` say what they add up.

    Each names its row of windows, by how many it lies above the one that comes into reach, and a place in its line.
    """

    column: int
    terms: tuple[tuple[int, Term], ...]
    more: bool  # there is one behind the last whole group of columns


@dataclass(frozen=True)
class RowPhase:
    """The rows whose padded place leaves ``index`` modulo the stride; [top, bottom) in q lie in the image."""

    index: int
    top: int
    bottom: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class BlocksView:
    """``taps``: the window's positions (of one row, in *lines*), none where there are too many to write them out.

    *Collect* goes through rows of windows: row q brings the image's rows q * stride - pad and on into reach.
    """

    form: Form
    h: Axis
    w: Axis
    block: int
    per_image: int  # blocks
    blocks: int
    slots: int  # lines that are kept
    pitch: int  # of a line
    margin: int  # positions of a line before the first window
    taps: tuple[Term, ...]
    rows: tuple[int, ...]  # the number of each row's first position
    total: int  # rows of q, and groups that all parts have
    whole: int
    phases: tuple[RowPhase, ...]


def blocks_view(spec: PoolSpec, lanes: int, real_bytes: int) -> BlocksView:
    """The view, with the form that suits the windows."""
    h, w = axis(spec, 0), axis(spec, 1)
    small = h.kernel * w.kernel <= UNROLLED
    columns = [Term(j, j * spec.block) for j in range(w.kernel)]
    rows = range(h.kernel)
    every = tuple(Term(i * w.kernel + t.position, i * w.size * spec.block + t.offset) for i in rows for t in columns)
    form: Form
    if spec.direction == "forward":
        slots, pitch, margin = h.kernel - 1, w.out * spec.block, 0
        shared = spec.method == "MAX" and small and h.stride <= h.kernel > 1 and h.out > 1
        form = "lines" if shared and _fits(spec, slots, pitch, real_bytes) else "forward"
        taps = tuple(columns) if form == "lines" else every if small else ()
    else:
        slots, margin = h.reach + 1, w.reach
        pitch = (margin + max(w.out, math.ceil((w.size + w.pad) / w.stride))) * spec.block
        many = spec.method == "MAX" and h.kernel * w.kernel > _STEPS_OF_SCATTER * lanes
        collects = small and not many and spec.out_shape != (1, 1) and _fits(spec, slots, pitch, real_bytes)
        form, taps = "collect" if collects else "scatter", ()
    return BlocksView(
        form,
        h,
        w,
        spec.block,
        spec.channels // spec.block,
        spec.n * spec.channels // spec.block,
        slots,
        pitch,
        margin,
        taps,
        tuple(i * w.kernel for i in rows),
        total=math.ceil((h.size + h.pad) / h.stride),
        whole=w.size // w.stride,
        phases=_phases(spec, h, w) if form == "collect" else (),
    )


def _fits(spec: PoolSpec, slots: int, pitch: int, real_bytes: int) -> bool:
    return (slots + 1) * pitch * (real_bytes + (spec.mask is not None)) <= STACK_BYTES


def _phases(spec: PoolSpec, h: Axis, w: Axis) -> tuple[RowPhase, ...]:
    def part(row: int, column: int) -> Part:
        phase, start = (column + w.pad) % w.stride, (column + w.pad) // w.stride
        covers = [(i, j) for i in range(row, h.kernel, h.stride) for j in range(phase, w.kernel, w.stride)]
        # Later windows hold the position nearer to their start: the last first is Caffe's order of adding up.
        terms = tuple(
            (i // h.stride, Term(i * w.kernel + j, (w.reach + start - j // w.stride) * spec.block))
            for i, j in reversed(covers)
        )
        return Part(column, terms, more=column < w.size % w.stride)

    return tuple(
        RowPhase(
            row,
            max(0, math.ceil((h.pad - row) / h.stride)),
            math.ceil((h.size + h.pad - row) / h.stride),
            tuple(part(row, column) for column in range(w.stride)),
        )
        for row in range(h.stride)
    )
