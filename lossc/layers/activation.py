"""Element-wise activations: ReLU, Sigmoid, TanH."""

from __future__ import annotations

from collections.abc import Sequence

from lossc.ir import IO, Builder
from lossc.ir.expr import Expr, Value, expr, sigmoid, tanh, where
from lossc.layers.access import full
from lossc.layers.base import Layer, Shape


class ElementWise(Layer):
    """y = f(x), dx = f'(x) dy, point by point; ``derivative`` may use x and y."""

    in_place = True

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        return [bottoms[0]]

    def value(self, x: Expr) -> Value:
        """f(x)."""
        raise NotImplementedError

    def gradient(self, x: Expr, y: Expr, dy: Expr) -> Value:
        """f'(x) * dy."""
        raise NotImplementedError

    def forward(self, b: Builder, io: IO) -> None:
        b.map((full(io.top), self.value(expr(full(io.bottom)))))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is not None:
            x, y, dy = (expr(full(r)) for r in (io.bottom, io.top, io.top_diff))
            b.add(full(io.bottom_diff), self.gradient(x, y, dy))


class ReLU(ElementWise):
    """max(x, 0) + negative_slope * min(x, 0); at 0 the negative side's slope counts."""

    type = "ReLU"

    def value(self, x: Expr) -> Value:
        return where(x > 0, x, self._slope() * x) if self._slope() else where(x > 0, x, 0.0)

    def gradient(self, x: Expr, y: Expr, dy: Expr) -> Value:
        if self._slope():
            return where(x > 0, dy, self._slope() * dy)
        return where(y > 0, dy, 0.0)  # y > 0 exactly where x > 0, so x need not be kept

    def _slope(self) -> float:
        return self.param.relu_param.negative_slope


class Sigmoid(ElementWise):
    """1 / (1 + exp(-x)); dx = dy y (1 - y)."""

    type = "Sigmoid"

    def value(self, x: Expr) -> Value:
        return sigmoid(x)

    def gradient(self, x: Expr, y: Expr, dy: Expr) -> Value:
        return dy * (y * (1.0 - y))


class TanH(ElementWise):
    """tanh(x); dx = dy (1 - y^2)."""

    type = "TanH"

    def value(self, x: Expr) -> Value:
        return tanh(x)

    def gradient(self, x: Expr, y: Expr, dy: Expr) -> Value:
        return dy * (1.0 - y * y)
