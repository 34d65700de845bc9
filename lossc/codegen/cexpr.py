"""Expressions as C: each operation once as a vector function of simd.h and once as scalar C."""

from __future__ import annotations

from lossc.ir.expr import Expr, Op
from lossc.ir.operations import TRUTH

_SCALAR = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}", "neg": "-{}",
    "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}", "ne": "{} != {}",
    "and": "{} && {}", "or": "{} || {}", "not": "!{}", "where": "{} ? {} : {}",
}  # fmt: skip
_LIBM = {"sqrt", "exp", "log", "log1p", "expm1", "tanh", "erf", "pow", "floor", "trunc"}
_MINMAX = {"min": "{0} < {1} ? {0} : {1}", "max": "{0} > {1} ? {0} : {1}"}

#: Operations that cost so much that a value is kept rather than computed again.
EXPENSIVE = frozenset({"exp", "log", "log1p", "expm1", "tanh", "erf", "pow", "sigmoid", "softplus", "div", "sqrt"})


class Style:
    """How C is written for one dtype: type names and function prefixes."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.real = "float" if dtype == "f32" else "double"
        self.v = "vf32" if dtype == "f32" else "vf64"
        self.mask = "mf32" if dtype == "f32" else "mf64"
        self.lanes = "VF32_LANES" if dtype == "f32" else "VF64_LANES"
        self.integer = "vi32" if dtype == "f32" else "vi64"
        self._suffix = "f" if dtype == "f32" else ""
        #: The functions of libm that scalar expressions call: no variable may take their names.
        self.functions = frozenset(f"{name}{self._suffix}" for name in (*_LIBM, "fabs", "rint"))

    def vector(self, name: str, args: list[str]) -> str:
        """The vector expression for an operation."""
        if name in ("and", "or", "not"):
            return f"{self.mask}_{name}({', '.join(args)})"
        if name == "where":
            return f"{self.v}_select({', '.join(args)})"
        return f"{self.v}_{name}({', '.join(args)})"

    def scalar(self, name: str, args: list[str]) -> str:
        """The scalar expression for an operation; arguments are names or literals."""
        if name == "neg" and args[0].startswith("-"):
            return f"-({args[0]})"
        if name in _SCALAR:
            return _SCALAR[name].format(*args)
        if name in _MINMAX:
            return _MINMAX[name].format(*args)
        if name == "abs":
            return f"fabs{self._suffix}({args[0]})"
        if name in _LIBM:
            return f"{name}{self._suffix}({', '.join(args)})"
        return f"lossc_{name}_{self.dtype}({', '.join(args)})"

    def vector_type(self, e: Expr) -> str:
        return self.mask if isinstance(e, Op) and e.name in TRUTH else self.v

    def scalar_type(self, e: Expr) -> str:
        return "int" if isinstance(e, Op) and e.name in TRUTH else self.real
