"""Memory planning: every blob gets an offset in one arena; temporaries whose lives do not overlap share it."""

from __future__ import annotations

from dataclasses import dataclass

from lossc.ir import Graph
from lossc.ir.blob import WIDTHS

#: Offsets are multiples of this many reals: a cache line of floats.
ALIGN = 16


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets in reals of every blob that owns memory, parameters aside (they are reached by pointers)."""

    offsets: dict[str, int]
    size: int
    param_offsets: dict[str, int]
    param_size: int
    lower_bound: int


def brought(graph: Graph) -> list[str]:
    """The blobs whose memory the caller brings to each call, where the graph is told so (option "brought").

    The inputs, then those of their gradients that are kept, each in the inputs' order. Inputs may begin anywhere;
    gradients of 1 MiB and more must begin on a cache line, since they may be written past the caches.
    """
    if not graph.options.get("brought"):
        return []
    diffs = [graph.diff_of[i] for i in graph.inputs if i in graph.diff_of and graph.diff_of[i] in graph.observable]
    return [graph.data_of[i] for i in graph.inputs] + diffs


def aligned(size: int) -> int:
    return -(-max(size, 1) // ALIGN) * ALIGN


def plan_memory(graph: Graph) -> MemoryPlan:
    """Liveness over the kernels in program order, then first fit, the largest blobs first.

    Blobs that outlive a call (inputs, parameters' gradients, state, whatever is observable) come first and share with
    nobody. Forward and backward are one program for this: what backward reads lives until its last reader.
    """
    params: dict[str, int] = {}
    at = 0
    for p in graph.params:
        params[p.blob] = at
        at += aligned(graph.blobs[p.blob].size)
    param_size = at
    persistent, births, deaths = _lives(graph)
    offsets: dict[str, int] = {}
    at = 0
    for p in graph.params:
        offsets[p.blob + ".diff"] = at
        at += aligned(graph.blobs[p.blob].size)
    outside = set(brought(graph))
    for name in persistent:
        if name not in params and name not in offsets and name not in outside:
            offsets[name] = at
            at += _reals(graph, name)
    base = at
    temporaries = sorted(births, key=lambda n: (-graph.blobs[n].size, births[n], n))
    placed: list[tuple[int, int, str]] = []
    peak = 0
    for name in temporaries:
        size = _reals(graph, name)
        busy = sorted(
            (start, stop) for start, stop, other in placed
            if births[other] <= deaths[name] and births[name] <= deaths[other]
        )
        spot = 0
        for start, stop in busy:
            if start - spot >= size:
                break
            spot = max(spot, stop)
        placed.append((spot, spot + size, name))
        offsets[name] = base + spot
        peak = max(peak, spot + size)
    return MemoryPlan(offsets, base + peak, params, param_size, base + _bound(graph, births, deaths))


def _reals(graph: Graph, name: str) -> int:
    """The room that a blob takes in the arena: four bytes in a real at least."""
    blob = graph.blobs[name]
    return aligned(-(-blob.size * WIDTHS.get(blob.dtype, 4) // 4))


def _lives(graph: Graph) -> tuple[list[str], dict[str, int], dict[str, int]]:
    """(owners that live for ever, first and last kernel that touches each temporary)."""
    lasting = {graph.root(b) for b in graph.observable} | {
        graph.root(b.name) for b in graph.blobs.values() if b.persistent
    }
    births: dict[str, int] = {}
    deaths: dict[str, int] = {}
    for k, node in enumerate(graph.nodes):
        for name in (*node.kernel.reads(), *node.kernel.writes()):
            root = graph.root(name)
            if root not in lasting:
                births.setdefault(root, k)
                deaths[root] = k
    return [b for b in graph.blobs if b in lasting], births, deaths


def _bound(graph: Graph, births: dict[str, int], deaths: dict[str, int]) -> int:
    """The most that is alive at once: no arena can be smaller."""
    change: dict[int, int] = {}
    for name, start in births.items():
        size = _reals(graph, name)
        change[start] = change.get(start, 0) + size
        change[deaths[name] + 1] = change.get(deaths[name] + 1, 0) - size
    most = now = 0
    for step in sorted(change):
        now += change[step]
        most = max(most, now)
    return most
