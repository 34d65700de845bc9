"""LRN: local response normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from lossc.ir import IO, Builder, Geometry, Ref, Scalar
from lossc.ir.expr import Expr, expr, op, sqrt
from lossc.layers.base import Layer, Shape


class LRN(Layer):
    """y = x s^-beta, s = k + alpha mean(x^2);  dx = dy s^-beta - x W(2 alpha beta dy y / s).

    The mean is over ``local_size`` neighbouring channels, zeros beyond the first and the last one (ACROSS_CHANNELS), or
    over a square window of each plane with zeros around it (WITHIN_CHANNEL, where k is 1 and the window is clipped as
    by average pooling). W spreads a gradient as that mean collects values. Krizhevsky et al., NIPS 2012.
    """

    type = "LRN"

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        p, shape = self.param.lrn_param, bottoms[0]
        self.need(len(shape) == 4, f"the bottom must have 4 axes (N, C, H, W), not {list(shape)}")
        self.need(p.local_size % 2 == 1, f"local_size is {p.local_size}", "give an odd number")
        return [shape]

    def _windows(self, *refs: Ref) -> tuple[Geometry, list[Ref]]:
        """The mean as average pooling: over planes, or over a view whose rows are channels."""
        p = self.param.lrn_param
        size = p.local_size
        if p.norm_region == p.WITHIN_CHANNEL:
            return Geometry((size, size), (1, 1), (size // 2, size // 2), (1, 1)), list(refs)
        rows = [r.reshape(r.shape[0], 1, r.shape[1], r.shape[2] * r.shape[3]) for r in refs]
        return Geometry((size, 1), (1, 1), (size // 2, 0), (1, 1)), rows

    def _power(self, s: Expr, *, lower: int = 0) -> Expr:
        """s^-(beta + lower); for the usual beta of 0.75 by square roots, which are exact to the last bit but one."""
        beta = self.param.lrn_param.beta
        if beta == 0.75:
            root = sqrt(s)
            power = root * sqrt(root)
            return 1.0 / (power * s if lower else power)
        return op("pow", s, Scalar(-beta - lower, "-beta - 1" if lower else "-beta"))

    def forward(self, b: Builder, io: IO) -> None:
        p, x, labels = self.param.lrn_param, io.bottom, "nchw"
        squares, mean, s = (b.temp(name, x.shape) for name in ("squares", "mean", "scale"))
        b.map((squares[labels], expr(x[labels]) * x[labels]), note="squares")
        geometry, (source, target) = self._windows(squares, mean)
        b.pool("forward", "AVE", source, target, geometry)
        k = 1.0 if p.norm_region == p.WITHIN_CHANNEL else p.k
        scale = Scalar(k, "k") + expr(Scalar(p.alpha, "alpha")) * mean[labels]
        b.map((io.top[labels], expr(x[labels]) * self._power(scale)), (s[labels], scale))
        io.saved["scale"] = s

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        p, labels = self.param.lrn_param, "nchw"
        x, dy, s = (expr(r[labels]) for r in (io.bottom, io.top_diff, io.saved["scale"]))
        ratio, spread = (b.temp(name, io.bottom.shape, "diff") for name in ("ratio", "spread"))
        b.map((ratio[labels], x * dy * self._power(s, lower=1)), note="gradient of the mean")
        geometry, (target, source) = self._windows(spread, ratio)
        alpha = -(Scalar(2.0) * Scalar(p.alpha, "alpha") * Scalar(p.beta, "beta"))
        b.pool("backward", "AVE", target, source, geometry, alpha=alpha)
        b.add(io.bottom_diff[labels], dy * self._power(s) + x * spread[labels])
