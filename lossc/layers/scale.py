"""Scale and Bias: a factor or a summand for each slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lossc.ir import IO, Builder, Ref, Store
from lossc.ir.expr import expr, total
from lossc.layers.base import Layer, ParamSpec, Shape
from lossc.layers.fillers import filler_or


class _Broadcast(Layer):
    """Common to Scale and Bias: an operand, learned or the second bottom, that covers some of the first one's axes."""

    bottoms = (1, 2)
    in_place = True

    def _message(self) -> Any:
        raise NotImplementedError

    def _range(self, bottoms: Sequence[Shape]) -> tuple[int, int]:
        """The axes start..end of the first bottom that the operand covers."""
        p, shape = self._message(), bottoms[0]
        if len(bottoms) > 1:
            start = self.axis(p.axis, len(shape)) if bottoms[1] else 0
            return start, start + len(bottoms[1])
        if p.num_axes == 0:
            return 0, 0
        start = self.axis(p.axis, len(shape))
        return start, len(shape) if p.num_axes == -1 else start + p.num_axes

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        p, shape = self._message(), bottoms[0]
        self.need(p.num_axes >= -1, f"num_axes {p.num_axes} is negative", "-1 means all axes to the end")
        start, end = self._range(bottoms)
        self.need(end <= len(shape), f"axes {start} to {end - 1} exceed the {len(shape)} axes of the bottom")
        if len(bottoms) > 1:
            self.need(
                shape[start:end] == bottoms[1],
                f"the second bottom {list(bottoms[1])} must equal axes {start}..{end - 1} of the first, {list(shape)}",
            )
        return [shape]

    def _split(self, io: IO, ref: Ref) -> Ref:
        """The first bottom or a blob of its shape as (before, covered, behind)."""
        start, end = self._range([r.shape for r in io.bottoms])
        return ref.collapse(start, end)

    def _flat(self, ref: Ref) -> Ref:
        return ref.reshape(ref.size)


class Scale(_Broadcast):
    """y = x s (+ b), where s covers ``num_axes`` axes of x from ``axis`` on, or is the second bottom.

    dx = dy s;  ds = sum of dy x, db = sum of dy over the other axes.
    """

    type = "Scale"

    def _message(self) -> Any:
        return self.param.scale_param

    def params(self, *bottoms: Shape) -> Sequence[ParamSpec]:
        p, (start, end) = self._message(), self._range(bottoms)
        covered = bottoms[0][start:end]
        specs = [] if len(bottoms) > 1 else [ParamSpec(covered, filler_or(p, "filler", 1.0))]
        return [*specs, ParamSpec(covered, filler_or(p, "bias_filler", 0.0))] if p.bias_term else specs

    def _factor(self, io: IO) -> Ref:
        return self._flat(io.bottoms[1] if len(io.bottoms) > 1 else io.params[0])

    def forward(self, b: Builder, io: IO) -> None:
        y = expr(self._split(io, io.bottom)["osi"]) * self._factor(io)["s"]
        if self._message().bias_term:
            y = y + self._flat(io.params[-1])["s"]
        b.map((self._split(io, io.top)["osi"], y))

    def backward(self, b: Builder, io: IO) -> None:
        x, dy = (expr(self._split(io, r)["osi"]) for r in (io.bottom, io.top_diff))
        learned = len(io.bottoms) == 1
        ds = io.param_diffs[0] if learned else io.bottom_diffs[1]
        db = io.param_diffs[-1] if self._message().bias_term else None
        sums = [(db, total(dy, "oi"), "bias"), (ds, total(dy * x, "oi"), "scale")]
        stores = {n: Store(self._flat(r)["s"], v, accumulate=True) for r, v, n in sums if r is not None}
        if ds is not None and db is not None and learned and ds.blob != db.blob:  # dy is read once for both
            b.map(*stores.values(), note="bias and scale gradient")
        else:
            for name, store in stores.items():
                b.map(store, note=f"{name} gradient")
        if io.bottom_diff is not None:
            b.add(self._split(io, io.bottom_diff)["osi"], dy * self._factor(io)["s"])


class Bias(_Broadcast):
    """y = x + b, where b covers ``num_axes`` axes of x from ``axis`` on, or is the second bottom;  db = sum of dy."""

    type = "Bias"

    def _message(self) -> Any:
        return self.param.bias_param

    def params(self, *bottoms: Shape) -> Sequence[ParamSpec]:
        start, end = self._range(bottoms)
        filler = filler_or(self._message(), "filler", 0.0)
        return [] if len(bottoms) > 1 else [ParamSpec(bottoms[0][start:end], filler)]

    def forward(self, b: Builder, io: IO) -> None:
        bias = self._flat(io.bottoms[1] if len(io.bottoms) > 1 else io.params[0])
        b.map((self._split(io, io.top)["osi"], expr(self._split(io, io.bottom)["osi"]) + bias["s"]))

    def backward(self, b: Builder, io: IO) -> None:
        dy = expr(self._split(io, io.top_diff)["osi"])
        db = io.bottom_diffs[1] if len(io.bottoms) > 1 else io.param_diffs[0]
        if db is not None:
            b.add(self._flat(db)["s"], total(dy, "oi"), note="bias gradient")
        if io.bottom_diff is not None:
            b.add(self._split(io, io.bottom_diff)["osi"], dy)
