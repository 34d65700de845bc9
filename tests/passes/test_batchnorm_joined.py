"""BatchNorm with the batch's statistics, Scale and ReLU: how often a whole blob is read and written."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lossc.frontend.net import read_net_text
from lossc.ir import Graph, Map
from lossc.ir.interpret import Interpreter
from lossc.layers.net import import_net
from lossc.passes.pipeline import run_passes

NET = """
force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 2 dim: 5 dim: 4 } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "bn_a" type: "BatchNorm" bottom: "a" top: "a" }
layer { name: "scale_a" type: "Scale" bottom: "a" top: "a" scale_param { bias_term: true } }
layer { name: "relu_a" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "Convolution" bottom: "a" top: "b"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "bn_b" type: "BatchNorm" bottom: "b" top: "b" }
layer { name: "scale_b" type: "Scale" bottom: "b" top: "b" scale_param { bias_term: true } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }
layer { name: "relu" type: "ReLU" bottom: "sum" top: "y" }
layer { name: "c" type: "Convolution" bottom: "y" top: "c" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "y2" type: "Reduction" bottom: "c" top: "E" loss_weight: 0.5 reduction_param { operation: SUMSQ } }
"""


def compiled(*, optimise: bool = True) -> Graph:
    source = read_net_text(NET, "net.prototxt")
    graph = import_net(source.param, "TRAIN", file="net.prototxt", line_of=source.line)
    run_passes(graph, optimise=optimise)
    return graph


def whole(graph: Graph, layer: str, section: str) -> tuple[set[str], set[str]]:
    """The whole blobs that the one sweep of a layer reads and writes."""
    size = 3 * 4 * 5 * 4
    maps = [n.kernel for n in graph.section(section) if n.layer == layer and isinstance(n.kernel, Map)]
    maps = [m for m in maps if math.prod(d.extent for d in m.dims) == size]
    assert len(maps) == 1
    ends = (maps[0].inputs(), maps[0].outputs())
    read, written = ({a.blob for a in end if a.points == size} for end in ends)
    return read, written


@pytest.mark.parametrize(
    ("layer", "section", "read", "written"),
    [
        ("bn_a", "forward", {"a"}, {"a@relu_a"}),
        ("bn_b", "forward", {"b", "a@relu_a"}, {"y"}),
        ("scale_a", "backward", {"a", "a@scale_a.diff"}, {"a.diff"}),
        ("scale_b", "backward", {"b", "b@scale_b.diff"}, {"b.diff"}),
    ],
)
def test_one_sweep(layer: str, section: str, read: set[str], written: set[str]) -> None:
    assert whole(compiled(), layer, section) == (read, written)


def test_normalised_blobs_have_no_memory() -> None:
    assert not {"a@bn_a", "b@bn_b"} & set(compiled().blobs)
    assert {"a@bn_a", "b@bn_b"} <= set(compiled(optimise=False).blobs)


def gradients(graph: Graph) -> dict[str, np.ndarray]:
    memory = Interpreter(graph, "f64")
    for blob in graph.blobs.values():
        if blob.role in ("input", "param"):
            rng = np.random.default_rng(list(blob.name.encode()))
            memory[blob.name][...] = rng.normal(size=blob.shape)
    memory.run()
    return {b.name: memory[b.name].copy() for b in graph.blobs.values() if b.role in ("param", "param_diff", "state")}


def test_same_values_as_layer_by_layer() -> None:
    one, other = compiled(), compiled(optimise=False)
    got, want = gradients(one), gradients(other)
    assert len(one.nodes) < len(other.nodes) and len(got) > 15
    for name, values in got.items():
        np.testing.assert_allclose(values, want[name], rtol=1e-12, atol=1e-12, err_msg=name)
