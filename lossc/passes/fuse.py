"""fuse-maps and fuse-epilogues: element-wise work joins the kernel that makes or takes its operand."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lossc.ir import Access, Conv, Gemm, Graph, Kernel, Map, Node, Pool, Ref, Store, make_map
from lossc.ir.expr import Acc, Expr, Gather, Iota, Load, Reduce, accesses, rewrite, walk
from lossc.ir.kernels import epilogue_labels, is_copy
from lossc.ir.sweep import is_one_sweep
from lossc.passes.analysis import (
    align,
    between,
    coalesce,
    covers,
    is_private,
    rename_dims,
    roots,
    space,
    touches_between,
    writes_between,
)

#: Kernels that take maps as epilogues; of poolings those that sum up lines.
Fused = Gemm | Conv | Pool
#: Operations of a map that may follow each other: a longer function of C would not be faster, and compile slowly.
DEEPEST = 120


@dataclass(frozen=True)
class FuseMaps:
    """A map whose only use is one other map -> its expression inside that map; the blob between them dies."""

    name: str = "fuse-maps"

    def run(self, graph: Graph) -> bool:
        changed = False
        for ident in [n.id for n in graph.nodes]:
            node = graph.node(ident)
            fused = _fuse(graph, node)
            if fused is not None:
                consumer, kernel, name = fused
                absorb(graph, self.name, node, consumer, kernel, name, _called(consumer))
                changed = True
        return changed


def absorb(
    graph: Graph, by: str, node: Node, user: Node, kernel: Kernel, result: str, into: str, note: str | None = None
) -> None:
    """Puts the kernel, which does the node's work too, in its user's place: the node and its result are no more. ``by``
    and ``into``: the pass and the user, as users read of them."""
    graph.replace(user, kernel, note)
    why = "nothing else reads its result, and its operands do not change in between"
    graph.remark(by, node, f"{node.note or 'map'} fused into {into}", why)
    graph.remove(node)
    graph.remove_blob(result)


def _fuse(graph: Graph, node: Node) -> tuple[Node, Map, str] | None:
    found = sole_use(graph, node)
    if found is None or not isinstance(found[1].kernel, Map):
        return None
    producer, consumer = found
    name, target = producer.stores[0].access.blob, consumer.kernel
    assert isinstance(target, Map)
    loads = {a for s in target.stores for a in accesses(s.value) if a.blob == name}
    if any(isinstance(e, Gather) and e.access.blob == name for s in target.stores for e in walk(s.value)):
        return None
    if len(loads) != 1 or name in target.writes() or space(target) != graph.blobs[name].size:
        return None
    if set(target.writes()) & set(producer.reads()):
        return None
    value = value_in(producer, loads.pop())
    if value is None:
        return None
    stores = tuple(Store(s.access, _substitute(s.value, name, value), s.accumulate) for s in target.stores)
    if any(s.value.depth > DEEPEST for s in stores):
        return None
    fused = make_map(stores)
    return (consumer, fused, name) if is_one_sweep(fused) else None


def sole_use(graph: Graph, node: Node) -> tuple[Map, Node] | None:
    """A map that stores one value, point by point, all over a temporary, and the only kernel that reads it, if nothing
    in between changes what the map reads."""
    producer = node.kernel
    if not isinstance(producer, Map) or len(producer.stores) != 1 or producer.accumulates:
        return None
    store = producer.stores[0]
    name = store.access.blob
    if not is_private(graph, name) or not covers(graph, store.access) or len(graph.writers(name)) != 1:
        return None
    if any(isinstance(e, (Reduce, Gather, Iota)) for e in walk(store.value)):
        return None
    readers = graph.readers(name)
    if len(readers) != 1 or readers[0].section != node.section:
        return None
    return None if writes_between(graph, producer.reads(), node, readers[0]) else (producer, readers[0])


def value_in(producer: Map, load: Access) -> Expr | None:
    """The producer's expression in the dimensions in which the consumer reads it."""
    aligned = align(producer, producer.stores[0].access, load)
    if aligned is None:
        return None
    kernel, mapping = aligned
    if set(kernel.dims) != set(mapping):
        return None
    return rename_dims(kernel, mapping).stores[0].value


