"""What each pass does, before and after as text (``texts/PASS.txt``), and where it must leave a graph alone.

To renew the texts after a wanted change: LOSSC_RENEW_TEXTS=1; then read what changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_nets import imported, outcome

from lossc.ir import Blob, Builder, Conv, Gemm, Geometry, Graph, Pool, Ref, Scalar, View
from lossc.ir.blob import Role
from lossc.ir.expr import Acc, expr, op, tanh, total
from lossc.ir.printer import to_text
from lossc.ir.verify import verify
from lossc.passes.base import Pass
from lossc.passes.pipeline import LOWER, OPTIMISE, PASSES, PLACE, run_passes
from lossc.solvers import LowerUpdate, SolverSettings

TEXTS = Path(__file__).parent / "texts"
UPDATE = LowerUpdate(
    SolverSettings(base_lr=0.1, momentum=0.9, weight_decay=0.0005, clip_gradients=5.0, iter_size=2, policy="fixed")
)
BY_NAME: dict[str, Pass] = {p.name: p for p in (*PASSES, UPDATE)}
HALVES = Geometry((2, 2), (2, 2), (0, 0), (1, 1))
ROLES: dict[str, Role] = {"x": "input", "label": "input", "w": "param", "v": "param", "bias": "param", "total": "state"}


def graph_of(**shapes: tuple[int, ...]) -> Graph:
    """Blobs by name; their role is told by ROLES, or by the ending ``_diff``."""
    g = Graph("small")
    for name, shape in shapes.items():
        role: Role = ROLES.get(name, "diff" if name.endswith("_diff") else "activation")
        g.add_blob(Blob(name, shape, role, label=name))
    return g


def at(g: Graph, section: str, layer: str = "layer") -> Builder:
    return Builder(g, layer, section)


def before(last: str, net: str) -> Callable[[], Graph]:
    """A small net as the pass named ``last`` finds it."""

    def make() -> Graph:
        graph, names = imported(net), [p.name for p in PASSES]
        if names.index(last):
            run_passes(graph, until=names[names.index(last) - 1])
        return graph

    return make


def lowered(net: str) -> Callable[[], Graph]:
    def make() -> Graph:
        graph = imported(net)
        run_passes(graph, until=LOWER[-1].name)
        return graph

    return make


def gradients() -> Graph:
    """The gradient of x reaches nothing that anybody may look at."""
    g = graph_of(x=(4, 6), w=(6, 3), y=(4, 3), y_diff=(4, 3), x_diff=(4, 6), w_diff=(6, 3))
    at(g, "forward", "fc").gemm(g.whole("x"), g.whole("w"), g.whole("y"))
    b = at(g, "backward", "fc")
    b.map((g.whole("y_diff")["nc"], expr(g.whole("y")["nc"])))
    b.gemm(g.whole("x").transpose(1, 0), g.whole("y_diff"), g.whole("w_diff"), note="weights")
    b.gemm(g.whole("y_diff"), g.whole("w").transpose(1, 0), g.whole("x_diff"), note="data")
    g.observe("y", "w_diff")
    return g


def unseen_head() -> Graph:
    """A head that nobody looks at, a mask that nobody reads, and one of two results of a map."""
    g = graph_of(x=(1, 2, 4, 4), y=(1, 2, 2, 2), mask=(1, 2, 2, 2), side=(1, 2, 2, 2), seen=(1, 2, 2, 2), s=())
    at(g, "forward", "pool").pool("forward", "MAX", g.whole("x"), g.whole("y"), HALVES, mask=g.whole("mask"))
    y = expr(g.whole("y")["nchw"])
    at(g, "forward", "two").map((g.whole("side")["nchw"], y * 2.0), (g.whole("seen")["nchw"], y * 3.0))
    at(g, "forward", "head").map((g.whole("s")[""], total(y, "nchw")))
    g.observe("seen")
    return g


def additions() -> Graph:
    """Two branches add to halves of a gradient that was filled with zeros."""
    g = graph_of(x=(4, 6), w=(3, 3), x_diff=(4, 6), out_diff=(4, 3))
    b = at(g, "backward")
    b.fill(g.whole("x_diff")["nc"], 0.0)
    b.map((g.whole("out_diff")["nc"], expr(g.whole("x").narrow(1, 0, 3)["nc"]) * 2.0))
    left, right = g.whole("x_diff").narrow(1, 0, 3), g.whole("x_diff").narrow(1, 3, 6)
    b.gemm(g.whole("out_diff"), g.whole("w"), left, accumulate=True)
    b.add(right["nc"], expr(g.whole("out_diff")["nc"]))
    b.add(left["nc"], expr(g.whole("x").narrow(1, 0, 3)["nc"]), note="once more")
    g.observe("x_diff")
    return g


def read_in_between() -> Graph:
    """A gradient that is read when only its half was added to."""
    g = graph_of(x=(4, 6), x_diff=(4, 6), s=())
    b = at(g, "backward")
    b.fill(g.whole("x_diff")["nc"], 0.0)
    b.map((g.whole("s")[""], total(g.whole("x_diff")["nc"], "nc")))
    b.add(g.whole("x_diff")["nc"], expr(g.whole("x")["nc"]))
    g.observe("x_diff", "s")
    return g


def scaled(*, changed: bool = False, observed: bool = False, other_reader: bool = False) -> Graph:
    """A scaled copy of a gradient, of which two products are made."""
    g = graph_of(x=(4, 6), w=(6, 3), y_diff=(4, 3), scaled_diff=(4, 3), x_diff=(4, 6), w_diff=(6, 3), s=())
    b = at(g, "backward", "fc")
    b.map((g.whole("y_diff")["nc"], tanh(g.whole("x").narrow(1, 0, 3)["nc"])))
    copy = g.whole("scaled_diff")
    at(g, "backward", "scale").map((copy["nc"], expr(Scalar(0.3, "scale")) * g.whole("y_diff")["nc"]))
    if changed:
        b.map((g.whole("y_diff")["nc"], expr(g.whole("y_diff")["nc"]) * 0.5))
    b.gemm(g.whole("x").transpose(1, 0), copy, g.whole("w_diff"))
    b.gemm(copy, g.whole("w").transpose(1, 0), g.whole("x_diff"), alpha=Scalar(2.0, "twice"))
    if other_reader:
        b.map((g.whole("s")[""], total(copy["nc"], "nc")))
    g.observe("x_diff", "w_diff", *(["s"] if other_reader else []), *(["scaled_diff"] if observed else []))
    return g


def loss(*, changed: bool = False) -> Graph:
    """A loss and its gradient, which need the same two inputs."""
    g = graph_of(x=(4, 6), h=(4, 6), label=(4, 6), E=(), h_diff=(4, 6))
    at(g, "forward", "body").map((g.whole("h")["nc"], tanh(g.whole("x")["nc"])))
    r = expr(g.whole("h")["nc"]) - g.whole("label")["nc"]
    half = Scalar(1.0) / (Scalar(2.0) * Scalar(4, "N"))
    at(g, "forward", "loss").map((g.whole("E")[""], total(r * r, "nc") * half))
    if changed:
        at(g, "forward", "body").map((g.whole("h")["nc"], tanh(g.whole("h")["nc"])))
    alpha = expr(Scalar(0.3, "loss_weight") / Scalar(4, "N"))
    at(g, "backward", "loss").map((g.whole("h_diff")["nc"], alpha * r))
    g.observe("E", "h_diff")
    return g


def chain(*, observed: bool = False, twice: bool = False, changed: bool = False) -> Graph:
    """Three maps in a row, the last one over other dimensions."""
    g = graph_of(x=(4, 6), b=(4, 6), a=(4, 6), c=(4, 2, 3), y=(4, 2, 3), z=(4, 6))
    at(g, "forward", "shift").map((g.whole("b")["nc"], expr(g.whole("x")["nc"]) * 3.0))
    at(g, "forward", "first").map((g.whole("a")["nc"], tanh(g.whole("b")["nc"])))
    second = g.whole("a").reshape(4, 2, 3)["nch"]
    if changed:
        at(g, "forward", "shift").map((g.whole("b")["nc"], expr(g.whole("x")["nc"]) * 4.0))
    at(g, "forward", "second").map((g.whole("c")["nch"], expr(second) * 2.0 + 1.0))
    at(g, "forward", "third").map((g.whole("y")["nch"], op("max", g.whole("c")["nch"], 0.0)))
    if twice:
        at(g, "forward", "again").map((g.whole("z")["nc"], expr(g.whole("a")["nc"]) - 1.0))
    g.observe("y", "b", *(["z"] if twice else []), *(["a"] if observed else []))
    return g


def product(*, observed: bool = False) -> Graph:
    """A product, its bias, and what is made of it in place of the plain product."""
    g = graph_of(x=(4, 6), w=(6, 3), y=(4, 3), out=(4, 3))
    g.add_blob(Blob("bias", (3,), "param"))
    at(g, "forward", "fc").gemm(g.whole("x"), g.whole("w"), g.whole("y"))
    at(g, "forward", "fc").add(g.whole("y")["nc"], expr(g.whole("bias")["c"]), note="bias")
    at(g, "forward", "relu").map((g.whole("out")["nc"], op("max", g.whole("y")["nc"], 0.0)))
    g.observe("out", *(["y"] if observed else []))
    return g


def neighbours(*, observed: bool = False, changed: bool = False, columns: bool = False, method: str = "AVE") -> Graph:
    """Squares, the means of neighbouring channels' squares, and what two results are made of them."""
    shape = (2, 6, 3, 4)
    g = graph_of(x=shape, t=shape, squares=shape, mean=shape, y=shape, scale=shape)
    x, t, squares, mean = (g.whole(name)["nchw"] for name in ("x", "t", "squares", "mean"))
    at(g, "forward", "body").map((t, tanh(x)))
    at(g, "forward", "norm").map((squares, expr(t) * t), note="squares")
    if changed:
        at(g, "forward", "body").map((t, expr(x) * 4.0))
    rows = [g.whole(name).reshape(2, 1, 6, 12) for name in ("squares", "mean")]
    geometry = Geometry((3, 3 if columns else 1), (1, 1), (1, 1 if columns else 0), (1, 1))
    at(g, "forward", "norm").pool("forward", method, *rows, geometry, alpha=Scalar(0.5, "alpha"))
    y, scale = (g.whole(name)["nchw"] for name in ("y", "scale"))
    at(g, "forward", "norm").map((y, expr(t) / (1.0 + expr(mean))), (scale, 1.0 + expr(mean)))
    g.observe("y", "scale", *(["squares", "mean"] if observed else []))
    return g


