"""Symbolic arrays as expressions of the IR: the value of an array at an index."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lossc.errors import UsageError
from lossc.ir import Access, Dim, Ref, Scalar
from lossc.ir.expr import Const, Expr, Gather, Iota, Load, Reduce, op, where
from lossc.lang.labels import Labels
from lossc.lang.node import Array


@dataclass(frozen=True)
class Walk:
    """The index along one axis: offset + sum of dimension * step."""

    offset: int
    terms: tuple[tuple[Dim, int], ...]


@dataclass(frozen=True)
class Chosen:
    """The index along one axis, picked by an expression (a label)."""

    by: Expr


Index = Walk | Chosen
FIXED = Walk(0, ())


def number(value: float) -> Expr:
    return Const(Scalar(float(value)))


def times(c: float, e: Expr, whole: bool) -> Expr:
    """c * e; where ``e`` is one number and 1 / c a whole one, e / (1 / c), which is what a mean is written as."""
    if c == 1.0:
        return e
    if whole and abs(c) < 1.0 and c != 0.0 and round(1.0 / c) * c == 1.0:
        return op("div", e, number(round(1.0 / c)))
    return op("neg", e) if c == -1.0 else op("mul", number(c), e)


class Values:
    """Expressions for arrays of one graph. ``ref_of`` says where those lie that are in memory."""

    def __init__(self, labels: Labels, ref_of: Callable[[Array], Ref | None]) -> None:
        self.labels, self.ref_of = labels, ref_of
        self._done: dict[tuple[int, tuple[Index, ...]], Expr] = {}

    def of(self, x: Array, index: tuple[Index, ...]) -> Expr:
        """The value of ``x`` at an index, one entry an axis."""
        index = tuple(FIXED if e == 1 else i for e, i in zip(x.shape, index, strict=True))
        key = (id(x), index)
        if key not in self._done:
            ref = self.ref_of(x)
            self._done[key] = self._compute(x, index) if ref is None else self._load(ref, index)
        return self._done[key]

    def _arg(self, arg: Array, index: tuple[Index, ...]) -> Expr:
        """An operand that broadcasts against the index."""
        return self.of(arg, index[len(index) - len(arg.shape) :])

    def _compute(self, x: Array, index: tuple[Index, ...]) -> Expr:
        build = _BUILD.get(x.op)
        if build is not None:
            return build(self, x, index)
        return op(x.op, *(self._arg(a, index) for a in x.args))

    def _load(self, ref: Ref, index: tuple[Index, ...]) -> Expr:
        offset, steps = ref.offset, dict[Dim, int]()
        picked: list[tuple[Expr, int, int]] = []
        for i, e, s in zip(index, ref.shape, ref.strides, strict=True):
            if isinstance(i, Chosen):
                picked.append((i.by, s, e))
                continue
            offset += i.offset * s
            for d, t in i.terms:
                steps[d] = steps.get(d, 0) + t * s
        access = Access(ref.blob, offset, tuple(steps.items()))
        if not picked:
            return Load(access)
        if len(picked) > 1:
            fix = "pick along one axis, and along the other sum over one_hot(label, n) * x"
            raise UsageError("one array is picked from along two axes at once", fix=fix)
        return Gather(access, *picked[0])

    # ---- reductions

    def _inner(self, x: Array, axes: tuple[int, ...], index: tuple[Index, ...]) -> tuple[tuple[Index, ...], set[Dim]]:
        """The index of a reduction's operand, and the dimensions that it adds."""
        taken = {d for k, i in enumerate(index) if k not in axes for d in _dims(i)}
        out, fresh = list(index), set[Dim]()
        for a in axes:
            dim = self.labels.of(x, a)
            if dim is None:
                continue
            if dim in taken | fresh:
                dim = self.labels.spare(x.shape[a], taken | fresh)
            fresh.add(dim)
            out[a] = Walk(0, ((dim, 1),))
        return tuple(out), fresh

    def reduced(self, kind: str, e: Expr, dims: set[Dim]) -> Expr:
        over = tuple(sorted(d for d in dims if d in e.varies))
        if kind == "sum" and len(over) < len(dims):
            e = op("mul", number(math.prod(d.extent for d in dims if d not in over)), e)
        return Reduce(kind, e, over) if over else e

    def reduce(self, x: Array, index: tuple[Index, ...]) -> Expr:
        (arg,), (kind, axes) = x.args, x.attrs
        inner, dims = self._inner(arg, axes, index)
        e = self.of(arg, inner)
        if kind == "norm":
            return op("sqrt", self.reduced("sum", op("mul", e, e), dims))
        return self.reduced(kind, e, dims)

    def softmax(self, x: Array, index: tuple[Index, ...]) -> Expr:
        """softmax, log_softmax and logsumexp, which share their reductions."""
        (arg,), (axes,) = x.args, x.attrs
        inner, dims = self._inner(arg, axes, index)
        e = self.of(arg, inner)
        greatest = self.reduced("max", e, dims)
        total = self.reduced("sum", op("exp", op("sub", e, greatest)), dims)
        if x.op == "logsumexp":
            return op("add", greatest, op("log", total))
        here = op("sub", self.of(arg, index), greatest)
        if x.op == "softmax":
            return op("mul", op("exp", here), op("div", 1.0, total))
        return op("sub", here, op("log", total))

    # ---- the rest

    def scale(self, x: Array, index: tuple[Index, ...]) -> Expr:
        (c,) = x.attrs
        if len(x.args) == 1:
            return times(c, self._arg(x.args[0], index), x.size == 1)
        return op("mul", times(c, self._arg(x.args[0], ()), True), self._arg(x.args[1], index))

    def add(self, x: Array, index: tuple[Index, ...]) -> Expr:
        a, b = x.args
        for first, second in ((a, b), (b, a)):
            if second.op == "scale" and second.attrs[0] < 0:
                c = -second.attrs[0]
                rest = self._arg(second.args[-1], index)
                if len(second.args) == 1:
                    return op("sub", self._arg(first, index), times(c, rest, second.size == 1))
                alpha = times(c, self._arg(second.args[0], ()), True)
                return op("sub", self._arg(first, index), op("mul", alpha, rest))
        return op("add", self._arg(a, index), self._arg(b, index))

    def div(self, x: Array, index: tuple[Index, ...]) -> Expr:
        """A quotient; many by one are products with one reciprocal."""
        a, b = (self._arg(arg, index) for arg in x.args)
        many = x.args[0].size == x.size > x.args[1].size
        return op("mul", a, op("div", 1.0, b)) if many else op("div", a, b)

    def extreme(self, x: Array, index: tuple[Index, ...]) -> Expr:
        a, b = (self._arg(arg, index) for arg in x.args)
        return op(x.op, b, a) if isinstance(b, Const) else op(x.op, a, b)  # the second operand passes a NaN on

    def clip(self, x: Array, index: tuple[Index, ...]) -> Expr:
        low, high = x.attrs
        e = self._arg(x.args[0], index)
        e = e if low is None else op("max", number(low), e)
        return e if high is None else op("min", number(high), e)

    def sign(self, x: Array, index: tuple[Index, ...]) -> Expr:
        e = self._arg(x.args[0], index)
        return where(op("gt", e, 0.0), 1.0, where(op("lt", e, 0.0), -1.0, 0.0))

    def logaddexp(self, x: Array, index: tuple[Index, ...]) -> Expr:
        a, b = (self._arg(arg, index) for arg in x.args)
        return op("add", op("max", a, b), op("log1p", op("exp", op("neg", op("abs", op("sub", a, b))))))

    def iota(self, x: Array, index: tuple[Index, ...]) -> Expr:
        (i,) = index
        if isinstance(i, Chosen):
            return op("trunc", i.by)
        e: Expr = number(i.offset)
        for d, t in i.terms:
            e = op("add", e, op("mul", Iota(d), number(t)))
        return e

    def rearranged(self, x: Array, index: tuple[Index, ...]) -> Expr:
        arg = x.args[0]
        inner: list[Index] = [FIXED] * len(arg.shape)
        for i, k in zip(index, x.attrs[0], strict=True):
            if k is not None:
                inner[k] = i
        return self.of(arg, tuple(inner))

    def window(self, x: Array, index: tuple[Index, ...]) -> Expr:
        starts, steps = x.attrs
        inner: list[Index] = []
        for i, start, step in zip(index, starts, steps, strict=True):
            if isinstance(i, Chosen):
                inner.append(Chosen(op("add", op("mul", op("trunc", i.by), number(step)), number(start))))
            else:
                inner.append(Walk(start + step * i.offset, tuple((d, t * step) for d, t in i.terms)))
        return self.of(x.args[0], tuple(inner))

    def pick(self, x: Array, index: tuple[Index, ...]) -> Expr:
        (arg, label), (axis,) = x.args, x.attrs
        by = self.of(label, index)
        inner = list(index)
        inner[axis] = Chosen(by) if arg.shape[axis] != 1 else FIXED
        return self.of(arg, tuple(inner))

    def place(self, x: Array, index: tuple[Index, ...]) -> Expr:
        (value, label), (axis, _) = x.args, x.attrs
        here = index[axis]
        if isinstance(here, Chosen):
            position: Expr = op("trunc", here.by)
        else:
            position = number(here.offset)
            for d, t in here.terms:
                position = op("add", position, op("mul", Iota(d), number(t)))
        inside = op("eq", position, self.of(label, index))
        return where(inside, self._arg(value, index), 0.0)

    def expand(self, x: Array, index: tuple[Index, ...]) -> Expr:
        return self._arg(x.args[0], index)

    def const(self, x: Array, index: tuple[Index, ...]) -> Expr:
        return number(x.attrs[0])


def _dims(i: Index) -> set[Dim]:
    return set(i.by.varies) if isinstance(i, Chosen) else {d for d, _ in i.terms}


Build = Callable[[Values, Array, tuple[Index, ...]], Expr]
_BUILD: dict[str, Build] = {
    "const": Values.const, "scale": Values.scale, "add": Values.add, "div": Values.div, "min": Values.extreme,
    "max": Values.extreme, "clip": Values.clip, "sign": Values.sign, "logaddexp": Values.logaddexp, "iota": Values.iota,
    "reduce": Values.reduce, "softmax": Values.softmax, "log_softmax": Values.softmax, "logsumexp": Values.softmax,
    "axes": Values.rearranged, "window": Values.window,
    "pick": Values.pick, "place": Values.place, "expand": Values.expand, "stop": Values.expand,
}  # fmt: skip
