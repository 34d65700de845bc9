"""HingeLoss: one-against-all margins."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import Expr, eq, expr, iota, maximum, where
from lossc.layers.base import Shape
from lossc.layers.points import CLASSES, PointLoss, product


class HingeLoss(PointLoss):
    """E = sum of margins (L1) or of their squares (L2) / N;  the margin is max(0, 1 - x) at the label.

    It is max(0, 1 + x) elsewhere. dx = +-1 / N where the margin is positive (L1), +-2 margin / N (L2);
    the minus holds at the label. A third bottom holds a weight per item; see PointLoss for it and for ``lossc_param``.
    """

    type = "HingeLoss"
    extras = CLASSES

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        scores, labels = bottoms[:2]
        fits = bool(scores) and math.prod(labels) == scores[0]
        self.need(fits, f"one label per item: scores {list(scores)}, labels {list(labels)}")
        self.check_points(bottoms, scores[0], scores[0], math.prod(scores[1:]))
        return [self.top_shape(labels)]

    def _operands(self, b: Builder, io: IO) -> tuple[Ref, Expr, Expr, Expr | None]:
        """Scores (items, classes), the margins, whether a score is the label's, and the items' weights."""
        items = io.bottom.shape[0]
        x = io.bottom.reshape(items, io.bottom.size // items)
        label = io.bottoms[1].reshape(items)["n"]
        is_label = eq(iota(x["na"], "a"), label)
        signed = where(is_label, -expr(x["na"]), x["na"])
        weight = product(self.label_weight(b, io, label, x.shape[1]), self.point_weight(io, (items,), "n"))
        return x, maximum(0.0, 1.0 + signed), is_label, weight

    def forward(self, b: Builder, io: IO) -> None:
        x, margin, _, weight = self._operands(b, io)
        items = x.shape[:1]
        b.check_label(io.bottoms[1], x.shape[1])
        self.divide(b, io, lambda: Scalar(items[0], "N"), weight, None, items, "n")
        p = self.param.hinge_loss_param
        b.map(self.reduced(io, margin * margin if p.norm == p.L2 else margin, weight, None, items, "n", "a"))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        x, margin, is_label, weight = self._operands(b, io)
        p, alpha = self.param.hinge_loss_param, self.alpha(io, weight, x.shape[:1], "n")
        if p.norm == p.L2:
            gradient = alpha * 2.0 * where(is_label, -margin, margin)
        else:
            gradient = where(margin > 0, where(is_label, -alpha, alpha), 0.0)
        b.add(io.bottom_diff.reshape(*x.shape)["na"], gradient)
