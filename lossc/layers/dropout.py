"""Dropout."""

from __future__ import annotations

from collections.abc import Sequence

from lossc.ir import IO, Builder
from lossc.ir.expr import expr
from lossc.layers.access import full
from lossc.layers.base import Layer, Shape


class Dropout(Layer):
    """TRAIN: each value is 0 with probability ``dropout_ratio``, else multiplied by 1 / (1 - ratio). TEST: a copy.

    Srivastava et al. (2014), in the "inverted" form.
    """

    type = "Dropout"
    in_place = True

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        ratio = self.param.dropout_param.dropout_ratio
        self.need(0 <= ratio < 1, f"dropout_ratio {ratio:g} is not in 0 <= ratio < 1")
        return [bottoms[0]]

    def forward(self, b: Builder, io: IO) -> None:
        ratio = self.param.dropout_param.dropout_ratio
        if self.phase != "TRAIN" or ratio == 0:
            b.map((full(io.top), full(io.bottom)))
            return
        io.saved["mask"] = mask = b.temp("mask", io.bottom.shape)
        b.random(mask, "bernoulli", 1.0 - ratio, 1.0 / (1.0 - ratio))
        b.map((full(io.top), expr(full(io.bottom)) * full(mask)))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is not None:
            mask, dy = io.saved.get("mask"), expr(full(io.top_diff))
            b.add(full(io.bottom_diff), dy if mask is None else dy * full(mask))
