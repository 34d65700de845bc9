"""Eltwise: product, weighted sum or maximum of several blobs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from lossc.ir import IO, Builder, Scalar
from lossc.ir.expr import Expr, expr, op, where
from lossc.layers.access import full
from lossc.layers.base import Layer, Shape


class Eltwise(Layer):
    """PROD, SUM (with ``coeff``) or MAX over bottoms of one shape.

    MAX gives the whole gradient to one bottom: the second if the first two are equal, a later one only if it is greater
    than all before it. PROD multiplies the other bottoms for each gradient (``stable_prod_grad``), or divides the
    product by the bottom.
    """

    type = "Eltwise"
    bottoms = (2, None)
    in_place = True

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        p = self.param.eltwise_param
        for other in bottoms[1:]:
            self.need(other == bottoms[0], f"bottoms must have one shape: {list(bottoms[0])} and {list(other)}")
        self.need(p.operation == p.SUM or not p.coeff, "coeff has an effect with operation SUM only", "remove coeff")
        self.need(
            len(p.coeff) in (0, len(bottoms)),
            f"{len(p.coeff)} coeff for {len(bottoms)} bottoms",
            "one coeff per bottom",
        )
        return [bottoms[0]]

    def _coefficients(self, count: int) -> list[Scalar]:
        given = self.param.eltwise_param.coeff
        return [Scalar(c, "coeff") if c != 1 else Scalar(1.0) for c in given] or [Scalar(1.0)] * count

    def forward(self, b: Builder, io: IO) -> None:
        p, xs = self.param.eltwise_param, [expr(full(r)) for r in io.bottoms]
        if p.operation == p.SUM:
            xs = [c * x for c, x in zip(self._coefficients(len(xs)), xs, strict=True)]
            value = reduce(lambda a, x: a + x, xs)
        elif p.operation == p.PROD:
            value = reduce(lambda a, x: a * x, xs)
        else:
            value = _running_max(xs)[-1]
        b.map((full(io.top), value))

    def backward(self, b: Builder, io: IO) -> None:
        p, dy = self.param.eltwise_param, expr(full(io.top_diff))
        xs = [expr(full(r)) for r in io.bottoms]
        for k, diff in enumerate(io.bottom_diffs):
            if diff is None:
                continue
            if p.operation == p.SUM:
                gradient = self._coefficients(len(xs))[k] * dy
            elif p.operation == p.MAX:
                gradient = where(_wins(xs, k), dy, 0.0)
            elif p.stable_prod_grad:
                gradient = reduce(lambda a, x: a * x, xs[:k] + xs[k + 1 :]) * dy
            else:
                gradient = expr(full(io.top)) / xs[k] * dy
            b.add(full(diff), gradient)


def _running_max(xs: Sequence[Expr]) -> list[Expr]:
    """The maximum of the first bottom, the first two, and so on; the later one where the first two are equal."""
    out = [xs[0], where(xs[0] > xs[1], xs[0], xs[1])]
    for x in xs[2:]:
        out.append(where(x > out[-1], x, out[-1]))
    return out


def _wins(xs: Sequence[Expr], k: int) -> Expr:
    """Whether bottom k holds the maximum that counts."""
    best = _running_max(xs)
    first = xs[0] > xs[1]
    won = first if k == 0 else op("not", first) if k == 1 else xs[k] > best[k - 1]
    for later in range(max(2, k + 1), len(xs)):
        won = op("and", won, op("not", xs[later] > best[later - 1]))
    return won
