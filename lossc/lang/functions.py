"""The functions of the language, by NumPy's names and PyTorch's. All take symbolic arrays, numbers and small constants.

Gradients where there is none (PyTorch's choice unless said otherwise):

==============================  =====================================================================
``abs`` at 0                    0
``maximum``, ``minimum``        half to each of two equal operands
``max``, ``min`` over axes      shared evenly among equal extremes (as ``torch.amax``)
``clip``                        1 on the bounds, 0 beyond
``relu`` at 0                   0
``norm`` of a zero vector       0
``sign floor trunc``            0 everywhere; so are comparisons and what picks (labels)
``where``                       the chosen operand's alone: what is not chosen cannot make a NaN (PyTorch's can)
``sqrt``, ``log``, ``pow`` at 0 infinite, as computed
==============================  =====================================================================
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from typing import Any

from lossc.lang import ops, shaping
from lossc.lang.node import Array, error, make, shape_error
from lossc.lang.ops import as_array, as_real, const

Axis = int | Sequence[int] | None
Value = Any


def _one(op: str, text: str) -> Callable[[Value], Array]:
    def build(x: Value) -> Array:
        return ops.unary(op, as_array(x))

    build.__doc__ = text
    return build


def _two(op: str, text: str) -> Callable[[Value, Value], Array]:
    def build(a: Value, b: Value) -> Array:
        return ops.binary(op, as_array(a), as_array(b))

    build.__doc__ = text
    return build


abs = _one("abs", "|x|; its gradient at 0 is 0.")
exp = _one("exp", "e ** x.")
log = _one("log", "The natural logarithm; of a softmax, a sigmoid, a sum of exponentials it is stable.")
log1p = _one("log1p", "log(1 + x).")
expm1 = _one("expm1", "exp(x) - 1.")
sqrt = _one("sqrt", "The square root.")
tanh = _one("tanh", "The hyperbolic tangent.")
erf = _one("erf", "The error function.")
sigmoid = _one("sigmoid", "1 / (1 + exp(-x)).")
softplus = _one("softplus", "log(1 + exp(x)), stable.")
floor = _one("floor", "The greatest whole number that is not greater.")
trunc = _one("trunc", "The whole part.")
sign = _one("sign", "-1, 0 or 1.")
logical_not = _one("not", "Whether a condition does not hold.")
less = _two("lt", "a < b.")
less_equal = _two("le", "a <= b.")
greater = _two("gt", "a > b.")
greater_equal = _two("ge", "a >= b.")
equal = _two("eq", "a == b.")
not_equal = _two("ne", "a != b.")
logical_and = _two("and", "Whether both conditions hold.")
logical_or = _two("or", "Whether one of two conditions holds.")
maximum = _two("max", "The greater of two; equal operands share the gradient.")
minimum = _two("min", "The lesser of two; equal operands share the gradient.")
logaddexp = _two("logaddexp", "log(exp(a) + exp(b)), stable.")


def add(a: Value, b: Value) -> Array:
    return ops.add(as_array(a), as_array(b))


def subtract(a: Value, b: Value) -> Array:
    return ops.sub(as_array(a), as_array(b))


def multiply(a: Value, b: Value) -> Array:
    return ops.mul(as_array(a), as_array(b))


def divide(a: Value, b: Value) -> Array:
    return ops.div(as_array(a), as_array(b))


def negative(x: Value) -> Array:
    return ops.scale(-1.0, as_array(x))


def power(a: Value, b: Value) -> Array:
    """a ** b; whole exponents and 1/2 become products and roots where that is exact."""
    return ops.power(as_array(a), as_array(b))


def square(x: Value) -> Array:
    return multiply(x, x)


def reciprocal(x: Value) -> Array:
    return divide(1.0, x)


def log_sigmoid(x: Value) -> Array:
    """log(sigmoid(x)), stable."""
    return negative(softplus(negative(x)))


def relu(x: Value) -> Array:
    """max(x, 0), with gradient 0 at 0."""
    x = as_array(x)
    return ops.where(greater(x, 0.0), x, const(0.0))


def where(condition: Value, a: Value, b: Value) -> Array:
    """``a`` where the condition holds, else ``b``, for each element."""
    return ops.where(as_array(condition), as_array(a), as_array(b))


def clip(x: Value, low: Value = None, high: Value = None) -> Array:
    """Bounded to low..high (None: no bound); the gradient is 1 up to and with the bounds."""
    x = as_array(x)
    if any(isinstance(b, Array) for b in (low, high)):
        below = x if low is None else where(greater_equal(x, low), x, low)
        return below if high is None else where(less_equal(below, high), below, high)
    return ops.clip(x, None if low is None else float(low), None if high is None else float(high))


def stop_gradient(x: Value) -> Array:
    """The same values, but nothing propagates through them (detach)."""
    x = as_real(as_array(x))
    return make("stop", (x,), (), x.shape)


# ---- reductions


def _reduced(out: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    return out if keepdims else shaping.squeeze(out, axes)


def _over(kind: str, x: Value, axis: Axis, keepdims: bool) -> Array:
    x = as_array(x)
    axes = shaping.axes_of(axis, len(x.shape))
    return _reduced(shaping.reduce(kind, x, axes), axes, keepdims)


def sum(x: Value, axis: Axis = None, keepdims: bool = False) -> Array:
    """The sum over axes (all of them by default)."""
    return _over("sum", x, axis, keepdims)


def max(x: Value, axis: Axis = None, keepdims: bool = False) -> Array:
    """The greatest value over axes; equal ones share the gradient."""
    return _over("max", x, axis, keepdims)


def min(x: Value, axis: Axis = None, keepdims: bool = False) -> Array:
    """The least value over axes; equal ones share the gradient."""
    return _over("min", x, axis, keepdims)


def mean(x: Value, axis: Axis = None, keepdims: bool = False) -> Array:
    """The mean over axes."""
    x = as_array(x)
    count = math.prod(x.shape[a] for a in shaping.axes_of(axis, len(x.shape)))
    return divide(sum(x, axis, keepdims), float(count))


def var(x: Value, axis: Axis = None, keepdims: bool = False) -> Array:
    """The mean squared distance from the mean over axes."""
    return mean(square(subtract(x, mean(x, axis, True))), axis, keepdims)


def std(x: Value, axis: Axis = None, keepdims: bool = False) -> Array:
    return sqrt(var(x, axis, keepdims))


def norm(x: Value, axis: Axis = None, keepdims: bool = False) -> Array:
    """The Euclidean length over axes; the gradient of a zero vector is 0."""
    return _over("norm", x, axis, keepdims)


def logsumexp(x: Value, axis: Axis = None, keepdims: bool = False) -> Array:
    """log(sum(exp(x))) over axes, stable."""
    x = as_array(x)
    axes = shaping.axes_of(axis, len(x.shape))
    return _reduced(shaping.along("logsumexp", x, axes), axes, keepdims)


def softmax(x: Value, axis: Axis = -1) -> Array:
    """exp(x) / sum(exp(x)) over axes, stable."""
    x = as_array(x)
    return shaping.along("softmax", x, shaping.axes_of(axis, len(x.shape)))


def log_softmax(x: Value, axis: Axis = -1) -> Array:
    """log(softmax(x)), stable."""
    x = as_array(x)
    return shaping.along("log_softmax", x, shaping.axes_of(axis, len(x.shape)))


# ---- labels


def take_along_axis(x: Value, index: Value, axis: int) -> Array:
    """x[..., index[..., k], ...]: along ``axis`` the elements that ``index`` names; both have as many axes."""
    x, index = as_array(x), as_array(index)
    if len(x.shape) != len(index.shape):
        raise shape_error(
            f"an index of shape {list(index.shape)} for an array of shape {list(x.shape)}",
            "both need as many axes: add one to the labels by label[:, None]",
        )
    return shaping.pick(x, index, shaping.axes_of(axis, len(x.shape))[0])


def one_hot(label: Value, classes: int) -> Array:
    """1 at the label's place along a new last axis of ``classes``, 0 elsewhere."""
    label = as_array(label)
    return shaping.place(const(1.0), expand_dims(label, -1), len(label.shape), int(classes))


