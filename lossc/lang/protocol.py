"""NumPy's functions on symbolic arrays: those that mean the same here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lossc.lang import functions as f
from lossc.lang.node import Array, error

_SAME = (
    "add", "subtract", "multiply", "divide", "negative", "power", "square", "reciprocal", "exp", "log", "log1p",
    "expm1", "sqrt", "tanh", "floor", "trunc", "sign", "maximum", "minimum", "logaddexp", "matmul", "less",
    "less_equal", "greater", "greater_equal", "equal", "not_equal", "logical_and", "logical_or", "logical_not",
)  # fmt: skip
_UFUNCS: dict[str, Callable[..., Array]] = {
    name: getattr(f, name)
    for name in _SAME
} | {"absolute": f.abs, "fabs": f.abs, "float_power": f.power, "bitwise_and": f.logical_and,
     "bitwise_or": f.logical_or, "invert": f.logical_not, "positive": lambda x: x, "isnan": lambda x: f.not_equal(x, x),
     "log2": lambda x: f.log(x) * (1 / math.log(2)), "log10": lambda x: f.log(x) * (1 / math.log(10)),
     "exp2": lambda x: f.exp(x * math.log(2))}  # fmt: skip

_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.where: f.where, np.sum: f.sum, np.mean: f.mean, np.max: f.max, np.amax: f.max, np.min: f.min, np.amin: f.min,
    np.var: f.var, np.std: f.std, np.clip: f.clip, np.reshape: f.reshape, np.transpose: f.transpose,
    np.swapaxes: f.swapaxes, np.expand_dims: f.expand_dims, np.squeeze: f.squeeze, np.broadcast_to: f.broadcast_to,
    np.concatenate: f.concatenate, np.stack: f.stack, np.take_along_axis: f.take_along_axis, np.dot: f.matmul,
    np.ravel: lambda x: f.reshape(x, (-1,)), np.shape: lambda x: x.shape, np.ndim: lambda x: len(x.shape),
    np.size: lambda x: x.size, np.zeros_like: lambda x: f.broadcast_to(0.0, x.shape),
    np.ones_like: lambda x: f.broadcast_to(1.0, x.shape),
    np.average: lambda x, axis=None: f.mean(x, axis), np.diff: lambda x, n=1, axis=-1: _diff(x, n, axis),
    np.full_like: lambda x, value: f.broadcast_to(value, x.shape),
    np.linalg.norm: lambda x, ord=None, axis=None, keepdims=False: _norm(x, ord, axis, keepdims),
}  # fmt: skip


def apply_ufunc(ufunc: Any, method: str, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> Array:
    """Raises UsageError for functions and options that have no meaning here."""
    name = ufunc.__name__
    if method == "__call__" and name in _UFUNCS and not options:
        return _UFUNCS[name](*inputs)
    what = f"numpy.{name}" + ("" if method == "__call__" else f".{method}")
    told = f" with {', '.join(options)}" if name in _UFUNCS and method == "__call__" else ""
    raise error(f"{what} is not known to the language{told}", _FIX)


def apply_function(function: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    """Raises UsageError for functions and options that have no meaning here."""
    given = {key: value for key, value in options.items() if value is not np._NoValue}
    if function in _FUNCTIONS:
        try:
            return _FUNCTIONS[function](*args, **given)
        except TypeError as problem:
            raise error(f"numpy.{function.__name__}: {problem}", _FIX) from None
    raise error(f"numpy.{function.__name__} is not known to the language", _FIX)


_FIX = "lossc's own functions are listed in the guide: where, clip, sums over axes, take_along_axis, matmul ..."


def _norm(x: Any, order: Any, axis: Any, keepdims: bool) -> Array:
    if order not in (None, 2, "fro") or (order == 2 and axis is None):
        raise error(f"numpy.linalg.norm of order {order!r}", "the Euclidean norm of vectors is known; write others out")
    return f.norm(x, axis, keepdims)


def _diff(x: Array, count: int, axis: int) -> Array:
    before = (slice(None),) * (axis % len(x.shape))
    for _ in range(count):
        x = x[(*before, slice(1, None))] - x[(*before, slice(None, -1))]
    return x
