"""Expressions of ``map``: what is computed at each point of an iteration space.

A tree of loads, constants, operations and reductions. A reduction may stand inside a larger expression and is then
broadcast back, so that softmax is ``exp(x - max_a x) / sum_a exp(x - max_a x)``. Fusing two maps is substitution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from lossc.errors import InternalError
from lossc.ir.blob import Access, Dim
from lossc.ir.scalar import Scalar


class Expr:
    """Base of all expressions. Python's operators and the functions of this module build trees."""

    def children(self) -> tuple[Expr, ...]:
        return ()

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return self

    @cached_property
    def varies(self) -> frozenset[Dim]:
        """The dimensions along which the value changes."""
        return frozenset().union(*(c.varies for c in self.children()))

    @cached_property
    def _hash(self) -> int:
        return hash((type(self).__name__, *(getattr(self, f.name) for f in fields(self))))  # type: ignore[arg-type]

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, o: Value) -> Expr:
        return op("add", self, o)

    def __radd__(self, o: Value) -> Expr:
        return op("add", o, self)

    def __sub__(self, o: Value) -> Expr:
        return op("sub", self, o)

    def __rsub__(self, o: Value) -> Expr:
        return op("sub", o, self)

    def __mul__(self, o: Value) -> Expr:
        return op("mul", self, o)

    def __rmul__(self, o: Value) -> Expr:
        return op("mul", o, self)

    def __truediv__(self, o: Value) -> Expr:
        return op("div", self, o)

    def __rtruediv__(self, o: Value) -> Expr:
        return op("div", o, self)

    def __neg__(self) -> Expr:
        return op("neg", self)

    def __lt__(self, o: Value) -> Expr:
        return op("lt", self, o)

    def __le__(self, o: Value) -> Expr:
        return op("le", self, o)

    def __gt__(self, o: Value) -> Expr:
        return op("gt", self, o)

    def __ge__(self, o: Value) -> Expr:
        return op("ge", self, o)


Value = Expr | Access | Scalar | float | int


@dataclass(frozen=True, eq=True)
class Const(Expr):
    scalar: Scalar
    __hash__ = Expr.__hash__


@dataclass(frozen=True, eq=True)
class Load(Expr):
    access: Access
    __hash__ = Expr.__hash__

    @cached_property
    def varies(self) -> frozenset[Dim]:
        return frozenset(self.access.dims)


@dataclass(frozen=True, eq=True)
class Gather(Expr):
    """Element ``access + int(index) * stride`` (a label picks a class) of ``extent`` to pick from."""

    access: Access
    index: Expr
    stride: int
    extent: int
    __hash__ = Expr.__hash__

    def children(self) -> tuple[Expr, ...]:
        return (self.index,)

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return Gather(self.access, children[0], self.stride, self.extent)

    @cached_property
    def varies(self) -> frozenset[Dim]:
        return frozenset(self.access.dims) | self.index.varies


@dataclass(frozen=True, eq=True)
class Iota(Expr):
    """The index along a dimension, as a number."""

    dim: Dim
    __hash__ = Expr.__hash__

    @cached_property
    def varies(self) -> frozenset[Dim]:
        return frozenset({self.dim})


@dataclass(frozen=True, eq=True)
class Acc(Expr):
    """In an epilogue: the value that the contraction has just computed."""

    dims: tuple[Dim, ...]
    __hash__ = Expr.__hash__

    @cached_property
    def varies(self) -> frozenset[Dim]:
        return frozenset(self.dims)


@dataclass(frozen=True, eq=True)
class Op(Expr):
    name: str
    args: tuple[Expr, ...]
    __hash__ = Expr.__hash__

    def children(self) -> tuple[Expr, ...]:
        return self.args

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return op(self.name, *children)


@dataclass(frozen=True, eq=True)
class Reduce(Expr):
    """``kind`` ("sum", "max", "min") of ``arg`` over ``dims``."""

    kind: str
    arg: Expr
    dims: tuple[Dim, ...]
    __hash__ = Expr.__hash__

    def children(self) -> tuple[Expr, ...]:
        return (self.arg,)

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return Reduce(self.kind, children[0], self.dims)

    @cached_property
    def varies(self) -> frozenset[Dim]:
        return self.arg.varies - frozenset(self.dims)


