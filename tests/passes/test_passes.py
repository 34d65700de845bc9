"""Every pass on small nets: it keeps their meaning, is idempotent, and does its own rewrite."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from small_nets import NETS, imported, outcome

from lossc.codegen.program import generate
from lossc.ir import Graph
from lossc.ir.printer import to_text
from lossc.ir.verify import verify
from lossc.passes.pipeline import LOWER, OPTIMISE, PASSES, PLACE, run_passes
from lossc.targets import AVX2

NAMES = sorted(NETS)
KEEP = ("", "all")


def after(name: str, last: str, keep: str = "") -> Graph:
    graph = imported(name, keep)
    run_passes(graph, until=last)
    return graph


def source_of(name: str) -> str:
    return generate(after(name, PASSES[-1].name), AVX2).source


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("name", NAMES)
def test_each_pass_keeps_the_meaning(name: str, keep: str) -> None:
    graph = after(name, LOWER[-1].name, keep)
    want = outcome(graph)
    for p in (*OPTIMISE, *PLACE):
        p.run(graph)
        verify(graph)
        got = outcome(graph)
        assert got.keys() == want.keys(), p.name
        for blob, values in want.items():
            np.testing.assert_allclose(got[blob], values, rtol=1e-12, atol=1e-13, err_msg=f"{blob} after {p.name}")


@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_changes_nothing(name: str) -> None:
    graph = after(name, LOWER[-1].name)
    for p in (*OPTIMISE, *PLACE):
        p.run(graph)
        text = to_text(graph)
        assert not p.run(graph), p.name
        assert to_text(graph) == text, p.name


@pytest.mark.parametrize("name", [name for name in NAMES if "Loss" in NETS[name]])
def test_no_seed_is_left(name: str) -> None:
    graph = after(name, PASSES[-1].name)
    text = to_text(graph)
    assert "fill" not in text.split("forward:")[1]
    for term in graph.losses:
        if graph.declared[term.blob].shape == ():
            assert f"{term.blob}.diff" not in graph.blobs
    source = source_of(name)
    for loss in ("loss", "distance", "cross", "far", "near", "apart"):
        assert not re.search(rf"\b{loss}_diff\b", source)


def test_resolve_in_place_names_every_version() -> None:
    graph = after("in_place_chain", "resolve-in-place")
    assert [c.tops for c in graph.calls][2:] == [["out"], ["out@t"], ["out@p"], ["out@r"], ["loss"]]
    assert graph.data_of["out"] == "out@r"


def test_seed_loss_fills_the_diff_with_the_weight() -> None:
    text = to_text(after("two_losses", "seed-loss"))
    assert "distance.diff[] += loss_weight 0.3" in text
    assert "loss.diff[] += loss_weight 2" in text


def test_fold_loss_weight_leaves_constants_with_their_history() -> None:
    before = to_text(after("negative_weight", "prune-gradients"))
    folded = to_text(after("negative_weight", "fold-loss-weight")).split("backward:")[1]
    assert "far.diff[] / N 4" in before
    assert "loss_weight -0.5" in folded
    assert "far.diff[] / N 4" not in folded


def test_prune_zero_loss_drops_a_head_that_nobody_sees() -> None:
    graph = after("shared_trunk", "prune-zero-loss")
    assert not [n for n in graph.section("backward") if n.layer == "distance"]
    assert "distance.diff" not in graph.blobs


def test_join_loss_makes_one_sweep() -> None:
    before, joined = (after("in_place_chain", p) for p in ("sink-alpha", "join-loss"))
    assert [n.layer for n in before.section("backward")].count("loss") == 1
    assert [n.layer for n in joined.section("backward")].count("loss") == 0
    assert any(n.note == "loss and gradient in one sweep" for n in joined.section("forward"))


def test_fuse_epilogues_takes_the_bias() -> None:
    graph = after("concat_slice", "fuse-epilogues")
    forward = [n.kernel.kind for n in graph.section("forward") if n.layer in ("a", "b", "out")]
    assert forward == ["gemm"] * 3


def test_fuse_epilogues_writes_parts_of_a_concatenation() -> None:
    before, fused = (after("concat_of_relus", p) for p in ("fuse-maps", "fuse-epilogues"))
    maps, left = ([n for n in g.section("forward") if n.layer in ("both", "relu_a", "relu_b")] for g in (before, fused))
    assert len(maps) == 2 and not left
    outs = [n.kernel.outputs()[0] for n in fused.section("forward") if n.kernel.kind == "conv"]
    assert [(out.blob, out.shape[1]) for out in outs] == [("both", 3), ("both", 2)]
    assert outs[0].offset == 0 < outs[1].offset


def test_elide_copies_writes_into_the_concatenated_blob() -> None:
    before, elided = (after("concat_slice", p) for p in ("fuse-epilogues", "elide-copies"))
    assert any(n.layer == "both" for n in before.section("forward"))
    assert not any(n.layer == "both" for n in elided.section("forward"))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_net_gives_the_same_text(name: str) -> None:
    assert source_of(name) == source_of(name)


def test_the_text_does_not_depend_on_the_hash_seed() -> None:
    here = os.path.dirname(__file__)
    script = "import sys, test_passes as t; sys.stdout.write(''.join(t.source_of(n) for n in t.NAMES))"
    path = os.pathsep.join([here, *filter(None, sys.path)])
    texts = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            check=True,
        ).stdout.decode()
        for seed in ("1", "77")
    ]
    assert texts[0] == texts[1] == "".join(source_of(n) for n in NAMES)
