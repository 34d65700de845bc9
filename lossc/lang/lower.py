"""From symbolic arrays to kernels: as few maps as can be, each one sweep over memory; products of matrices to gemm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lossc.errors import LosscError
from lossc.ir import Access, Builder, Dim, Ref, Store, make_map
from lossc.ir.blob import restride
from lossc.ir.sweep import is_one_sweep
from lossc.lang.labels import Labels
from lossc.lang.node import Array, walk
from lossc.lang.shaping import ELEMENTWISE
from lossc.lang.values import FIXED, Index, Values, Walk
from lossc.order import postorder

#: How many operations may follow each other before one gets memory, and for how many some of them stand.
_DEEPEST = 80
_LEVELS = {"logaddexp": 6, "softmax": 5, "log_softmax": 5, "logsumexp": 5, "sign": 2, "clip": 2}
_REDUCING = frozenset({"reduce", "logsumexp", "softmax", "log_softmax"})


@dataclass(frozen=True)
class Output:
    """Where the elements of an array go. ``like`` has the shape of ``ref``, to which the value broadcasts."""

    ref: Ref
    value: Array
    like: Array
    accumulate: bool = False


class Lowering:
    """Emits kernels for symbolic arrays, forward and backward of one layer; what forward keeps, backward uses.

    ``inputs`` says where the input arrays lie. ``learn`` is told of every array before the first is emitted.
    """

    def __init__(self, inputs: dict[Array, Ref]) -> None:
        self.labels = Labels()
        self._refs: dict[Array, Ref] = dict(inputs)
        self._diffs: dict[Array, Ref] = {}

    def learn(self, values: Sequence[Array]) -> None:
        self.labels.learn(walk(*values))

    def place(self, x: Array, ref: Ref) -> None:
        """Tells where an input lies."""
        self._refs[x] = ref

    def place_diff(self, x: Array, ref: Ref) -> None:
        """Tells where the gradient of an input lies."""
        self._diffs[x] = ref

    def diff_of(self, part: Array) -> Ref:
        """The gradient of an input, or of a window on one."""
        return self._diffs[part] if part in self._diffs else _window(self._diffs[part.args[0]], part)

    # ---- emitting

    def emit(self, b: Builder, outputs: Sequence[Output], note: str = "") -> None:
        """Kernels that store (or add) each output, in one map if one sweep can."""
        self._materialise_first(b, outputs)
        values = Values(self.labels, self.ref_of)
        stores = [self._store(o, values) for o in outputs]
        kernel = make_map(stores)
        if is_one_sweep(kernel) and _apart(outputs):
            b.map(*stores, note=note)
        elif len(outputs) > 1:
            for o in outputs:
                self.emit(b, [o], note)
        else:
            self._divide(b, outputs[0], note)

    def kept(self, b: Builder, wanted: Sequence[Array]) -> list[Output]:
        """Temporaries for what a later ``emit`` wants, as outputs to emit now; ``remember`` then makes them known."""
        return [Output(b.temp("total", x.shape), x, x) for x in wanted if x not in self._refs]

    def remember(self, outputs: Sequence[Output]) -> None:
        self._refs.update({o.value: o.ref for o in outputs})

    def shared_totals(self, first: Sequence[Array], later: Sequence[Array]) -> list[Array]:
        """Reductions to one number that ``first`` computes on its way and arrays among ``later`` rest on."""
        mine = set(_totals(first)) - set(first)
        return [x for x in _totals([v for v in later if v.size > 1]) if x in mine]

    def _store(self, o: Output, values: Values) -> Store:
        index = self._index(o.like)
        return Store(_access(o.ref, index), values.of(o.value, index), o.accumulate)

    def _index(self, x: Array) -> tuple[Index, ...]:
        dims = [self.labels.of(x, k) for k in range(len(x.shape))]
        return tuple(FIXED if d is None else Walk(0, ((d, 1),)) for d in dims)

    def _divide(self, b: Builder, output: Output, note: str) -> None:
        """An expression that no one sweep computes: its first reduction gets a map of its own."""
        for x in self._open(output.value):
            if x.op in _REDUCING and x is not output.value:
                self._materialise(b, x)
                return self.emit(b, [output], note)
        for x in self._open(output.value):  # reductions that the parts of one operand walk differently
            elementwise = x.op in ELEMENTWISE and not x.truth
            if x is not output.value and x.size > 1 and elementwise and self.ref_of(x) is None:
                self._materialise(b, x)
                return self.emit(b, [output], note)
        raise LosscError("this expression cannot be computed", fix="split it up: reduce over fewer axes at a time")

    def _open(self, *values: Array) -> list[Array]:
        """Nodes that are not in memory yet, operands first."""
        roots = [v for v in values if v not in self._refs]
        return list(postorder(roots, lambda x: [a for a in x.args if a not in self._refs]))

    # ---- arrays that need memory

    def _materialise_first(self, b: Builder, outputs: Sequence[Output]) -> None:
        values = [o.value for o in outputs]
        for x in self._open(*values):
            if x in self._refs:
                continue
            if x.op == "table":
                self._refs[x] = b.constant("constants", np.array(x.attrs[0]).reshape(x.shape))
            elif x.op == "matmul":
                self._gemm(b, x)
            elif x.op in ("pad", "concat"):
                self._windows(b, x)
            elif x.op == "reshape" and self.ref_of(x) is None:
                self._materialise(b, x.args[0])
        for x in _totals([o.value for o in outputs if o.like.size > 1 and o.value not in self._refs]):
            if x not in self._refs:
                self._materialise(b, x)
        self._cut(b, values)

    def _cut(self, b: Builder, values: Sequence[Array]) -> None:
        """Where very many operations follow each other, some of them get memory: one function of C is not endless, and
        what walks over expressions may call itself for each level."""
        depth, ends = dict[Array, int](), set(values)
        for x in self._open(*values):
            depth[x] = max((depth.get(a, 0) for a in x.args), default=0) + _LEVELS.get(x.op, 1)
            if depth[x] >= _DEEPEST and x not in ends and x.op in ELEMENTWISE and not x.truth:  # memory holds numbers
                self._materialise(b, x)
                depth[x] = 0

    def _materialise(self, b: Builder, x: Array) -> Ref:
        ref = self.ref_of(x)
        if ref is None:
            ref = b.temp(x.op, x.shape)
            self.emit(b, [Output(ref, x, x)])
            self._refs[x] = ref
        return ref

    def _gemm(self, b: Builder, x: Array) -> None:
        a, c = (self._materialise(b, arg) for arg in x.args)
        out = b.temp("product", x.shape)
        n = len(x.shape) - 2
        for k in range(math.prod(x.shape[:-2])):
            at: list[int] = []
            rest = k
            for e in reversed(x.shape[:-2]):
                at.insert(0, rest % e)
                rest //= e
            b.gemm(_matrix(a, at, n), _matrix(c, at, n), _matrix(out, at, n))
        self._refs[x] = out

    def _windows(self, b: Builder, x: Array) -> None:
        """Parts stored into one array."""
        out = b.temp(x.op, x.shape)
        if x.op == "pad":
            b.fill(_access(out, self._index(x)), 0.0)
            starts, steps = x.attrs
            self.emit(b, [Output(_part(out, starts, steps, x.args[0].shape), x.args[0], x.args[0])])
        else:
            at, (axis,) = 0, x.attrs
            for part in x.args:
                stop = at + part.shape[axis]
                self.emit(b, [Output(out.narrow(axis, at, stop), part, part)])
                at = stop
        self._refs[x] = out

    def ref_of(self, x: Array) -> Ref | None:
        """Where an array lies in memory, if it is there already or a view on what is."""
        if x in self._refs:
            return self._refs[x]
        if x.op not in ("axes", "window", "reshape"):
            return None
        inner = self.ref_of(x.args[0])
        if inner is None:
            return None
        if x.op == "window":
            return _window(inner, x)
        if x.op == "axes":
            strides = tuple(0 if k is None else inner.strides[k] for k in x.attrs[0])
            return Ref(inner.blob, x.shape, strides, inner.offset)
        found = restride(inner.shape, inner.strides, x.shape)
        return None if found is None else Ref(inner.blob, x.shape, found, inner.offset)


def _totals(values: Sequence[Array]) -> list[Array]:
    """Reductions to one number: what rests on them, and is more than one number, needs a sweep of its own."""
    return [x for x in walk(*values) if x.op in _REDUCING and x.size == 1 and x.args[0].size > 1]


def _window(ref: Ref, x: Array) -> Ref:
    starts, steps = x.attrs
    return _part(ref, starts, steps, x.shape)


def _part(ref: Ref, starts: Sequence[int], steps: Sequence[int], shape: tuple[int, ...]) -> Ref:
    offset = ref.offset + sum(s * t for s, t in zip(starts, ref.strides, strict=True))
    return Ref(ref.blob, shape, tuple(s * t for s, t in zip(steps, ref.strides, strict=True)), offset)


def _matrix(ref: Ref, at: Sequence[int], n: int) -> Ref:
    """One matrix of a stack; axes that broadcast stand still."""
    lead = len(ref.shape) - 2
    mine = at[n - lead :] if lead else []
    steps = [0 if e == 1 else i * s for i, e, s in zip(mine, ref.shape, ref.strides, strict=False)]
    return Ref(ref.blob, ref.shape[-2:], ref.strides[-2:], ref.offset + sum(steps))


def _access(ref: Ref, index: Sequence[Index]) -> Access:
    pairs: list[tuple[Dim, int]] = []
    for i, s in zip(index, ref.strides, strict=True):
        assert isinstance(i, Walk)
        pairs += [(d, t * s) for d, t in i.terms]
    return Access(ref.blob, ref.offset, tuple(pairs))


def _apart(outputs: Sequence[Output]) -> bool:
    """Whether no two outputs go to one blob."""
    return len({o.ref.blob for o in outputs}) == len(outputs)
