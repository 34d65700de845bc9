"""Questions that passes ask of a graph: who touches which memory between two points of the program."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from lossc.ir import Access, Dim, Graph, Map, Node, Store
from lossc.ir.expr import Expr, Iota, Reduce, accesses, map_accesses, op, rewrite, walk

#: For dimensions of a map: the dimensions that replace them, with the step of each.
Split = dict[Dim, tuple[tuple[Dim, int], ...]]


def roots(graph: Graph, names: Iterable[str]) -> set[str]:
    return {graph.root(n) for n in names}


def between(graph: Graph, first: Node, second: Node) -> list[Node]:
    """The kernels after ``first`` and before ``second`` in program order."""
    at = graph.position()
    return graph.nodes[at[first.id] + 1 : at[second.id]]


def writes_between(graph: Graph, names: Iterable[str], first: Node, second: Node) -> bool:
    wanted = roots(graph, names)
    return any(roots(graph, n.kernel.writes()) & wanted for n in between(graph, first, second))


def touches_between(graph: Graph, names: Iterable[str], first: Node, second: Node) -> bool:
    wanted = roots(graph, names)
    return any(
        roots(graph, (*n.kernel.reads(), *n.kernel.writes())) & wanted for n in between(graph, first, second)
    )


def covers(graph: Graph, access: Access) -> bool:
    """Whether the access visits every element of its blob, each once."""
    size, step = graph.blobs[access.blob].size, 1
    for d, s in sorted(access.strides, key=lambda p: p[1]):
        if s != step:
            return False
        step *= d.extent
    return step == size and access.offset == 0


def is_private(graph: Graph, name: str) -> bool:
    """A temporary that nobody may look at and that shares its memory with no other blob."""
    blob = graph.blobs[name]
    return not blob.persistent and name not in graph.observable and graph.family(name) == [name]


def split_dim(kernel: Map, dim: Dim, inner: int) -> tuple[Map, Dim, Dim]:
    """The same map with one dimension as two: (outer, inner), the inner one of that extent."""
    taken = {d.name for d in kernel.dims}
    letters = (c for c in "uvwxyzabcdefghijklmnopqrstUVWXYZABCDEFGHIJKLMNOPQRST" if c not in taken)
    outer_dim, inner_dim = Dim(next(letters), dim.extent // inner), Dim(next(letters), inner)
    mapping: Split = {dim: ((outer_dim, inner), (inner_dim, 1))}

    def access(a: Access) -> Access:
        return a.with_dims(mapping)

    def change(e: Expr) -> Expr:
        if isinstance(e, Iota) and e.dim == dim:
            return op("add", op("mul", Iota(outer_dim), float(inner)), Iota(inner_dim))
        if isinstance(e, Reduce) and dim in e.dims:
            rest = [d for d in e.dims if d != dim]
            return Reduce(e.kind, e.arg, tuple(sorted([*rest, outer_dim, inner_dim])))
        return e

    stores = tuple(
        Store(access(s.access), rewrite(map_accesses(s.value, access), change), s.accumulate) for s in kernel.stores
    )
    at = kernel.dims.index(dim)
    return Map(stores, (*kernel.dims[:at], outer_dim, inner_dim, *kernel.dims[at + 1 :])), outer_dim, inner_dim


def coalesce(kernel: Map) -> Map:
    """The same map with as few dimensions as its accesses admit: two that every access walks as one become one."""
    for outer in kernel.dims:
        for inner in kernel.dims:
            if outer != inner and _walk_as_one(kernel, outer, inner):
                return coalesce(_merged(kernel, outer, inner))
    return kernel


def _walk_as_one(kernel: Map, outer: Dim, inner: Dim) -> bool:
    used = [s.access for s in kernel.stores] + [a for s in kernel.stores for a in accesses(s.value)]
    if any(a.stride(outer) != a.stride(inner) * inner.extent for a in used):
        return False
    nodes = [e for s in kernel.stores for e in walk(s.value)]
    return not any(
        (isinstance(e, Iota) and e.dim in (outer, inner))
        or (isinstance(e, Reduce) and (outer in e.dims) != (inner in e.dims))
        for e in nodes
    )


def _merged(kernel: Map, outer: Dim, inner: Dim) -> Map:
    one = Dim(outer.name, outer.extent * inner.extent)

    def access(a: Access) -> Access:
        strides = ((one, a.stride(inner)) if d == outer else (d, s) for d, s in a.strides if d != inner)
        return replace(a, strides=tuple(strides))

    def change(e: Expr) -> Expr:
        if isinstance(e, Reduce) and outer in e.dims:
            return Reduce(e.kind, e.arg, tuple(sorted(one if d == outer else d for d in e.dims if d != inner)))
        return e

    stores = tuple(
        Store(access(s.access), rewrite(map_accesses(s.value, access), change), s.accumulate) for s in kernel.stores
    )
    return Map(stores, tuple(one if d == outer else d for d in kernel.dims if d != inner))


def rename_dims(kernel: Map, mapping: dict[Dim, Dim]) -> Map:
    """The same map with dimensions under other names (of the same extent)."""
    pairs: Split = {d: ((n, 1),) for d, n in mapping.items()}

    def access(a: Access) -> Access:
        return a.with_dims(pairs)

    def change(e: Expr) -> Expr:
        if isinstance(e, Iota) and e.dim in mapping:
            return Iota(mapping[e.dim])
        if isinstance(e, Reduce):
            return Reduce(e.kind, e.arg, tuple(sorted(mapping.get(d, d) for d in e.dims)))
        return e

    stores = tuple(
        Store(access(s.access), rewrite(map_accesses(s.value, access), change), s.accumulate) for s in kernel.stores
    )
    return Map(stores, tuple(mapping.get(d, d) for d in kernel.dims))


def align(kernel: Map, access: Access, target: Access) -> tuple[Map, dict[Dim, Dim]] | None:
    """Split the map's dimensions so that ``access``, one of its own, walks its blob in the same steps as ``target``.

    Returns the split map and {its dimension: target's dimension}; None where the two cannot be brought together.
    """
    if access.offset != target.offset:
        return None
    mapping: dict[Dim, Dim] = {}
    wanted = sorted(target.strides, key=lambda p: p[1])
    have = sorted(access.strides, key=lambda p: p[1])
    i = j = 0
    while i < len(have) and j < len(wanted):
        (d, s), (t, ts) = have[i], wanted[j]
        if s != ts:
            return None
        if d.extent == t.extent:
            mapping[d] = t
            i, j = i + 1, j + 1
        elif d.extent > t.extent and d.extent % t.extent == 0:
            kernel, outer, inner = split_dim(kernel, d, t.extent)
            mapping[inner] = t
            have[i] = (outer, s * t.extent)
            j += 1
        else:
            return None
    if i < len(have) or j < len(wanted):
        return None
    return kernel, mapping


def space(kernel: Map) -> int:
    """How many points a map visits."""
    return math.prod(d.extent for d in kernel.dims)
