"""Where every loss_weight of every golden net went: into an alpha. Read off the last graph, and off the C.

What each weight must become is counted in the graph before any of it is folded, where the weight is the top's diff, as
in Caffe: one number for each place in a live kernel that reads that diff. No fill, no diff of a loss's top and no load
of a weight may remain.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossc.codegen.names import comment, identifier, literal
from lossc.codegen.program import Program, generate
from lossc.frontend.net import read_net
from lossc.ir import Conv, Gemm, Graph, Map, Node, Pool, Scalar, Store
from lossc.ir.expr import Const, Expr, Load, Op, walk
from lossc.layers.net import import_net
from lossc.layers.registry import LAYERS
from lossc.passes.pipeline import run_passes
from lossc.targets.isa import AVX2

GOLDEN = Path(os.environ.get("LOSSC_GOLDEN", Path(__file__).resolve().parents[1] / "golden"))
NETS = sorted(str(path.parent.relative_to(GOLDEN)) for path in GOLDEN.glob("**/net.prototxt"))

#: Their shapes are in files, which nobody opens here.
SOURCES = {"Data", "HDF5Data"}


def graph_of(name: str, *, until: str | None = None) -> Graph:
    source = read_net(GOLDEN / name / "net.prototxt", phase="TRAIN")
    graph = import_net(source.param, "TRAIN", file="net.prototxt", line_of=source.line)
    run_passes(graph, until=until)
    return graph


def seen(graph: Graph, name: str) -> bool:
    """Whether a user may look at the blob's memory."""
    return any(b in graph.observable for b in graph.family(name))


# ---- before: what reads the tops' diffs


def places(root: Expr, blob: str) -> int:
    """How often the expression reads the blob, written out as a tree."""
    if isinstance(root, Load) and root.access.blob == blob:
        return 1
    return sum(places(child, blob) for child in root.children())


def is_seed_alone(graph: Graph, diff: str) -> bool:
    """Nothing but zeros and the weight is ever written to the diff, and it is no part of another one."""
    writers = [n for b in graph.family(diff) for n in graph.writers(b)]
    fills = [isinstance(n.kernel, Map) and all(isinstance(s.value, Const) for s in n.kernel.stores) for n in writers]
    return graph.blobs[diff].view is None and all(fills)


def wanted(graph: Graph, diff: str) -> int:
    """How many numbers a weight becomes that starts as the diff: one for each place that reads it.

    Where a whole diff below is the weight times a constant, that one's readers count; and so do those of a diff that is
    the weight times one blob, where they are products: they can take the number as their alpha.
    """
    count = 0
    for node in readers_of(graph, diff):
        if not isinstance(node.kernel, Map):
            count += sum(operand.blob == diff for operand in node.kernel.inputs())
            continue
        for store in node.kernel.stores:
            here, target = places(store.value, diff), store.access.blob
            below = readers_of(graph, target)
            products = all(isinstance(n.kernel, (Gemm, Conv)) for n in below)
            others = [e for e in walk(store.value) if isinstance(e, Load) and e.access.blob != diff]
            passed_on = here == 1 and below and not seen(graph, target) and is_product(store.value)
            if passed_on and (not others or (len(others) == 1 and products)):
                count += wanted(graph, target)
            else:
                count += here
    return count


def readers_of(graph: Graph, blob: str) -> list[Node]:
    """The kernels that read the blob, without those that only add to it."""
    return [n for n in graph.readers(blob) if blob not in n.kernel.accumulates]


def is_product(value: Expr) -> bool:
    return all(isinstance(e, (Const, Load)) or (isinstance(e, Op) and e.name in ("mul", "div")) for e in walk(value))


# ---- after: numbers made from weights


def weight_in(scalar: Scalar, source: str | None = None) -> bool:
    """Whether a loss_weight went into the number: any, or that of one top."""
    leaves = [leaf for leaf in scalar.leaves() if leaf.why == "loss_weight"]
    return any(source is None or leaf.source == source for leaf in leaves)


