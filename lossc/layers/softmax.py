"""Softmax."""

from __future__ import annotations

from collections.abc import Sequence

from lossc.ir import IO, Builder
from lossc.ir.expr import exp, expr, greatest, total
from lossc.layers.base import Layer, Shape


class Softmax(Layer):
    """y = exp(x - max x) / sum exp(x - max x) along ``axis``;  dx = (dy - sum(dy y)) y."""

    type = "Softmax"
    in_place = True

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        self.axis(self.param.softmax_param.axis, len(bottoms[0]))
        return [bottoms[0]]

    def forward(self, b: Builder, io: IO) -> None:
        axis = self.axis(self.param.softmax_param.axis, io.bottom.ndim)
        x = expr(io.bottom.collapse(axis)["oai"])
        e = exp(x - greatest(x, "a"))
        b.map((io.top.collapse(axis)["oai"], e * (1.0 / total(e, "a"))))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is not None:
            axis = self.axis(self.param.softmax_param.axis, io.bottom.ndim)
            y, dy = (expr(r.collapse(axis)["oai"]) for r in (io.top, io.top_diff))
            b.add(io.bottom_diff.collapse(axis)["oai"], (dy - total(dy * y, "a")) * y)
