"""InfogainLoss: a multinomial logistic loss weighted by a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import Expr, eq, exp, expr, gather, greatest, log, maximum, total, trunc, where
from lossc.layers.base import LossLayer, Shape
from lossc.layers.normalization import ignored_label, normaliser

#: Caffe clips probabilities at kLOG_THRESHOLD.
LEAST = Scalar(math.log(1e-20), "log(1e-20)")


class InfogainLoss(LossLayer):
    """E = -sum over points and classes of H[label, a] log p[a] / normaliser, p = softmax(x) along ``axis``.

    dx = (p rowsum(H[label]) - H[label]) / normaliser; log p is clipped in E alone. Bottoms: scores, one label per
    point, and the matrix H (classes x classes). A second top is p.
    """

    type = "InfogainLoss"
    bottoms = (2, 3)
    tops = (1, 2)

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        p = self.param.infogain_loss_param
        self.need(
            len(bottoms) == 3, "needs the matrix H as third bottom", "load it into an Input blob, classes x classes"
        )
        self.need(not p.source, "source has no effect beside a third bottom", "remove source")
        self.need(
            not self.param.loss_param.HasField("normalize"),
            "does not know normalize",
            "loss_param { normalization: ... }",
        )
        scores, labels, h = bottoms
        axis = self.axis(p.axis, len(scores))
        points = math.prod(scores[:axis]) * math.prod(scores[axis + 1 :])
        self.need(
            math.prod(labels) == points,
            f"{math.prod(labels)} labels {list(labels)} for {points} predictions {list(scores)} along axis {axis}",
            "one label per prediction: labels have the scores' shape without the class axis",
        )
        k = scores[axis]
        self.need(h[-2:] == (k, k) and math.prod(h) == k * k, f"the matrix H must be {k} x {k}, not {list(h)}")
        return [(), scores][: len(self.param.top)]

    def _operands(self, io: IO) -> tuple[Ref, Expr, Expr, Expr, Expr | None]:
        """Scores (outer, classes, inner), x - max, sum of exp(x - max), H[label], and where labels are ignored."""
        x = io.bottom.collapse(self.axis(self.param.infogain_loss_param.axis, io.bottom.ndim))
        label = expr(io.bottoms[1].reshape(x.shape[0], x.shape[2])["oi"])
        ignore = ignored_label(self.param.loss_param)
        ignored = None if ignore is None else eq(trunc(label), float(ignore))
        if ignored is not None:
            label = where(ignored, 0.0, label)
        row = gather(io.bottoms[2].reshape(x.shape[1], x.shape[1])["la"], "l", label)
        shifted = expr(x["oai"]) - greatest(x["oai"], "a")
        return x, shifted, total(exp(shifted), "a"), row, ignored

    def forward(self, b: Builder, io: IO) -> None:
        x, shifted, total_e, row, ignored = self._operands(io)
        p = self.param.loss_param
        b.check_label(io.bottoms[1], x.shape[1], ignored_label(p))
        n = normaliser(b, io, p, p.normalization, x.shape[0], x.shape[2], ignored, "oi")
        loss = -total(row * maximum(LEAST, shifted - log(total_e)), "a")
        if ignored is not None:
            loss = where(ignored, 0.0, loss)
        stores = [(io.top[""], total(loss, "oi") / n)]
        if len(io.tops) > 1:
            stores.append((io.tops[1].reshape(*x.shape)["oai"], exp(shifted) / total_e))
        b.map(*stores)

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        x, shifted, total_e, row, ignored = self._operands(io)
        residual = exp(shifted) / total_e * total(row, "a") - row
        if ignored is not None:
            residual = where(ignored, 0.0, residual)
        dx = io.bottom_diff.reshape(*x.shape)["oai"]
        b.add(dx, expr(io.top_diff[""]) / io.saved["normaliser"] * residual)
