"""The pooling kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lossc.ir.blob import BLOCK, Access, Dim, Ref
from lossc.ir.expr import Expr, accesses
from lossc.ir.kernels import Geometry, Kernel, Memory, Store, epilogue_labels, finish, planes
from lossc.ir.scalar import ONE, Scalar

#: Lines of a window at most where windows meet images line by line: what one sees must stay in a cache.
MOST_LINES = 64


def along_lines(geometry: Geometry, x: tuple[int, ...], y: tuple[int, ...]) -> bool:
    """Whether windows are one column wide and meet images of ``x`` line by line, so that those of ``y`` are whole lines
    of the result; padding clips none of them."""
    (kernel, one), (pad, no_pad) = geometry.kernel, geometry.pad
    meets = one == 1 and geometry.stride == (1, 1) and no_pad == 0 and y == (x[0] + 2 * pad - kernel + 1, x[1])
    return meets and kernel <= MOST_LINES


@dataclass(frozen=True)
class Pool(Kernel):
    """Pooling over two spatial axes, MAX or AVE, forward or backward, as Caffe does it.

    ``mask`` (MAX) has y's shape and holds the index h * W + w of the first maximum. AVE divides by the part of the
    window that lies in the padded image. A window wholly outside gives 0 and no gradient. All operands may have their
    channels in blocks (``Ref.blocked``).

    Where ``sums_lines``, a map's expressions may be part of it, in the dimensions n, c, h, w of what they are for:
    ``prologue`` is what windows see of each element ``acc`` of the source, ``epilogue`` what is stored of each result
    ``acc``, and ``more`` is stored beside it, out of the same ``acc``.
    """

    kind: ClassVar[str] = "pool"
    direction: str
    method: str
    x: Ref
    y: Ref
    geometry: Geometry
    mask: Ref | None = None
    alpha: Scalar = ONE
    accumulate: bool = False
    prologue: Expr | None = None
    epilogue: Expr | None = None
    more: tuple[Store, ...] = ()

    @property
    def source(self) -> Ref:
        return self.x if self.direction == "forward" else self.y

    @property
    def out(self) -> Ref:
        return self.y if self.direction == "forward" else self.x

    def inputs(self) -> tuple[Ref | Access, ...]:
        mask = (self.mask,) if self.mask is not None and self.direction == "backward" else ()
        return (self.source, *mask, *dict.fromkeys(a for e in self.expressions for a in accesses(e)))

    def outputs(self) -> tuple[Ref | Access, ...]:
        mask = (self.mask,) if self.mask is not None and self.direction == "forward" else ()
        return (self.out, *mask, *(s.access for s in self.more))

    @property
    def expressions(self) -> tuple[Expr, ...]:
        return tuple(e for e in (self.prologue, self.epilogue, *(s.value for s in self.more)) if e is not None)

    @property
    def accumulates(self) -> frozenset[str]:
        return frozenset({self.out.blob}) if self.accumulate else frozenset()

    @property
    def block(self) -> int:
        """How many channels lie in a block; 0 for whole planes."""
        return BLOCK if self.x.ndim == 5 else 0

    @property
    def sums_lines(self) -> bool:
        """Whether it adds up whole lines of planes, so that maps can be part of it."""
        lines = not self.block and along_lines(self.geometry, self.x.shape[2:], self.y.shape[2:])
        return lines and self.method == "AVE"

    @property
    def labels(self) -> str:
        """The dimension names of prologue and epilogue."""
        return epilogue_labels(self.out)

    def dims(self, ref: Ref) -> tuple[Dim, ...]:
        """The dimensions of the source or the result."""
        return tuple(Dim(n, e) for n, e in zip(self.labels, ref.shape, strict=True))

    def numpy(self, memory: Memory) -> None:
        source = memory.array(self.source)
        if self.prologue is not None:
            value = memory.evaluate(self.prologue, self.dims(self.source), source)
            source = np.broadcast_to(value, source.shape)
        source = planes(source, 2)
        result = self._forward(memory, source) if self.direction == "forward" else self._backward(memory, source)
        result = (result * memory.scalar(self.alpha)).reshape(self.out.shape)
        values = [memory.evaluate(s.value, self.dims(self.out), result) for s in self.more]
        finish(memory, self, result)
        for store, value in zip(self.more, values, strict=True):
            memory.store(store.access, self.dims(self.out), value, store.accumulate)

    def _forward(self, memory: Memory, x: np.ndarray) -> np.ndarray:
        """The result; stores the mask."""
        width = x.shape[3]
        y = np.zeros((*x.shape[:2], *self.y.shape[-2:]), memory.dtype)
        mask = np.full(y.shape, -1, memory.dtype)
        for (oh, ow), (h, w), area in self._windows(x.shape[2:]):
            window = x[:, :, h, w]
            if self.method == "AVE":
                y[:, :, oh, ow] = window.sum((2, 3)) / area
            else:
                window = window.reshape(*x.shape[:2], -1)
                y[:, :, oh, ow] = window.max(-1)
                row, column = np.divmod(window.argmax(-1), w.stop - w.start)
                mask[:, :, oh, ow] = (h.start + row) * width + w.start + column
        if self.mask is not None:
            memory.array(self.mask)[...] = mask.reshape(self.mask.shape)
        return y

    def _backward(self, memory: Memory, dy: np.ndarray) -> np.ndarray:
        n, c = dy.shape[:2]
        grad = np.zeros((n, c, *self.x.shape[-2:]), memory.dtype)
        mask = planes(memory.array(self.mask), 2) if self.mask is not None else None
        for (oh, ow), (h, w), area in self._windows(grad.shape[2:]):
            if self.method == "AVE":
                grad[:, :, h, w] += (dy[:, :, oh, ow] / area)[:, :, None, None]
            elif mask is not None:
                at = mask[:, :, oh, ow].astype(np.int64)[:, :, None]
                flat = grad.reshape(n, c, -1)
                np.put_along_axis(flat, at, np.take_along_axis(flat, at, 2) + dy[:, :, oh, ow][:, :, None], 2)
        return grad

    def _windows(self, image: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[slice, slice], int]]:
        """Of each output whose window meets the image: its place, the window, and what AVE divides by."""
        g, (height, width) = self.geometry, image
        for oh, ow in np.ndindex(*self.y.shape[-2:]):
            top, left = oh * g.stride[0] - g.pad[0], ow * g.stride[1] - g.pad[1]
            rows = slice(max(top, 0), min(top + g.kernel[0], height))
            columns = slice(max(left, 0), min(left + g.kernel[1], width))
            high, wide = min(g.kernel[0], height + g.pad[0] - top), min(g.kernel[1], width + g.pad[1] - left)
            if rows.start < rows.stop and columns.start < columns.stop:
                yield (oh, ow), (rows, columns), high * wide
