"""join-loss: a loss and its gradient in one sweep over memory."""

from __future__ import annotations

from dataclasses import dataclass

from lossc.ir import Access, Graph, Map, Node, make_map
from lossc.ir.expr import Load, walk
from lossc.ir.sweep import is_one_sweep
from lossc.passes.analysis import touches_between, writes_between


@dataclass(frozen=True)
class JoinLoss:
    """A layer's forward map and a backward map whose inputs are known by then -> one map, run in the forward pass."""

    name: str = "join-loss"

    def run(self, graph: Graph) -> bool:
        changed = False
        for back in graph.section("backward"):
            fore = self._partner(graph, back)
            if fore is None:
                continue
            assert isinstance(fore.kernel, Map) and isinstance(back.kernel, Map)
            joined = make_map((*fore.kernel.stores, *back.kernel.stores))
            if not is_one_sweep(joined):
                continue
            graph.replace(fore, joined, note="loss and gradient in one sweep")
            graph.remove(back)
            why = "all that the gradient needs is known when the loss is computed, and nothing between touches it"
            graph.remark(self.name, back, "joined with the forward map: loss and gradient in one sweep", why)
            changed = True
        return changed

    def _partner(self, graph: Graph, back: Node) -> Node | None:
        kernel = back.kernel
        if not isinstance(kernel, Map) or kernel.accumulates:
            return None
        for fore in graph.section("forward"):
            if fore.layer != back.layer or not isinstance(fore.kernel, Map) or fore.kernel.accumulates:
                continue
            if not _same_space(fore.kernel, kernel):
                continue
            if any(graph.root(r) == graph.root(w) for r in kernel.reads() for w in fore.kernel.writes()):
                continue
            if not writes_between(graph, kernel.reads(), fore, back) and not touches_between(
                graph, kernel.writes(), fore, back
            ):
                return fore
        return None


def _same_space(a: Map, b: Map) -> bool:
    """The same dimensions, and an input that both read element for element."""
    if set(a.dims) != set(b.dims):
        return False
    shared = _loads(a) & _loads(b)
    return any(set(x.dims) == set(a.dims) for x in shared)


def _loads(kernel: Map) -> set[Access]:
    return {e.access for s in kernel.stores for e in walk(s.value) if isinstance(e, Load)}
