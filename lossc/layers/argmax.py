"""ArgMax: where the greatest values are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lossc.ir import IO, Builder, Ref, Scalar
from lossc.ir.expr import eq, expr, greatest, iota, op, where
from lossc.layers.base import Layer, Shape

LEAST = Scalar(float(np.finfo(np.float32).min), "-FLT_MAX")


class ArgMax(Layer):
    """The indices of the ``top_k`` greatest values, downwards; of equal values the larger index comes first.

    Along ``axis``, which becomes top_k long and holds values instead of indices with ``out_max_val``; or over all of an
    item: N x 1 x top_k indices, N x 2 x top_k indices and values with ``out_max_val``. No gradient.
    """

    type = "ArgMax"
    has_gradient = False

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        p, shape = self.param.argmax_param, bottoms[0]
        self.need(len(shape) > 0, "the bottom needs a batch axis")
        if p.HasField("axis"):
            axis = self.axis(p.axis, len(shape))
            size, out = shape[axis], (*shape[:axis], p.top_k, *shape[axis + 1 :])
        else:
            size = int(np.prod(shape[1:], dtype=np.int64))
            out = (shape[0], 2 if p.out_max_val else 1, p.top_k, *(1,) * (len(shape) - 3))
        self.need(1 <= p.top_k <= size, f"top_k {p.top_k} must be in 1..{size}, the number of values")
        return [out]

    def _parts(self, io: IO) -> tuple[Ref, Ref | None, Ref | None]:
        """Values (outer, candidates, inner); where indices and values go, each (outer, top_k, inner)."""
        p = self.param.argmax_param
        if p.HasField("axis"):
            axis = self.axis(p.axis, io.bottom.ndim)
            out = io.top.collapse(axis)
            return io.bottom.collapse(axis), None if p.out_max_val else out, out if p.out_max_val else None
        n = io.bottom.shape[0]
        out = io.top.reshape(n, io.top.shape[1], p.top_k)
        indices, values = out.narrow(1, 0, 1).reshape(n, p.top_k, 1), None
        if p.out_max_val:
            values = out.narrow(1, 1, 2).reshape(n, p.top_k, 1)
        return io.bottom.reshape(n, io.bottom.size // n, 1), indices, values

    def forward(self, b: Builder, io: IO) -> None:
        x, indices, values = self._parts(io)
        score, index = expr(x["oai"]), iota(x["oai"], "a")
        last_value = last_index = None
        for k in range(self.param.argmax_param.top_k):
            if last_value is not None and last_index is not None:  # only what comes behind the one before
                tie = op("and", eq(x["oai"], last_value), index < last_index)
                score = where(op("or", expr(x["oai"]) < last_value, tie), x["oai"], LEAST)
            best = greatest(score, "a")
            place = greatest(where(eq(score, best), index, 0.0), "a")
            value, at = b.temp("value", (x.shape[0], x.shape[2])), b.temp("index", (x.shape[0], x.shape[2]))
            b.map((value["oi"], best), (at["oi"], place))
            last_value, last_index = expr(value["oi"]), expr(at["oi"])
            for out, found in ((indices, last_index), (values, last_value)):
                if out is not None:
                    b.map((out.narrow(1, k, k + 1).reshape(x.shape[0], x.shape[2])["oi"], found))
