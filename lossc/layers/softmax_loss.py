"""SoftmaxWithLoss: multinomial logistic loss of a softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import Const, Expr, eq, exp, expr, gather, greatest, iota, log, minimum, total, trunc, where
from lossc.ir.kernels import Map
from lossc.layers.base import Layer, Shape
from lossc.layers.extras import Extra
from lossc.layers.normalization import ignored_label, mode_of, normaliser
from lossc.layers.points import CLASSES, PointLoss, product

#: Caffe clips the label's probability at FLT_MIN before it takes the logarithm.
WORST = Scalar(-math.log(2.0**-126), "-log(FLT_MIN)")


class SoftmaxWithLoss(PointLoss):
    """E = -sum log p[label] / normaliser, p = softmax(x) along ``axis``;  dx = (p - [label]) / normaliser.

    The sum is over all points (all axes but ``axis``), and p[label] is clipped at FLT_MIN in E. Bottoms: scores, and
    one label per point; a third holds a weight per point or item. A second top is p. ``lossc_param``: see PointLoss,
    and ``label_smoothing`` e (Szegedy et al. 2016, with class weights as PyTorch has it): a point's loss is
    -(1 - e) w[label] log p[label] - e / classes * sum_a w[a] log p[a]; only its first part is clipped.
    """

    type = "SoftmaxWithLoss"
    tops = (1, 2)
    extras = {**CLASSES, "label_smoothing": Extra("number", 0.0, least=0.0, most=1.0)}

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        scores, labels = bottoms[:2]
        axis = self.axis(self.param.softmax_param.axis, len(scores))
        check_labels(self, scores, labels, axis)
        self.check_points(bottoms, math.prod(labels), math.prod(scores[:axis]), scores[axis])
        return [self.top_shape(labels), scores][: len(self.param.top)]

    def _operands(self, b: Builder, io: IO) -> _Operands:
        x = io.bottom.collapse(self.axis(self.param.softmax_param.axis, io.bottom.ndim))
        points = x.shape[0], x.shape[2]
        labels = io.bottoms[1].reshape(*points)
        e = exp(expr(x["oai"]) - greatest(x["oai"], "a"))
        ignore = ignored_label(self.param.loss_param)
        ignored = None if ignore is None else eq(trunc(labels["oi"]), float(ignore))
        label = expr(labels["oi"]) if ignored is None else where(ignored, 0.0, labels["oi"])
        class_weight = self.label_weight(b, io, label, x.shape[1])
        point_weight = self.point_weight(io, points, "oi")
        return _Operands(x, points, labels, label, e, total(e, "a"), ignored, class_weight, point_weight)

    def _smoothing(self, o: _Operands) -> tuple[Scalar, Scalar]:
        """What the label's part, and each class's part, of a point's loss is multiplied by."""
        e = Scalar(float(self.extra("label_smoothing")), "label_smoothing")
        return Scalar.fold("sub", Scalar(1.0), e) or e, e / Scalar(o.x.shape[1], "classes")

    def forward(self, b: Builder, io: IO) -> None:
        o, p = self._operands(b, io), self.param.loss_param
        b.check_label(io.bottoms[1], o.x.shape[1], ignored_label(p))
        usual = partial(normaliser, b, io, p, mode_of(p, p.VALID), *o.points, o.ignored, "oi")
        self.divide(b, io, usual, product(o.class_weight, o.point_weight), o.ignored, o.points, "oi")
        top = greatest(o.x["oai"], "a")
        loss: Expr = minimum(WORST, log(o.total) - (gather(o.x["oai"], "a", o.label) - top))
        if o.class_weight is not None:
            loss = o.class_weight * loss
        if self.extra("label_smoothing"):
            keep, share = self._smoothing(o)
            each = log(o.total) - (expr(o.x["oai"]) - top)
            if o.class_weight is not None:
                each = expr(io.saved["class_weight"]["a"]) * each
            loss = keep * loss + share * total(each, "a")
        stores = [self.reduced(io, loss, o.point_weight, o.ignored, o.points, "oi")]
        if len(io.tops) > 1:
            stores.append((io.tops[1].reshape(*o.x.shape)["oai"], o.e * (1.0 / o.total)))
        b.map(*stores)

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        o = self._operands(b, io)
        p, is_label = o.e * (1.0 / o.total), eq(iota(o.x["oai"], "a"), o.labels["oi"])
        residual = where(is_label, p - 1.0, p)
        if self.extra("label_smoothing"):
            keep, share = self._smoothing(o)
            if o.class_weight is None:
                residual = keep * residual + (self.extra("label_smoothing") * p - expr(share))
            else:
                every = expr(io.saved["class_weight"]["a"])
                residual = keep * o.class_weight * residual + share * (p * total(every, "a") - every)
        elif o.class_weight is not None:
            residual = o.class_weight * residual
        if o.ignored is not None:
            residual = where(o.ignored, 0.0, residual)
        dx = io.bottom_diff.reshape(*o.x.shape)["oai"]
        b.add(dx, self.alpha(io, o.point_weight, o.points, "oi") * residual)
        add_gradient_of_probabilities(b, io, o.x, p)


@dataclass(frozen=True)
class _Operands:
    """Scores (outer, classes, inner) and what is made of them; labels (outer, inner), as given and kept in range."""

    x: Ref
    points: tuple[int, int]
    labels: Ref
    label: Expr
    e: Expr  # exp(x - max)
    total: Expr  # its sum over the classes
    ignored: Expr | None
    class_weight: Expr | None
    point_weight: Expr | None


def check_labels(layer: Layer, scores: Shape, labels: Shape, axis: int) -> None:
    """Raises ShapeError unless there is one label for each prediction."""
    points = math.prod(scores[:axis]) * math.prod(scores[axis + 1 :])
    layer.need(
        math.prod(labels) == points,
        f"{math.prod(labels)} labels {list(labels)} for {points} predictions {list(scores)} along axis {axis}",
        "one label per prediction: labels have the scores' shape without the class axis",
    )


def add_gradient_of_probabilities(b: Builder, io: IO, x: Ref, p: Expr) -> None:
    """What a second top, the softmax ``p`` (outer, classes, inner), adds to the scores' gradient where it is used."""
    if len(io.tops) > 1 and io.bottom_diff is not None and _is_used(b, io.top_diffs[1]):
        dp = expr(io.top_diffs[1].reshape(*x.shape)["oai"])
        dx = io.bottom_diff.reshape(*x.shape)["oai"]
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
