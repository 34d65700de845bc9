"""Losses that are sums over points: weights of points and of classes, reductions, and what the sum is divided by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from lossc.ir import IO, Access, Builder, Ref, Scalar
from lossc.ir.expr import Expr, Value, expr, gather, ne, total, where
from lossc.layers.base import LossLayer, Shape
from lossc.layers.extras import Extra

POINTS: Mapping[str, Extra] = {
    "reduction": Extra("text", "mean", choices=("mean", "sum", "none")),
    "normalization": Extra("text", "", choices=("WEIGHTED",)),
}
CLASSES: Mapping[str, Extra] = {
    **POINTS,
    "class_weight": Extra("numbers", ()),
    "class_weight_file": Extra("text", ""),
}


class PointLoss(LossLayer):
    """A sum over points (items, pixels, pairs) divided by a normaliser: Caffe's, unless ``lossc_param`` says otherwise.

    Beyond Caffe: one more bottom than Caffe's layer takes holds a weight for each point, or for each item. In
    ``lossc_param``: ``class_weight``, one number per class (or ``class_weight_file``: .npy or .binaryproto), weighs a
    point by its label. Weights multiply a point's loss and leave the normaliser alone, but for
    ``normalization: WEIGHTED``: the sum of the weights of the points that count, as in PyTorch's weighted mean.
    ``reduction``: "mean" divides by the normaliser, "sum" does not, "none" gives a top with a value per point.
    """

    bottoms = (2, 3)
    extras: ClassVar[Mapping[str, Extra]] = POINTS

    @property
    def own_bottoms(self) -> int:
        """How many bottoms Caffe's layer takes; the weights come behind them."""
        return self.bottoms[0]

    # ---- set-up

    def check_points(self, bottoms: tuple[Shape, ...], points: int, items: int, classes: int = 0) -> None:
        """Raises ShapeError where weights or options do not fit ``points`` in ``items`` items and ``classes``."""
        if len(bottoms) > self.own_bottoms:
            shape = bottoms[self.own_bottoms]
            self.need(
                math.prod(shape) in (points, items),
                f"{math.prod(shape)} weights {list(shape)} for {points} points in {items} items",
                "the last bottom holds one weight per point or per item",
            )
        given = [name for name in ("normalization", "normalize") if self.param.loss_param.HasField(name)]
        given += ["lossc_param's normalization"] if self.extra("normalization") else []
        reduction = self.extra("reduction")
        self.need(
            reduction == "mean" or not given,
            f'{given[0] if given else ""} has no effect beside reduction "{reduction}"',
            "keep one of the two",
        )
        both = len(given) > 1 and given[-1] != "normalize"
        self.need(not both, f"{' and '.join(given)} contradict each other", "keep one of them")
        weighted = len(bottoms) > self.own_bottoms or any(
            self.extra(name) for name in ("class_weight", "class_weight_file") if name in self.extras
        )
        self.need(
            weighted or not self.extra("normalization"),
            "lossc_param's normalization: WEIGHTED has no effect without weights",
            "give weights in one more bottom" + (", or class_weight" if "class_weight" in self.extras else ""),
        )
        if classes:
            self.class_weights("class_weight", classes)

    def class_weights(self, name: str, classes: int) -> np.ndarray | None:
        """The weights that lossc_param gives under ``name``, or in the file of ``name``_file; None without any.

        Raises ShapeError unless there is one for each class.
        """
        given, file = self.extra(name), self.extra(f"{name}_file")
        self.need(not (given and file), f"{name} and {name}_file are both given", "keep one of them")
        if not given and not file:
            return None
        weights = np.asarray(given, np.float64) if given else self.table(f"{name}_file").reshape(-1)
        self.need(
            weights.size == classes,
            f"{weights.size} values of {name} for {classes} classes",
            "give one per class, ignored ones included",
        )
        self.need(bool(np.isfinite(weights).all()), f"{name} holds numbers that are not finite")
        return weights

    def top_shape(self, points: Shape) -> Shape:
        return points if self.extra("reduction") == "none" else ()

    # ---- weights

    def constant(self, b: Builder, io: IO, name: str, values: np.ndarray) -> Ref:
        """A blob with these numbers, the same in forward and backward."""
        if name not in io.saved:
            io.saved[name] = b.constant(name, values)
        ref: Ref = io.saved[name]
        return ref

    def point_weight(self, io: IO, extents: Shape, dims: str) -> Expr | None:
        """The weights in the last bottom, over points of these extents (items first), or None."""
        if len(io.bottoms) == self.own_bottoms:
            return None
        weights = io.bottoms[self.own_bottoms]
        if weights.size == math.prod(extents):
            return expr(weights.reshape(*extents)[dims])
        return expr(weights.reshape(extents[0])[dims[0]])

    def label_weight(self, b: Builder, io: IO, label: Value, classes: int) -> Expr | None:
        """The weight of each label's class, or None. Labels must be in range."""
        weights = self.class_weights("class_weight", classes)
        return None if weights is None else gather(self.constant(b, io, "class_weight", weights)["a"], "a", label)

    # ---- sums

    def divide(
        self,
        b: Builder,
        io: IO,
        usual: Callable[[], Value],
        weight: Expr | None,
        ignored: Expr | None,
        extents: Shape,
        dims: str,
    ) -> Value:
        """The normaliser, kept for backward. ``usual`` makes Caffe's; points where ``ignored`` is true do not count."""
        if self.extra("reduction") != "mean":
            value: Value = Scalar(1.0)
            io.saved["mode"] = "NONE"
        elif not self.extra("normalization"):
            value = usual()
        else:
            assert weight is not None
            counted = weight if ignored is None else where(ignored, 0.0, weight)
            varying = {d.name for d in counted.varies}
            alike = math.prod(e for d, e in zip(dims, extents, strict=True) if d not in varying)
            held = b.temp("weights", ())
            b.map((held[""], total(counted, dims) * Scalar(alike, "count")), note="weights of the points that count")
            value = where(ne(held[""], 0.0), held[""], 1.0)
            io.saved["mode"] = "WEIGHTED"
        io.saved["normaliser"] = value
        return value

    def reduced(
        self, io: IO, loss: Expr, weight: Expr | None, ignored: Expr | None, extents: Shape, dims: str, inner: str = ""
    ) -> tuple[Access, Value]:
        """The top and its value. ``loss`` varies along ``dims``, the points, and along ``inner``, which is summed."""
        if weight is not None:
            loss = weight * loss
        if ignored is not None:
            loss = where(ignored, 0.0, loss)
        if self.extra("reduction") == "none":
            return io.top.reshape(*extents)[dims], total(loss, inner) if inner else loss
        return io.top[""], total(loss, dims + inner) / io.saved["normaliser"]

    def alpha(self, io: IO, weight: Expr | None, extents: Shape, dims: str) -> Expr:
        """What each point's gradient is multiplied by: the top's gradient / normaliser * weight."""
        none = self.extra("reduction") == "none"
        seed = expr(io.top_diff.reshape(*extents)[dims] if none else io.top_diff[""])
        value = seed / io.saved["normaliser"]
        return value if weight is None else value * weight


def product(a: Expr | None, b: Expr | None) -> Expr | None:
    """The product of those that are given."""
    return b if a is None else a if b is None else a * b