def joined(*, from_input: bool = False) -> Graph:
    """Two halves are computed, copied side by side, and one of them cut out again."""
    g = graph_of(x=(4, 3), a=(4, 3), b=(4, 3), both=(4, 6), right=(4, 3), s=(), y=(4, 3))
    at(g, "forward", "a").map((g.whole("a")["nc"], tanh(g.whole("x")["nc"])))
    at(g, "forward", "b").map((g.whole("b")["nc"], expr(g.whole("x")["nc"]) * 2.0))
    left = g.whole("x" if from_input else "a")
    at(g, "forward", "concat").map((g.whole("both").narrow(1, 0, 3)["nc"], left["nc"]))
    at(g, "forward", "concat").map((g.whole("both").narrow(1, 3, 6)["nc"], g.whole("b")["nc"]))
    at(g, "forward", "slice").map((g.whole("right")["nc"], g.whole("both").narrow(1, 3, 6)["nc"]))
    at(g, "forward", "sum").map((g.whole("s")[""], total(g.whole("both")["nc"], "nc")))
    at(g, "forward", "out").map((g.whole("y")["nc"], expr(g.whole("right")["nc"]) + g.whole("s")[""]))
    g.observe("s", "y")
    return g


def normalised(*, observed: bool = False, from_input: bool = False, changed: bool = False) -> Graph:
    """Rows less their means, what is made of them, and a gradient that needs them once more."""
    g = graph_of(x=(4, 6), h=(4, 6), mean=(4,), t=(4, 6), y=(2, 2, 6), x_diff=(4, 6))
    at(g, "forward", "body").map((g.whole("h")["nc"], tanh(g.whole("x")["nc"])))
    h = expr(g.whole("x" if from_input else "h")["nc"])
    mean = total(h, "c") / Scalar(6, "m")
    at(g, "forward", "norm").map((g.whole("mean")["n"], mean), (g.whole("t")["nc"], h - mean))
    if changed:
        at(g, "forward", "body").map((g.whole("h")["nc"], expr(g.whole("x")["nc"]) * 4.0))
    split = expr(g.whole("t").reshape(2, 2, 6)["abc"])
    at(g, "forward", "relu").map((g.whole("y")["abc"], op("max", split, 0.0)))
    at(g, "backward", "norm").map((g.whole("x_diff")["nc"], expr(g.whole("t")["nc"]) * 2.0))
    g.observe("y", "x_diff", *(["t"] if observed else []))
    return g


