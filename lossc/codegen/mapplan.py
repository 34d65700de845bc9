"""How a map becomes loops: which dimensions are rows, which is the vector, what is computed in which stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

from lossc.ir import Access, Dim, Graph, Map, Store
from lossc.ir.blob import BLOCK
from lossc.ir.expr import Const, Expr, Gather, Iota, Load, Op, Reduce, accesses, map_accesses, rewrite, walk
from lossc.ir.sweep import classify


@dataclass(frozen=True)
class Plan:
    """A map over memory owners' addresses, its dimensions merged and sorted.

    ``rows``: dimensions shared out among threads; ``inner``: those that reductions within a row run over; ``vector``:
    the dimension whose points go into one vector, in either group; None where there is no dimension at all.
    ``walk``: where the vector is a block of channels, the positions of a map without such reductions: they are
    ``inner``, so that what varies along the channels alone is there for all of them, and shared out in pieces.
    ``parts``: where the rows are few, each is cut into these, which are shared out too (``mapparts.in_parts``); then
    ``inner`` is what runs within a part.
    ``totals``: reductions to one number for the whole map, finished after all rows. ``streamed``: blobs that are
    written past the caches.
    """

    stores: tuple[Store, ...]
    rows: tuple[Dim, ...]
    inner: tuple[Dim, ...]
    vector: Dim | None
    totals: tuple[Reduce, ...]
    streamed: frozenset[str] = field(default=frozenset())
    walk: Dim | None = None
    parts: tuple[Dim, ...] = ()

    @property
    def vector_in_rows(self) -> bool:
        return self.vector is None or self.vector in self.rows

    @property
    def of_blocks(self) -> bool:
        """Whether each row is a block of channels, side by side in vectors."""
        return self.vector in self.rows and self.vector.extent == BLOCK


#: Tasks that a map should have at least, where it has the points, so that large teams have work.
SHARES = 64
#: Points that one task should have at least, so that sharing out costs little.
TASK_POINTS = 4096
#: From this size on, in bytes, what a map writes would leave the caches before anyone reads it.
STREAM_BYTES = 16 << 20


def plan_map(graph: Graph, kernel: Map, lanes: int, width: int) -> Plan:
    """``lanes`` of a vector, ``width`` of a number in bytes.

    Raises InternalError for maps that one nest of loops cannot compute (the builder must then emit two).
    """
    stores = [Store(_resolve(graph, s.access), _resolve_expr(graph, s.value), s.accumulate) for s in kernel.stores]
    dims = list(kernel.dims)
    totals, inner = classify(stores)
    dims, stores = _merge(dims, stores, inner)
    totals, inner = classify(stores)
    vector = _vector(dims, stores)
    walk = None
    if not inner and len(dims) > 1 and vector == dims[-1] and vector.extent == BLOCK:
        walk = dims[-2]
        inner = frozenset({walk})
    rows = tuple(d for d in dims if d not in inner)
    streamed = _streamed(graph, stores, vector, lanes, width)
    return Plan(tuple(stores), rows, tuple(d for d in dims if d in inner), vector, totals, streamed, walk)


def _streamed(graph: Graph, stores: list[Store], vector: Dim | None, lanes: int, width: int) -> frozenset[str]:
    """Blobs of the arena that the map writes in whole aligned vectors, does not read, and that no cache can hold."""
    elsewhere = {p.blob for p in graph.params}  # it may lie in an array of the caller, which begins anywhere
    read = {a.blob for s in stores for a in accesses(s.value)}
    read |= {s.access.blob for s in stores if s.accumulate}
    out = set()
    for s in stores:
        a = s.access
        aligned = all(x % lanes == 0 for x in (a.offset, *(x for d, x in a.strides if d != vector)))
        large = points(tuple(a.dims)) * width >= STREAM_BYTES
        if vector is not None and a.stride(vector) == 1 and aligned and large and a.blob not in read | elsewhere:
            out.add(a.blob)
    return frozenset(out)


def _resolve(graph: Graph, a: Access) -> Access:
    root, offset, strides = graph.resolve(a.blob, a.offset, [(d.extent, s) for d, s in a.strides])
    return Access(root, offset, tuple((d, s) for (d, _), s in zip(a.strides, strides, strict=True)))


def _resolve_expr(graph: Graph, e: Expr) -> Expr:
    def one(x: Expr) -> Expr:
        if isinstance(x, Load):
            return Load(_resolve(graph, x.access))
        if isinstance(x, Gather):
            pick = Dim("@pick", x.extent)
            wide = _resolve(graph, replace(x.access, strides=(*x.access.strides, (pick, x.stride))))
            rest = tuple(p for p in wide.strides if p[0] != pick)
            return Gather(replace(wide, strides=rest), x.index, wide.stride(pick), x.extent)
        return x

    return rewrite(e, one)


def _merge(dims: list[Dim], stores: list[Store], inner: frozenset[Dim]) -> tuple[list[Dim], list[Store]]:
    """Neighbouring dimensions that every access walks as one become one."""
    k = 0
    while k + 1 < len(dims):
        a, b = dims[k], dims[k + 1]
        if not _mergeable(a, b, stores, inner):
            k += 1
            continue
        joined = Dim(a.name + b.name, a.extent * b.extent)

        def join(x: Access, a: Dim = a, b: Dim = b, joined: Dim = joined) -> Access:
            pairs = [(joined, s) if d == b else (d, s) for d, s in x.strides if d != a]
            return replace(x, strides=tuple(pairs))

        def change(e: Expr, a: Dim = a, b: Dim = b, joined: Dim = joined) -> Expr:
            if isinstance(e, Reduce) and b in e.dims:
                rest = [joined if d == b else d for d in e.dims if d != a]
                return Reduce(e.kind, e.arg, tuple(sorted(rest)))
            return e

        stores = [
            Store(join(s.access), rewrite(map_accesses(s.value, join), change), s.accumulate) for s in stores
        ]
        dims = [*dims[:k], joined, *dims[k + 2 :]]
        inner = frozenset(joined if d == b else d for d in inner if d != a)
        k = max(k - 1, 0)
    return dims, stores


def _mergeable(a: Dim, b: Dim, stores: list[Store], inner: frozenset[Dim]) -> bool:
    if (a in inner) != (b in inner):
        return False
    for s in stores:
        for x in (s.access, *accesses(s.value)):
            if (a in x.dims) != (b in x.dims) or x.stride(a) != x.stride(b) * b.extent:
                return False
        for e in walk(s.value):
            if isinstance(e, Iota) and e.dim in (a, b):
                return False
            if isinstance(e, Reduce) and (a in e.dims) != (b in e.dims):
                return False
            if (a in e.varies) != (b in e.varies):
                return False
    return True


def _vector(dims: list[Dim], stores: list[Store]) -> Dim | None:
    """The dimension along which most accesses are contiguous; of equals the last."""
    best, chosen = -(10**9), None
    for d in dims:
        score = 0
        for s in stores:
            for x in (s.access, *accesses(s.value)):
                stride = abs(x.stride(d))
                score += 4 if stride == 1 else -3 if stride > 1 else 0
        score -= 8 if d.extent < 4 else 0
        if score >= best:
            best, chosen = score, d
    return chosen


def centred(e: Expr) -> tuple[Expr, Reduce] | None:
    """(x, its sum) of a sum of squared differences between x and its mean."""
    if not (isinstance(e, Reduce) and e.kind == "sum" and isinstance(e.arg, Op) and e.arg.name == "mul"):
        return None
    apart, same = e.arg.args
    if apart != same or not (isinstance(apart, Op) and apart.name == "sub"):
        return None
    x, mean = apart.args
    if not (isinstance(mean, Op) and mean.name == "div" and mean.args[0] == Reduce("sum", x, e.dims)):
        return None
    total, count = mean.args
    if not (isinstance(count, Const) and count.scalar.value("f64") == points(e.dims)):
        return None
    assert isinstance(total, Reduce)
    return x, total


def points(dims: tuple[Dim, ...]) -> int:
    return prod(d.extent for d in dims)
