"""MVN: mean and variance normalisation of each item."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import expr, sqrt, total
from lossc.layers.base import Layer, Shape


class MVN(Layer):
    """y = (x - mean) / (std + eps) per item and channel, or per item (``across_channels``).

    dx = (dy - mean(dy) - y mean(dy y)) / (std + eps), Caffe's form: exact for eps << std. Without
    ``normalize_variance`` y = x - mean and dx = dy - mean(dy).
    """

    type = "MVN"
    in_place = True

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        self.need(len(bottoms[0]) >= 2, f"needs a batch and a channel axis: the bottom has {len(bottoms[0])} axes")
        return [bottoms[0]]

    def _labels(self) -> str:
        """The axes over which mean and variance are taken."""
        return "ci" if self.param.mvn_param.across_channels else "i"

    def _count(self, ref: Ref) -> Scalar:
        return Scalar(math.prod(ref.shape[1 if self.param.mvn_param.across_channels else 2 :]), "count")

    def forward(self, b: Builder, io: IO) -> None:
        p, labels, count = self.param.mvn_param, self._labels(), self._count(io.bottom)
        x, y = (_channels(r) for r in (io.bottom, io.top))
        centred = expr(x["nci"]) - total(expr(x["nci"]), labels) / count
        if not p.normalize_variance:
            b.map((y["nci"], centred))
            return
        std = b.temp("std", (x.shape[0], 1 if p.across_channels else x.shape[1]))
        io.saved["std"] = std["nc"]
        divisor = sqrt(total(centred * centred, labels) / count) + Scalar(p.eps, "eps")
        b.map((std["nc"], divisor), (y["nci"], centred / divisor))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        labels, count = self._labels(), self._count(io.bottom)
        y, dy = (expr(_channels(r)["nci"]) for r in (io.top, io.top_diff))
        gradient = dy - total(dy, labels) / count
        if self.param.mvn_param.normalize_variance:
            gradient = (gradient - y * (total(dy * y, labels) / count)) / io.saved["std"]
        b.add(_channels(io.bottom_diff)["nci"], gradient)


def _channels(ref: Ref) -> Ref:
    """(N, C, everything else)."""
    return ref.reshape(*ref.shape[:2], math.prod(ref.shape[2:]))
