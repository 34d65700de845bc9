"""Gradients of symbolic arrays, as symbolic arrays again: reverse-mode differentiation, one rule an operation.

What an operation passes down may be smaller than its operand where all elements are the same: it broadcasts. Factors
go into the branches of ``where`` and into places of labels, so that what was not chosen never makes a NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from lossc.lang import functions as f
from lossc.lang import ops, shaping
from lossc.lang.node import Array, Shape, make, walk
from lossc.lang.ops import const, expand, number, split

Rule = Callable[[Array, Array], Sequence[Array | None]]


def is_leaf(x: Array) -> bool:
    """An input, or a window on one: gradients end there."""
    return x.op == "input" or (x.op == "window" and x.args[0].op == "input")


def gradients(seeds: Mapping[Array, Array], inputs: Sequence[Array]) -> list[list[tuple[Array, Array]]]:
    """For each input what is to be added to its gradient: pairs of (the input or a window on it, gradient there).

    ``seeds`` gives the gradients of outputs. An input to which nothing propagates has no pairs.
    """
    found: dict[Array, Array] = dict(seeds)
    order = list(walk(*seeds))
    needed = _reaching(order, inputs)
    for node in reversed(order):
        dy = found.get(node)
        if dy is None or is_leaf(node) or node not in needed:
            continue
        for arg, dx in zip(node.args, RULES[node.op](node, dy) if node.op in RULES else (), strict=False):
            if dx is not None and arg in needed and number(dx) != 0.0:
                dx = fit(dx, arg.shape, node.shape if node.op in _BROADCASTING else arg.shape)
                found[arg] = ops.add(found[arg], dx) if arg in found else dx
    leaves = [n for n in order if is_leaf(n) and n in found]
    return [[(n, found[n]) for n in leaves if any(x is leaf for leaf in (n, *n.args))] for x in inputs]


_BROADCASTING = shaping.ELEMENTWISE | {"expand"}


def _reaching(order: Sequence[Array], inputs: Sequence[Array]) -> set[Array]:
    out: set[Array] = set()
    wanted = set(inputs)
    for node in order:
        if node in wanted or any(a in out for a in node.args):
            out.add(node)
    return out


def fit(dx: Array, shape: Shape, full: Shape) -> Array:
    """The gradient of an operand of ``shape`` that was broadcast to ``full``: summed over the axes that were."""
    wide = (1,) * (len(full) - len(dx.shape)) + dx.shape
    dx = shaping.rearrange(dx, (*(None for _ in range(len(full) - len(dx.shape))), *range(len(dx.shape))))
    off = len(full) - len(shape)
    axes = [k for k, e in enumerate(full) if e != 1 and (k < off or shape[k - off] == 1)]
    summed = shaping.reduce("sum", dx, tuple(a for a in axes if wide[a] != 1))
    count = math.prod(full[a] for a in axes if wide[a] == 1)
    return shaping.squeeze(ops.scale(float(count), summed), tuple(range(off)))


def weigh(dy: Array, factor: Array) -> Array:
    """dy * factor, the factor inside of what ``dy`` chooses."""
    c, s, r = split(dy)
    if r is None or r.op not in ("where", "place"):
        return ops.mul(dy, factor)
    shape = ops.broadcast(dy.shape, factor.shape)
    if r.op == "where":
        cond, a, b = r.args
        if number(a) != 0.0 and number(b) != 0.0:
            return ops.mul(dy, factor)
        a, b = (x if number(x) == 0.0 else weigh(x, factor) for x in (a, b))
        return ops.mul(ops.join(c, s, None, ()), expand(ops.where(cond, a, b), shape))
    (value, index), (axis, extent) = r.args, r.attrs
    full = expand(factor, r.shape) if len(factor.shape) < len(r.shape) else factor
    chosen = full if full.shape[axis] == 1 else shaping.pick(full, index, axis)
    inner = shaping.place(weigh(value, chosen), index, axis, extent)
    return ops.mul(ops.join(c, s, None, ()), expand(inner, shape))


def _where(cond: Array, dy: Array) -> Array:
    """dy where the condition holds, else 0."""
    return ops.where(cond, dy, const(0.0))


def _add(y: Array, dy: Array) -> Sequence[Array | None]:
    return dy, dy


def _mul(y: Array, dy: Array) -> Sequence[Array | None]:
    a, b = y.args
    return weigh(dy, b), weigh(dy, a)


def _scale(y: Array, dy: Array) -> Sequence[Array | None]:
    (c,) = y.attrs
    if len(y.args) == 1:
        return (ops.scale(c, dy),)
    s, r = y.args
    return ops.scale(c, weigh(dy, r)), ops.scale(c, weigh(dy, s))


def _div(y: Array, dy: Array) -> Sequence[Array | None]:
    a, b = y.args
    return weigh(dy, ops.div(const(1.0), b)), weigh(ops.scale(-1.0, dy), ops.div(y, b))


def _pow(y: Array, dy: Array) -> Sequence[Array | None]:
    a, b = y.args
    exponent = number(b)
    lower = ops.power(a, const(exponent - 1.0)) if exponent is not None else ops.power(a, ops.sub(b, const(1.0)))
    da = weigh(dy, ops.mul(b, lower))
    if exponent is not None:
        return da, None
    zero = f.equal(a, 0.0)  # 0 ** b is flat where b > 0
    slope = ops.where(zero, const(0.0), ops.mul(y, f.log(ops.where(zero, const(1.0), a))))
    return da, weigh(dy, slope)


def _extreme(y: Array, dy: Array) -> Sequence[Array | None]:
    a, b = y.args
    first = f.greater(a, b) if y.op == "max" else f.less(a, b)
    half = ops.where(f.equal(a, b), ops.scale(0.5, dy), const(0.0))
    return ops.where(first, dy, half), ops.where(ops.unary("not", f.logical_or(first, f.equal(a, b))), dy, half)


def _clip(y: Array, dy: Array) -> Sequence[Array | None]:
    (x,), (low, high) = y.args, y.attrs
    inside = [f.greater_equal(x, low)] if low is not None else []
    inside += [f.less_equal(x, high)] if high is not None else []
    for cond in inside:
        dy = _where(cond, dy)
    return (dy,)


def _choose(y: Array, dy: Array) -> Sequence[Array | None]:
    cond = y.args[0]
    return None, ops.where(cond, dy, const(0.0)), ops.where(cond, const(0.0), dy)


def _logaddexp(y: Array, dy: Array) -> Sequence[Array | None]:
    a, b = y.args
    return weigh(dy, f.sigmoid(ops.sub(a, b))), weigh(dy, f.sigmoid(ops.sub(b, a)))


def _reduce(y: Array, dy: Array) -> Sequence[Array | None]:
    (x,), (kind, axes) = y.args, y.attrs
    if kind == "sum":
        return (dy,)
    if kind == "norm":
        return (weigh(_where(f.greater(y, 0.0), weigh(dy, ops.div(const(1.0), y))), x),)
    best = f.equal(x, y)
    count = shaping.reduce("sum", ops.as_real(best), axes)
    return (_where(best, weigh(dy, ops.div(const(1.0), count))),)


def _softmax(y: Array, dy: Array) -> Sequence[Array | None]:
    weighed = weigh(dy, y)
    return (ops.sub(weighed, ops.mul(y, shaping.reduce("sum", weighed, y.attrs[0]))),)


def _log_softmax(y: Array, dy: Array) -> Sequence[Array | None]:
    p = ops.unary("exp", y)
    dy = expand(dy, ops.broadcast(dy.shape, tuple(e if k in y.attrs[0] else 1 for k, e in enumerate(y.shape))))
    return (ops.sub(dy, ops.mul(p, shaping.reduce("sum", dy, y.attrs[0]))),)


def _logsumexp(y: Array, dy: Array) -> Sequence[Array | None]:
    return (weigh(dy, shaping.along("softmax", y.args[0], y.attrs[0])),)


def _axes(y: Array, dy: Array) -> Sequence[Array | None]:
    (x,), (order,) = y.args, y.attrs
    at = {k: i for i, k in enumerate(order) if k is not None}
    return (shaping.rearrange(dy, tuple(at.get(k) for k in range(len(x.shape)))),)


def _window(y: Array, dy: Array) -> Sequence[Array | None]:
    starts, steps = y.attrs
    return (shaping.pad(expand(dy, y.shape), starts, steps, y.args[0].shape),)


def _pad(y: Array, dy: Array) -> Sequence[Array | None]:
    starts, steps = y.attrs
    return (shaping.window(expand(dy, y.shape), starts, steps, y.args[0].shape),)


def _reshape(y: Array, dy: Array) -> Sequence[Array | None]:
    return (shaping.reshape(expand(dy, y.shape), y.args[0].shape),)


def _pick(y: Array, dy: Array) -> Sequence[Array | None]:
    x, index = y.args
    (axis,) = y.attrs
    if index.shape[axis] == 1 and _lines_up(x, y, axis):
        return shaping.place(dy, index, axis, x.shape[axis]), None
    # each element of x collects from all that picked it: along a new axis behind, compared and summed
    n = len(y.shape)
    position = make("iota", (), (), (x.shape[axis],)) if x.shape[axis] > 1 else ops.iota(1)
    position = shaping.rearrange(position, (0, *(None,) * (n - axis)))
    picked = shaping.rearrange(index, (*range(axis), None, *range(axis, n)))
    wide = shaping.rearrange(expand(dy, y.shape), (*range(axis), None, *range(axis, n)))
    chosen = _where(f.equal(position, picked), wide)
    others = tuple(k for k in range(n) if k != axis and x.shape[k] == 1 and y.shape[k] != 1)
    sums = tuple(sorted({axis + 1, *(k if k < axis else k + 1 for k in others)}))
    return shaping.squeeze(shaping.reduce("sum", chosen, sums), (axis + 1,)), None


def _lines_up(x: Array, y: Array, axis: int) -> bool:
    return all(a == b for k, (a, b) in enumerate(zip(x.shape, y.shape, strict=True)) if k != axis)


def _place(y: Array, dy: Array) -> Sequence[Array | None]:
    value, index = y.args
    axis = y.attrs[0]
    chosen = shaping.pick(expand(dy, y.shape), index, axis)
    return fit(chosen, value.shape, chosen.shape), None


def _matmul(y: Array, dy: Array) -> Sequence[Array | None]:
    a, b = y.args
    dy = expand(dy, y.shape)
    da, db = shaping.matmul(dy, shaping.swap_last(b)), shaping.matmul(shaping.swap_last(a), dy)
    return fit(da, a.shape, (*y.shape[:-2], *a.shape[-2:])), fit(db, b.shape, (*y.shape[:-2], *b.shape[-2:]))


def _concat(y: Array, dy: Array) -> Sequence[Array | None]:
    (axis,) = y.attrs
    dy, out, at = expand(dy, y.shape), [], 0
    for x in y.args:
        starts = tuple(at if k == axis else 0 for k in range(len(y.shape)))
        out.append(shaping.window(dy, starts, (1,) * len(y.shape), x.shape))
        at += x.shape[axis]
    return out


def _simple(slope: Callable[[Array, Array], Array]) -> Rule:
    """The rule of an operation on one array; ``slope`` gets the operand and the result."""
    return lambda y, dy: (weigh(dy, slope(y.args[0], y)),)


#: dy -> the gradients of the operands. What is not here has none: comparisons, sign, floor, trunc, stop.
RULES: dict[str, Rule] = {
    "add": _add,
    "mul": _mul,
    "scale": _scale,
    "div": _div,
    "pow": _pow,
    "min": _extreme,
    "max": _extreme,
    "clip": _clip,
    "where": _choose,
    "logaddexp": _logaddexp,
    "abs": _simple(lambda x, y: f.sign(x)),
    "sqrt": _simple(lambda x, y: ops.div(const(0.5), y)),
    "exp": _simple(lambda x, y: y),
    "log": _simple(lambda x, y: ops.div(const(1.0), x)),
    "log1p": _simple(lambda x, y: ops.div(const(1.0), ops.add(x, const(1.0)))),
    "expm1": _simple(lambda x, y: f.exp(x)),
    "tanh": _simple(lambda x, y: ops.sub(const(1.0), ops.mul(y, y))),
    "erf": _simple(lambda x, y: ops.scale(2.0 / math.sqrt(math.pi), f.exp(ops.scale(-1.0, ops.mul(x, x))))),
    "sigmoid": _simple(lambda x, y: ops.mul(y, f.sigmoid(ops.scale(-1.0, x)))),
    "softplus": _simple(lambda x, y: f.sigmoid(x)),
    "reduce": _reduce,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "expand": lambda y, dy: (dy,),
    "axes": _axes,
    "window": _window,
    "pad": _pad,
    "reshape": _reshape,
    "pick": _pick,
    "place": _place,
    "matmul": _matmul,
    "concat": _concat,
}
