"""Constructors of nodes that reduce, move, pick or multiply along axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.lang import ops
from lossc.lang.node import Array, Shape, make, shape_error
from lossc.lang.ops import as_real, broadcast, const, expand, number, split

Axes = tuple[int, ...]

#: A stack of at most this many matrix products becomes as many gemms.
MOST_GEMMS = 16

#: Operations that act on each element alone, so that windows and new shapes may be taken of their operands instead.
ELEMENTWISE = frozenset((
    "add", "mul", "div", "abs", "sqrt", "exp", "log", "log1p", "expm1", "tanh", "erf", "sigmoid", "softplus", "pow",
    "floor", "trunc", "min", "max", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "where", "sign", "clip",
    "logaddexp", "scale", "stop",
))  # fmt: skip


def axes_of(axis: int | Sequence[int] | None, ndim: int) -> Axes:
    """Axis numbers, canonical and sorted; None means all. Raises ShapeError."""
    if axis is None:
        return tuple(range(ndim))
    given = (axis,) if isinstance(axis, int) else tuple(axis)
    for a in given:
        if not -ndim <= a < ndim:
            raise shape_error(f"axis {a} is out of range for an array of {ndim} axes")
    found = tuple(sorted({a % ndim for a in given}))
    if len(found) < len(given):
        raise shape_error(f"an axis is named twice: {list(given)}")
    return found


# ---- reductions; all keep the axes they reduce, with extent 1


def kept(shape: Shape, axes: Axes) -> Shape:
    return tuple(1 if k in axes else e for k, e in enumerate(shape))


def reduce(kind: str, x: Array, axes: Axes) -> Array:
    """"sum", "max", "min" or "norm" over axes, which stay with extent 1."""
    x = as_real(x)
    axes = tuple(a for a in axes if x.shape[a] != 1)
    if not axes:
        return ops.unary("abs", x) if kind == "norm" else x
    shape = kept(x.shape, axes)
    if kind == "sum":
        c, s, r = split(x)
        if r is None:
            return ops.join(c * math.prod(x.shape[a] for a in axes), s, None, shape)
        if c != 1.0 or s is not None:
            return ops.join(c, s, reduce("sum", r, axes), shape)
        if r.op == "place" and r.attrs[0] in axes and _is_flat(r, r.attrs[0]):  # one of them is not 0
            inner = expand(r.args[0], kept(r.shape, (r.attrs[0],)))
            return reduce("sum", inner, axes)
        if r.op == "expand":
            return _sum_expanded(r, axes, shape)
    if x.op == "reduce" and x.attrs[0] == kind:
        return reduce(kind, x.args[0], tuple(sorted({*x.attrs[1], *axes})))
    return make("reduce", (x,), (kind, axes), shape)


def _is_flat(x: Array, axis: int) -> bool:
    """Whether at each point at most one element of a ``place`` is set along its axis, to a value of that point."""
    value, index = x.args
    return index.shape[axis] == 1 and (value.shape == () or value.shape[axis] == 1)


def _sum_expanded(x: Array, axes: Axes, shape: Shape) -> Array:
    inner, off = x.args[0], len(x.shape) - len(x.args[0].shape)
    flat = [a for a in axes if a < off or inner.shape[a - off] == 1]
    rest = tuple(a - off for a in axes if a not in flat)
    count = math.prod(x.shape[a] for a in flat)
    return expand(ops.scale(float(count), reduce("sum", inner, rest)), shape)


def along(op: str, x: Array, axes: Axes) -> Array:
    """softmax, log_softmax (the shape of ``x``) or logsumexp (axes kept with extent 1)."""
    x = as_real(x)
    return make(op, (x,), (axes,), kept(x.shape, axes) if op == "logsumexp" else x.shape)


# ---- views


def rearrange(x: Array, order: tuple[int | None, ...]) -> Array:
    """Axis k of the result is axis order[k] of ``x``, or a new one of extent 1 (None); others must have extent 1."""
    if order == tuple(range(len(x.shape))):
        return x
    if x.op == "axes":
        return rearrange(x.args[0], tuple(None if k is None else x.attrs[0][k] for k in order))
    shape = tuple(1 if k is None else x.shape[k] for k in order)
    c, s, r = split(x)
    if r is not x:
        return ops.join(c, s, None if r is None else rearrange(r, order), shape)
    return make("axes", (x,), (order,), shape, x.truth)


def squeeze(x: Array, axes: Axes) -> Array:
    return rearrange(x, tuple(k for k in range(len(x.shape)) if k not in axes))


def scalar(x: Array) -> Array:
    """An array of one element without axes."""
    return rearrange(x, ())


def window(x: Array, starts: Axes, steps: Axes, shape: Shape) -> Array:
    """Elements start, start + step ... of each axis, as many as ``shape`` says."""
    if shape == x.shape and not any(starts):
        return x
    if x.op == "window":
        before, by = x.attrs
        starts = tuple(b + s * t for b, s, t in zip(before, starts, by, strict=True))
        steps = tuple(s * t for s, t in zip(steps, by, strict=True))
        return window(x.args[0], starts, steps, shape)
    if x.op in ELEMENTWISE or x.op == "expand":
        args = [_window_of_operand(a, x, starts, steps, shape) for a in x.args]
        return rebuild(x, args, shape)
    if x.op == "axes":
        order, inner = x.attrs[0], x.args[0]
        at = {k: i for i, k in enumerate(order) if k is not None}
        part = [(starts[at[k]], steps[at[k]], shape[at[k]]) if k in at else (0, 1, 1) for k in range(len(inner.shape))]
        return rearrange(_window(inner, part), order)
    if x.op in ("softmax", "log_softmax", "logsumexp", "reduce"):
        axes, inner = x.attrs[-1], x.args[0]
        whole = [(0, 1, e) for e in inner.shape]
        given = list(zip(starts, steps, shape, strict=True))
        part = [w if k in axes else g for k, (w, g) in enumerate(zip(whole, given, strict=True))]
        if part != whole:
            of = _window(inner, part)
            x = make(x.op, (of,), x.attrs, kept(of.shape, axes) if x.op in ("logsumexp", "reduce") else of.shape)
        across = [g if k in axes else (0, 1, x.shape[k]) for k, g in enumerate(given)]
        return _window_across(x, across)
    return make("window", (x,), (starts, steps), shape, x.truth)


#: Of each axis: first element, step, how many.
_Part = Sequence[tuple[int, int, int]]


def _window(x: Array, part: _Part) -> Array:
    starts, steps, shape = (tuple(p[j] for p in part) for j in range(3))
    return window(x, starts, steps, shape)


def _window_across(x: Array, part: _Part) -> Array:
    """A part of a softmax, written so that the window is on its input."""
    if all(p == (0, 1, e) for p, e in zip(part, x.shape, strict=True)):
        return x
    shifted = _window(ops.sub(x.args[0], along("logsumexp", x.args[0], x.attrs[0])), part)
    return shifted if x.op == "log_softmax" else ops.unary("exp", shifted)


def _window_of_operand(arg: Array, x: Array, starts: Axes, steps: Axes, shape: Shape) -> Array:
    off = len(x.shape) - len(arg.shape)
    mine = [(starts[k + off], steps[k + off], shape[k + off]) for k in range(len(arg.shape))]
    return _window(arg, [(0, 1, 1) if e == 1 else p for e, p in zip(arg.shape, mine, strict=True)])


def rebuild(x: Array, args: Sequence[Array], shape: Shape) -> Array:
    """An element-wise operation on other operands."""
    if x.op == "expand":
        return expand(args[0], shape)
    return make(x.op, tuple(args), x.attrs, broadcast(*(a.shape for a in args)), x.truth)


def reshape(x: Array, shape: Shape) -> Array:
    if x.shape == shape:
        return x
    real_old = [(k, e) for k, e in enumerate(x.shape) if e != 1]
    real_new = [e for e in shape if e != 1]
    if [e for _, e in real_old] == real_new:  # only axes of extent 1 come and go
        source = iter(k for k, _ in real_old)
        return rearrange(x, tuple(None if e == 1 else next(source) for e in shape))
    if x.op == "reshape":
        return reshape(x.args[0], shape)
    if x.op in ELEMENTWISE and all(a.shape in (x.shape, ()) for a in x.args):
        return rebuild(x, [reshape(a, shape) if a.shape else a for a in x.args], shape)
    if x.op == "expand" and x.args[0].shape == ():
        return expand(x.args[0], shape)
    return make("reshape", (x,), (), shape, x.truth)


# ---- picking by an index


def pick(x: Array, index: Array, axis: int) -> Array:
    """NumPy's take_along_axis: along ``axis`` the elements that ``index`` names; the other axes broadcast."""
    rest = [tuple(1 if k == axis else e for k, e in enumerate(a.shape)) for a in (x, index)]
    shape = broadcast(*rest)
    shape = (*shape[:axis], index.shape[axis], *shape[axis + 1 :])
    if number(x) is not None:
        return expand(x, shape)
    return make("pick", (x, index), (axis,), shape, x.truth)


