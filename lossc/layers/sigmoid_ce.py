"""SigmoidCrossEntropyLoss: a logistic loss for each value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from lossc.ir import IO, Builder
from lossc.ir.expr import Expr, absolute, eq, exp, expr, log1p, maximum, trunc, where
from lossc.layers.base import Shape
from lossc.layers.extras import Extra
from lossc.layers.normalization import ignored_label, mode_of, normaliser
from lossc.layers.points import CLASSES, PointLoss, product


class SigmoidCrossEntropyLoss(PointLoss):
    """E = -sum(t log s(x) + (1 - t) log(1 - s(x))) / normaliser, s the sigmoid;  dx = (s(x) - t) / normaliser.

    Bottoms: scores x and targets t, any numbers. A target whose integer part is ``ignore_label`` does not count. The
    normaliser is the number of items unless ``loss_param`` says otherwise. A third bottom holds a weight per value or
    per item; see PointLoss for it and for ``lossc_param``. Two of its settings work on channels (axis 1 of the scores),
    one number for each or one for all: ``class_weight`` multiplies their losses, ``pos_weight`` only the part of the
    targets, t log s(x), as PyTorch's does.
    """

    type = "SigmoidCrossEntropyLoss"
    extras = {**CLASSES, "pos_weight": Extra("numbers", ()), "pos_weight_file": Extra("text", "")}

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        scores, targets = bottoms[:2]
        self.need(len(scores) > 0, "the scores need a batch axis")
        self.need(math.prod(scores) == math.prod(targets), f"one target per score: {list(scores)} and {list(targets)}")
        self.check_points(bottoms, math.prod(scores), scores[0])
        for name in ("class_weight", "pos_weight"):
            self._channel_weights(name, scores)
        return [self.top_shape(scores)]

    def _channel_weights(self, name: str, scores: Shape) -> np.ndarray | None:
        channels = scores[1] if len(scores) > 1 else 1
        one_for_all = len(self.extra(name)) == 1
        weights = self.class_weights(name, 1 if one_for_all else channels)
        return np.full(channels, weights[0]) if one_for_all and weights is not None else weights

    def _operands(self, b: Builder, io: IO) -> _Operands:
        scores = io.bottom.shape
        weights = {name: self._channel_weights(name, scores) for name in ("class_weight", "pos_weight")}
        extents: Shape = (scores[0], math.prod(scores[1:]))
        dims = "ni"
        if any(w is not None for w in weights.values()):
            extents, dims = (scores[0], math.prod(scores[1:2]), math.prod(scores[2:])), "nci"
        x, t = (expr(r.reshape(*extents)[dims]) for r in io.bottoms[:2])
        channel = {
            name: None if w is None else expr(self.constant(b, io, name, w)["c"]) for name, w in weights.items()
        }
        ignore = ignored_label(self.param.loss_param)
        ignored = None if ignore is None else eq(trunc(t), float(ignore))
        weight = product(channel["class_weight"], self.point_weight(io, extents, dims))
        return _Operands(extents, dims, x, t, ignored, weight, channel["pos_weight"])

    def forward(self, b: Builder, io: IO) -> None:
        o, p = self._operands(b, io), self.param.loss_param
        outer, inner = o.extents[0], math.prod(o.extents[1:])
        mode = mode_of(p, p.BATCH_SIZE)
        usual = partial(normaliser, b, io, p, mode, outer, inner, o.ignored, o.dims)
        self.divide(b, io, usual, o.weight, o.ignored, o.extents, o.dims)
        # log(1 + exp(-|x|)) never overflows, and x (1 - t) is exactly 0 where x is large and t is 1
        if o.positive is None:
            loss = log1p(o.decay) + where(o.x >= 0, o.x * (1.0 - o.t), -(o.x * o.t))
        else:
            softplus = log1p(o.decay) + maximum(-o.x, 0.0)  # -log s(x)
            loss = (1.0 - o.t) * o.x + o.slope * softplus
        b.map(self.reduced(io, loss, o.weight, o.ignored, o.extents, o.dims))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        o = self._operands(b, io)
        residual = o.sigmoid(1.0, o.decay) - o.t
        if o.positive is not None:
            residual = (1.0 - o.t) - o.slope * o.sigmoid(o.decay, 1.0)
        if o.ignored is not None:
            residual = where(o.ignored, 0.0, residual)
        dx = io.bottom_diff.reshape(*o.extents)[o.dims]
        b.add(dx, self.alpha(io, o.weight, o.extents, o.dims) * residual)


@dataclass(frozen=True)
class _Operands:
    """Scores and targets over points of ``extents``, where targets are ignored, weights, and pos_weight."""

    extents: Shape
    dims: str
    x: Expr
    t: Expr
    ignored: Expr | None
    weight: Expr | None
    positive: Expr | None

    @property
    def decay(self) -> Expr:
        """exp(-|x|), which loss and gradient share."""
        return exp(-absolute(self.x))

    def sigmoid(self, above: Expr | float, below: Expr | float) -> Expr:
        """s(x) of (1, decay), s(-x) of (decay, 1): nothing overflows."""
        return where(self.x >= 0, above, below) / (1.0 + self.decay)

    @property
    def slope(self) -> Expr:
        """What -log s(x) is multiplied by: (1 - t) + pos_weight * t."""
        assert self.positive is not None
        return 1.0 + (self.positive - 1.0) * self.t
