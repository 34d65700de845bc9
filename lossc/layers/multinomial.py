"""MultinomialLogisticLoss: the logistic loss of given probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import Expr, eq, expr, gather, iota, log, maximum, total, where
from lossc.layers.base import LossLayer, Shape

#: Caffe's kLOG_THRESHOLD.
LEAST = Scalar(1e-20, "least probability")


class MultinomialLogisticLoss(LossLayer):
    """E = -1/N sum log p[label], p clipped at 1e-20;  dp[label] = -1 / (N p), with p clipped too."""

    type = "MultinomialLogisticLoss"

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        scores, labels = bottoms
        fits = bool(scores) and math.prod(labels) == scores[0]
        self.need(fits, f"one label per item: probabilities {list(scores)}, labels {list(labels)}")
        return [()]

    def _operands(self, io: IO) -> tuple[Ref, Expr]:
        """Probabilities (items, classes), and labels."""
        items = io.bottom.shape[0]
        return io.bottom.reshape(items, io.bottom.size // items), expr(io.bottoms[1].reshape(items)["n"])

    def forward(self, b: Builder, io: IO) -> None:
        p, label = self._operands(io)
        b.check_label(io.bottoms[1], p.shape[1])
        loss = -log(maximum(LEAST, gather(p["na"], "a", label)))
        b.map((io.top[""], total(loss, "n") / Scalar(p.shape[0], "N")))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is not None:
            p, label = self._operands(io)
            alpha = -expr(io.top_diff[""]) / Scalar(p.shape[0], "N")
            gradient = where(eq(iota(p["na"], "a"), label), alpha / maximum(LEAST, p["na"]), 0.0)
            b.add(io.bottom_diff.reshape(*p.shape)["na"], gradient)
