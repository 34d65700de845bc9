"""HingeLoss: one-against-all margins."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import Expr, eq, expr, iota, maximum, total, where
from lossc.layers.base import LossLayer, Shape


class HingeLoss(LossLayer):
    """E = sum of margins (L1) or of their squares (L2) / N;  the margin is max(0, 1 - x) at the label.

    It is max(0, 1 + x) elsewhere. dx = +-1 / N where the margin is positive (L1), +-2 margin / N (L2);
    the minus holds at the label.
    """

    type = "HingeLoss"

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        scores, labels = bottoms
        fits = bool(scores) and math.prod(labels) == scores[0]
        self.need(fits, f"one label per item: scores {list(scores)}, labels {list(labels)}")
        return [()]

    def _operands(self, io: IO) -> tuple[Ref, Expr, Expr]:
        """Scores (items, classes), the margins, and whether a score is the label's."""
        items = io.bottom.shape[0]
        x = io.bottom.reshape(items, io.bottom.size // items)
        is_label = eq(iota(x["na"], "a"), io.bottoms[1].reshape(items)["n"])
        signed = where(is_label, -expr(x["na"]), x["na"])
        return x, maximum(0.0, 1.0 + signed), is_label

    def forward(self, b: Builder, io: IO) -> None:
        x, margin, _ = self._operands(io)
        b.check_label(io.bottoms[1], x.shape[1])
        p = self.param.hinge_loss_param
        b.map((io.top[""], total(margin * margin if p.norm == p.L2 else margin, "na") / Scalar(x.shape[0], "N")))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        x, margin, is_label = self._operands(io)
        p, weight = self.param.hinge_loss_param, expr(io.top_diff[""])
        if p.norm == p.L2:
            gradient = weight * 2.0 / Scalar(x.shape[0], "N") * where(is_label, -margin, margin)
        else:
            alpha = weight / Scalar(x.shape[0], "N")
            gradient = where(margin > 0, where(is_label, -alpha, alpha), 0.0)
        b.add(io.bottom_diff.reshape(*x.shape)["na"], gradient)