def _erf(x: np.ndarray) -> np.ndarray:
    from math import erf

    return np.vectorize(erf, otypes=[np.float64])(x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _min(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """As C's ``a < b ? a : b``: the second operand where one is not a number."""
    return np.where(a < b, a, b)


def _max(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(a > b, a, b)


#: Every operation's meaning. Comparisons and the logical ones give truth values, which only ``where`` and they consume.
OPS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "tanh": np.tanh,
    "erf": _erf,
    "sigmoid": _sigmoid,
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "pow": np.power,
    "min": _min,
    "max": _max,
    "floor": np.floor,
    "trunc": np.trunc,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "where": np.where,
}
TRUTH = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"})
REDUCE: dict[str, Callable[..., np.ndarray]] = {"sum": np.sum, "max": np.max, "min": np.min}


def expr(value: Value) -> Expr:
    """A value as an expression: accesses become loads, numbers constants."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, Access):
        return Load(value)
    return Const(Scalar.of(value))


def op(name: str, *args: Value) -> Expr:
    """An operation, simplified where that is exact: constants fold; x*1, x/1, x+0 and x-0 are x, -0 too.

    Constants stand in front in a product.
    """
    a = tuple(expr(x) for x in args)
    if all(isinstance(x, Const) for x in a):
        folded = Scalar.fold(name, *(x.scalar for x in a))  # type: ignore[attr-defined]
        if folded is not None:
            return Const(folded)
    if len(a) == 2:
        for one, other in ((a[0], a[1]), (a[1], a[0])):
            if isinstance(one, Const) and (name == "mul" or (name == "div" and one is a[1])) and one.scalar.is_plain(1):
                return other
            if isinstance(one, Const) and (name == "add" or (name == "sub" and one is a[1])) and one.scalar.is_plain(0):
                return other
        if name == "mul" and isinstance(a[1], Const) and not isinstance(a[0], Const):
            return op("mul", a[1], a[0])
    return Op(name, a)


def gather_constants(e: Expr) -> Expr:
    """w * (1/N * x) -> (w * 1/N) * x, as Caffe multiplies. Not exact: it rounds otherwise than what was written."""
    if isinstance(e, Op) and e.name == "mul" and isinstance(e.args[1], Op) and e.args[1].name == "mul":
        outer, (inner, x) = e.args[0], e.args[1].args
        if isinstance(outer, Const) and isinstance(inner, Const):
            return op("mul", Const(outer.scalar * inner.scalar), x)
    return e


def where(cond: Expr, a: Value, b: Value) -> Expr:
    return op("where", cond, a, b)


def eq(a: Value, b: Value) -> Expr:
    return op("eq", a, b)


def ne(a: Value, b: Value) -> Expr:
    return op("ne", a, b)


def maximum(a: Value, b: Value) -> Expr:
    return op("max", a, b)


def minimum(a: Value, b: Value) -> Expr:
    return op("min", a, b)


def _unary(name: str) -> Callable[[Value], Expr]:
    def build(x: Value) -> Expr:
        return op(name, x)

    build.__name__ = name
    return build


exp, log, log1p, expm1 = _unary("exp"), _unary("log"), _unary("log1p"), _unary("expm1")
sqrt, absolute, tanh = _unary("sqrt"), _unary("abs"), _unary("tanh")
sigmoid, softplus, trunc = _unary("sigmoid"), _unary("softplus"), _unary("trunc")


def reduce(kind: str, value: Value, labels: str) -> Expr:
    """Reduce over the dimensions named in ``labels``; those along which nothing varies must have extent 1."""
    e = expr(value)
    dims = tuple(sorted(d for d in e.varies if d.name in labels))
    return Reduce(kind, e, dims) if dims else e


def total(value: Value, labels: str) -> Expr:
    """The sum over the named dimensions."""
    return reduce("sum", value, labels)


def greatest(value: Value, labels: str) -> Expr:
    """The maximum over the named dimensions."""
    return reduce("max", value, labels)


def gather(access: Access, label: str, index: Value) -> Expr:
    """``access`` with the dimension called ``label`` picked by ``index`` instead of iterated."""
    for d, s in access.strides:
        if d.name == label:
            rest = tuple(p for p in access.strides if p[0] != d)
            return Gather(Access(access.blob, access.offset, rest), expr(index), s, d.extent)
    return Load(access)  # extent 1: there is one element to pick


def iota(access: Access, label: str) -> Expr:
    """The index along a dimension of ``access``."""
    dim = next((d for d in access.dims if d.name == label), None)
    return Const(Scalar(0.0)) if dim is None else Iota(dim)


def walk(root: Expr) -> Iterator[Expr]:
    """Every node once, children first."""
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((c, False) for c in reversed(node.children()))


def rewrite(root: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The tree with ``change`` applied to every node, children first; shared parts stay shared."""
    done: dict[int, Expr] = {}
    for node in walk(root):
        children = node.children()
        fresh = tuple(done[id(c)] for c in children)
        same = all(f is c for f, c in zip(fresh, children, strict=True))
        done[id(node)] = change(node if same else node.rebuild(fresh))
    return done[id(root)]


def accesses(root: Expr) -> list[Access]:
    """What the expression reads, in order of first use."""
    out: dict[Access, None] = {}
    for node in walk(root):
        if isinstance(node, (Load, Gather)):
            out.setdefault(node.access)
    return list(out)


def tighten(e: Expr) -> Expr:
    """A reduction along dimensions over which nothing varies any more: a sum is a product with their extent."""
    if not isinstance(e, Reduce):
        return e
    flat = [d for d in e.dims if d not in e.arg.varies]
    rest = tuple(d for d in e.dims if d in e.arg.varies)
    arg = e.arg
    if flat and e.kind == "sum":
        arg = op("mul", arg, Scalar(float(math.prod(d.extent for d in flat)), "count"))
    return Reduce(e.kind, arg, rest) if rest else arg


def map_accesses(root: Expr, change: Callable[[Access], Access]) -> Expr:
    def one(e: Expr) -> Expr:
        if isinstance(e, Load):
            return Load(change(e.access))
        if isinstance(e, Gather):
            return Gather(change(e.access), e.index, e.stride, e.extent)
        return e

    return rewrite(root, one)


def check_truth(root: Expr) -> None:
    """Raises InternalError where a truth value is used as a number or the other way round."""
    for node in walk(root):
        if isinstance(node, Op):
            for k, arg in enumerate(node.args):
                is_truth = isinstance(arg, Op) and arg.name in TRUTH
                wants = node.name in ("and", "or", "not") or (node.name == "where" and k == 0)
                if is_truth != wants:
                    raise InternalError(f"operand {k} of {node.name} has the wrong kind")
