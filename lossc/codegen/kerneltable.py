"""What each kernel of a net is and what it has to do: the part of the manifest that timings are read against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lossc.codegen.sharing import Call
from lossc.ir import Graph
from lossc.ir.work import bytes_moved, flops


def kernel_table(graph: Graph, calls: Sequence[Call], width: int) -> list[dict[str, Any]]:
    """One entry for each node of the graph, in the order of the graph: ``width`` is the bytes of a real.

    ``name`` is the kernel's own, ``function`` what computes it, which several may share. ``kind`` is the kernel's, for
    convolutions with its direction; ``algorithm`` is the cost model's choice with the cycles it expects of one thread,
    ``second`` the runner-up; both are plain names where there was nothing to choose.
    """
    table = []
    for call in calls:
        node, kernel, choice = call.node, call.node.kernel, call.function.choice
        direction = getattr(kernel, "direction", "")
        table.append(
            {
                "name": call.name,
                "function": call.function.name,
                "layer": node.layer,
                "section": node.section,
                "kind": f"{kernel.kind} {direction}".strip(),
                "flops": flops(kernel),
                "bytes": bytes_moved(graph, kernel, width),
                "algorithm": choice.name if choice else f"{kernel.kind} {direction}".strip(),
                "cycles": choice.cycles if choice else None,
                "second": choice.second if choice else "",
                "second_cycles": choice.second_cycles if choice and choice.second else None,
            }
        )
    return table