def gradients_of_rows(*, changed: bool = False, other_rows: bool = False) -> Graph:
    """A factor's gradient for each row, then what goes on to the rows themselves."""
    g = graph_of(x=(4, 6), y_diff=(4, 6), x_diff=(4, 6))
    g.add_blob(Blob("s", (4,), "param"))
    g.add_blob(Blob("s_diff", (4,), "param_diff"))
    x, dy = expr(g.whole("x")["nc"]), expr(g.whole("y_diff")["nc"])
    at(g, "backward", "head").map((g.whole("y_diff")["nc"], tanh(x)))
    at(g, "backward", "scale").add(g.whole("s_diff")["n"], total(dy * x, "c"), note="factors")
    if changed:
        at(g, "backward", "head").map((g.whole("y_diff")["nc"], dy * 2.0))
    along = "n" if other_rows else "c"
    moved = dy * g.whole("s")["n"] - total(dy * g.whole("s")["n"] * x, along) * x
    at(g, "backward", "norm").map((g.whole("x_diff")["nc"], moved))
    g.observe("x_diff", "s_diff")
    return g


def masked(*, observed: bool = False) -> Graph:
    """A pooling whose mask only its backward reads."""
    g = graph_of(x=(1, 2, 4, 4), y=(1, 2, 2, 2), mask=(1, 2, 2, 2), y_diff=(1, 2, 2, 2), x_diff=(1, 2, 4, 4))
    at(g, "forward", "pool").pool("forward", "MAX", g.whole("x"), g.whole("y"), HALVES, mask=g.whole("mask"))
    b = at(g, "backward", "pool")
    b.map((g.whole("y_diff")["nchw"], expr(g.whole("y")["nchw"])))
    b.pool("backward", "MAX", g.whole("x_diff"), g.whole("y_diff"), HALVES, mask=g.whole("mask"))
    g.observe("y", "x_diff", *(["mask"] if observed else []))
    return g


