"""Exp and Log to any base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lossc.ir import Scalar
from lossc.ir.expr import Expr, Value, exp, expr, log
from lossc.layers.activation import ElementWise
from lossc.layers.base import Shape


class _ToBase(ElementWise):
    """Common to Exp and Log: the base -1 means e."""

    def _message(self) -> Any:
        raise NotImplementedError

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        base = self._message().base
        self.need(base == -1 or (base > 0 and base != 1), f"base {base:g} must be positive and not 1", "-1 means e")
        return [bottoms[0]]

    def _log_base(self) -> Expr:
        base = self._message().base
        return expr(1.0) if base == -1 else log(Scalar(base, "base"))

    def _scale(self) -> Expr:
        scale = self._message().scale
        return expr(1.0 if scale == 1 else Scalar(scale, "scale"))

    def _shift(self) -> Expr:
        shift = self._message().shift
        return expr(0.0 if shift == 0 else Scalar(shift, "shift"))


class Exp(_ToBase):
    """y = base^(shift + scale x);  dx = dy y scale log(base)."""

    type = "Exp"

    def _message(self) -> Any:
        return self.param.exp_param

    def value(self, x: Expr) -> Value:
        power = exp(self._log_base() * self._scale() * x)
        return power if self._message().shift == 0 else exp(self._log_base() * self._shift()) * power

    def gradient(self, x: Expr, y: Expr, dy: Expr) -> Value:
        return self._log_base() * self._scale() * (y * dy)


class Log(_ToBase):
    """y = log(shift + scale x) / log(base);  dx = dy scale / (log(base) (shift + scale x))."""

    type = "Log"

    def _message(self) -> Any:
        return self.param.log_param

    def value(self, x: Expr) -> Value:
        return 1.0 / self._log_base() * log(self._scale() * x + self._shift())

    def gradient(self, x: Expr, y: Expr, dy: Expr) -> Value:
        return self._scale() / self._log_base() * (dy / (self._scale() * x + self._shift()))
