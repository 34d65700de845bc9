"""The order of a training step: each parameter's update as soon as its gradient is there, still in a cache."""

from __future__ import annotations

from lossc.ir import CheckFinite, CheckLabel, Graph, Node


def step_order(graph: Graph) -> list[Node]:
    """The kernels of the backward pass and of the update. Where backward can be stopped, updates come last."""
    order = graph.section("backward")
    updates = graph.section("update")
    if any(isinstance(node.kernel, (CheckLabel, CheckFinite)) for node in order):
        return [*order, *updates]
    touched = {node.id: _touched(graph, node) for node in (*order, *updates)}
    lasting = {p.blob for p in graph.params} | {p.blob + ".diff" for p in graph.params}
    lasting |= {name for name, blob in graph.blobs.items() if blob.role == "state"}
    for node in updates:
        reads, writes = touched[node.id]
        at = len(order)  # what is not lasting shares its memory with others
        if reads | writes <= lasting:
            while at and not _conflict(touched[order[at - 1].id], (reads, writes)):
                at -= 1
        order.insert(at, node)
    return order


def _touched(graph: Graph, node: Node) -> tuple[set[str], set[str]]:
    """The owners of the memory that a kernel reads, and writes."""
    return {graph.root(b) for b in node.kernel.reads()}, {graph.root(b) for b in node.kernel.writes()}


def _conflict(first: tuple[set[str], set[str]], second: tuple[set[str], set[str]]) -> bool:
    (reads, writes), (later_reads, later_writes) = first, second
    return bool(writes & (later_reads | later_writes) or reads & later_writes)
