"""Where every loss_weight of every golden net went: into an alpha. Read off the last graph, and off the C."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lossc.codegen.names import literal
from lossc.codegen.program import generate
from lossc.frontend.net import read_net
from lossc.ir import Conv, Gemm, Graph, Map, Node, Pool, Scalar
from lossc.ir.expr import Const, Expr, walk
from lossc.layers.net import import_net
from lossc.layers.registry import LAYERS
from lossc.passes.pipeline import run_passes
from lossc.targets.isa import AVX2

GOLDEN = Path(os.environ.get("LOSSC_GOLDEN", Path(__file__).resolve().parents[1] / "golden"))

#: These folders hold runs: shapes in their nets come from data sources, which nobody opens here.
RUNS = {"solvers", "logs"}
FOLDERS = (p.parent.relative_to(GOLDEN) for p in GOLDEN.glob("**/net.prototxt"))
NETS = sorted(str(folder) for folder in FOLDERS if not RUNS & set(folder.parts))


def graph_of(name: str, *, until: str | None = None) -> Graph:
    source = read_net(GOLDEN / name / "net.prototxt", phase="TRAIN")
    graph = import_net(source.param, "TRAIN", file="net.prototxt", line_of=source.line)
    run_passes(graph, until=until)
    return graph


def numbers(graph: Graph) -> list[Scalar]:
    """Every constant of the graph's kernels: in expressions, and the alphas of contractions and pools."""
    found: list[Scalar] = []
    for node in graph.nodes:
        kernel = node.kernel
        expressions: list[Expr] = [s.value for s in kernel.stores] if isinstance(kernel, Map) else []
        if isinstance(kernel, (Gemm, Conv)) and kernel.epilogue is not None:
            expressions.append(kernel.epilogue)
        if isinstance(kernel, (Gemm, Conv, Pool)):
            found.append(kernel.alpha)
        found += [e.scalar for root in expressions for e in walk(root) if isinstance(e, Const)]
    return found


def leaves(scalar: Scalar) -> list[Scalar]:
    return [leaf for a in scalar.args for leaf in leaves(a)] if scalar.op else [scalar]


def seen(graph: Graph, name: str) -> bool:
    """Whether a user may look at the blob's memory."""
    return any(b in graph.observable for b in graph.family(name))


def stored_numbers(graph: Graph) -> list[str]:
    """Gradients into which one number is written everywhere though nobody may look at them: a seed that stayed."""
    return [
        s.access.blob
        for node in graph.nodes
        if node.section in ("forward", "backward") and isinstance(node.kernel, Map)
        for s in node.kernel.stores
        if graph.blobs[s.access.blob].role == "diff"
        and isinstance(s.value, Const)
        and not s.value.scalar.is_plain(0.0)
        and not seen(graph, s.access.blob)
    ]  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_every_weight_is_a_literal_alpha(name: str) -> None:
    net = read_net(GOLDEN / name / "net.prototxt", phase="TRAIN").param
    unknown = {layer.type for layer in net.layer} - set(LAYERS)
    if unknown:
        pytest.skip("not built in: " + ", ".join(sorted(unknown)))
    before = graph_of(name, until="build-backward")
    graph = graph_of(name)
    assert stored_numbers(graph) == []
    consumed = {b for call in graph.calls for b in call.bottoms}
    seeded = {n.kernel.stores[0].access.blob for n in before.section("backward") if n.note == "seed"}
    weighty = [s for s in numbers(graph) if any(leaf.why == "loss_weight" for leaf in leaves(s))]
    folded = {leaf.source for s in weighty for leaf in leaves(s)}
    for term in graph.losses:
        diff = term.blob + ".diff"
        if diff not in seeded:
            continue
        if term.blob not in consumed:  # else the layers above add to it
            assert diff not in graph.blobs or seen(graph, diff), f"{diff} is stored"
        if term.weight.source not in folded:
            left = [n for n in graph.nodes if n.layer == term.layer and _writes_gradient(graph, n)]
            assert left == [], f"{term.layer} has a backward pass, but its weight is in no alpha"
    text = generate(graph, AVX2).source
    for scalar in weighty:
        assert literal(scalar.value(), "f32") in text, scalar.history
        assert scalar.history in text


def _writes_gradient(graph: Graph, node: Node) -> bool:
    return any(graph.blobs[b].role in ("diff", "param_diff") for b in node.kernel.writes())


def test_the_folder_is_not_empty() -> None:
    assert len(NETS) > 20