def images() -> Graph:
    """A square between two convolutions, the first of which adds a bias; users may look at the last result."""
    wide, narrow = (2, 32, 4, 5), (2, 16, 4, 5)
    weights = {"w": (32, 3, 1, 1), "bias": (32,), "v": (16, 32, 1, 1)}
    g = graph_of(x=(2, 3, 4, 5), **weights, y=wide, y_squared=wide, z=narrow)
    g.options["blocks"] = True
    y = g.whole("y")["nchw"]
    epilogue = Acc(y.dims) + g.whole("bias")["c"]
    one = Geometry((1, 1), (1, 1), (0, 0), (1, 1))
    g.add(Conv("forward", g.whole("x"), g.whole("w"), g.whole("y"), one, epilogue=epilogue), "conv", "forward")
    b = at(g, "forward", "square")
    b.map((g.whole("y_squared")["nchw"], expr(y) * expr(y)))
    g.add(Conv("forward", g.whole("y_squared"), g.whole("v"), g.whole("z"), one), "conv2", "forward")
    g.observe("z")
    return g


def in_blocks(squared: bool = False) -> Graph:
    """A convolution, its maxima, and a sum of both in another one's epilogue, in blocks, where products are rounded;
    or the squares of ``images``."""
    if squared:
        g = images()
    else:
        wide = (2, 16, 4, 5)
        g = graph_of(x=(2, 3, 4, 5), w=(16, 3, 1, 1), v=(16, 16, 1, 1), y=wide, most=wide, both=wide, z=wide)
        g.options["blocks"] = True
        one, three = Geometry((1, 1), (1, 1), (0, 0), (1, 1)), Geometry((3, 3), (1, 1), (1, 1), (1, 1))
        both = g.whole("both")["nchw"]
        g.add(Conv("forward", g.whole("x"), g.whole("w"), g.whole("y"), one), "conv", "forward")
        g.add(Pool("forward", "MAX", g.whole("y"), g.whole("most"), three), "pool", "forward")
        epilogue = Acc(both.dims) + g.whole("y")["nchw"]
        kernel = Conv("forward", g.whole("most"), g.whole("v"), g.whole("both"), one, epilogue=epilogue)
        g.add(kernel, "sum", "forward")
        g.add(Conv("forward", g.whole("both"), g.whole("v"), g.whole("z"), one), "conv2", "forward")
        g.observe("z")
    BY_NAME["block-channels"].run(g)
    g.options["bf16"] = True
    return g