def _substitute(root: Expr, name: str, value: Expr) -> Expr:
    return rewrite(root, lambda e: value if isinstance(e, Load) and e.access.blob == name else e)


@dataclass(frozen=True)
class FuseEpilogues:
    """A map over a contraction's result -> the contraction's epilogue, applied while the tile is in registers.

    A pooling that sums up lines has epilogues too, and then takes maps of several outputs.
    """

    name: str = "fuse-epilogues"

    def run(self, graph: Graph) -> bool:
        changed = False
        for ident in [n.id for n in graph.nodes if isinstance(n.kernel, Fused)]:
            while _absorb(graph, graph.node(ident)):
                changed = True
        return changed


def _absorb(graph: Graph, node: Node) -> bool:
    kernel = node.kernel
    assert isinstance(kernel, Fused)
    if isinstance(kernel, Pool) and not kernel.sums_lines:
        return False
    out = kernel.out
    if kernel.accumulate or graph.blobs[out.blob].size != out.size or not out.is_contiguous:
        return False
    user = _next_user(graph, node, out.blob)
    if user is None or not isinstance(user.kernel, Map):
        return False
    value = user.kernel
    store = value.stores[0]
    if len(value.stores) > 1 and (not isinstance(kernel, Pool) or value.accumulates):
        return False
    in_place = store.access.blob == out.blob
    if in_place and not store.accumulate:
        return False
    if not in_place and not _only_reader(graph, node, user, out.blob):
        return False
    if any(isinstance(e, (Reduce, Gather, Iota)) for s in value.stores for e in walk(s.value)):
        return False
    if set(roots(graph, value.reads())) & {graph.root(out.blob)} != {graph.root(out.blob)}:
        return False
    others = [r for r in value.reads() if r != out.blob]
    earlier = _to_run_before(graph, node, user, others)
    if earlier is None:  # the operands must be ready when the contraction runs
        return False
    if not in_place and (store.accumulate or touches_between(graph, value.writes(), node, user)):
        return False
    built = _epilogue(graph, kernel, value, in_place)
    if built is None:
        return False
    fresh = _with(kernel, *built)
    if isinstance(fresh, Pool) and roots(graph, fresh.reads()) & roots(graph, fresh.writes()):
        return False  # its windows read on behind what is written
    if earlier:
        moved = {n.id for n in earlier}
        rest = [n.id for n in graph.nodes if n.id not in moved]
        at = rest.index(node.id)
        graph.reorder([*rest[:at], *(n.id for n in earlier), *rest[at:]])
    graph.replace(node, fresh, note=_joined(node.note, user.note))
    why = "it is the next to use the result, element by element, and its operands are ready"
    graph.remark("fuse-epilogues", user, f"{user.note or 'map'} fused into the epilogue of {_called(node)}", why)
    graph.remove(user)
    if not in_place:
        graph.remove_blob(out.blob)
    return True


def _to_run_before(graph: Graph, node: Node, user: Node, operands: list[str]) -> list[Node] | None:
    """The maps between the two that compute the operands, if they can as well run before the first; None if not.

    So the statistics of a BatchNorm, which its layer computes after the convolution that it normalises, are there when
    the convolution's tiles are.
    """
    needed, moved, stay = roots(graph, operands), list[Node](), list[Node]()
    for n in reversed(between(graph, node, user)):
        if roots(graph, n.kernel.writes()) & needed:
            moved.insert(0, n)
            needed |= roots(graph, n.kernel.reads())
        else:
            stay.append(n)
    passed = [(roots(graph, n.kernel.reads()), roots(graph, n.kernel.writes())) for n in (node, *stay)]
    for n in moved:
        reads, writes = roots(graph, n.kernel.reads()), roots(graph, n.kernel.writes())
        if not isinstance(n.kernel, Map) or n.section != node.section:
            return None
        if any(reads & theirs or writes & (used | theirs) for used, theirs in passed):
            return None
    return moved


def _called(node: Node) -> str:
    return f"{node.layer} ({node.note or node.kernel.kind})"


def _joined(a: str, b: str) -> str:
    return ", ".join(x for x in (a, b) if x)


def _next_user(graph: Graph, node: Node, blob: str) -> Node | None:
    family = set(graph.family(blob))
    at = graph.position()[node.id]
    for n in graph.nodes[at + 1 :]:
        if family & {*n.kernel.reads(), *n.kernel.writes()}:
            return n if n.section == node.section else None
    return None


