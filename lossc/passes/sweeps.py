"""rematerialise and join-sweeps: maps that sum along rows read and write whole blobs as seldom as they can.

A BatchNorm in training, its Scale and its ReLU so become one map forward, which reads the row of a channel once from
memory and again from the cache, and one map backward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lossc.ir import Access, Graph, Map, Node, Store, make_map
from lossc.ir.expr import Expr, Gather, Iota, Load, Op, Reduce, accesses, op, rewrite, walk
from lossc.ir.sweep import classify, is_one_sweep
from lossc.passes.analysis import align, between, coalesce, covers, is_private, rename_dims, roots, space
from lossc.passes.fuse import DEEPEST


@dataclass(frozen=True)
class Rematerialise:
    """What a few numbers of each row give back from a map's operand -> is not stored but computed where it is read."""

    name: str = "rematerialise"

    def run(self, graph: Graph) -> bool:
        changed = False
        for ident in [n.id for n in graph.nodes]:
            kernel = graph.node(ident).kernel
            for store in kernel.stores if isinstance(kernel, Map) and _sums_rows(kernel) else ():
                changed |= _forget(graph, graph.node(ident), store)
        return changed


def _sums_rows(kernel: Map) -> bool:
    return bool(classify(kernel.stores)[1])


def _forget(graph: Graph, node: Node, store: Store) -> bool:
    """No memory for what ``store`` writes: its readers compute it themselves."""
    kernel, name = node.kernel, store.access.blob
    assert isinstance(kernel, Map)
    value = _anew(graph, node, kernel, store)
    if value is None:
        return False
    rest = make_map(s for s in kernel.stores if s.access.blob != name)
    if not is_one_sweep(rest):
        return False
    alone = make_map([Store(store.access, value)])
    fresh: list[tuple[Node, Map]] = []
    for reader in graph.readers(name):
        changed = _reading(reader.kernel, name, alone) if isinstance(reader.kernel, Map) else None
        if changed is None:
            return False
        fresh.append((reader, changed))
    for reader, changed in fresh:
        graph.replace(reader, changed)
    graph.replace(node, rest)
    graph.remove_blob(name)
    why = "its operand does not change any more, and takes no longer to read"
    graph.remark("rematerialise", node, f"{name} is not stored: its readers compute it from the row's sums", why)
    return True


def _anew(graph: Graph, node: Node, kernel: Map, store: Store) -> Expr | None:
    """The stored value out of one whole operand and the numbers that the same map stores for each row."""
    name = store.access.blob
    if store.accumulate or _points(store.access) != space(kernel):
        return None
    if not is_private(graph, name) or not covers(graph, store.access):
        return None
    if [n.id for n in graph.writers(name)] != [node.id] or not any(isinstance(e, Reduce) for e in walk(store.value)):
        return None
    inner = classify(kernel.stores)[1]
    rows = [s for s in kernel.stores if not s.accumulate and not inner & set(s.access.dims)]
    known = {
        s.value: s.access
        for s in rows
        if is_private(graph, s.access.blob) and [n.id for n in graph.writers(s.access.blob)] == [node.id]
    }
    value = _with_loads(store.value, known)
    if any(isinstance(e, (Reduce, Gather, Iota)) for e in walk(value)):
        return None
    whole = [a for a in accesses(value) if set(a.dims) == set(store.access.dims)]
    if len(whole) != 1 or graph.blobs[graph.root(whole[0].blob)].persistent:
        return None
    if set(graph.family(whole[0].blob)) & graph.observable:
        return None
    used = roots(graph, [a.blob for a in accesses(value)])
    at = graph.position()
    later = graph.nodes[at[node.id] + 1 :]
    return None if any(roots(graph, n.kernel.writes()) & used for n in later) else value


def _with_loads(e: Expr, known: dict[Expr, Access]) -> Expr:
    if e in known:
        return Load(known[e])
    return e.rebuild(tuple(_with_loads(c, known) for c in e.children())) if e.children() else e


def _reading(reader: Map, name: str, alone: Map) -> Map | None:
    """The reader with the expression of ``alone`` in place of what that would store in ``name``."""
    values: dict[Access, Expr] = {}
    for a in reader.inputs():
        if a.blob == name:
            aligned = align(alone, alone.stores[0].access, a)
            if aligned is None or set(aligned[0].dims) != set(aligned[1]):
                return None
            values[a] = rename_dims(*aligned).stores[0].value
    if any(isinstance(e, Gather) and e.access.blob == name for s in reader.stores for e in walk(s.value)):
        return None
    return _checked(Store(s.access, _put(s.value, values), s.accumulate) for s in reader.stores)


def _put(root: Expr, values: dict[Access, Expr]) -> Expr:
    return rewrite(root, lambda e: values.get(e.access, e) if isinstance(e, Load) else e)


