"""join-heads: several losses on one blob in one sweep over memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lossc.ir import Access, Graph, Map, Node, make_map
from lossc.ir.expr import Load, op, walk
from lossc.ir.sweep import is_one_sweep
from lossc.passes.analysis import align, rename_dims, roots, touches_between, writes_between


@dataclass(frozen=True)
class JoinHeads:
    """A gradient added to what a forward map has written -> a sum in that map, which computes the loss's value too."""

    name: str = "join-heads"

    def run(self, graph: Graph) -> bool:
        changed = False
        for back in graph.section("backward"):
            fore = self._join_gradient(graph, back)
            if fore is not None:
                self._join_value(graph, fore, back.layer)
                changed = True
        return changed

    def _join_gradient(self, graph: Graph, back: Node) -> Node | None:
        """The forward map that now writes the sum."""
        kernel = back.kernel
        if not isinstance(kernel, Map) or len(kernel.stores) != 1 or not kernel.accumulates:
            return None
        blob = kernel.stores[0].access.blob
        fore = next((n for n in reversed(graph.section("forward")) if blob in n.kernel.writes()), None)
        if fore is None or not isinstance(fore.kernel, Map) or fore.kernel.accumulates:
            return None
        others = {*kernel.reads()} - {blob}
        if roots(graph, others) & roots(graph, fore.kernel.writes()):
            return None
        if writes_between(graph, others, fore, back) or touches_between(graph, [blob], fore, back):
            return None
        mine = [s.access for s in fore.kernel.stores if s.access.blob == blob]
        if len(mine) != 1:
            return None
        pair = _in_one_space(fore.kernel, mine[0], kernel, kernel.stores[0].access)
        if pair is None or not _shared(*pair):
            return None
        added = pair[1].stores[0]
        stores = [
            replace(s, value=op("add", s.value, added.value)) if s.access == added.access else s
            for s in pair[0].stores
        ]
        joined = make_map(tuple(stores))
        if joined.accumulates or not is_one_sweep(joined):
            return None
        graph.replace(fore, joined)
        graph.remove(back)
        what = f"gradient joined with the sweep of {fore.layer}, which writes the sum"
        graph.remark(self.name, back, what, "all that it needs is known by then, and nothing between touches it")
        return graph.node(fore.id)

    def _join_value(self, graph: Graph, fore: Node, layer: str) -> None:
        """The loss's value joins too, in the later of the two places."""
        assert isinstance(fore.kernel, Map)
        for node in graph.section("forward"):
            kernel = node.kernel
            if node.layer != layer or not isinstance(kernel, Map) or kernel.accumulates or node.id == fore.id:
                continue
            at = graph.position()
            early, late = (node, fore) if at[node.id] < at[fore.id] else (fore, node)
            if writes_between(graph, early.kernel.reads(), early, late):
                continue
            if touches_between(graph, early.kernel.writes(), early, late):
                continue
            if _depend(graph, early, late):
                continue
            joined = _join(fore.kernel, kernel)
            if joined is None:
                continue
            graph.replace(late, joined, note="losses and gradient in one sweep")
            graph.remove(early)
            why = "both read the same blob, and nothing between needs or changes what they read and write"
            graph.remark(self.name, early, f"joined with the map of {late.layer}: one sweep for both losses", why)
            return


def _depend(graph: Graph, early: Node, late: Node) -> bool:
    """Whether one needs what the other writes, or both write the same."""
    first, second = roots(graph, early.kernel.writes()), roots(graph, late.kernel.writes())
    return bool(
        first & roots(graph, late.kernel.reads()) or second & roots(graph, early.kernel.reads()) or first & second
    )


def _join(a: Map, b: Map) -> Map | None:
    """Both in one, where they have read the same numbers, element for element."""
    for x in _whole_loads(a):
        for y in _whole_loads(b):
            if x.blob != y.blob:
                continue
            pair = _in_one_space(a, x, b, y)
            if pair is not None:
                joined = make_map((*pair[0].stores, *pair[1].stores))
                return joined if is_one_sweep(joined) else None
    return None


def _in_one_space(a: Map, at_a: Access, b: Map, at_b: Access) -> tuple[Map, Map] | None:
    """Both over the same dimensions, those of ``at_a`` or else of ``at_b``, which walk one blob."""
    moved = _moved(b, at_b, at_a)
    if moved is not None and set(moved.dims) == set(a.dims):
        return a, moved
    moved = _moved(a, at_a, at_b)
    return (moved, b) if moved is not None and set(moved.dims) == set(b.dims) else None


def _moved(kernel: Map, access: Access, target: Access) -> Map | None:
    aligned = align(kernel, access, target)
    if aligned is None or set(aligned[0].dims) != set(aligned[1]):
        return None
    return rename_dims(*aligned)


def _shared(a: Map, b: Map) -> bool:
    """Whether both read an input element for element."""
    return bool(set(_whole_loads(a)) & set(_whole_loads(b)))


def _whole_loads(kernel: Map) -> list[Access]:
    nodes = [e for s in kernel.stores for e in walk(s.value)]
    found = dict.fromkeys(e.access for e in nodes if isinstance(e, Load))
    return [a for a in found if set(a.dims) == set(kernel.dims)]