def place(value: Array, index: Array, axis: int, extent: int) -> Array:
    """The opposite: ``value`` where the position along ``axis`` is ``index``, 0 elsewhere."""
    shape = broadcast(value.shape, index.shape)
    shape = (*shape[:axis], extent, *shape[axis + 1 :])
    c, s, r = split(value)
    if s is not None and not ops.from_seed(s):
        c, s, r = 1.0, None, value
    return ops.join(c, s, make("place", (r if r is not None else const(1.0), index), (axis, extent), shape), shape)


# ---- products of matrices and parts


def matmul(a: Array, b: Array) -> Array:
    """(..., m, k) times (..., k, n), leading axes broadcast; a sum over products where no gemm is worth it."""
    a, b = as_real(a), as_real(b)
    if a.shape[-1] != b.shape[-2]:
        raise shape_error(f"matrices {list(a.shape)} and {list(b.shape)} cannot be multiplied")
    stack = broadcast(a.shape[:-2], b.shape[:-2])
    shape = (*stack, a.shape[-2], b.shape[-1])
    if 1 in (*shape[-2:], a.shape[-1]) or math.prod(stack) > MOST_GEMMS:
        p, q = len(a.shape), len(b.shape)
        left, right = rearrange(a, (*range(p), None)), rearrange(b, (*range(q - 2), None, q - 2, q - 1))
        n = max(p, q) + 1
        return squeeze(reduce("sum", ops.mul(left, right), (n - 2,)), (n - 2,))
    (ca, sa, ra), (cb, sb, rb) = split(a), split(b)
    if ra is not None and rb is not None and (ca * cb != 1.0 or sa is not None or sb is not None):
        return ops.join(ca * cb, ops.times(sa, sb), matmul(ra, rb), shape)
    return make("matmul", (a, b), (), shape)


def swap_last(x: Array) -> Array:
    n = len(x.shape)
    return rearrange(x, (*range(n - 2), n - 1, n - 2))


def concatenate(xs: Sequence[Array], axis: int) -> Array:
    first = xs[0].shape
    for x in xs[1:]:
        if len(x.shape) != len(first) or any(
            e != f for k, (e, f) in enumerate(zip(x.shape, first, strict=True)) if k != axis
        ):
            raise shape_error(f"arrays of shapes {[list(x.shape) for x in xs]} cannot be joined along axis {axis}")
    extent = sum(x.shape[axis] for x in xs)
    return make("concat", tuple(as_real(x) for x in xs), (axis,), (*first[:axis], extent, *first[axis + 1 :]))


def pad(x: Array, starts: Axes, steps: Axes, shape: Shape) -> Array:
    """The opposite of ``window``: ``x`` in its place in an array of zeros."""
    return make("pad", (x,), (starts, steps), shape)
