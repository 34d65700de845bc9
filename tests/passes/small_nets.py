"""Small nets in prototxt that tests of passes and of generated C share."""

from __future__ import annotations

import numpy as np

from lossc.frontend.net import read_net_text
from lossc.ir import Graph
from lossc.ir.interpret import Interpreter
from lossc.layers.net import import_net


def _input(name: str, *shape: int) -> str:
    dims = " ".join(f"dim: {e}" for e in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def _fc(name: str, bottom: str, outputs: int, more: str = "") -> str:
    filler = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "constant" value: 0.1 }'
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" {more} '
        f"inner_product_param {{ num_output: {outputs} {filler} }} }}\n"
    )


def _layer(type_: str, name: str, bottoms: str, tops: str, more: str = "") -> str:
    ends = " ".join([f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()])
    return f'layer {{ name: "{name}" type: "{type_}" {ends} {more} }}\n'


def _named(name: str) -> str:
    return f'param {{ name: "{name}_w" }} param {{ name: "{name}_b" }}'


XY = _input("x", 4, 6) + _input("y", 4, 3)
NETS: dict[str, str] = {
    "two_losses": XY
    + _input("label", 4)
    + _fc("fc1", "x", 5)
    + _layer("ReLU", "relu", "fc1", "fc1")
    + _fc("fc2", "fc1", 3)
    + _layer("EuclideanLoss", "distance", "fc2 y", "distance", "loss_weight: 0.3")
    + _layer("SoftmaxWithLoss", "loss", "fc2 label", "loss", "loss_weight: 2"),
    "shared_trunk": _input("x", 4, 6)
    + _fc("code", "x", 3)
    + _layer("Sigmoid", "squash", "code", "code")
    + _fc("decoded", "code", 6)
    + _layer("SigmoidCrossEntropyLoss", "cross", "decoded x", "cross")
    + _layer("Sigmoid", "again", "decoded", "again")
    + _layer("EuclideanLoss", "distance", "again x", "distance", "loss_weight: 0"),
    "concat_slice": XY
    + _layer("Slice", "cut", "x", "left right", "slice_param { axis: 1 slice_point: 2 }")
    + _fc("a", "left", 3)
    + _fc("b", "right", 2)
    + _layer("Concat", "both", "a b", "both")
    + _fc("out", "both", 3)
    + _layer("EuclideanLoss", "loss", "out y", "loss"),
    "concat_of_relus": _input("x", 4, 6)
    + _layer("Reshape", "image", "x", "image", "reshape_param { shape { dim: 0 dim: 2 dim: 1 dim: -1 } }")
    + _layer("Convolution", "a", "image", "a", "convolution_param { num_output: 3 kernel_size: 1 }")
    + _layer("Convolution", "b", "image", "b", "convolution_param { num_output: 2 kernel_size: 1 }")
    + _layer("ReLU", "relu_a", "a", "a")
    + _layer("ReLU", "relu_b", "b", "b")
    + _layer("Concat", "both", "a b", "both")
    + _fc("out", "both", 3),
    "in_place_chain": XY
    + _fc("out", "x", 3)
    + _layer("TanH", "t", "out", "out")
    + _layer("Power", "p", "out", "out", "power_param { scale: 2 shift: 0.5 }")
    + _layer("ReLU", "r", "out", "out", "relu_param { negative_slope: 0.1 }")
    + _layer("EuclideanLoss", "loss", "out y", "loss"),
    "weighted_hidden_top": XY
    + _fc("hidden", "x", 3, "loss_weight: 0.25")
    + _layer("EuclideanLoss", "loss", "hidden y", "loss", "loss_weight: 4"),
    "zero_head": XY
    + _fc("out", "x", 3)
    + _fc("aside", "x", 3)
    + _layer("EuclideanLoss", "loss", "out y", "loss")
    + _layer("EuclideanLoss", "unused", "aside y", "unused", "loss_weight: 0"),
    "negative_weight": XY
    + _fc("out", "x", 3)
    + _layer("EuclideanLoss", "far", "out y", "far", "loss_weight: -0.5")
    + _layer("EuclideanLoss", "near", "out y", "near"),
    "dropout_nothing": XY
    + _fc("out", "x", 3)
    + _layer("Dropout", "drop", "out", "out", "dropout_param { dropout_ratio: 0 }")
    + _layer("EuclideanLoss", "loss", "out y", "loss"),
    "shared_params": XY
    + _input("x2", 4, 6)
    + _fc("one", "x", 3, _named("tower"))
    + _fc("two", "x2", 3, _named("tower"))
    + _layer("EuclideanLoss", "apart", "one two", "apart", "loss_weight: 0.1")
    + _layer("EuclideanLoss", "loss", "one y", "loss"),
}


def imported(name: str, keep: str = "") -> Graph:
    """One of the nets as layer calls; ``keep`` as in a compile request."""
    return imported_text(NETS[name], name, keep)


def imported_text(text: str, name: str, keep: str | tuple[str, ...] = "") -> Graph:
    source = read_net_text(f'name: "{name}"\n{text}', "net.prototxt")
    graph = import_net(source.param, "TRAIN", file="net.prototxt", line_of=source.line)
    graph.options["keep"] = keep
    return graph


def outcome(graph: Graph) -> dict[str, np.ndarray]:
    """Everything observable after one forward and backward pass in double precision, on inputs drawn by name."""
    interpreter = Interpreter(graph, "f64")
    for blob in graph.blobs.values():
        if blob.role in ("input", "param"):
            rng = np.random.default_rng(list(blob.name.encode()))
            labels = blob.name == "label"
            interpreter[blob.name][...] = rng.integers(0, 3, blob.shape) if labels else rng.normal(size=blob.shape)
    interpreter.run()
    return {name: interpreter[name].copy() for name in sorted(graph.observable)}
