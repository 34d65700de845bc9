"""Element-wise activations: AbsVal, BNLL, Clip, ELU, ReLU, Sigmoid, Swish, TanH, Threshold."""

from __future__ import annotations

from collections.abc import Sequence

from lossc.ir import IO, Builder, Scalar
from lossc.ir.expr import Expr, Value, absolute, expm1, expr, maximum, minimum, op, sigmoid, softplus, tanh, where
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


class AbsVal(ElementWise):
    """|x|; dx = dy sign(x), 0 at 0."""

    type = "AbsVal"
    in_place = False  # as in Caffe

    def value(self, x: Expr) -> Value:
        return absolute(x)

    def gradient(self, x: Expr, y: Expr, dy: Expr) -> Value:
        return where(x > 0, dy, where(x < 0, -dy, 0.0))


class BNLL(ElementWise):
    """log(1 + exp(x)), the binomial normal log likelihood; dx = dy / (1 + exp(-x))."""

    type = "BNLL"

    def value(self, x: Expr) -> Value:
        return softplus(x)

    def gradient(self, x: Expr, y: Expr, dy: Expr) -> Value:
        return dy * sigmoid(x)


class Clip(ElementWise):
    """x limited to min..max; the gradient passes within, the bounds included."""

    type = "Clip"

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        p = self.param.clip_param
        given = p.HasField("min") and p.HasField("max")
        self.need(given, "needs min and max", "clip_param { min: ... max: ... }")
        self.need(p.min <= p.max, f"min {p.min:g} is above max {p.max:g}")
        return [bottoms[0]]

    def value(self, x: Expr) -> Value:
        p = self.param.clip_param
        return maximum(Scalar(p.min, "min"), minimum(Scalar(p.max, "max"), x))

    def gradient(self, x: Expr, y: Expr, dy: Expr) -> Value:
        p = self.param.clip_param
        return where(op("and", x >= Scalar(p.min, "min"), x <= Scalar(p.max, "max")), dy, 0.0)


class ELU(ElementWise):
    """x where x > 0, else alpha (exp(x) - 1); dx = dy or dy (y + alpha). Clevert et al. (2015)."""

    type = "ELU"

    def value(self, x: Expr) -> Value:
        return where(x > 0, x, self._alpha() * expm1(x))

    def gradient(self, x: Expr, y: Expr, dy: Expr) -> Value:
        return where(x > 0, dy, dy * (y + self._alpha()))

    def _alpha(self) -> Scalar:
        return Scalar(self.param.elu_param.alpha, "alpha")


class Swish(ElementWise):
    """x s(beta x), s the sigmoid; dx = dy (beta y + s (1 - beta y)). Ramachandran et al. (2017)."""

    type = "Swish"

    def value(self, x: Expr) -> Value:
        return x * sigmoid(self._beta() * x)

    def gradient(self, x: Expr, y: Expr, dy: Expr) -> Value:
        beta_y = self._beta() * y
        return dy * (beta_y + sigmoid(self._beta() * x) * (1.0 - beta_y))

    def _beta(self) -> Expr:
        beta = self.param.swish_param.beta
        return expr(1.0 if beta == 1 else Scalar(beta, "beta"))


class Threshold(ElementWise):
    """1 where x > threshold, else 0; no gradient."""

    type = "Threshold"
    has_gradient = False

    def value(self, x: Expr) -> Value:
        return where(x > Scalar(self.param.threshold_param.threshold, "threshold"), 1.0, 0.0)