def _only_reader(graph: Graph, node: Node, user: Node, blob: str) -> bool:
    return (
        is_private(graph, blob)
        and [n.id for n in graph.writers(blob)] == [node.id]
        and [n.id for n in graph.readers(blob)] == [user.id]
    )


def _epilogue(graph: Graph, kernel: Fused, value: Map, in_place: bool) -> tuple[Expr, Ref, tuple[Store, ...]] | None:
    """(expression over the result's own dimensions, where it now goes, what the map stores beside it)."""
    out = kernel.out
    labels = epilogue_labels(out)
    target = out[labels]
    value = coalesce(value)
    if space(value) != out.size:
        return None
    if in_place:
        mine = value.stores[0].access
    else:
        loads = {a for a in value.inputs() if a.blob == out.blob}
        if len(loads) != 1:
            return None
        mine = loads.pop()
    aligned = align(value, mine, target)
    if aligned is None:
        return None
    split, mapping = aligned
    if set(split.dims) != set(mapping):
        return None
    store, *rest = rename_dims(split, mapping).stores
    acc: Expr = kernel.epilogue if kernel.epilogue is not None else Acc(tuple(target.dims))
    if in_place:
        expr: Expr = acc + store.value
        place = out
    else:
        expr = _substitute(store.value, out.blob, acc)
        where = _place(kernel, store.access, target)
        if where is None or (is_copy(value) and where.size < graph.blobs[where.blob].size):
            return None  # a mere copy into a part is left to elide-copies, which keeps the blob and its name
        place = where
    if any(_place(kernel, s.access, target) is None for s in rest):
        return None
    more = tuple(Store(s.access, _substitute(s.value, out.blob, acc)) for s in rest)
    fits = all(_simple(graph, kernel, e, labels) for e in (expr, *(s.value for s in more)))
    return (expr, place, more) if fits else None


def _place(kernel: Fused, store: Access, target: Access) -> Ref | None:
    """The result where the map stores it, such as a part of a concatenation: an image's planes in one piece."""
    out, dims = kernel.out, {d.name: d for d in target.dims}
    labels = epilogue_labels(out)
    planes = [dims[x] for x in labels[2:] if x in dims] if not isinstance(kernel, Gemm) else []
    if any(store.stride(d) != target.stride(d) for d in planes):
        return None
    strides = [store.stride(dims[x]) if x in dims else step for x, step in zip(labels, out.strides, strict=True)]
    return Ref(store.blob, out.shape, tuple(strides), store.offset)


def _simple(graph: Graph, kernel: Fused, expr: Expr, labels: str) -> bool:
    """Every operand can be read in the result's dimensions, and in a convolution varies along the channel only, or is
    laid out like the result's planes."""
    for a in accesses(expr):
        if graph.try_resolve(a.blob, a.offset, [(d.extent, s) for d, s in a.strides]) is None:
            return False
    if not isinstance(kernel, Conv):
        return True
    shape = kernel.out.shape[2:]
    for a in accesses(expr):
        _, _, real = graph.resolve(a.blob, a.offset, [(d.extent, s) for d, s in a.strides])
        strides = {d.name: s for (d, _), s in zip(a.strides, real, strict=True)}
        spatial = [strides.get(x, 0) for x in labels[2:]]
        if any(spatial):
            step = 1
            for extent, stride in zip(reversed(shape), reversed(spatial), strict=True):
                if extent != 1 and stride != step:
                    return False
                step *= extent
    return True


def _with(kernel: Fused, epilogue: Expr, place: Ref, more: tuple[Store, ...]) -> Fused:
    if isinstance(kernel, Gemm):
        return replace(kernel, epilogue=epilogue, c=place)
    if isinstance(kernel, Pool):
        fresh = replace(kernel, epilogue=epilogue, more=(*kernel.more, *more))
        return replace(fresh, y=place) if kernel.direction == "forward" else replace(fresh, x=place)
    slot = {"forward": "y", "bwd_data": "x", "bwd_weights": "w"}[kernel.direction]
    changes: dict[str, object] = {"epilogue": epilogue, slot: place}
    return replace(kernel, **changes)  # type: ignore[arg-type]
