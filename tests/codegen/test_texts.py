"""The generated C of small nets, word for word. To renew the texts after a wanted change: LOSSC_RENEW_TEXTS=1."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lossc.codegen.program import generate
from lossc.frontend.net import read_net_text
from lossc.layers.net import import_net
from lossc.passes.pipeline import run_passes
from lossc.targets import AVX2

TEXTS = Path(__file__).parent / "texts"
INPUTS = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 6 } } }
layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 4 dim: 6 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 4 } } }
"""
NETS = {
    "euclidean": """
        layer { name: "loss" type: "EuclideanLoss" bottom: "x" bottom: "y" top: "loss" loss_weight: 0.3
                propagate_down: true propagate_down: false }
        force_backward: true
        """,
    "softmax": """
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "loss" }
        force_backward: true
        """,
    "activations": """
        layer { name: "t" type: "TanH" bottom: "x" top: "t" }
        layer { name: "p" type: "Power" bottom: "t" top: "p" power_param { scale: 2 shift: 0.5 } }
        layer { name: "r" type: "ReLU" bottom: "p" top: "r" relu_param { negative_slope: 0.1 } }
        """,
}


@pytest.mark.parametrize("name", sorted(NETS))
def test_text(name: str) -> None:
    source = read_net_text(f'name: "{name}"{INPUTS}{NETS[name]}', "net.prototxt")
    graph = import_net(source.param, "TRAIN", file="net.prototxt", line_of=source.line)
    run_passes(graph)
    text = generate(graph, AVX2).source
    stored = TEXTS / f"{name}.c"
    if os.environ.get("LOSSC_RENEW_TEXTS") == "1":
        TEXTS.mkdir(exist_ok=True)
        stored.write_text(text, encoding="utf-8")
    assert text == stored.read_text(encoding="utf-8")
