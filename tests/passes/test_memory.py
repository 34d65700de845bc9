"""The arena: blobs that are alive together lie apart, and it is hardly larger than what is alive at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_nets import NETS, imported

from lossc.frontend.caffe_pb2 import SolverParameter
from lossc.frontend.net import read_net
from lossc.ir import Access, Blob, Builder, Dim, Graph
from lossc.ir.expr import expr
from lossc.ir.memory import ALIGN, MemoryPlan, aligned, plan_memory
from lossc.layers.net import import_net
from lossc.layers.registry import LAYERS
from lossc.passes.pipeline import run_passes
from lossc.pipeline import Request, build_graph

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
GOLDEN = Path(os.environ.get("LOSSC_GOLDEN", "")) / "nets"
LARGE = sorted(p.parent for p in GOLDEN.glob("*/net.prototxt")) if os.environ.get("LOSSC_GOLDEN") else []
#: How much larger than the most that is alive at once the arena may be.
WASTE = 1.10


def room(graph: Graph, name: str) -> int:
    """In reals; bytes take a quarter."""
    blob = graph.blobs[name]
    return aligned(blob.size if blob.dtype == "real" else (blob.size + 3) // 4)


def lives(graph: Graph) -> dict[str, tuple[int, int]]:
    """First and last kernel of each memory owner's life; what outlives a call lives all the time."""
    end = len(graph.nodes)
    found = {
        graph.root(b.name): (-1, end) for b in graph.blobs.values() if b.persistent or b.name in graph.observable
    }
    for step, node in enumerate(graph.nodes):
        for blob in (*node.kernel.reads(), *node.kernel.writes()):
            root = graph.root(blob)
            first, last = found.get(root, (step, step))
            found[root] = min(first, step), max(last, step)
    return found


def check(graph: Graph, plan: MemoryPlan) -> None:
    """Everything has its place, aligned, apart from all that lives at the same time; the bound is the true one."""
    life = {name: span for name, span in lives(graph).items() if name not in plan.param_offsets}
    assert set(life) == set(plan.offsets)
    spans = sorted((plan.offsets[n], plan.offsets[n] + room(graph, n), n) for n in life)
    for k, (start, stop, name) in enumerate(spans):
        assert start % ALIGN == 0 and start >= 0 and stop <= plan.size
        for other_start, _, other in spans[k + 1 :]:
            if other_start >= stop:
                break
            (first, last), (other_first, other_last) = life[name], life[other]
            assert last < other_first or other_last < first, (name, other)
    steps = range(-1, len(graph.nodes) + 1)
    most = max(sum(room(graph, n) for n, (a, b) in life.items() if a <= step <= b) for step in steps)
    assert plan.lower_bound == most <= plan.size


@pytest.mark.parametrize("keep", ["", "all"])
@pytest.mark.parametrize("name", sorted(NETS))
def test_small_nets(name: str, keep: str) -> None:
    graph = imported(name, keep)
    run_passes(graph)
    plan = graph.options["memory"]
    check(graph, plan)
    assert plan.size <= WASTE * plan.lower_bound


@pytest.mark.golden
@pytest.mark.parametrize("keep", ["", "all"])
@pytest.mark.parametrize("folder", LARGE or [None], ids=lambda f: f.name if f else "none")
def test_large_nets(folder: Path | None, keep: str) -> None:
    if folder is None:
        pytest.skip("LOSSC_GOLDEN does not name the folder of golden cases")
    source = read_net(folder / "net.prototxt", phase="TRAIN")
    unknown = {layer.type for layer in source.param.layer} - set(LAYERS)
    if unknown:
        pytest.skip("not built in: " + ", ".join(sorted(unknown)))
    graph = import_net(source.param, "TRAIN", file=source.file, line_of=source.line)
    graph.options["keep"] = keep
    run_passes(graph)
    plan = graph.options["memory"]
    check(graph, plan)
    assert plan.size <= WASTE * plan.lower_bound


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("lenet", 9), ("alexnet", 810), ("googlenet", 540)])
def test_training_fits(name: str, most: float) -> None:
    """MiB of arena and parameters, solver with momentum included; a C program adds some 5 of code and scratch."""
    solver = SolverParameter(base_lr=0.01, momentum=0.9, lr_policy="fixed")
    graph, _ = build_graph(Request(read_net(MODELS / f"{name}.prototxt", phase="train"), solver=solver))
    plan = graph.options["memory"]
    assert plan.size <= WASTE * plan.lower_bound
    assert (plan.size + plan.param_size) * 4 / 2**20 <= most


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """Maps that read some of the blobs made before them; sizes and lives as they come."""
    g = Graph("chain")
    g.add_blob(Blob("b0", (draw(st.integers(1, 100)),), "input"))
    for k in range(1, draw(st.integers(2, 12))):
        blob = g.add_blob(Blob(f"b{k}", (draw(st.integers(1, 200)),), "activation"))
        read = draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=3, unique=True))
        value = sum((expr(Access(f"b{r}", 0, ())) for r in read), expr(0.0))
        Builder(g, f"l{k}", "forward").map((Access(blob.name, 0, ((Dim("i", blob.size), 1),)), value))
    g.observe(f"b{len(g.blobs) - 1}")
    return g


@given(chains())
def test_any_lives(graph: Graph) -> None:
    plan = plan_memory(graph)
    check(graph, plan)
    assert plan == plan_memory(graph), "the same graph, the same plan"


def test_windows_lie_in_their_owners_and_nothing_is_left_for_them() -> None:
    graph = imported("concat_slice")
    run_passes(graph)
    windows = [b.name for b in graph.blobs.values() if b.view is not None]
    assert windows and not set(windows) & set(graph.options["memory"].offsets)
