"""ContrastiveLoss: pairs of features, similar or not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import Expr, expr, maximum, ne, sqrt, total, trunc, where
from lossc.layers.base import Shape
from lossc.layers.points import PointLoss


class ContrastiveLoss(PointLoss):
    """E = 1/(2N) sum of d^2 (similar pairs) or max(margin - d, 0)^2 (others), d = |a - b|.

    Hadsell, Chopra and LeCun (2006). ``legacy_version``: max(margin - d^2, 0) for the others. The gradient divides by
    d + 1e-4, as Caffe's does. Bottoms: a and b, N x C (x 1 x 1), and the similarity: its integer part is not 0.
    A fourth bottom holds a weight per pair; see PointLoss for it and for ``lossc_param``.
    """

    type = "ContrastiveLoss"
    bottoms = (3, 4)

    def propagates_to(self, bottom: int) -> bool:
        return bottom < 2

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        a, b, similar = bottoms[:3]
        for shape in (a, b):
            flat = len(shape) >= 2 and math.prod(shape[2:]) == 1
            self.need(flat, f"features must be N x C or N x C x 1 x 1, not {list(shape)}")
        self.need(a[:2] == b[:2], f"both features must have one shape: {list(a)} and {list(b)}")
        self.need(math.prod(similar) == a[0], f"one similarity per pair: {a[0]} pairs, similarities {list(similar)}")
        self.check_points(bottoms, a[0], a[0])
        return [self.top_shape(a[:1])]

    def _operands(self, io: IO) -> tuple[list[Ref], Expr, Expr, Expr]:
        """Both features (N, C), their difference, its squared length, and whether pairs are similar."""
        a, b = (r.reshape(r.shape[0], r.shape[1]) for r in io.bottoms[:2])
        r = expr(a["nc"]) - b["nc"]
        similar = ne(trunc(io.bottoms[2].reshape(a.shape[0])["n"]), 0.0)
        return [a, b], r, total(r * r, "c"), similar

    def _margin(self) -> Scalar:
        return Scalar(self.param.contrastive_loss_param.margin, "margin")

    def forward(self, b: Builder, io: IO) -> None:
        (a, _), _, square, similar = self._operands(io)
        if self.param.contrastive_loss_param.legacy_version:
            other = maximum(0.0, self._margin() - square)
        else:
            gap = maximum(0.0, self._margin() - sqrt(square))
            other = gap * gap
        pairs = a.shape[:1]
        weight = self.point_weight(io, pairs, "n")
        self.divide(b, io, lambda: Scalar(pairs[0], "N"), weight, None, pairs, "n")
        top, value = self.reduced(io, where(similar, square, other), weight, None, pairs, "n")
        b.map((top, expr(value) / Scalar(2.0)))

    def backward(self, b: Builder, io: IO) -> None:
        (a, _), r, square, similar = self._operands(io)
        pairs = a.shape[:1]
        scale = self.alpha(io, self.point_weight(io, pairs, "n"), pairs, "n")
        for diff, sign in zip(io.bottom_diffs[:2], (Scalar(1.0), Scalar(-1.0, "sign")), strict=True):
            if diff is None:
                continue
            alpha = sign * scale
            if self.param.contrastive_loss_param.legacy_version:
                gap, other = self._margin() - square, -alpha
            else:
                distance = sqrt(square)
                gap = self._margin() - distance
                other = -alpha * gap / (distance + Scalar(1e-4, "epsilon"))
            beta = where(similar, alpha, where(gap > 0, other, 0.0))
            b.add(diff.reshape(*a.shape)["nc"], beta * r)