def arange(count: int) -> Array:
    """0, 1 ... count - 1."""
    return ops.iota(int(count))


def eye(count: int) -> Array:
    """The matrix with ones on its diagonal."""
    k = arange(count)
    return as_real(equal(k[:, None], k[None, :]))


# ---- shape


def reshape(x: Value, shape: int | Sequence[int]) -> Array:
    x = as_array(x)
    wanted = [int(e) for e in ((shape,) if isinstance(shape, int) else shape)]
    if wanted.count(-1) == 1:
        rest = math.prod(e for e in wanted if e != -1)
        wanted[wanted.index(-1)] = x.size // rest if rest else 0
    if math.prod(wanted) != x.size:
        raise shape_error(f"{x.size} elements of shape {list(x.shape)} have no shape {wanted}")
    return shaping.reshape(x, tuple(wanted))


def transpose(x: Value, axes: Sequence[int] | None = None) -> Array:
    x = as_array(x)
    n = len(x.shape)
    order = tuple(reversed(range(n))) if axes is None else tuple(a % n for a in axes)
    if sorted(order) != list(range(n)):
        raise shape_error(f"{list(order)} is no order of {n} axes")
    return shaping.rearrange(x, order)


def swapaxes(x: Value, a: int, b: int) -> Array:
    x = as_array(x)
    order = list(range(len(x.shape)))
    order[a], order[b] = order[b], order[a]
    return shaping.rearrange(x, tuple(order))


def expand_dims(x: Value, axis: int) -> Array:
    x = as_array(x)
    order: list[int | None] = list(range(len(x.shape)))
    order.insert(axis % (len(x.shape) + 1), None)
    return shaping.rearrange(x, tuple(order))