def shuffled() -> Graph:
    """A gradient that needs nothing of the forward pass is written down before it; a check of labels guards y."""
    g = graph_of(x=(4, 6), label=(4,), a=(4, 6), y=(4, 6), x_diff=(4, 6))
    x = expr(g.whole("x")["nc"])
    at(g, "backward", "early").map((g.whole("x_diff")["nc"], x * 3.0))
    at(g, "forward", "check").check_label(g.whole("label"), 3)
    at(g, "forward", "a").map((g.whole("a")["nc"], x * 2.0))
    at(g, "forward", "y").map((g.whole("y")["nc"], expr(g.whole("a")["nc"]) + 1.0))
    g.observe("y", "x_diff")
    return g


def lives() -> Graph:
    """A chain in which every other blob can take the memory of the last but one."""
    g = graph_of(x=(4, 16), a=(4, 16), b=(4, 16), c=(4, 16), d=(2, 16), y=(4, 16), w=(4, 16))
    for source, out in ("xa", "ab", "bc", "cy"):
        at(g, "forward", out).map((g.whole(out)["nc"], tanh(g.whole(source)["nc"])))
    g.set_view("d", View("c", 16, (16, 1)))
    g.observe("y")
    return g


MAKE: dict[str, Callable[[], Graph]] = {
    "resolve-in-place": before("resolve-in-place", "in_place_chain"),
    "infer-shapes": before("infer-shapes", "shared_params"),
    "lower-forward": before("lower-forward", "two_losses"),
    "seed-loss": before("seed-loss", "two_losses"),
    "build-backward": before("build-backward", "weighted_hidden_top"),
    "lower-update": lowered("weighted_hidden_top"),
    "prune-gradients": gradients,
    "fold-loss-weight": before("fold-loss-weight", "negative_weight"),
    "prune-zero-loss": unseen_head,
    "fold-accumulate": additions,
    "sink-alpha": scaled,
    "join-loss": loss,
    "join-heads": before("join-heads", "two_losses"),
    "fuse-maps": chain,
    "fuse-epilogues": product,
    "fuse-prologues": neighbours,
    "elide-copies": joined,
    "rematerialise": normalised,
    "join-sweeps": gradients_of_rows,
    "narrow-masks": masked,
    "block-channels": images,
    "narrow-images": in_blocks,
    "schedule": shuffled,
    "plan-memory": lives,
}
ALONE: dict[str, tuple[str, Callable[[], Graph]]] = {
    "a gradient that is read before all of it is there": ("fold-accumulate", read_in_between),
    "a scaled copy whose source changes": ("sink-alpha", lambda: scaled(changed=True)),
    "a scaled copy that users may look at": ("sink-alpha", lambda: scaled(observed=True)),
    "a scaled copy that a map reads too": ("sink-alpha", lambda: scaled(other_reader=True)),
    "a loss whose input changes before its gradient": ("join-loss", lambda: loss(changed=True)),
    "normalised rows that users may look at": ("rematerialise", lambda: normalised(observed=True)),
    "normalised rows of an input, which users may change": ("rematerialise", lambda: normalised(from_input=True)),
    "normalised rows of what changes": ("rematerialise", lambda: normalised(changed=True)),
    "a sweep whose operand changes after the other": ("join-sweeps", lambda: gradients_of_rows(changed=True)),
    "sums along rows and along columns": ("join-sweeps", lambda: gradients_of_rows(other_rows=True)),
    "squares that users may look at": ("fuse-prologues", lambda: neighbours(observed=True)),
    "squares of what changes": ("fuse-prologues", lambda: neighbours(changed=True)),
    "squares that windows of several columns meet": ("fuse-prologues", lambda: neighbours(columns=True)),
    "squares of which maxima are taken": ("fuse-prologues", lambda: neighbours(method="MAX")),
    "means that users may look at": ("fuse-epilogues", lambda: neighbours(observed=True)),
    "means of windows of several columns": ("fuse-epilogues", lambda: neighbours(columns=True)),
    "maxima along lines": ("fuse-epilogues", lambda: neighbours(method="MAX")),
    "a mask that users may look at": ("narrow-masks", lambda: masked(observed=True)),
    "images that maps use too": ("narrow-images", lambda: in_blocks(squared=True)),
    "a schedule that is one already": ("schedule", lives),
}


