"""Expressions of ``map``: what is computed at each point of an iteration space.

A tree of loads, constants, operations and reductions. A reduction may stand inside a larger expression and is then
broadcast back, so that softmax is ``exp(x - max_a x) / sum_a exp(x - max_a x)``. Fusing two maps is substitution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from lossc.errors import InternalError
from lossc.ir.blob import Access, Dim
from lossc.ir.operations import TRUTH
from lossc.ir.scalar import Scalar
from lossc.order import postorder


class Expr:
    """Base of all expressions. Python's operators and the functions of this module build trees."""

    def children(self) -> tuple[Expr, ...]:
        return ()

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return self

    @cached_property
    def varies(self) -> frozenset[Dim]:
        """The dimensions along which the value changes."""
        _know_below(self, "varies")
        return self._varies()

    def _varies(self) -> frozenset[Dim]:
        return frozenset().union(*(c.varies for c in self.children()))

    @cached_property
    def written_size(self) -> int:
        """How many nodes it has where it is written out as a tree, with shared parts each time."""
        _know_below(self, "written_size")
        return 1 + sum(c.written_size for c in self.children())

    @cached_property
    def depth(self) -> int:
        """How many operations follow each other on the longest way from what it reads."""
        _know_below(self, "depth")
        return max((1 + c.depth for c in self.children()), default=0)

    @cached_property
    def accesses(self) -> tuple[Access, ...]:
        """What it reads, in order of first use."""
        return tuple(dict.fromkeys(e.access for e in walk(self) if isinstance(e, (Load, Gather))))

    @cached_property
    def _hash(self) -> int:
        _know_below(self, "_hash")
        return hash((type(self).__name__, *(getattr(self, f.name) for f in fields(self))))  # type: ignore[arg-type]

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Expr) and _same(self, other))

    @cached_property
    def _own(self) -> tuple[Any, ...]:
        """What it holds besides its children."""
        values = (getattr(self, f.name) for f in fields(self) if f.name != "args")  # type: ignore[arg-type]
        return tuple(v for v in values if not isinstance(v, Expr))

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


def _know_below(root: Expr, name: str) -> None:
    """Computes a cached property of all operands, theirs first: where many operations follow each other, a property
    that asks for its operands' would call itself as often."""
    below = [c for c in root.children() if name not in c.__dict__]
    if any(c.children() for c in below):
        for node in postorder(below, lambda e: [c for c in e.children() if name not in c.__dict__]):
            getattr(node, name)


def _first(e: Expr) -> Expr:
    """The one that stands for all that were found to be equal to ``e``."""
    while (other := e.__dict__.get("_equal")) is not None:
        e = other
    return e


def _same(a: Expr, b: Expr) -> bool:
    """Whether two trees are equal. Each pair of nodes is looked at once, however often parts are shared; what was found
    to be equal is known from then on."""
    stack, seen = [(a, b)], dict[tuple[int, int], tuple[Expr, Expr]]()
    while stack:
        x, y = (_first(e) for e in stack.pop())
        if x is y or (id(x), id(y)) in seen:
            continue
        if type(x) is not type(y) or hash(x) != hash(y) or x._own != y._own:
            return False
        mine, theirs = x.children(), y.children()
        if len(mine) != len(theirs):
            return False
        seen[id(x), id(y)] = x, y
        stack.extend(zip(mine, theirs, strict=True))
    for x, y in seen.values():
        first, other = _first(x), _first(y)
        if first is not other:
            other.__dict__["_equal"] = first
    return True


Value = Expr | Access | Scalar | float | int


@dataclass(frozen=True, eq=False)
class Const(Expr):
    scalar: Scalar


@dataclass(frozen=True, eq=False)
class Load(Expr):
    access: Access

    def _varies(self) -> frozenset[Dim]:
        return frozenset(self.access.dims)


@dataclass(frozen=True, eq=False)
class Gather(Expr):
    """Element ``access + int(index) * stride`` (a label picks a class) of ``extent`` to pick from."""

    access: Access
    index: Expr
    stride: int
    extent: int

    def children(self) -> tuple[Expr, ...]:
        return (self.index,)

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return Gather(self.access, children[0], self.stride, self.extent)

    def _varies(self) -> frozenset[Dim]:
        return frozenset(self.access.dims) | self.index.varies


@dataclass(frozen=True, eq=False)
class Iota(Expr):
    """The index along a dimension, as a number."""

    dim: Dim

    def _varies(self) -> frozenset[Dim]:
        return frozenset({self.dim})


@dataclass(frozen=True, eq=False)
class Acc(Expr):
    """In an epilogue: the value that the kernel has just computed. In a prologue: the element that it has just read."""

    dims: tuple[Dim, ...]

    def _varies(self) -> frozenset[Dim]:
        return frozenset(self.dims)


@dataclass(frozen=True, eq=False)
class Op(Expr):
    name: str
    args: tuple[Expr, ...]

    def children(self) -> tuple[Expr, ...]:
        return self.args

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return op(self.name, *children)


@dataclass(frozen=True, eq=False)
class Reduce(Expr):
    """``kind`` ("sum", "max", "min") of ``arg`` over ``dims``."""

    kind: str
    arg: Expr
    dims: tuple[Dim, ...]

    def children(self) -> tuple[Expr, ...]:
        return (self.arg,)

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return Reduce(self.kind, children[0], self.dims)

    def _varies(self) -> frozenset[Dim]:
        return self.arg.varies - frozenset(self.dims)


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
    return postorder((root,), lambda node: node.children())


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
    return list(root.accesses)


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