def stores_of(node: Node) -> tuple[Store, ...]:
    return node.kernel.stores if isinstance(node.kernel, Map) else ()


def constants(root: Expr) -> Iterator[Scalar]:
    """The constants of an expression, as often as they are written."""
    if isinstance(root, Const):
        yield root.scalar
    for child in root.children():
        yield from constants(child)


def numbers(node: Node) -> Iterator[Scalar]:
    """The numbers with a loss_weight in them that the kernel computes gradients with."""
    kernel = node.kernel
    found = [c for s in stores_of(node) if s.access.blob != "loss_total" for c in constants(s.value)]
    if isinstance(kernel, (Gemm, Conv, Pool)):
        found += [c for e in kernel.expressions for c in constants(e)]
        found.append(kernel.alpha)
    return (scalar for scalar in found if weight_in(scalar))


def fills(graph: Graph) -> list[str]:
    """Blobs nobody may look at into which one number is written everywhere: a diff, or a weight wherever it is."""
    return [
        s.access.blob
        for node in graph.nodes
        for s in stores_of(node)
        if isinstance(s.value, Const)
        and (weight_in(s.value.scalar) or graph.blobs[s.access.blob].role == "diff")
        and not s.value.scalar.is_plain(0.0)
        and not seen(graph, s.access.blob)
    ]  # fmt: skip


def code_of(text: str) -> str:
    """C without its comments."""
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def check_code(graph: Graph, program: Program, gone: list[str]) -> None:
    """Every number stands as a literal in its kernel's function, which tells its history; what is gone has no name."""
    lines, code = program.source.split("\n"), code_of(program.source)
    assert "loss_weight" not in code
    for diff in gone:
        assert not re.search(rf"\b(AT_)?{re.escape(identifier(diff))}\b", code), f"{diff} is in the C"
    functions = {place.node: "\n".join(lines[place.first - 1 : place.last]) for place in program.functions}
    for node in graph.nodes:
        for scalar in numbers(node):
            sources = [leaf.source for leaf in scalar.leaves() if leaf.why == "loss_weight"]
            assert len(sources) == len(set(sources)), f"{node.layer}: a weight counts twice in {scalar.history}"
            number = literal(scalar.value(), "f32")
            written = re.search(rf"(?<![\w.]){re.escape(number)}(?![\w.])", code_of(functions[node.id]))
            assert written, f"{node.layer}: {number}, {scalar.history}, is not in its function"
            assert comment(scalar.history) in functions[node.id], f"{node.layer}: no comment tells {scalar.history}"


@pytest.mark.parametrize("name", NETS)
def test_every_weight_is_a_literal_alpha(name: str) -> None:
    net = read_net(GOLDEN / name / "net.prototxt", phase="TRAIN").param
    types = {layer.type for layer in net.layer}
    if unknown := types - set(LAYERS):
        pytest.skip("not built in: " + ", ".join(sorted(unknown)))
    if types & SOURCES:
        pytest.skip("its data have no shapes")
    before, graph = graph_of(name, until="prune-gradients"), graph_of(name)
    assert fills(graph) == []
    gone = []
    for term in graph.losses:
        diff = term.blob + ".diff"
        found = sum(weight_in(scalar, term.weight.source) for node in graph.nodes for scalar in numbers(node))
        assert not term.held, f"{term.blob} has a weight in memory"
        if diff not in before.blobs or not before.readers(diff):
            continue
        if not is_seed_alone(before, diff):  # the layers above add to it: the weight is a term of what they store
            assert found >= 1, f"the weight of {term.blob} is nowhere"
            continue
        assert found == wanted(before, diff), f"the weight of {term.blob} is in {found} numbers"
        assert diff not in graph.blobs or seen(graph, diff), f"{diff} is stored"
        assert not [n.layer for n in graph.nodes if diff in n.kernel.reads()], f"{diff} is read"
        gone += [diff] if diff not in graph.blobs else []
    check_code(graph, generate(graph, AVX2), gone)


def test_the_folder_is_not_empty() -> None:
    assert len(NETS) > 20