def shown(graph: Graph) -> str:
    text = to_text(graph)
    plan = graph.options.get("memory")
    if plan is not None:
        rows = [f"  {n} at {o}\n" for n, o in sorted(plan.offsets.items(), key=lambda p: (p[1], p[0]))]
        text += f"arena of {plan.size} reals, {plan.lower_bound} alive at once at most:\n{''.join(rows)}"
    return text


@pytest.mark.parametrize("name", MAKE)
def test_before_and_after(name: str) -> None:
    graph = MAKE[name]()
    text = f"before {name}\n\n{shown(graph)}"
    changed = BY_NAME[name].run(graph)
    verify(graph)
    text += f"\nafter {name}\n\n{shown(graph)}"
    stored = TEXTS / f"{name}.txt"
    if os.environ.get("LOSSC_RENEW_TEXTS") == "1":
        stored.write_text(text, encoding="utf-8")
    assert changed
    assert text == stored.read_text(encoding="utf-8")


def test_every_pass_is_shown() -> None:
    assert set(MAKE) == set(BY_NAME)
    assert {f.stem for f in TEXTS.glob("*.txt")} == set(BY_NAME)


@pytest.mark.parametrize("name", [p.name for p in (*OPTIMISE, *PLACE)])
def test_the_meaning_stays_and_a_second_run_changes_nothing(name: str) -> None:
    graph = MAKE[name]()
    want = outcome(graph)
    BY_NAME[name].run(graph)
    got = outcome(graph)
    assert got.keys() == want.keys()
    for blob, values in want.items():
        rounding = 2**-7 * np.abs(values).max() if name == "narrow-images" else 1e-15
        np.testing.assert_allclose(got[blob], values, rtol=1e-14, atol=rounding, err_msg=blob)
    text = shown(graph)
    assert not BY_NAME[name].run(graph)
    assert shown(graph) == text


@pytest.mark.parametrize(("name", "make"), ALONE.values(), ids=ALONE.keys())
def test_leaves_alone(name: str, make: Callable[[], Graph]) -> None:
    graph = make()
    verify(graph)
    text = to_text(graph)
    assert not BY_NAME[name].run(graph)
    assert to_text(graph) == text


def kernels(graph: Graph) -> list[str]:
    return [n.kernel.kind for n in graph.nodes]


