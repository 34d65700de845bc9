"""prune-gradients and prune-zero-loss: kernels whose results nobody can see."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lossc.ir import Graph, Map, Node, Pool
from lossc.ir.printer import show_kernel


def _live(graph: Graph) -> set[int]:
    """Kernels that matter: backwards from what outlives a call and what users may look at."""
    wanted = {graph.root(b) for b in graph.observable}
    wanted |= {graph.root(b.name) for b in graph.blobs.values() if b.persistent}
    live: set[int] = set()
    for node in reversed(graph.nodes):
        outputs = {graph.root(w) for w in node.kernel.writes()}
        if not outputs or outputs & wanted:
            live.add(node.id)
            wanted |= {graph.root(r) for r in node.kernel.reads()}
    layers = {graph.node(i).layer for i in live if graph.node(i).kernel.writes()}
    return {i for i in live if graph.node(i).kernel.writes() or graph.node(i).layer in layers}


def _drop(graph: Graph, node: Node, by: str, why: str) -> None:
    made = ", ".join(node.kernel.writes())
    kind = show_kernel(node.kernel).partition(" ")[0].partition("<")[0]
    graph.remark(by, node, f"{node.note or kind}{' of ' if made else ''}{made} removed", why)
    graph.remove(node)


def _trim(graph: Graph) -> bool:
    """Outputs of maps and masks of pools that nobody reads."""
    changed = False
    for node in graph.nodes:
        kernel = node.kernel
        if isinstance(kernel, Map) and len(kernel.stores) > 1:
            kept = tuple(s for s in kernel.stores if not _unused(graph, s.access.blob, node))
            if kept and len(kept) < len(kernel.stores):
                graph.replace(node, replace(kernel, stores=kept))
                changed = True
        elif isinstance(kernel, Pool) and kernel.direction == "forward" and _mask_unused(graph, kernel, node):
            graph.replace(node, replace(kernel, mask=None))
            changed = True
    return changed


def _mask_unused(graph: Graph, kernel: Pool, node: Node) -> bool:
    return kernel.mask is not None and _unused(graph, kernel.mask.blob, node)


def _unused(graph: Graph, blob: str, writer: Node) -> bool:
    """Whether nothing but ``writer`` touches the blob or its memory, now or later."""
    if graph.blobs[blob].persistent or any(b in graph.observable for b in graph.family(blob)):
        return False
    return all(n.id == writer.id for b in graph.family(blob) for n in (*graph.readers(b), *graph.writers(b)))


def _orphans(graph: Graph) -> bool:
    """Blobs that no kernel touches and nobody may look at."""
    changed = False
    parents = {b.view.parent for b in graph.blobs.values() if b.view is not None}
    for name in list(graph.blobs):
        blob = graph.blobs[name]
        if blob.persistent or name in graph.observable or name in parents:
            continue
        if not graph.readers(name) and not graph.writers(name):
            graph.remove_blob(name)
            changed = True
    return changed


@dataclass(frozen=True)
class PruneGradients:
    """Backward kernels whose results nobody needs (frozen layers, stopped branches) -> nothing."""

    name: str = "prune-gradients"

    def run(self, graph: Graph) -> bool:
        live = _live(graph)
        dead = [n for n in graph.section("backward") if n.id not in live]
        for node in dead:
            _drop(graph, node, self.name, "its gradient reaches no parameter and nobody may look at it")
        return bool(dead)


@dataclass(frozen=True)
class PruneZeroLoss:
    """Forward kernels that reach no output, loss or gradient (heads of weight 0 that nobody looks at) -> nothing."""

    name: str = "prune-zero-loss"

    def run(self, graph: Graph) -> bool:
        live = _live(graph)
        dead = [n for n in graph.nodes if n.id not in live]
        for node in dead:
            _drop(graph, node, self.name, "its value reaches no output, no loss and no gradient")
        trimmed = _trim(graph)
        return _orphans(graph) or trimmed or bool(dead)
