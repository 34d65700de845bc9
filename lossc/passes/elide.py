"""elide-copies: a copy between two blobs -> one blob is a window on the other."""

from __future__ import annotations

from dataclasses import dataclass

from lossc.ir import Access, Blob, Conv, Graph, Node, Pool, Ref, View
from lossc.ir.kernels import is_copy
from lossc.ir.windows import overlap
from lossc.passes.analysis import covers


@dataclass(frozen=True)
class ElideCopies:
    """A copy into a part of a blob (concat) -> the source is written there; a copy out of one (slice) -> a window."""

    name: str = "elide-copies"

    def run(self, graph: Graph) -> bool:
        changed = False
        for node in graph.nodes:
            pair = is_copy(node.kernel)
            if pair is not None and (_source_into(graph, node, *pair) or _window_on(graph, node, *pair)):
                changed = True
        return changed


def _plain(graph: Graph, name: str) -> bool:
    blob = graph.blobs[name]
    return not blob.persistent and graph.family(name) == [name]


def _source_into(graph: Graph, node: Node, into: Access, source: Access) -> bool:
    """The source lies in the destination from the start: all its writers come before, and nobody else writes there."""
    if not (_plain(graph, source.blob) and covers(graph, source)) or graph.root(into.blob) == source.blob:
        return False
    if graph.blobs[graph.root(into.blob)].persistent:
        return False
    at = graph.position()
    if any(at[w.id] > at[node.id] for w in graph.writers(source.blob)):
        return False
    region = _view(graph, source.blob, source, into)
    family = graph.family(into.blob)
    for b in family:
        for w in graph.writers(b):
            if w.id != node.id and any(o.blob == b and overlap(graph, o, into) for o in w.kernel.outputs()):
                return False
    first = min((at[w.id] for w in graph.writers(source.blob)), default=0)
    for b in family:  # nobody reads that memory for another purpose while the source is alive before the copy
        if any(first <= at[r.id] < at[node.id] for r in graph.readers(b)):
            return False
    what, why = f"{source.blob} lies in {into.blob}", "it is written there at once, and nobody else writes that part"
    return region is not None and _adopt(graph, node, source.blob, region, what, why)


def _window_on(graph: Graph, node: Node, into: Access, source: Access) -> bool:
    """The destination is a window on the source: only this copy writes it, and the source never changes afterwards."""
    if not (_plain(graph, into.blob) and covers(graph, into)) or graph.root(source.blob) == into.blob:
        return False
    if [w.id for w in graph.writers(into.blob)] != [node.id] or graph.blobs[graph.root(source.blob)].role == "input":
        return False
    at = graph.position()
    if any(at[w.id] > at[node.id] for b in graph.family(source.blob) for w in graph.writers(b)):
        return False
    if graph.blobs[graph.root(source.blob)].persistent:
        return False
    region = _view(graph, into.blob, into, source)
    what, why = f"{into.blob} is a window on {source.blob}", "the source never changes again"
    return region is not None and _adopt(graph, node, into.blob, region, what, why)


def _view(graph: Graph, name: str, mine: Access, other: Access) -> View | None:
    """Blob ``name`` as a window on the other access's blob: a stride for each of its axes."""
    blob: Blob = graph.blobs[name]
    full = Ref.whole(blob)
    strides = []
    for extent, step in zip(full.shape, full.strides, strict=True):
        if extent == 1:
            strides.append(0)
            continue
        dim = next((d for d, s in mine.strides if s <= step and (step // s) * s == step and step // s < d.extent), None)
        if dim is None:
            return None
        factor = step // mine.stride(dim)
        if (extent - 1) * factor >= dim.extent:
            return None
        strides.append(other.stride(dim) * factor)
    return View(other.blob, other.offset, tuple(strides))


def _adopt(graph: Graph, node: Node, name: str, view: View, what: str, why: str) -> bool:
    old = graph.blobs[name]
    graph.set_view(name, view)
    if not all(_fits(graph, n, b) for b in graph.family(name) for n in (*graph.readers(b), *graph.writers(b))):
        graph.set_view(name, old.view)
        return False
    graph.remove(node)
    graph.remark("elide-copies", node, f"copy elided: {what}", why)
    return True


def _fits(graph: Graph, node: Node, name: str) -> bool:
    """Whether a kernel can address the blob where it lies now."""
    kernel = node.kernel
    for operand in (*kernel.inputs(), *kernel.outputs()):
        pairs = (
            [(d.extent, s) for d, s in operand.strides]
            if isinstance(operand, Access)
            else list(zip(operand.shape, operand.strides, strict=True))
        )
        found = graph.try_resolve(operand.blob, operand.offset, pairs)
        if found is None:
            return False
        if isinstance(kernel, Pool) and isinstance(operand, Access) and operand in kernel.outputs():
            columns = (s for d, s in zip(operand.dims, found[2], strict=True) if d.name == kernel.labels[-1])
            if any(s != 1 for s in columns):
                return False
        if isinstance(kernel, (Conv, Pool)) and isinstance(operand, Ref):
            step = 1
            for extent, stride in zip(reversed(operand.shape[2:]), reversed(found[2][2:]), strict=True):
                if extent != 1 and stride != step:
                    return False
                step *= extent
            if isinstance(kernel, Pool) and kernel.mask is operand and operand.blob == name:
                return False
            if isinstance(kernel, Conv) and operand is kernel.w and operand.blob == name:
                return False
    return True
