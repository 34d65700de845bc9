"""join-heads: several losses on one blob are one kernel, with the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from small_nets import NETS, outcome

from lossc.frontend.net import read_net_text
from lossc.ir import Graph
from lossc.layers.net import import_net
from lossc.passes.pipeline import run_passes

INPUTS = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 6 dim: 3 dim: 2 dim: 5 } } }
layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 6 dim: 3 dim: 2 dim: 5 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 6 dim: 2 dim: 5 } } }
layer { name: "s" type: "Power" bottom: "x" top: "s" power_param { scale: 2 } }
force_backward: true
"""
HEADS = {
    "euclidean": ("EuclideanLoss", "y"),
    "sigmoid": ("SigmoidCrossEntropyLoss", "y"),
    "softmax": ("SoftmaxWithLoss", "label"),
}


def _graph(heads: tuple[str, ...]) -> Graph:
    text = INPUTS
    for weight, head in enumerate(heads, 1):
        kind, other = HEADS[head]
        text += f'layer {{ name: "{head}" type: "{kind}" bottom: "s" bottom: "{other}" top: "{head}" '
        text += f"loss_weight: {weight / 4} }}\n"
    source = read_net_text(f'name: "heads"\n{text}', "net.prototxt")
    graph = import_net(source.param, "TRAIN", file="net.prototxt", line_of=source.line)
    graph.options["keep"] = "all"
    return graph


def _readers(graph: Graph) -> list[str]:
    return [n.layer for n in graph.nodes if n.kernel.kind == "map" and "s" in n.kernel.reads()]


@pytest.mark.parametrize(
    "heads",
    [
        ("euclidean", "sigmoid"), ("sigmoid", "euclidean"), ("euclidean", "softmax"), ("softmax", "euclidean"),
        ("softmax", "sigmoid"), ("euclidean", "softmax", "sigmoid"), ("sigmoid", "euclidean", "softmax"),
    ],
    ids="-".join,
)  # fmt: skip
def test_one_kernel_reads_the_blob(heads: tuple[str, ...]) -> None:
    plain, joined = _graph(heads), _graph(heads)
    run_passes(plain, optimise=False)
    run_passes(joined)
    assert len(_readers(joined)) == 1
    want, got = outcome(plain), outcome(joined)
    for name in joined.observable & plain.observable:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-12, atol=1e-14, err_msg=name)


def test_two_losses_of_a_net_with_a_trunk() -> None:
    source = read_net_text(f'name: "n"\n{NETS["two_losses"]}', "net.prototxt")
    graph = import_net(source.param, "TRAIN", file="net.prototxt", line_of=source.line)
    run_passes(graph)
    assert [n.layer for n in graph.section("backward") if n.layer in ("distance", "loss")] == []
    assert any("join-heads" in str(remark) for remark in graph.remarks)
