"""Constructors of element-wise nodes, which simplify as they build.

Constants fold. A product is kept as *coefficient * scalar * rest* (the node ``scale``), so that what does not vary
gathers in front and costs one multiplication. Logarithms and exponentials take their stable forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lossc.ir.operations import OPS
from lossc.lang.node import Array, Shape, error, make, shape_error

#: A constant array of more elements than this has to come as a bottom.
MOST_CONSTANTS = 1024
_TRUTH = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"})


# ---- leaves


def const(value: float) -> Array:
    return make("const", (), (float(value),), ())


def as_array(x: Any) -> Array:
    """A symbolic array, a number or a small NumPy array as a node. Raises UsageError for anything else."""
    if isinstance(x, Array):
        return x
    if isinstance(x, (bool, int, float, np.number, np.bool_)):
        return const(float(x))
    if isinstance(x, (np.ndarray, list, tuple)):
        values = np.asarray(x)
        if values.dtype == object or values.dtype.kind not in "buif":
            raise error("a list of arrays is not an array", "lossc.stack or lossc.concatenate joins arrays")
        if values.ndim == 0:
            return const(float(values))
        return _constants(values)
    fix = "the language knows numbers, NumPy arrays and the arrays that the loss was given"
    raise error(f"{type(x).__name__} is not an array", fix)


def _constants(values: np.ndarray) -> Array:
    """An array of constants, a condition where they are truth values; counting up and a diagonal need no memory."""
    if values.dtype.kind == "b":
        return make("gt", (_constants(values.astype(float)), const(0.0)), (), values.shape, True)
    if values.ndim == 1 and values.size > 1 and np.array_equal(values, np.arange(values.size)):
        return iota(values.size)
    if values.ndim == 2 and min(values.shape) > 1 and np.array_equal(values, np.eye(*values.shape)):
        from lossc.lang.shaping import place, rearrange

        return place(const(1.0), rearrange(iota(values.shape[0]), (0, None)), 1, values.shape[1])
    if values.size > MOST_CONSTANTS:
        fix = f"above {MOST_CONSTANTS} give it as a bottom; lossc.arange, lossc.eye and lossc.one_hot need no memory"
        raise error(f"a constant array of {values.size} values", fix)
    return make("table", (), (tuple(float(v) for v in values.reshape(-1)),), values.shape)


def number(x: Array) -> float | None:
    """The value of an array that is one number everywhere, or None."""
    x = x.args[0] if x.op == "expand" else x
    return x.attrs[0] if x.op == "const" else None


def iota(extent: int) -> Array:
    """0, 1, 2 ... extent - 1."""
    return make("iota", (), (), (extent,)) if extent > 1 else make("expand", (const(0.0),), (), (1,))


# ---- shapes


def broadcast(*shapes: Shape) -> Shape:
    """NumPy's rule. Raises ShapeError."""
    out: list[int] = []
    for k in range(1, max((len(s) for s in shapes), default=0) + 1):
        extents = {s[-k] for s in shapes if len(s) >= k} - {1}
        if len(extents) > 1:
            told = " and ".join(str(list(s)) for s in dict.fromkeys(shapes))
            raise shape_error(f"shapes {told} do not fit together", "axes match from the last one; x[:, None] adds one")
        out.append(extents.pop() if extents else 1)
    return tuple(reversed(out))


def expand(x: Array, shape: Shape) -> Array:
    """``x`` broadcast to ``shape``."""
    if x.shape == shape:
        return x
    return make("expand", (x,), (), shape, x.truth)


def as_real(x: Array) -> Array:
    """Truth values as 1 and 0."""
    return where(x, const(1.0), const(0.0)) if x.truth else x


def _as_truth(x: Array) -> Array:
    if not x.truth:
        fix = "compare first: (mask > 0) & (x < 1)"
        raise error("a number stands where a condition is wanted", fix)
    return x


# ---- products


def split(x: Array) -> tuple[float, Array | None, Array | None]:
    """``x`` as (coefficient, scalar, rest): their product. ``rest`` is None where ``x`` is the same everywhere."""
    if x.op == "expand" and x.args[0].shape == ():
        x = x.args[0]
    if x.op == "const":
        return x.attrs[0], None, None
    if x.op == "scale":
        scalar = x.args[0] if len(x.args) == 2 else None
        rest = x.args[-1]
        return (x.attrs[0], rest, None) if rest.shape == () else (x.attrs[0], scalar, rest)
    return (1.0, x, None) if x.shape == () else (1.0, None, x)


