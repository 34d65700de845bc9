"""InfogainLoss: a multinomial logistic loss weighted by a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import Expr, eq, exp, expr, gather, greatest, log, maximum, total, trunc, where
from lossc.layers.base import Shape
from lossc.layers.normalization import ignored_label, normaliser
from lossc.layers.points import CLASSES, PointLoss, product
from lossc.layers.softmax_loss import add_gradient_of_probabilities, check_labels

#: Caffe clips probabilities at kLOG_THRESHOLD.
LEAST = Scalar(math.log(1e-20), "log(1e-20)")


class InfogainLoss(PointLoss):
    """E = -sum over points and classes of H[label, a] log p[a] / normaliser, p = softmax(x) along ``axis``.

    dx = (p rowsum(H[label]) - H[label]) / normaliser; log p is clipped in E alone. Bottoms: scores, one label per
    point, and the matrix H (classes x classes) unless ``source`` names the file that holds it; one more holds a weight
    per point or item. A second top is p. ``lossc_param``: see PointLoss.
    """

    type = "InfogainLoss"
    bottoms = (2, 4)
    tops = (1, 2)
    extras = CLASSES

    @property
    def own_bottoms(self) -> int:
        return 2 if self.param.infogain_loss_param.source else 3

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        p = self.param.infogain_loss_param
        self.need(
            len(bottoms) > 2 or bool(p.source),
            "needs the matrix H as third bottom, or from a file",
            'infogain_loss_param { source: "H.binaryproto" }, or an Input blob of classes x classes',
        )
        self.need(
            not self.param.loss_param.HasField("normalize"),
            "does not know normalize",
            "loss_param { normalization: ... }",
        )
        scores, labels = bottoms[:2]
        axis = self.axis(p.axis, len(scores))
        check_labels(self, scores, labels, axis)
        k = scores[axis]
        is_matrix = len(bottoms) > 2 and bottoms[2][-2:] == (k, k) and math.prod(bottoms[2]) == k * k
        fits_weights = len(bottoms) == 3 and math.prod(bottoms[2]) in (math.prod(labels), math.prod(scores[:axis]))
        self.need(
            not p.source or len(bottoms) == 2 or (fits_weights and not (is_matrix and k > 1)),
            "source has no effect beside a third bottom that holds the matrix H",
            "remove source; beside it, a third bottom is the points' weights",
        )
        h = self.table("source").shape if p.source else bottoms[2]
        where_from = f"the matrix H in {p.source}" if p.source else "the matrix H"
        fits = h[-2:] == (k, k) and math.prod(h) == k * k
        self.need(fits, f"{where_from} must be {k} x {k}, not {list(h)}")
        self.check_points(bottoms, math.prod(labels), math.prod(scores[:axis]), k)
        return [self.top_shape(labels), scores][: len(self.param.top)]

    def _operands(self, b: Builder, io: IO) -> _Operands:
        x = io.bottom.collapse(self.axis(self.param.infogain_loss_param.axis, io.bottom.ndim))
        points, k = (x.shape[0], x.shape[2]), x.shape[1]
        label = expr(io.bottoms[1].reshape(*points)["oi"])
        ignore = ignored_label(self.param.loss_param)
        ignored = None if ignore is None else eq(trunc(label), float(ignore))
        if ignored is not None:
            label = where(ignored, 0.0, label)
        by_file = bool(self.param.infogain_loss_param.source)
        h = self.constant(b, io, "H", self.table("source")) if by_file else io.bottoms[2]
        row = gather(h.reshape(k, k)["la"], "l", label)
        weight = product(self.label_weight(b, io, label, k), self.point_weight(io, points, "oi"))
        shifted = expr(x["oai"]) - greatest(x["oai"], "a")
        return _Operands(x, points, shifted, total(exp(shifted), "a"), row, ignored, weight)

    def forward(self, b: Builder, io: IO) -> None:
        o, p = self._operands(b, io), self.param.loss_param
        b.check_label(io.bottoms[1], o.x.shape[1], ignored_label(p))
        usual = partial(normaliser, b, io, p, p.normalization, *o.points, o.ignored, "oi")
        self.divide(b, io, usual, o.weight, o.ignored, o.points, "oi")
        loss = -total(o.row * maximum(LEAST, o.shifted - log(o.total)), "a")
        stores = [self.reduced(io, loss, o.weight, o.ignored, o.points, "oi")]
        if len(io.tops) > 1:
            stores.append((io.tops[1].reshape(*o.x.shape)["oai"], exp(o.shifted) / o.total))
        b.map(*stores)

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        o = self._operands(b, io)
        p = exp(o.shifted) / o.total
        residual = p * total(o.row, "a") - o.row
        if o.ignored is not None:
            residual = where(o.ignored, 0.0, residual)
        dx = io.bottom_diff.reshape(*o.x.shape)["oai"]
        b.add(dx, self.alpha(io, o.weight, o.points, "oi") * residual)
        add_gradient_of_probabilities(b, io, o.x, p)


@dataclass(frozen=True)
class _Operands:
    """Scores (outer, classes, inner), x - max, the sum of its exponentials, H[label], and what counts how much."""

    x: Ref
    points: tuple[int, int]
    shifted: Expr
    total: Expr
    row: Expr
    ignored: Expr | None
    weight: Expr | None
