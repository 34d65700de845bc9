"""EuclideanLoss: half the mean squared distance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Scalar
from lossc.ir.expr import expr, total
from lossc.layers.base import LossLayer, Shape


class EuclideanLoss(LossLayer):
    """E = 1/(2N) sum (pred - label)^2;  dE/dpred = (pred - label) / N = -dE/dlabel.  N is the number of items."""

    type = "EuclideanLoss"

    def propagates_to(self, bottom: int) -> bool:
        return True

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        pred, label = bottoms
        self.need(
            bool(pred) and bool(label) and pred[0] == label[0] and math.prod(pred[1:]) == math.prod(label[1:]),
            f"bottoms must have as many items and values per item: {pred} and {label}",
        )
        return [()]

    def forward(self, b: Builder, io: IO) -> None:
        pred, label = (r.reshape(r.shape[0], -(-r.size // r.shape[0])) for r in io.bottoms)
        r = expr(pred["nc"]) - label["nc"]
        b.map((io.top[""], total(r * r, "nc") / Scalar(pred.shape[0], "N") / Scalar(2.0)))

    def backward(self, b: Builder, io: IO) -> None:
        pred, label = (r.reshape(r.shape[0], -(-r.size // r.shape[0])) for r in io.bottoms)
        r = expr(pred["nc"]) - label["nc"]
        for diff, sign in zip(io.bottom_diffs, (Scalar(1.0), Scalar(-1.0, "sign")), strict=True):
            if diff is not None:
                alpha = sign * expr(io.top_diff[""]) / Scalar(pred.shape[0], "N")
                b.add(diff.reshape(*pred.shape)["nc"], alpha * r)
