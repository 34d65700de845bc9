"""Which maps one nest of loops can compute: the shape that builders, passes and code generation agree on."""

from __future__ import annotations

from collections.abc import Sequence

from lossc.errors import InternalError
from lossc.ir.blob import Dim
from lossc.ir.expr import Expr, Gather, Load, Reduce, walk
from lossc.ir.kernels import Map, Store


def classify(stores: Sequence[Store]) -> tuple[tuple[Reduce, ...], frozenset[Dim]]:
    """(reductions to one number for the whole map, dimensions that reductions within a row run over)."""
    inner: set[Reduce] = set()
    seen: dict[Reduce, None] = {}
    for s in stores:
        feeds: dict[Expr, set[Reduce]] = {}
        for e in walk(s.value):
            below = set().union(*(feeds[c] for c in e.children()))
            if e.varies:
                inner |= below
            if isinstance(e, Reduce):
                seen.setdefault(e)
                below = below | {e}
                if e.varies:
                    inner.add(e)
            feeds[e] = below
        if s.access.dims:
            inner |= feeds[s.value]
    dims = frozenset(d for r in inner for d in r.dims)
    for r in inner:
        if r.varies & dims:
            raise InternalError("a reduction within a row whose value varies within the row needs a map of its own")
    return tuple(r for r in seen if r not in inner), dims


def is_one_sweep(kernel: Map) -> bool:
    """Whether one nest of loops computes the map: rows, reductions within a row, and totals over all of it."""
    try:
        totals, inner = classify(kernel.stores)
    except InternalError:
        return False
    rows = frozenset(kernel.dims) - inner
    if reads_what_is_gone(kernel):
        return False
    for s in kernel.stores:
        if s.accumulate and s.access.dims and not rows <= set(s.access.dims):
            return False  # it would be added once for each row that the store does not tell apart
        for e in walk(s.value):
            if isinstance(e, Reduce):
                spans = {rows, rows | inner} if e in totals else {inner}
                if frozenset(e.dims) not in spans:
                    return False
    return True


def reads_what_is_gone(kernel: Map) -> bool:
    """Whether a store needs a value that another one overwrites, maybe in an earlier loop: reductions make several."""
    nodes = [list(walk(s.value)) for s in kernel.stores]
    if not any(isinstance(e, Reduce) for each in nodes for e in each):
        return False
    return any(
        isinstance(e, (Load, Gather)) and other is not s and e.access.blob == other.access.blob
        for s, each in zip(kernel.stores, nodes, strict=True)
        for e in each
        for other in kernel.stores
    )
