"""Which sections run on one thread: those with too little work, whatever ``threads`` is."""

from __future__ import annotations

import re

import map_harness
import numpy as np
import pytest

from lossc.codegen import team
from lossc.frontend.net import read_net_text
from lossc.ir import Graph
from lossc.layers.net import import_net
from lossc.passes.pipeline import run_passes
from lossc.targets import host_target

NET = """
name: "net" force_backward: true
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: {rows} dim: 64 }} }} }}
layer {{ name: "y" type: "Input" top: "y" input_param {{ shape {{ dim: {rows} dim: 64 }} }} }}
{more}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "{scores}" bottom: "y" top: "loss" }}
"""
PRODUCT = """
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc"
        inner_product_param { num_output: 64 weight_filler { type: "xavier" } } }
"""


def _graph(rows: int, more: str = "") -> Graph:
    text = NET.format(rows=rows, more=more, scores="fc" if more else "x")
    source = read_net_text(text, "net.prototxt")
    graph = import_net(source.param, "TRAIN", file="net.prototxt", line_of=source.line)
    run_passes(graph)
    return graph


def _teams(graph: Graph) -> list[str]:
    return re.findall(r"LOSSC_TEAM\((.+?),", map_harness.program(graph, host_target(), "f32").source)


@pytest.mark.parametrize(("rows", "more", "alone"), [
    (4, "", True), (64, "", True), (4096, "", False), (4, PRODUCT, True), (64, PRODUCT, False),
])  # fmt: skip
def test_little_work_is_for_one_thread(rows: int, more: str, alone: bool) -> None:
    graph = _graph(rows, more)
    assert team.wants_team(graph, graph.section("forward")) != alone
    forward_backward = _teams(graph)[-1]
    assert forward_backward == ("1" if alone else "net->threads")


def test_results_do_not_depend_on_the_team(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for limit in (0, 2**60):
        monkeypatch.setattr(team, "TEAM_STEPS", limit)
        graph = _graph(300, PRODUCT)
        program = map_harness.program(graph, host_target(), "f32")
        built = map_harness.build(program, host_target(), "f32")
        rng = np.random.default_rng(0)
        places = {n: e["data"] for n, e in built.manifest["blobs"].items() if e["data"]}
        memory = {n: rng.standard_normal(place["shape"]).astype(np.float32) for n, place in places.items()}
        results.append(map_harness.run(built, memory, 3))
    assert results[0].keys() == results[1].keys()
    for name, values in results[0].items():
        np.testing.assert_array_equal(values, results[1][name], err_msg=name)
