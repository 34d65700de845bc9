"""Kernels whose C would differ in names alone share one function, which the schedule calls for each of them.

Layers of equal shapes are frequent in deep nets, and the C compiler's time goes with the number of functions.
"""

from __future__ import annotations

import textwrap
from collections.abc import Hashable
from dataclasses import dataclass, replace
from os.path import basename

from lossc.codegen.kernelgen import Draft, Function, KernelWriter
from lossc.codegen.names import Names, comment, identifier
from lossc.ir import Graph, Node
from lossc.ir.memory import aligned
from lossc.ir.printer import show_kernel

#: Columns of the comment that names the layers which share a function.
_WIDTH = 116


@dataclass(frozen=True)
class Call:
    """How the schedule runs one kernel. ``name`` is the kernel's own; ``comment`` tells it where others share the
    function. ``prepare``: the arguments of the function that prepares its frozen operand, if it has one."""

    node: Node
    name: str
    function: Function
    args: tuple[str, ...]
    comment: str = ""
    prepare: tuple[str, ...] = ()


def write_kernels(graph: Graph, writer: KernelWriter, taken: frozenset[str]) -> tuple[list[Function], list[Call]]:
    """All functions in the order of their first use, and a call for each of the graph's kernels in turn.

    ``taken``: names that no function may have.
    """
    names = Names(taken)
    own = [names.fresh(f"{identifier(node.layer)}_{node.section}") for node in graph.nodes]
    alike: dict[Hashable, list[tuple[int, Draft]]] = {}
    weights = {term.held for term in graph.losses}
    for k, node in enumerate(graph.nodes):
        draft = writer.draft(node, neutral=True)
        alone = not weights.isdisjoint(node.kernel.reads())  # `lossc explain` finds where a weight is read by its name
        alike.setdefault((node.section, _type(graph, node), node.id if alone else draft.key), []).append((k, draft))
    functions: list[Function] = []
    used: dict[int, tuple[Draft, Function]] = {}
    for drafts in alike.values():
        nodes = [graph.nodes[k] for k, _ in drafts]
        if len(drafts) == 1:
            k, node = drafts[0][0], nodes[0]
            draft = writer.draft(node)
            function = draft.function(own[k], _heading(graph, node))
            used[k] = draft, function
        else:
            function = _shared(graph, nodes, drafts[0][1], names)
            used |= {k: (draft, function) for k, draft in drafts}
        functions.append(function)
    calls, at = [], 0
    for k, node in enumerate(graph.nodes):
        draft, function = used[k]
        place = f"net->prepared + {at}"
        told = comment(own[k]) if function.name != own[k] else ""
        prepare: tuple[str, ...] = ()
        if function.prepared:
            prepare = (draft.pointers[function.prepared.operand], place)
            at += aligned(function.prepared.size)
        calls.append(Call(node, own[k], function, draft.args(function, place), told, prepare))
    return functions, calls


def prepared_size(calls: list[Call]) -> int:
    """The reals that all frozen operands take in the order in which they are read."""
    return sum(aligned(call.function.prepared.size) for call in calls if call.function.prepared)


def _shared(graph: Graph, nodes: list[Node], draft: Draft, names: Names) -> Function:
    """The one function of several kernels, under a comment that names their layers."""
    first = nodes[0]
    kind = _type(graph, first)
    name = names.fresh(f"{identifier(kind).lower()}_{first.section}")
    heading = f"---- {kind} {first.section}, here of {first.layer}\n   {show_kernel(first.kernel)}"
    function = draft.function(name, heading)
    where = f" of {basename(graph.file)}" if graph.file else ""
    served = ", ".join(node.layer + _line(graph, node, ":") for node in nodes)
    text = textwrap.wrap(comment(f"{name} is shared by these layers{where}: {served}"), _WIDTH, break_on_hyphens=False)
    return replace(function, text="/* " + "\n * ".join(text) + " */\n" + function.text)


def _heading(graph: Graph, node: Node) -> str:
    kind = graph.layer_types.get(node.layer)
    line = _line(graph, node, f"    {basename(graph.file)}:")
    what = f"{node.layer} {{ {kind} }}" if kind else node.layer
    note = f" ({node.note})" if node.note else ""
    return f"---- {what} {node.section}{note}{line}\n   {show_kernel(node.kernel)}"


def _type(graph: Graph, node: Node) -> str:
    """What kind of layer a kernel works for; the kernel's own kind where it works for none."""
    return graph.layer_types.get(node.layer) or node.kernel.kind


def _line(graph: Graph, node: Node, before: str) -> str:
    line = graph.lines.get(node.layer)
    return f"{before}{line}" if line else ""
