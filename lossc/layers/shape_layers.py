"""Layers that only rearrange: Concat, Slice, Flatten, Reshape, Split, Silence.

Where memory admits it a top is a window on its bottom and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref
from lossc.ir.expr import expr
from lossc.layers.access import full
from lossc.layers.base import Layer, Shape


class Window(Layer):
    """Base of layers each of whose tops shows a part of the bottom, element by element in the same order."""

    def part(self, bottom: Ref, top: int) -> Ref:
        """The part of the bottom, or of its diff, that a top shows."""
        return bottom

    def forward(self, b: Builder, io: IO) -> None:
        for k, top in enumerate(io.tops):
            part = self.part(io.bottom, k)
            window = part.reshape(*top.shape)
            pairs = list(zip(window.shape, window.strides, strict=True))
            if b.graph.try_resolve(window.blob, window.offset, pairs) is not None:
                b.view(top.blob, window)
            else:
                b.map((full(top.reshape(*part.shape)), full(part)))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        for k, diff in enumerate(io.top_diffs):
            if b.graph.root(diff.blob) != b.graph.root(io.bottom_diff.blob):  # else it is the same memory already
                part = self.part(io.bottom_diff, k)
                b.add(full(part), full(diff.reshape(*part.shape)))


class Split(Window):
    """Copies of one blob; the gradient is the sum of theirs."""

    type = "Split"
    tops = (1, None)

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        return [bottoms[0]] * len(self.param.top)


class Flatten(Window):
    """The axes ``axis`` to ``end_axis`` become one."""

    type = "Flatten"

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        p, shape = self.param.flatten_param, bottoms[0]
        start, end = self.axis(p.axis, len(shape)), self.axis(p.end_axis, len(shape), "end_axis") + 1
        self.need(start <= end, f"end_axis {p.end_axis} stands before axis {p.axis}")
        return [(*shape[:start], math.prod(shape[start:end]), *shape[end:])]


class Reshape(Window):
    """The ``num_axes`` axes from ``axis`` on are replaced by ``shape``: 0 copies an axis, -1 takes what is left."""

    type = "Reshape"

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        p, shape = self.param.reshape_param, bottoms[0]
        start = p.axis if p.axis >= 0 else len(shape) + p.axis + 1
        self.need(0 <= start <= len(shape), f"axis {p.axis} is out of range for a blob of {len(shape)} axes")
        self.need(p.num_axes >= -1, f"num_axes {p.num_axes} is negative", "-1 means all axes to the end")
        end = len(shape) if p.num_axes == -1 else start + p.num_axes
        self.need(end <= len(shape), f"axis {p.axis} + num_axes {p.num_axes} exceed the blob's {len(shape)} axes")
        dims = list(p.shape.dim)
        self.need(min(dims, default=0) >= -1, f"shape {dims} has a negative dim", "-1 infers a dim, 0 copies one")
        self.need(dims.count(-1) <= 1, f"shape {dims} has more than one -1", "only one dim can be inferred")
        for k, dim in enumerate(dims):
            if dim == 0:
                self.need(
                    start + k < len(shape), f"dim {k} of shape {dims} is 0, but the bottom has no axis {start + k}"
                )
                dims[k] = shape[start + k]
        out = [*shape[:start], *dims, *shape[end:]]
        if -1 in dims:
            known = -math.prod(out)
            self.need(
                known > 0 and math.prod(shape) % known == 0,
                f"bottom {list(shape)} of {math.prod(shape)} elements does not divide into {out}",
            )
            out[start + dims.index(-1)] = math.prod(shape) // known
        self.need(
            math.prod(out) == math.prod(shape),
            f"top {out} has {math.prod(out)} elements, bottom {list(shape)} has {math.prod(shape)}",
        )
        return [tuple(out)]


class Slice(Window):
    """Parts of the bottom along ``axis``: equal ones, or cut at each ``slice_point``."""

    type = "Slice"
    tops = (1, None)

    def _cuts(self, shape: Shape) -> tuple[int, list[int]]:
        """The axis, and where each part starts and the last one ends."""
        p, tops = self.param.slice_param, len(self.param.top)
        both = p.HasField("axis") and p.HasField("slice_dim")
        self.need(not both, "has axis and slice_dim at once", "slice_dim is the old name of axis: keep axis")
        if p.HasField("slice_dim"):
            axis = self.axis(p.slice_dim, len(shape), "slice_dim")
        else:
            axis = self.axis(p.axis, len(shape))
        size = shape[axis]
        if p.slice_point:
            points = [0, *p.slice_point, size]
            self.need(
                len(points) == tops + 1, f"{len(p.slice_point)} slice_points for {tops} tops", "one fewer than tops"
            )
            rising = all(a < z for a, z in zip(points, points[1:], strict=False))
            self.need(rising, f"slice_points {points[1:-1]} must rise strictly between 0 and {size}")
            return axis, points
        self.need(size % tops == 0, f"axis {axis} of {size} cannot be cut into {tops} equal parts", "give slice_points")
        return axis, list(range(0, size + 1, size // tops))

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        axis, cuts = self._cuts(bottoms[0])
        return [(*bottoms[0][:axis], z - a, *bottoms[0][axis + 1 :]) for a, z in zip(cuts, cuts[1:], strict=False)]

    def part(self, bottom: Ref, top: int) -> Ref:
        axis, cuts = self._cuts(bottom.shape)
        return bottom.narrow(axis, cuts[top], cuts[top + 1])


class Concat(Layer):
    """The bottoms one behind the other along ``axis``."""

    type = "Concat"
    bottoms = (1, None)

    def _axis(self, shape: Shape) -> int:
        p = self.param.concat_param
        both = p.HasField("axis") and p.HasField("concat_dim")
        self.need(not both, "has axis and concat_dim at once", "concat_dim is the old name of axis: keep axis")
        if p.HasField("concat_dim"):
            return self.axis(p.concat_dim, len(shape), "concat_dim")
        return self.axis(p.axis, len(shape))

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        first = bottoms[0]
        axis = self._axis(first)
        for other in bottoms[1:]:
            self.need(
                len(other) == len(first)
                and all(a == z for k, (a, z) in enumerate(zip(first, other, strict=True)) if k != axis),
                f"all axes but {axis} must agree: {list(first)} and {list(other)}",
            )
        return [(*first[:axis], sum(s[axis] for s in bottoms), *first[axis + 1 :])]

    def _parts(self, whole: Ref, bottoms: Sequence[Ref]) -> list[Ref]:
        axis, start, out = self._axis(whole.shape), 0, []
        for ref in bottoms:
            out.append(whole.narrow(axis, start, start + ref.shape[axis]))
            start += ref.shape[axis]
        return out

    def forward(self, b: Builder, io: IO) -> None:
        for bottom, part in zip(io.bottoms, self._parts(io.top, io.bottoms), strict=True):
            b.map((full(part), full(bottom)))

    def backward(self, b: Builder, io: IO) -> None:
        for diff, part in zip(io.bottom_diffs, self._parts(io.top_diff, io.bottoms), strict=True):
            if diff is not None:
                b.add(full(diff), expr(full(part)))


class Silence(Layer):
    """Takes blobs that nobody uses, so that they are no outputs; their gradient is 0."""

    type = "Silence"
    bottoms = (1, None)
    tops = (0, 0)

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        return []

    def forward(self, b: Builder, io: IO) -> None:
        pass

    def backward(self, b: Builder, io: IO) -> None:
        pass
