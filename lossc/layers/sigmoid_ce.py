"""SigmoidCrossEntropyLoss: a logistic loss for each value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref
from lossc.ir.expr import Expr, absolute, eq, exp, expr, log1p, sigmoid, total, trunc, where
from lossc.layers.base import LossLayer, Shape
from lossc.layers.normalization import ignored_label, mode_of, normaliser


class SigmoidCrossEntropyLoss(LossLayer):
    """E = -sum(t log s(x) + (1 - t) log(1 - s(x))) / normaliser, s the sigmoid;  dx = (s(x) - t) / normaliser.

    Bottoms: scores x and targets t, any numbers. A target whose integer part is ``ignore_label`` does not count. The
    normaliser is the number of items unless ``loss_param`` says otherwise.
    """

    type = "SigmoidCrossEntropyLoss"

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        scores, targets = bottoms
        self.need(len(scores) > 0, "the scores need a batch axis")
        self.need(math.prod(scores) == math.prod(targets), f"one target per score: {list(scores)} and {list(targets)}")
        return [()]

    def _operands(self, io: IO) -> tuple[Ref, Expr, Expr, Expr | None]:
        """Scores (items, values), scores and targets as expressions, and where targets are ignored."""
        items = io.bottom.shape[0]
        x, t = (r.reshape(items, r.size // items) for r in io.bottoms)
        ignore = ignored_label(self.param.loss_param)
        return x, expr(x["ni"]), expr(t["ni"]), None if ignore is None else eq(trunc(t["ni"]), float(ignore))

    def forward(self, b: Builder, io: IO) -> None:
        scores, x, t, ignored = self._operands(io)
        p = self.param.loss_param
        n = normaliser(b, io, p, mode_of(p, p.BATCH_SIZE), scores.shape[0], scores.shape[1], ignored, "ni")
        # log(1 + exp(-|x|)) never overflows, and x (1 - t) is exactly 0 where x is large and t is 1
        loss = log1p(exp(-absolute(x))) + where(x >= 0, x * (1.0 - t), -(x * t))
        if ignored is not None:
            loss = where(ignored, 0.0, loss)
        b.map((io.top[""], total(loss, "ni") / n))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        scores, x, t, ignored = self._operands(io)
        residual = sigmoid(x) - t
        if ignored is not None:
            residual = where(ignored, 0.0, residual)
        dx = io.bottom_diff.reshape(*scores.shape)["ni"]
        b.add(dx, expr(io.top_diff[""]) / io.saved["normaliser"] * residual)