@pytest.mark.parametrize("why", ["observed", "twice", "changed"])
def test_fuse_maps_leaves_what_others_need(why: str) -> None:
    """``a`` stays where users may look at it, where another map reads it too, where its operand has changed by then."""
    graph = chain(**{why: True})
    want = outcome(graph)
    BY_NAME["fuse-maps"].run(graph)
    verify(graph)
    assert "a" in graph.blobs and "c" not in graph.blobs
    for blob, values in outcome(graph).items():
        np.testing.assert_allclose(values, want[blob], rtol=1e-14)


def test_fuse_epilogues_keeps_what_users_may_look_at() -> None:
    graph = product(observed=True)
    want = outcome(graph)
    BY_NAME["fuse-epilogues"].run(graph)
    verify(graph)
    assert kernels(graph) == ["gemm", "map"], "the bias is taken, the ReLU is not"
    for blob, values in outcome(graph).items():
        np.testing.assert_allclose(values, want[blob], rtol=1e-14)


def test_neighbours_become_one_pooling_of_two_results() -> None:
    graph = neighbours()
    want = outcome(graph)
    for name in ("fuse-epilogues", "fuse-prologues"):
        assert BY_NAME[name].run(graph)
        verify(graph)
    assert kernels(graph) == ["map", "pool"] and {"squares", "mean"}.isdisjoint(graph.blobs)
    pool = "y[2,1,6,12] = (alpha 0.5) * (t[2,1,6,12] |> acc * acc) kernel [3, 1] stride [1, 1] pad [1, 0] |> "
    assert f"pool_forward AVE {pool}t[n,h,w] / (1 + acc); scale[n,h,w] = 1 + acc" in to_text(graph)
    for blob, values in outcome(graph).items():
        np.testing.assert_allclose(values, want[blob], rtol=1e-14)


@pytest.mark.parametrize("apart", [1, 2])
def test_a_pooling_stores_its_second_result_in_whole_lines(apart: int) -> None:
    """Where that is copied with other numbers in between, the copy stays."""
    g = neighbours()
    g.add_blob(Blob("both", (2, 6, 3, 4 * apart), "activation"))
    g.observable.discard("scale")
    g.observe("both")
    into = Ref("both", (2, 6, 3, 4), tuple(apart * s for s in (72, 12, 4, 1)))
    at(g, "forward", "copy").map((into["nchw"], g.whole("scale")["nchw"]))
    want = outcome(g)
    for name in ("fuse-epilogues", "elide-copies"):
        BY_NAME[name].run(g)
        verify(g)
    assert len([k for k in kernels(g) if k == "map"]) == 1 + apart
    for blob, values in outcome(g).items():
        np.testing.assert_allclose(values, want[blob], rtol=1e-14)


def test_elide_copies_keeps_the_copy_of_an_input() -> None:
    graph = joined(from_input=True)
    BY_NAME["elide-copies"].run(graph)
    verify(graph)
    assert "x" in graph.family("x") and graph.blobs["x"].view is None
    assert [n.layer for n in graph.nodes] == ["a", "b", "concat", "sum", "out"]


def test_a_gemm_with_an_epilogue_takes_no_second_bias_in_the_wrong_place() -> None:
    """An addition behind an epilogue joins it behind what is there: max(acc, 0) + bias, not max(acc + bias, 0)."""
    g = graph_of(x=(4, 6), w=(6, 3), y=(4, 3))
    g.add_blob(Blob("bias", (3,), "param"))
    y = g.whole("y")
    relu = op("max", Acc(y["ij"].dims), 0.0)
    g.add(Gemm(g.whole("x"), g.whole("w"), y, epilogue=relu), "fc", "forward")
    at(g, "forward", "fc").add(y["nc"], expr(g.whole("bias")["c"]))
    g.observe("y")
    want = outcome(g)
    assert BY_NAME["fuse-epilogues"].run(g)
    assert kernels(g) == ["gemm"] and "|> max(acc, 0) + bias[j]" in to_text(g)
    np.testing.assert_allclose(outcome(g)["y"], want["y"], rtol=1e-14)
