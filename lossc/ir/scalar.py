"""Constants that remember where they came from.

A :class:`Scalar` is a small arithmetic tree over named numbers. It is evaluated in the net's dtype and in the order in
which it was written, because Caffe rounds after each step: ``f32(0.3) / f32(32)``, not ``f32(0.3 / 32)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_FOLD: dict[str, Callable] = {
    "mul": np.multiply,
    "div": np.divide,
    "add": np.add,
    "sub": np.subtract,
    "neg": np.negative,
    "max": lambda a, b: a if a > b else b,  # as in C: the second operand where one is not a number
    "min": lambda a, b: a if a < b else b,
    "pow": np.power,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
}
_SIGN = {"mul": "*", "div": "/", "add": "+", "sub": "-"}
_LEVEL = {"add": 1, "sub": 1, "mul": 2, "div": 2}


@dataclass(frozen=True)
class Scalar:
    """A number with provenance: a leaf (``number``, ``why``) or an operation on other scalars.

    ``source``: of a loss_weight, the top that it belongs to.
    """

    number: float = 0.0
    why: str = ""
    op: str = ""
    args: tuple[Scalar, ...] = ()
    source: str = ""

    @staticmethod
    def of(value: Scalar | float) -> Scalar:
        return value if isinstance(value, Scalar) else Scalar(float(value))

    @staticmethod
    def fold(op: str, *args: Scalar) -> Scalar | None:
        """The scalar ``op(args)``, or None where the operation does not fold. A plain 1 as a factor changes nothing."""
        if op not in _FOLD:
            return None
        one = [a.is_plain(1.0) for a in args]
        if op == "mul" and one[0]:
            return args[1]
        if op in ("mul", "div") and one[1]:
            return args[0]
        return Scalar(op=op, args=args)

    def value(self, dtype: str = "f32") -> float:
        """The value, each step rounded to ``dtype`` ("f32" or "f64")."""
        real = np.float32 if dtype == "f32" else np.float64
        if not self.op:
            return float(real(self.number))
        with np.errstate(all="ignore"):
            return float(real(_FOLD[self.op](*(real(a.value(dtype)) for a in self.args))))

    def is_plain(self, number: float) -> bool:
        """True for an anonymous constant of that value, which needs no history."""
        return not self.op and not self.why and self.number == number

    def leaves(self) -> Iterator[Scalar]:
        """The named numbers that it was made from, from left to right."""
        if not self.op:
            yield self
        for a in self.args:
            yield from a.leaves()

    @property
    def history(self) -> str:
        """How the value came about, e.g. ``loss_weight 0.3 / N 32``."""
        return self._text(0)

    def _text(self, level: int) -> str:
        if not self.op:
            number = f"{self.number:.10g}" if float(self.number).is_integer() else _shortest(self.number)
            return f"{self.why} {number}" if self.why else number
        if self.op in _SIGN:
            mine = _LEVEL[self.op]
            text = f"{self.args[0]._text(mine)} {_SIGN[self.op]} {self.args[1]._text(mine + 1)}"
            return f"({text})" if mine < level else text
        if self.op == "neg":
            return f"-({self.args[0]._text(0)})" if self.args[0].op else f"-{self.args[0]._text(3)}"
        return f"{self.op}({', '.join(a._text(0) for a in self.args)})"

    def __mul__(self, other: Any) -> Any:
        return Scalar.fold("mul", self, Scalar.of(other)) if isinstance(other, (Scalar, float, int)) else NotImplemented

    def __truediv__(self, other: Any) -> Any:
        return Scalar.fold("div", self, Scalar.of(other)) if isinstance(other, (Scalar, float, int)) else NotImplemented

    def __neg__(self) -> Scalar:
        return Scalar(op="neg", args=(self,))


def _shortest(number: float) -> str:
    """The fewest digits that name the number, as a float32 where it is one."""
    return str(np.float32(number)) if float(np.float32(number)) == number else repr(number)


ONE = Scalar(1.0)
ZERO = Scalar(0.0)
