"""Accuracy: how often the label is among the best classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Scalar
from lossc.ir.expr import Value, eq, expr, gather, iota, maximum, op, total, trunc, where
from lossc.layers.base import Layer, Shape


class Accuracy(Layer):
    """The share of points whose label is among the ``top_k`` best scores along ``axis``.

    A point is right if fewer than top_k other classes score at least as much as its label. Ignored labels do not count;
    where none is left the accuracy is 0. A second top is the accuracy per class, 0 for a class that does not occur.
    """

    type = "Accuracy"
    bottoms = (2, 2)
    tops = (1, 2)
    has_gradient = False

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        p, (scores, labels) = self.param.accuracy_param, bottoms
        axis = self.axis(p.axis, len(scores))
        points = math.prod(scores[:axis]) * math.prod(scores[axis + 1 :])
        self.need(
            math.prod(labels) == points,
            f"{math.prod(labels)} labels {list(labels)} for {points} predictions {list(scores)} along axis {axis}",
            "one label per prediction: labels have the scores' shape without the class axis",
        )
        self.need(1 <= p.top_k <= scores[axis], f"top_k {p.top_k} must be in 1..{scores[axis]}, the number of classes")
        return [(), (scores[axis],)][: len(self.param.top)]

    def forward(self, b: Builder, io: IO) -> None:
        p = self.param.accuracy_param
        x = io.bottom.collapse(self.axis(p.axis, io.bottom.ndim))
        label = expr(io.bottoms[1].reshape(x.shape[0], x.shape[2])["oi"])
        ignore = p.ignore_label if p.HasField("ignore_label") else None
        b.check_label(io.bottoms[1], x.shape[1], ignore)
        count: Value = Scalar(x.shape[0] * x.shape[2], "N")
        if ignore is not None:
            ignored = eq(trunc(label), float(ignore))
            label = where(ignored, 0.0, label)
            count = maximum(1.0, total(where(ignored, 0.0, 1.0), "oi"))
        not_worse = total(where(expr(x["oai"]) >= gather(x["oai"], "a", label), 1.0, 0.0), "a")  # itself included
        right = not_worse <= float(p.top_k)
        if ignore is not None:
            right = op("and", right, op("not", ignored))
        hit = where(right, 1.0, 0.0)
        if len(io.tops) == 1:
            b.map((io.top[""], total(hit, "oi") / count))
            return
        hits = b.temp("hits", (x.shape[0], x.shape[2]))
        b.map((hits["oi"], hit), (io.top[""], total(hit, "oi") / count))
        mine = eq(iota(io.tops[1]["a"], "a"), label)
        if ignore is not None:
            mine = op("and", mine, op("not", ignored))
        seen = total(where(mine, 1.0, 0.0), "oi")
        b.map((io.tops[1]["a"], total(where(mine, hits["oi"], 0.0), "oi") / maximum(1.0, seen)))
