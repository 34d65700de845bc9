"""EuclideanLoss: half the mean squared distance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Scalar
from lossc.ir.expr import expr
from lossc.layers.base import Shape
from lossc.layers.points import PointLoss


class EuclideanLoss(PointLoss):
    """E = 1/(2N) sum (pred - label)^2;  dE/dpred = (pred - label) / N = -dE/dlabel.  N is the number of items.

    A third bottom holds a weight per item; see PointLoss for it and for ``lossc_param``.
    """

    type = "EuclideanLoss"

    def propagates_to(self, bottom: int) -> bool:
        return bottom < 2

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        pred, label = bottoms[:2]
        self.need(
            bool(pred) and bool(label) and pred[0] == label[0] and math.prod(pred[1:]) == math.prod(label[1:]),
            f"bottoms must have as many items and values per item: {pred} and {label}",
        )
        self.check_points(bottoms, pred[0], pred[0])
        return [self.top_shape(pred[:1])]

    def forward(self, b: Builder, io: IO) -> None:
        pred, label = (r.reshape(r.shape[0], -(-r.size // r.shape[0])) for r in io.bottoms[:2])
        r, items = expr(pred["nc"]) - label["nc"], pred.shape[:1]
        weight = self.point_weight(io, items, "n")
        self.divide(b, io, lambda: Scalar(items[0], "N"), weight, None, items, "n")
        top, value = self.reduced(io, r * r, weight, None, items, "n", "c")
        b.map((top, expr(value) / Scalar(2.0)))

    def backward(self, b: Builder, io: IO) -> None:
        pred, label = (r.reshape(r.shape[0], -(-r.size // r.shape[0])) for r in io.bottoms[:2])
        r, items = expr(pred["nc"]) - label["nc"], pred.shape[:1]
        alpha = self.alpha(io, self.point_weight(io, items, "n"), items, "n")
        for diff, sign in zip(io.bottom_diffs, (Scalar(1.0), Scalar(-1.0, "sign")), strict=False):
            if diff is not None:
                b.add(diff.reshape(*pred.shape)["nc"], sign * alpha * r)