def _checked(stores: Iterator[Store]) -> Map | None:
    made = make_map(stores)
    return made if is_one_sweep(made) and all(s.value.depth <= DEEPEST for s in made.stores) else None


@dataclass(frozen=True)
class JoinSweeps:
    """A map that sums along rows and a later one over the same points -> one map, which reads a row from memory once.

    Factors that do not vary along a row leave its sums, so that both maps' sums are the same ones.
    """

    name: str = "join-sweeps"

    def run(self, graph: Graph) -> bool:
        changed = False
        while any([_join(graph, ident) for ident in [n.id for n in graph.nodes]]):
            changed = True
        return changed


def _join(graph: Graph, ident: int) -> bool:
    second, at = graph.node(ident), graph.position()
    kernel = second.kernel
    if not isinstance(kernel, Map):
        return False
    size = space(kernel)
    shared = {a.blob for a in kernel.inputs() if size > 1 and _points(a) == size}
    near = {n.id: n for b in shared for n in (*graph.readers(b), *graph.writers(b)) if at[n.id] < at[ident]}
    for first in sorted(near.values(), key=lambda n: -at[n.id]):
        if first.section != second.section or not isinstance(first.kernel, Map):
            continue
        joined = _joined(graph, first.kernel, kernel)
        if joined is not None and _may_run_at(graph, first, second):
            graph.replace(first, joined, note=", ".join(x for x in (first.note, second.note) if x))
            graph.remove(second)
            what = f"{second.note or 'map'} joined with {first.layer} ({first.note or 'map'})"
            graph.remark("join-sweeps", second, what, "its operands are ready by then, and nothing between touches it")
            return True
    return False


def _may_run_at(graph: Graph, first: Node, second: Node) -> bool:
    """Whether ``second`` does the same where ``first`` stands."""
    reads, writes = roots(graph, second.kernel.reads()), roots(graph, second.kernel.writes())
    return not any(
        roots(graph, n.kernel.writes()) & (reads | writes) or roots(graph, n.kernel.reads()) & writes
        for n in between(graph, first, second)
    )


def _joined(graph: Graph, first: Map, second: Map) -> Map | None:
    if space(first) != space(second) or not _sums_rows(first):
        return None
    written = {s.access.blob: s for s in first.stores}
    taken = roots(graph, written)
    if roots(graph, second.writes()) & (taken | roots(graph, first.reads())):
        return None
    if any(graph.root(name) in taken and name not in written for name in second.reads()):
        return None
    renamed = _same_dims(first, second)
    if renamed is None or any(isinstance(e, (Gather, Iota)) for s in renamed.stores for e in walk(s.value)):
        return None
    values: dict[Access, Expr] = {}
    for a in renamed.inputs():
        if a.blob in written:
            made = written[a.blob]
            if made.accumulate or made.access.offset != a.offset or set(made.access.strides) != set(a.strides):
                return None
            values[a] = made.value
    stores = (Store(s.access, _put(s.value, values), s.accumulate) for s in renamed.stores)
    return _checked(Store(s.access, rewrite(s.value, _outside), s.accumulate) for s in (*first.stores, *stores))


def _same_dims(first: Map, second: Map) -> Map | None:
    """The second map in the first one's dimensions, by a blob that both visit point by point."""
    second = coalesce(second)
    mine = {a.blob: a for a in second.inputs() if _points(a) == space(second)}
    for a in (*first.inputs(), *first.outputs()):
        if a.blob in mine and _points(a) == space(first):
            aligned = align(second, mine[a.blob], a)
            if aligned is not None and set(aligned[0].dims) == set(aligned[1]):
                return rename_dims(*aligned)
    return None


def _points(a: Access) -> int:
    return math.prod(d.extent for d in a.dims)


def _outside(e: Expr) -> Expr:
    """sum(a x) -> a sum(x), where a does not vary. Not exact: it rounds otherwise than what was written."""
    if not (isinstance(e, Reduce) and e.kind == "sum" and isinstance(e.arg, Op) and e.arg.name == "mul"):
        return e
    factors = list(_factors(e.arg))
    inside = [f for f in factors if f.varies & set(e.dims)]
    moved = [f for f in factors if not f.varies & set(e.dims)]
    return op("mul", _product(moved), Reduce("sum", _product(inside), e.dims)) if moved else e


def _factors(e: Expr) -> Iterator[Expr]:
    if isinstance(e, Op) and e.name == "mul":
        for a in e.args:
            yield from _factors(a)
    else:
        yield e


def _product(factors: list[Expr]) -> Expr:
    out, *rest = factors
    for f in rest:
        out = op("mul", out, f)
    return out