def join(c: float, s: Array | None, r: Array | None, shape: Shape) -> Array:
    """The product of what ``split`` gives, broadcast to ``shape``."""
    if c == 0.0:
        return expand(const(0.0), shape)
    if r is not None and r.shape == ():
        s, r = times(s, r), None
    if r is None and s is None:
        return expand(const(c), shape)
    if r is None:
        r, s = s, None
    else:
        r = expand(r, shape)
    assert r is not None
    if c != 1.0 or s is not None:
        r = make("scale", (r,) if s is None else (s, r), (c,), r.shape)
    return expand(r, shape)


def scale(c: float, x: Array) -> Array:
    """A number times an array."""
    x = as_real(x)
    k, s, r = split(x)
    return join(c * k, s, r, x.shape)


def mul(a: Array, b: Array) -> Array:
    a, b = as_real(a), as_real(b)
    (ca, sa, ra), (cb, sb, rb) = split(a), split(b)
    return join(ca * cb, times(sa, sb), times(ra, rb), broadcast(a.shape, b.shape))


def times(a: Array | None, b: Array | None) -> Array | None:
    """The product of two factors that ``split`` gave."""
    if a is None or b is None:
        return a if b is None else b
    return make("mul", (a, b), (), broadcast(a.shape, b.shape))


def div(a: Array, b: Array) -> Array:
    a, b = as_real(a), as_real(b)
    shape = broadcast(a.shape, b.shape)
    (ca, sa, ra), (cb, sb, rb) = split(a), split(b)
    if cb == 0.0:
        return make("div", (a, b), (), shape)
    if rb is None:
        return join(ca / cb, sa if sb is None else _ratio(sa, sb), ra, shape)
    if ra is None and sa is not None and not from_seed(sa):
        return join(ca / cb, None if sb is None else _ratio(None, sb), _ratio(sa, rb), shape)
    return join(ca / cb, sa if sb is None else _ratio(sa, sb), _ratio(ra, rb), shape)


def _ratio(a: Array | None, b: Array) -> Array:
    top = a if a is not None else const(1.0)
    return make("div", (top, b), (), broadcast(top.shape, b.shape))


# ---- sums


def add(a: Array, b: Array) -> Array:
    a, b = as_real(a), as_real(b)
    shape = broadcast(a.shape, b.shape)
    if number(a) is not None:
        a, b = b, a
    x, y = number(a), number(b)
    if x is not None and y is not None:
        return expand(const(x + y), shape)
    if y == 0.0:
        return expand(a, shape)
    (ca, sa, ra), (cb, sb, rb) = split(a), split(b)
    if sa is sb and ra is rb:  # x + x
        return join(ca + cb, sa, ra, shape)
    if sa is sb and ra is not None and rb is not None and ra.op == rb.op == "where" and ra.args[0] is rb.args[0]:
        k = cb / ca
        chosen = (add(p, scale(k, q)) for p, q in zip(ra.args[1:], rb.args[1:], strict=True))
        return join(ca, sa, where(ra.args[0], *chosen), shape)
    if sa is sb and sa is not None and from_seed(sa):
        one = const(1.0)
        rest = add(ra if ra is not None else one, scale(cb / ca, rb if rb is not None else one))
        return mul(join(ca, sa, None, ()), expand(rest, shape))
    stable = _add_number(a, y) if y is not None else None
    return expand(stable, shape) if stable is not None else make("add", (a, b), (), shape)


def _add_number(a: Array, b: float) -> Array | None:
    """1 - sigmoid(x) = sigmoid(-x) and exp(x) - 1, where rounding would eat the digits."""
    if b == 1.0 and a.op == "scale" and a.attrs[0] == -1.0 and len(a.args) == 1 and a.args[0].op == "sigmoid":
        return unary("sigmoid", scale(-1.0, a.args[0].args[0]))
    if b == -1.0 and a.op == "exp":
        return unary("expm1", a.args[0])
    return None


def sub(a: Array, b: Array) -> Array:
    return add(a, scale(-1.0, b))


def from_seed(s: Array) -> bool:
    """Whether a scalar is made of the weights of losses and constants alone, so that it is finite."""
    if s.op in ("scale", "div", "mul"):
        return all(from_seed(x) for x in s.args)
    return s.op == "const" or (s.op == "input" and s.attrs[0].startswith("@"))


# ---- the rest


