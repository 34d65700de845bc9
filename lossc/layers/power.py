"""Power: (shift + scale * x) ^ power."""

from __future__ import annotations

from lossc.ir import Scalar
from lossc.ir.expr import Expr, Value, expr, op
from lossc.layers.activation import ElementWise


class Power(ElementWise):
    """y = (shift + scale x)^power;  dx = power scale y / (shift + scale x) dy, as Caffe computes it.

    Where power or scale is 0 the value is constant and the gradient 0.
    """

    type = "Power"

    def _constants(self) -> tuple[Scalar, Scalar, Scalar]:
        p = self.param.power_param
        return Scalar(p.power, "power"), Scalar(p.scale, "scale"), Scalar(p.shift, "shift")

    def _base(self, x: Expr) -> Expr:
        _, scale, shift = self._constants()
        scaled = x if scale.number == 1 else scale * x
        return scaled if shift.number == 0 else scaled + shift

    def value(self, x: Expr) -> Value:
        power, scale, shift = self._constants()
        if power.number == 0:
            return 1.0
        if scale.number == 0:
            return shift if power.number == 1 else op("pow", shift, power)
        base = self._base(x)
        if power.number == 1:
            return base
        return base * base if power.number == 2 else op("pow", base, power)

    def gradient(self, x: Expr, y: Expr, dy: Expr) -> Value:
        power, scale, shift = self._constants()
        if power.number * scale.number == 0:
            return 0.0
        if power.number == 1:
            return dy if scale.number == 1 else scale * dy
        if power.number == 2:
            slope = expr(power) * scale
            return (slope * scale * x if shift.number == 0 else slope * scale * x + slope * shift) * dy
        return (power * (y / x) if shift.number == 0 else power * scale * (y / self._base(x))) * dy
