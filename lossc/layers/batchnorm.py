"""BatchNorm: normalisation by the batch's statistics, without Scale's factor and bias."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import eq, expr, sqrt, total, where
from lossc.layers.base import Layer, ParamSpec, Shape
from lossc.layers.fillers import ConstantFiller


class BatchNorm(Layer):
    """y = (x - mean) / sqrt(variance + eps) per channel. Ioffe and Szegedy (2015).

    With batch statistics (the default in phase TRAIN) three arrays keep moving sums, f = moving_average_fraction:
    mean = f mean + batch mean, variance = f variance + m/(m-1) batch variance, factor = f factor + 1. With
    ``use_global_stats`` (the default in phase TEST) mean and variance are those sums divided by the factor.

    dx = (dy - mean(dy) - y mean(dy y)) / sqrt(variance + eps), or dy / sqrt(variance + eps) with global statistics.
    """

    type = "BatchNorm"
    in_place = True

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        self.need(len(bottoms[0]) >= 2, f"needs a channel axis: the bottom has {len(bottoms[0])} axes")
        return [bottoms[0]]

    def params(self, *bottoms: Shape) -> Sequence[ParamSpec]:
        return [ParamSpec(shape, ConstantFiller(), lr_mult=0.0) for shape in ((bottoms[0][1],), (bottoms[0][1],), (1,))]

    def counts_as_learned(self) -> bool:
        return len(self.param.param) < 3  # Caffe sets lr_mult 0 too late for its rule of who needs a gradient

    def _global(self) -> bool:
        p = self.param.batch_norm_param
        return p.use_global_stats if p.HasField("use_global_stats") else self.phase == "TEST"

    def forward(self, b: Builder, io: IO) -> None:
        p = self.param.batch_norm_param
        x, y = (_channels(r) for r in (io.bottom, io.top))
        eps = Scalar(p.eps, "eps")
        sums, squares, factor = io.params
        mean, rstd = b.temp("mean", (x.shape[1],)), b.temp("rstd", (x.shape[1],))
        io.saved["rstd"] = rstd
        if self._global():
            f = expr(factor.reshape()[""])
            share = where(eq(f, 0.0), 0.0, 1.0 / f)
            deviation = sqrt(expr(squares["c"]) * share + eps)
            b.map((mean["c"], expr(sums["c"]) * share), (rstd["c"], 1.0 / deviation), note="mean and 1 / deviation")
            b.map((y["nci"], (expr(x["nci"]) - mean["c"]) * rstd["c"]))
            return
        m = x.shape[0] * x.shape[2]
        variance = b.temp("variance", (x.shape[1],))
        batch_mean = total(expr(x["nci"]), "ni") / Scalar(m, "m")
        centred = expr(x["nci"]) - batch_mean
        batch_variance = total(centred * centred, "ni") / Scalar(m, "m")
        reciprocal = 1.0 / sqrt(batch_variance + eps)
        b.map(
            (mean["c"], batch_mean),
            (variance["c"], batch_variance),
            (rstd["c"], reciprocal),
            (y["nci"], centred * reciprocal),
        )
        f = expr(Scalar(p.moving_average_fraction, "moving_average_fraction"))
        unbiased = Scalar(m / (m - 1), "m / (m - 1)") if m > 1 else Scalar(1.0)
        b.map(
            (sums["c"], f * sums["c"] + mean["c"]),
            (squares["c"], f * squares["c"] + unbiased * expr(variance["c"])),
            note="moving sums",
        )
        b.map((factor.reshape()[""], f * factor.reshape()[""] + 1.0), note="moving factor")

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is None:
            return
        y, dy = (expr(_channels(r)["nci"]) for r in (io.top, io.top_diff))
        if not self._global():
            m = Scalar(io.bottom.size // io.bottom.shape[1], "m")
            dy = dy - total(dy, "ni") / m - total(dy * y, "ni") / m * y
        b.add(_channels(io.bottom_diff)["nci"], dy * io.saved["rstd"]["c"])


def _channels(ref: Ref) -> Ref:
    """(N, C, everything else)."""
    return ref.reshape(*ref.shape[:2], math.prod(ref.shape[2:]))
