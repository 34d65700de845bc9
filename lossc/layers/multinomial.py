"""MultinomialLogisticLoss: the logistic loss of given probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import Expr, eq, expr, gather, iota, log, maximum, where
from lossc.layers.base import Shape
from lossc.layers.points import CLASSES, PointLoss, product

#: Caffe's kLOG_THRESHOLD.
LEAST = Scalar(1e-20, "least probability")


class MultinomialLogisticLoss(PointLoss):
    """E = -1/N sum log p[label], p clipped at 1e-20;  dp[label] = -1 / (N p), with p clipped too.

    A third bottom holds a weight per item; see PointLoss for it and for ``lossc_param``.
    """

    type = "MultinomialLogisticLoss"
    extras = CLASSES

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        scores, labels = bottoms[:2]
        fits = bool(scores) and math.prod(labels) == scores[0]
        self.need(fits, f"one label per item: probabilities {list(scores)}, labels {list(labels)}")
        self.check_points(bottoms, scores[0], scores[0], math.prod(scores[1:]))
        return [self.top_shape(labels)]

    def _operands(self, b: Builder, io: IO) -> tuple[Ref, Expr, Expr | None]:
        """Probabilities (items, classes), labels, and the items' weights."""
        items = io.bottom.shape[0]
        p, label = io.bottom.reshape(items, io.bottom.size // items), expr(io.bottoms[1].reshape(items)["n"])
        weight = product(self.label_weight(b, io, label, p.shape[1]), self.point_weight(io, (items,), "n"))
        return p, label, weight

    def forward(self, b: Builder, io: IO) -> None:
        p, label, weight = self._operands(b, io)
        items = p.shape[:1]
        b.check_label(io.bottoms[1], p.shape[1])
        self.divide(b, io, lambda: Scalar(items[0], "N"), weight, None, items, "n")
        b.map(self.reduced(io, -log(maximum(LEAST, gather(p["na"], "a", label))), weight, None, items, "n"))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is not None:
            p, label, weight = self._operands(b, io)
            alpha = -self.alpha(io, weight, p.shape[:1], "n")
            gradient = where(eq(iota(p["na"], "a"), label), alpha / maximum(LEAST, p["na"]), 0.0)
            b.add(io.bottom_diff.reshape(*p.shape)["na"], gradient)
