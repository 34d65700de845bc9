"""What each kernel of a net is and what it has to do: the part of the manifest that timings are read against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lossc.codegen.sharing import Call
from lossc.ir import Graph
from lossc.ir.work import bytes_moved, flops


def kernel_table(graph: Graph, calls: Sequence[Call], width: int) -> list[dict[str, Any]]:
    """One entry for each node of the graph, in the order of the graph: ``width`` is the bytes of a real.

    ``name`` is the kernel's own, ``function`` what computes it, which several may share. ``kind`` is the kernel's, for
    convolutions with its direction; ``algorithm`` is the cost model's choice with the cycles it expects of one thread,
    ``second`` the runner-up; both are plain names where there was nothing to choose.
    ``tuned``: a measurement chose, and the model's choice is the second.
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
                "tuned": choice.tuned if choice else False,
                "cycles": choice.cycles if choice else None,
                "second": choice.second if choice else "",
                "second_cycles": choice.second_cycles if choice and choice.second else None,
            }
        )
    return table


def tuning_table(calls: Sequence[Call], choices: Mapping[str, str]) -> dict[str, Any]:
    """What became of ``choices`` in the net's contractions: how many have more than one candidate (``open``), how many
    of them were ``measured``; those whose choice is not the cost model's (``tuned``), and those where no candidate has
    the name that was chosen (``missing``)."""
    table: dict[str, Any] = {"open": 0, "measured": 0, "tuned": [], "missing": []}
    for call in calls:
        f = call.function
        if f.contraction is None or f.choice is None or len(f.choice.ranked) < 2:
            continue
        table["open"] += 1
        if f.contraction.key not in choices:
            continue
        table["measured"] += 1
        wanted, model = choices[f.contraction.key], f.choice.ranked[0][0]
        if f.choice.name != wanted:
            table["missing"].append({"kernel": call.name, "choice": wanted})
        elif f.choice.tuned:
            table["tuned"].append({"kernel": call.name, "choice": wanted, "model": model})
    return table
