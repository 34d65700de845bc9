"""BatchNorm with global statistics behind a contraction: its epilogue, with Scale, the residual's sum and ReLU."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.frontend.net import read_net_text
from lossc.ir import Conv, Gemm, Graph, Map
from lossc.ir.interpret import Interpreter
from lossc.pipeline import Request, build_graph

CONV = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 5 } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "bn_a" type: "BatchNorm" bottom: "a" top: "a" }
layer { name: "scale_a" type: "Scale" bottom: "a" top: "a" scale_param { bias_term: true } }
layer { name: "b" type: "Convolution" bottom: "x" top: "b"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "bn_b" type: "BatchNorm" bottom: "b" top: "b" }
layer { name: "scale_b" type: "Scale" bottom: "b" top: "b" scale_param { bias_term: true } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }
layer { name: "relu" type: "ReLU" bottom: "sum" top: "y" }
"""
PRODUCT = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 6 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 5 } }
layer { name: "bn_a" type: "BatchNorm" bottom: "a" top: "a" }
layer { name: "bias_a" type: "Bias" bottom: "a" top: "a" }
layer { name: "relu" type: "ReLU" bottom: "a" top: "y" }
"""


def compiled(text: str, keep: str = "") -> Graph:
    return build_graph(Request(read_net_text(text, "net.prototxt", phase="TEST"), keep=keep))[0]


def value(graph: Graph, factor: float) -> np.ndarray:
    """The top in float32 on positive statistics drawn by name; ``factor`` is how many batches they are the sum of."""
    memory = Interpreter(graph)
    for blob in graph.blobs.values():
        if blob.role in ("input", "param"):
            rng = np.random.default_rng(list(blob.name.encode()))
            memory[blob.name][...] = rng.uniform(0.5, 2.0, blob.shape)
    for param in graph.params:
        if param.layer.startswith("bn") and param.index == 2:
            memory[param.blob][...] = factor
    memory.run()
    return memory["y"].copy()


@pytest.mark.parametrize("text", [CONV, PRODUCT])
def test_no_sweep_remains_but_the_statistics(text: str) -> None:
    maps = [n for n in compiled(text).section("forward") if isinstance(n.kernel, Map) and n.kernel.dims]
    assert maps and all(n.note == "mean and 1 / deviation" for n in maps)
    assert all(math.prod(d.extent for d in n.kernel.dims) <= 5 for n in maps if isinstance(n.kernel, Map))


@pytest.mark.parametrize("text", [CONV, PRODUCT])
def test_statistics_are_ready_before_the_contraction(text: str) -> None:
    graph = compiled(text)
    at = graph.position()
    for node in graph.nodes:
        if isinstance(node.kernel, (Conv, Gemm)):
            for name in node.kernel.reads():
                assert all(at[w.id] < at[node.id] for w in graph.writers(name) if w.section == "forward")


@pytest.mark.parametrize("factor", [0.0, 1.0, 7.5])
@pytest.mark.parametrize("text", [CONV, PRODUCT])
def test_same_values_as_layer_by_layer(text: str, factor: float) -> None:
    one, other = compiled(text), compiled(text, keep="all")
    assert len(one.nodes) < len(other.nodes)
    np.testing.assert_allclose(value(one, factor), value(other, factor), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("text", [CONV, PRODUCT])
def test_compiled_code_agrees(text: str, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(f'name: "folded"{text}')
    results = []
    for keep in ("", "all"):
        net = lossc.Net(str(path), lossc.TEST, keep=keep or ())
        for layer, blobs in net.params.items():
            for k, blob in enumerate(blobs):
                rng = np.random.default_rng([k, *layer.encode()])
                blob.data[...] = rng.uniform(0.5, 2.0, blob.data.shape)
        x = np.random.default_rng(1).normal(size=net.blobs["x"].data.shape)
        results.append(np.array(net.forward(x=x)["y"]))
    assert results[0].any()
    np.testing.assert_allclose(results[0], results[1], rtol=4e-6, atol=4e-6)


def test_what_somebody_may_look_at_is_kept() -> None:
    graph = compiled(CONV, keep="all")
    assert any(isinstance(n.kernel, Map) and n.layer == "scale_b" for n in graph.nodes)