def squeeze(x: Value, axis: Axis = None) -> Array:
    x = as_array(x)
    axes = shaping.axes_of(axis, len(x.shape))
    if axis is None:
        axes = tuple(a for a in axes if x.shape[a] == 1)
    if any(x.shape[a] != 1 for a in axes):
        raise shape_error(f"axes {list(axes)} of shape {list(x.shape)} are not all of extent 1")
    return shaping.squeeze(x, axes)


def broadcast_to(x: Value, shape: Sequence[int]) -> Array:
    x = as_array(x)
    if ops.broadcast(x.shape, tuple(shape)) != tuple(shape):
        raise shape_error(f"an array of shape {list(x.shape)} cannot become {list(shape)}")
    return ops.expand(x, tuple(shape))


def concatenate(arrays: Sequence[Value], axis: int = 0) -> Array:
    xs = [as_array(x) for x in arrays]
    return shaping.concatenate(xs, shaping.axes_of(axis, len(xs[0].shape))[0])


def stack(arrays: Sequence[Value], axis: int = 0) -> Array:
    return concatenate([expand_dims(x, axis) for x in arrays], axis)


def index(x: Value, key: Any) -> Array:
    """x[key]: whole numbers, slices with positive steps, None, ``...``, and one symbolic array of labels."""
    x = as_array(x)
    keys = key if isinstance(key, tuple) else (key,)
    given = builtins.sum(k is not None and k is not Ellipsis for k in keys)
    if given > len(x.shape):
        raise shape_error(f"{given} indices for an array of shape {list(x.shape)}")
    dots = next((i for i, k in enumerate(keys) if k is Ellipsis), None)
    missing = (slice(None),) * (len(x.shape) - given)
    keys = (*keys, *missing) if dots is None else (*keys[:dots], *missing, *keys[dots + 1 :])
    starts: list[int] = []
    steps: list[int] = []
    shape: list[int] = []
    order: list[int | None] = []
    labels: list[tuple[int, Array]] = []
    for k in keys:
        if k is None:
            order.append(None)
            continue
        at = len(starts)
        start, step, count = _part(k, x.shape[at], labels, at)
        starts.append(start)
        steps.append(step)
        shape.append(count)
        if not isinstance(k, int):
            order.append(at)
    out = shaping.window(x, tuple(starts), tuple(steps), tuple(shape))
    if labels:
        return _labelled(out, labels, order)
    return shaping.rearrange(out, tuple(order))


def _part(k: Any, extent: int, labels: list[tuple[int, Array]], axis: int) -> tuple[int, int, int]:
    if isinstance(k, bool) or not (isinstance(k, (int, slice, Array)) or hasattr(k, "__index__")):
        raise error(f"{k!r} cannot index an array", "whole numbers, slices, None and labels can")
    if isinstance(k, Array):
        if k.truth:
            raise error(
                "how many elements a condition chooses is not known while the loss is traced",
                "keep the shape: lossc.where(condition, x, 0), and divide by where(condition, 1, 0).sum()",
            )
        labels.append((axis, k))
        return 0, 1, extent
    if isinstance(k, slice):
        start, stop, step = k.indices(extent)
        if step < 1:
            raise error("a slice runs backwards", "steps must be positive")
        count = len(range(start, stop, step))
        if not count:
            raise shape_error(f"the slice {k.start}:{k.stop} of an axis of {extent} is empty")
        return start, step, count
    if not -extent <= int(k) < extent:
        raise shape_error(f"index {int(k)} is out of range for an axis of {extent}")
    return int(k) % extent, 1, 1


def _labelled(x: Array, labels: list[tuple[int, Array]], order: list[int | None]) -> Array:
    """table[label]: rows picked by one array of labels, whose axes take the place of the axis."""
    if len(labels) > 1 or None in order:
        raise error("only one array of labels can index at a time, without None", "use take_along_axis or one_hot")
    axis, label = labels[0]
    if len(order) < len(x.shape):
        x = shaping.squeeze(x, tuple(k for k in range(len(x.shape)) if k not in order))
        axis = order.index(axis)
    before, behind = x.shape[:axis], x.shape[axis + 1 :]
    flat = label.reshape(*(1,) * len(before), label.size, *(1,) * len(behind))
    return shaping.reshape(shaping.pick(x, flat, axis), (*before, *label.shape, *behind))


# ---- products


def matmul(a: Value, b: Value) -> Array:
    """The product of matrices, of stacks of them (leading axes broadcast), or with vectors, as NumPy's ``@``."""
    a, b = as_array(a), as_array(b)
    if not a.shape or not b.shape:
        raise shape_error("a number is no matrix", "use *")
    left = shaping.rearrange(a, (None, 0)) if len(a.shape) == 1 else a
    right = shaping.rearrange(b, (0, None)) if len(b.shape) == 1 else b
    out = shaping.matmul(left, right)
    n = len(out.shape)
    drop = ((n - 2,) if len(a.shape) == 1 else ()) + ((n - 1,) if len(b.shape) == 1 else ())
    return shaping.squeeze(out, drop) if drop else out
