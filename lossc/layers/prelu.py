"""PReLU: a ReLU whose negative slope is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Access, Builder, Ref
from lossc.ir.expr import expr, total, where
from lossc.layers.base import Layer, ParamSpec, Shape
from lossc.layers.fillers import filler_or


class PReLU(Layer):
    """y = x where x > 0, else a[c] x; one slope per channel (axis 1), or one in all (``channel_shared``).

    dx = dy or a[c] dy;  da[c] = sum of x dy where x <= 0. He et al. (2015).
    """

    type = "PReLU"
    in_place = True

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        self.need(len(bottoms[0]) >= 2, f"needs a channel axis: the bottom has {len(bottoms[0])} axes")
        return [bottoms[0]]

    def params(self, *bottoms: Shape) -> Sequence[ParamSpec]:
        p = self.param.prelu_param
        return [ParamSpec(() if p.channel_shared else (bottoms[0][1],), filler_or(p, "filler", 0.25))]

    def _slope(self, ref: Ref) -> Access:
        return ref["c" if ref.ndim else ""]

    def forward(self, b: Builder, io: IO) -> None:
        x, y = (_channels(r) for r in (io.bottom, io.top))
        b.map((y["nci"], where(expr(x["nci"]) > 0, x["nci"], expr(self._slope(io.params[0])) * x["nci"])))

    def backward(self, b: Builder, io: IO) -> None:
        x, dy = (expr(_channels(r)["nci"]) for r in (io.bottom, io.top_diff))
        if io.param_diffs[0] is not None:
            labels = "nci" if self.param.prelu_param.channel_shared else "ni"
            b.add(self._slope(io.param_diffs[0]), total(where(x > 0, 0.0, x * dy), labels), note="slope gradient")
        if io.bottom_diff is not None:
            slope = expr(self._slope(io.params[0]))
            b.add(_channels(io.bottom_diff)["nci"], where(x > 0, dy, slope * dy))


def _channels(ref: Ref) -> Ref:
    """(N, C, everything else)."""
    return ref.reshape(*ref.shape[:2], math.prod(ref.shape[2:]))