def where(cond: Array, a: Array, b: Array) -> Array:
    """``a`` where the condition holds, else ``b``. What is not chosen has no effect, not even where it is NaN."""
    cond, a, b = _as_truth(cond), as_real(a), as_real(b)
    shape = broadcast(cond.shape, a.shape, b.shape)
    known = number(cond)
    if known is not None:
        return expand(a if known else b, shape)
    if a is b:
        return expand(a, shape)
    (ca, sa, ra), (cb, sb, rb) = split(a), split(b)
    zero_a, zero_b = number(a) == 0.0, number(b) == 0.0
    s = sb if zero_a else sa
    if s is not None and from_seed(s) and (zero_a or zero_b or sa is sb):
        one, c = const(1.0), cb if zero_a else ca
        x = const(0.0) if zero_a else ra if ra is not None else one
        y = const(0.0) if zero_b else scale(cb / c, rb if rb is not None else one)
        return join(c, s, where(cond, x, y), shape)
    return make("where", (cond, a, b), (), shape)


def unary(name: str, x: Array) -> Array:
    """An operation on one array: one of ``ir.expr.OPS`` or "sign". Takes logarithms and exponentials in stable form."""
    if name == "not":
        x = _as_truth(x)
        return x.args[0] if x.op == "not" else make("not", (x,), (), x.shape, True)
    x = as_real(x)
    value = number(x)
    if value is not None:
        with np.errstate(all="ignore"):
            folded = float((value > 0) - (value < 0)) if name == "sign" else float(OPS[name](np.float64(value)))
        return expand(const(folded), x.shape)
    stable = _STABLE[name](x) if name in _STABLE else None
    return stable if stable is not None else make(name, (x,), (), x.shape)


def _stable_log(x: Array) -> Array | None:
    if x.op == "softmax":
        return make("log_softmax", x.args, x.attrs, x.shape)
    if x.op == "sigmoid":
        return scale(-1.0, unary("softplus", scale(-1.0, x.args[0])))
    if x.op == "exp":
        return x.args[0]
    if x.op == "reduce" and x.attrs[0] == "sum" and x.args[0].op == "exp":
        return make("logsumexp", x.args[0].args, (x.attrs[1],), x.shape)
    if x.op == "add" and number(x.args[1]) == 1.0:
        return unary("log1p", x.args[0])
    if x.op in ("pick", "axes", "window") and _innermost(x).op in ("softmax", "sigmoid"):
        return make(x.op, (unary("log", x.args[0]), *x.args[1:]), x.attrs, x.shape)
    return None


def _innermost(x: Array) -> Array:
    while x.op in ("pick", "axes", "window"):
        x = x.args[0]
    return x


def _stable_exp(x: Array) -> Array | None:
    return make("softmax", x.args, x.attrs, x.shape) if x.op == "log_softmax" else None


def _stable_log1p(x: Array) -> Array | None:
    return unary("softplus", x.args[0]) if x.op == "exp" else None


_STABLE = {"log": _stable_log, "exp": _stable_exp, "log1p": _stable_log1p}


def binary(name: str, a: Array, b: Array) -> Array:
    """min, max, pow, logaddexp, comparisons, and, or."""
    if name in ("and", "or"):
        a, b = _as_truth(a), _as_truth(b)
    else:
        a, b = as_real(a), as_real(b)
    shape, truth = broadcast(a.shape, b.shape), name in _TRUTH
    x, y = number(a), number(b)
    if x is not None and y is not None:
        fold = np.logaddexp if name == "logaddexp" else OPS[name]
        with np.errstate(all="ignore"):
            return expand(make("const", (), (float(fold(np.float64(x), np.float64(y))),), (), truth), shape)
    return make(name, (a, b), (), shape, truth)


def power(a: Array, b: Array) -> Array:
    """a ** b, with products and roots for the exponents -1, 0, 1/2, 1 and 2."""
    exponent = number(b)
    if exponent == 2.0:
        return mul(a, a)
    if exponent == 1.0:
        return as_real(a)
    if exponent == 0.5:
        return unary("sqrt", a)
    if exponent == 0.0:
        return expand(const(1.0), a.shape)
    if exponent == -1.0:
        return div(const(1.0), a)
    return binary("pow", a, b)


def clip(x: Array, low: float | None, high: float | None) -> Array:
    """min(max(x, low), high), either bound may be None."""
    return make("clip", (as_real(x),), (low, high), x.shape)


def total(xs: Sequence[Array]) -> Array:
    """The sum of several arrays."""
    out = xs[0]
    for x in xs[1:]:
        out = add(out, x)
    return out
