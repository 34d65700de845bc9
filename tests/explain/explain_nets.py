"""Nets with several losses, and what an independent calculation says of their gradients."""

from __future__ import annotations

import numpy as np

from lossc.frontend.net import NetSource, read_net_text
from lossc.ir.interpret import Interpreter
from lossc.layers.net import import_net
from lossc.passes.pipeline import run_passes


def fc(name: str, bottom: str, n: int) -> str:
    param = f'inner_product_param {{ num_output: {n} weight_filler {{ type: "gaussian" std: 0.4 }} }}'
    return layer("InnerProduct", name, bottom, name, param)


def layer(type_: str, name: str, bottoms: str, tops: str, more: str = "") -> str:
    ends = " ".join([f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()])
    return f'layer {{ name: "{name}" type: "{type_}" {ends} {more} }}\n'


INPUTS = """\
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 8 dim: 12 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 8 } } }
"""
AUX = (
    'name: "aux"\n'
    + INPUTS
    + fc("trunk1", "data", 9)
    + layer("ReLU", "relu1", "trunk1", "trunk1")
    + fc("aux/fc", "trunk1", 4)
    + layer("SoftmaxWithLoss", "aux/loss", "aux/fc label", "aux/loss", "loss_weight: 0.3")
    + fc("trunk2", "trunk1", 7)
    + layer("TanH", "tanh2", "trunk2", "trunk2")
    + fc("main/fc", "trunk2", 4)
    + layer("SoftmaxWithLoss", "main/loss", "main/fc label", "main/loss")
    + layer("Reduction", "decay", "trunk2", "decay", "reduction_param { operation: SUMSQ } loss_weight: 0.01")
)
ZERO = AUX.replace("loss_weight: 0.3", "loss_weight: 0")


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"data": random.normal(size=(8, 12)), "label": random.permutation([0, 0, 0, 1, 1, 2, 3, 3])}


def source(text: str, file: str = "net.prototxt") -> NetSource:
    return read_net_text(text, file)


def reference_gradient(
    text: str, loss: str, blob: str, arrays: dict[str, np.ndarray], params: dict[str, np.ndarray]
) -> np.ndarray:
    """The gradient at a blob where only the layer ``loss`` keeps its weight: lowered graph, interpreter, float64."""
    net = source(text)
    for each in net.param.layer:
        weights = list(each.loss_weight) or ([1.0] if each.type.endswith("Loss") else [])
        each.ClearField("loss_weight")
        each.loss_weight.extend(w if each.name == loss else 0.0 for w in weights)
    graph = import_net(net.param, "TRAIN")
    graph.options["keep"] = "all"
    run_passes(graph, optimise=False)
    memory = Interpreter(graph, "f64")
    for name, value in arrays.items():
        memory[graph.data_of[name]][...] = value
    for name, value in params.items():
        target = memory[graph.param_of[name.rsplit("/", 1)[0], int(name.rsplit("/", 1)[1])]]
        target[...] = value.reshape(target.shape)
    memory.run(["forward", "backward"])
    diff = graph.diff_of.get(blob)
    return memory[diff].copy() if diff in graph.blobs else np.zeros(graph.declared[graph.data_of[blob]].shape)
