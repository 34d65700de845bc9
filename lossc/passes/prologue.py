"""fuse-prologues: element-wise work joins the pooling that takes its result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lossc.ir import Graph, Node, Pool, Ref
from lossc.ir.expr import Acc, Expr, Load, accesses, rewrite
from lossc.passes.analysis import coalesce, roots
from lossc.passes.fuse import absorb, sole_use, value_in


@dataclass(frozen=True)
class FusePrologues:
    """A map whose only use is a pooling that sums up lines -> the pooling's prologue, applied to what windows see.

    Each element is computed once, though several windows see it.
    """

    name: str = "fuse-prologues"

    def run(self, graph: Graph) -> bool:
        changed = False
        for ident in reversed([n.id for n in graph.nodes]):
            node = graph.node(ident)
            found = _fused(graph, node)
            if found is not None:
                user, kernel, name = found
                note = ", ".join(x for x in (node.note, user.note) if x)
                absorb(graph, self.name, node, user, kernel, name, f"the pooling of {user.layer}", note)
                changed = True
        return changed


def _fused(graph: Graph, node: Node) -> tuple[Node, Pool, str] | None:
    """(the pooling that reads the node's result, what it becomes, that result)."""
    found = sole_use(graph, node)
    if found is None:
        return None
    producer, user = found
    kernel, name = user.kernel, producer.stores[0].access.blob
    if not isinstance(kernel, Pool) or not kernel.sums_lines or kernel.source.blob != name:
        return None
    if any(a.blob == name for a in kernel.inputs()[1:]):
        return None
    if roots(graph, kernel.writes()) & roots(graph, producer.reads()):  # windows read on behind what is written
        return None
    seen = kernel.source[kernel.labels]
    value = value_in(coalesce(producer), seen)
    if value is None:
        return None
    source = next((a for a in accesses(value) if set(a.dims) == set(seen.dims)), None)
    if source is None:
        return None
    acc = Acc(seen.dims)
    value = rewrite(value, lambda e: acc if isinstance(e, Load) and e.access == source else e)
    prologue: Expr = value
    if kernel.prologue is not None:
        prologue = rewrite(kernel.prologue, lambda e: value if isinstance(e, Acc) else e)
    steps = {d.name: s for d, s in source.strides}
    strides = tuple(steps.get(x, s) for x, s in zip(kernel.labels, kernel.source.strides, strict=True))
    whole = Ref(source.blob, kernel.source.shape, strides, source.offset)
    kernel = replace(kernel, prologue=prologue)
    return user, replace(kernel, x=whole) if kernel.direction == "forward" else replace(kernel, y=whole), name
