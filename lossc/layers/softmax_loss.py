"""SoftmaxWithLoss: multinomial logistic loss of a softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import Const, Expr, eq, exp, expr, gather, greatest, iota, log, minimum, total, trunc, where
from lossc.ir.kernels import Map
from lossc.layers.base import LossLayer, Shape
from lossc.layers.normalization import ignored_label, mode_of, normaliser

#: Caffe clips the label's probability at FLT_MIN before it takes the logarithm.
WORST = Scalar(-math.log(2.0**-126), "-log(FLT_MIN)")


class SoftmaxWithLoss(LossLayer):
    """E = -sum log p[label] / normaliser, p = softmax(x) along ``axis``;  dx = (p - [label]) / normaliser.

    The sum is over all points (all axes but ``axis``), and p[label] is clipped at FLT_MIN in E. Bottoms: scores, and
    one label per point. A second top is p.
    """

    type = "SoftmaxWithLoss"
    tops = (1, 2)

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        scores, labels = bottoms
        axis = self.axis(self.param.softmax_param.axis, len(scores))
        points = math.prod(scores[:axis]) * math.prod(scores[axis + 1 :])
        self.need(
            math.prod(labels) == points,
            f"{math.prod(labels)} labels {list(labels)} for {points} predictions {list(scores)} along axis {axis}",
            "one label per prediction: labels have the scores' shape without the class axis",
        )
        return [(), scores][: len(self.param.top)]

    def _operands(self, io: IO) -> tuple[Ref, Ref, Expr, Expr, Expr | None]:
        """Scores (outer, classes, inner), labels (outer, inner), exp(x - max), its sum, where labels are ignored."""
        x = io.bottom.collapse(self.axis(self.param.softmax_param.axis, io.bottom.ndim))
        labels = io.bottoms[1].reshape(x.shape[0], x.shape[2])
        score = expr(x["oai"])
        e = exp(score - greatest(score, "a"))
        ignore = ignored_label(self.param.loss_param)
        ignored = None if ignore is None else eq(trunc(labels["oi"]), float(ignore))
        return x, labels, e, total(e, "a"), ignored

    def forward(self, b: Builder, io: IO) -> None:
        x, labels, e, total_e, ignored = self._operands(io)
        p = self.param.loss_param
        b.check_label(io.bottoms[1], x.shape[1], ignored_label(p))
        n = normaliser(b, io, p, mode_of(p, p.VALID), x.shape[0], x.shape[2], ignored, "oi")
        label = expr(labels["oi"])
        chosen = gather(x["oai"], "a", label if ignored is None else where(ignored, 0.0, label))
        loss = minimum(WORST, log(total_e) - (chosen - greatest(x["oai"], "a")))
        if ignored is not None:
            loss = where(ignored, 0.0, loss)
        stores = [(io.top[""], total(loss, "oi") / n)]
        if len(io.tops) > 1:
            stores.append((io.tops[1].reshape(*x.shape)["oai"], e / total_e))
        b.map(*stores)

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        x, labels, e, total_e, ignored = self._operands(io)
        p = e / total_e
        dx = io.bottom_diff.reshape(*x.shape)["oai"]
        residual = where(eq(iota(x["oai"], "a"), labels["oi"]), p - 1.0, p)
        if ignored is not None:
            residual = where(ignored, 0.0, residual)
        b.add(dx, expr(io.top_diff[""]) / io.saved["normaliser"] * residual)
        if len(io.tops) > 1 and _is_used(b, io.top_diffs[1]):
            dp = expr(io.top_diffs[1].reshape(*x.shape)["oai"])
            b.add(dx, (dp - total(dp * p, "a")) * p, note="gradient of the probabilities")


def _is_used(b: Builder, diff: Ref) -> bool:
    """Whether anything but the initial zeros is written to a top's diff: whether somebody uses the top."""
    for name in b.graph.family(diff.blob):
        for node in b.graph.writers(name):
            kernel = node.kernel
            if not isinstance(kernel, Map) or any(not isinstance(s.value, Const) for s in kernel.stores):
                return True
            if any(s.accumulate for s in kernel.stores):
                return True
    return False
