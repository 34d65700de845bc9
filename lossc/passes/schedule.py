"""schedule and plan-memory: the order of the kernels, and where every blob lies."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from lossc.ir import Graph
from lossc.ir.graph import SECTIONS
from lossc.ir.memory import plan_memory
from lossc.passes.analysis import roots


@dataclass(frozen=True)
class Schedule:
    """Kernels -> a topological order, of those that are free always the one that comes first in the source."""

    name: str = "schedule"

    def run(self, graph: Graph) -> bool:
        nodes = graph.nodes
        before: dict[int, set[int]] = {n.id: set() for n in nodes}
        last_write: dict[str, int] = {}
        readers: dict[str, list[int]] = {}
        for n in nodes:
            for r in roots(graph, n.kernel.reads()):
                if r in last_write:
                    before[n.id].add(last_write[r])
                readers.setdefault(r, []).append(n.id)
            for w in roots(graph, n.kernel.writes()):
                before[n.id].update(readers.get(w, []))
                if w in last_write:
                    before[n.id].add(last_write[w])
                last_write[w] = n.id
                readers[w] = []
            before[n.id].discard(n.id)
        _guard(graph, before)
        rank = {n.id: (SECTIONS.index(n.section), k) for k, n in enumerate(nodes)}
        followers: dict[int, list[int]] = {n.id: [] for n in nodes}
        waiting = {i: len(b) for i, b in before.items()}
        for i, b in before.items():
            for p in b:
                followers[p].append(i)
        ready = [(rank[i], i) for i, count in waiting.items() if count == 0]
        heapq.heapify(ready)
        order: list[int] = []
        while ready:
            _, i = heapq.heappop(ready)
            order.append(i)
            for f in followers[i]:
                waiting[f] -= 1
                if waiting[f] == 0:
                    heapq.heappush(ready, (rank[f], f))
        changed = order != [n.id for n in nodes]
        graph.reorder(order)
        return changed


def _guard(graph: Graph, before: dict[int, set[int]]) -> None:
    """A check goes before all that is behind it in its section; one that needs no kernel of it, before the section.

    So bad labels that come from outside stop a pass before anything is written.
    """
    for section in SECTIONS:
        nodes = graph.section(section)
        written: set[str] = set()
        for n in nodes:
            written.update(roots(graph, n.kernel.writes()))
        early = [n for n in nodes if not n.kernel.writes() and not written & set(roots(graph, n.kernel.reads()))]
        first, earlier = {n.id for n in early}, [n.id for n in early]
        for k, check in enumerate(early):
            before[check.id].update(earlier[:k])
        for n in nodes:
            if n.id not in first:
                before[n.id].update(earlier)
                if not n.kernel.writes():
                    earlier.append(n.id)


@dataclass(frozen=True)
class PlanMemory:
    """Blobs -> offsets in one arena, by liveness."""

    name: str = "plan-memory"

    def run(self, graph: Graph) -> bool:
        plan = plan_memory(graph)
        changed = plan != graph.options.get("memory")
        graph.options["memory"] = plan
        return changed
