"""Reduction: sums over the axes from one on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import absolute, expr, total, where
from lossc.layers.access import AXES, full
from lossc.layers.base import Layer, Shape


class Reduction(Layer):
    """coeff * SUM, ASUM (of absolute values), SUMSQ (of squares) or MEAN over all axes from ``axis`` on."""

    type = "Reduction"

    def _axis(self, bottom: Shape) -> int:
        return self.axis(self.param.reduction_param.axis, len(bottom))

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        return [bottoms[0][: self._axis(bottoms[0])]]

    def _coefficient(self, bottom: Ref) -> Scalar:
        p = self.param.reduction_param
        coeff = Scalar(1.0) if p.coeff == 1 else Scalar(p.coeff, "coeff")
        if p.operation == p.MEAN:
            return coeff / Scalar(math.prod(bottom.shape[self._axis(bottom.shape) :]), "count")
        return coeff

    def forward(self, b: Builder, io: IO) -> None:
        p, x = self.param.reduction_param, expr(full(io.bottom))
        value = {p.ASUM: absolute(x), p.SUMSQ: x * x}.get(p.operation, x)
        labels = AXES[io.top.ndim : io.bottom.ndim]
        b.map((full(io.top), self._coefficient(io.bottom) * total(value, labels)))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        p, x = self.param.reduction_param, expr(full(io.bottom))
        alpha = expr(full(io.top_diff)) * self._coefficient(io.bottom)
        if p.operation == p.ASUM:
            gradient = where(x > 0, alpha, where(x < 0, -alpha, 0.0))
        elif p.operation == p.SUMSQ:
            gradient = 2.0 * alpha * x
        else:
            gradient = alpha
        b.add(full(io.bottom_diff), gradient)
