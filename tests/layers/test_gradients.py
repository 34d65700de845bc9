"""Every layer's gradient against central differences in float64, at two loss weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lossc.testing.gradient import GradientReport, check_net_gradients

IMAGE = "dim: 2 dim: 4 dim: 5 dim: 6"
LABELS = np.array([[0, 3, 1], [2, 2, 0]])

#: Layer (bottom "x", perhaps "z"; top "y") -> shape of x. A EuclideanLoss follows.
LAYERS = {
    "InnerProduct": ("inner_product_param { num_output: 3 }", IMAGE),
    "InnerProduct axis": ("inner_product_param { num_output: 3 axis: 2 transpose: true }", IMAGE),
    "InnerProduct no bias": ("inner_product_param { num_output: 1 bias_term: false }", "dim: 1 dim: 7"),
    "ReLU": ("", IMAGE),
    "ReLU slope": ("relu_param { negative_slope: 0.3 }", IMAGE),
    "Sigmoid": ("", IMAGE),
    "TanH": ("", IMAGE),
    "Convolution": ("convolution_param { num_output: 3 kernel_size: 3 }", IMAGE),
    "Convolution groups": (
        "convolution_param { num_output: 6 group: 2 kernel_h: 3 kernel_w: 2 stride: 2 pad_h: 2 pad_w: 1 }",
        IMAGE,
    ),
    "Convolution dilation": ("convolution_param { num_output: 2 kernel_size: 2 dilation: 3 pad: 2 }", IMAGE),
    "Convolution 1x1": ("convolution_param { num_output: 3 kernel_size: 1 bias_term: false }", IMAGE),
    "Convolution 1 axis": (
        "convolution_param { num_output: 3 kernel_size: 3 stride: 2 pad: 1 dilation: 2 }",
        "dim: 2 dim: 3 dim: 9",
    ),
    "Convolution 3 axes": (
        "convolution_param { num_output: 2 kernel_size: 2 kernel_size: 3 kernel_size: 1 pad: 1 pad: 0 pad: 0 }",
        "dim: 2 dim: 2 dim: 3 dim: 4 dim: 2",
    ),
    "Convolution at axis 2": (
        "convolution_param { num_output: 3 kernel_size: 2 axis: 2 }",
        "dim: 2 dim: 3 dim: 2 dim: 4 dim: 4",
    ),
    "Convolution no space": ("convolution_param { num_output: 3 }", "dim: 4 dim: 5"),
    "Pooling MAX": ("pooling_param { pool: MAX kernel_size: 3 stride: 2 }", IMAGE),
    "Pooling MAX pad": ("pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }", IMAGE),
    "Pooling AVE": ("pooling_param { pool: AVE kernel_size: 2 stride: 2 }", IMAGE),
    "Pooling AVE pad": ("pooling_param { pool: AVE kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3 pad: 1 }", IMAGE),
    "Pooling AVE global": ("pooling_param { pool: AVE global_pooling: true }", IMAGE),
    "Pooling FLOOR": ("pooling_param { pool: MAX kernel_size: 2 stride: 2 round_mode: FLOOR }", IMAGE),
    "Pooling gaps": ("pooling_param { pool: AVE kernel_size: 1 stride: 3 }", IMAGE),
    "Dropout": ("dropout_param { dropout_ratio: 0.4 }", IMAGE),
    "Dropout ratio 0": ("dropout_param { dropout_ratio: 0 }", IMAGE),
    "Softmax": ("", IMAGE),
    "Softmax axis 0": ("softmax_param { axis: 0 }", IMAGE),
    "Softmax last axis": ("softmax_param { axis: -1 }", IMAGE),
    "Softmax one class": ("", "dim: 3 dim: 1"),
    "Power": ("power_param { scale: 1.5 shift: -0.3 }", IMAGE),
    "Power 2": ("power_param { power: 2 scale: -0.7 shift: 0.2 }", IMAGE),
    "Power 3": ("power_param { power: 3 scale: 0.5 }", IMAGE),
    "Power 3 shift": ("power_param { power: 3 scale: 0.5 shift: 2 }", IMAGE),
    "Power 0": ("power_param { power: 0 }", IMAGE),
    "Power scale 0": ("power_param { power: 3 scale: 0 shift: 2 }", IMAGE),
    "Reduction SUM": ("reduction_param { axis: 1 coeff: 0.3 }", IMAGE),
    "Reduction ASUM": ("reduction_param { operation: ASUM axis: 2 }", IMAGE),
    "Reduction SUMSQ": ("reduction_param { operation: SUMSQ axis: -1 coeff: 2 }", IMAGE),
    "Reduction MEAN": ("reduction_param { operation: MEAN axis: 1 }", IMAGE),
    "Flatten": ("", IMAGE),
    "Flatten middle": ("flatten_param { axis: 1 end_axis: 2 }", IMAGE),
    "Reshape": ("reshape_param { shape { dim: 0 dim: -1 dim: 2 } }", IMAGE),
    "Split": ("", IMAGE),
    "AbsVal": ("", IMAGE),
    "BNLL": ("", IMAGE),
    "Clip": ("clip_param { min: -0.5 max: 0.8 }", IMAGE),
    "ELU": ("elu_param { alpha: 0.7 }", IMAGE),
    "Swish": ("swish_param { beta: 1.7 }", IMAGE),
    "Exp": ("", IMAGE),
    "Exp base": ("exp_param { base: 2 scale: 0.5 shift: 0.3 }", IMAGE),
    "Log": ("log_param { shift: 9 }", IMAGE),
    "Log base": ("log_param { base: 10 scale: 0.5 shift: 5 }", IMAGE),
    "PReLU": ("", IMAGE),
    "PReLU shared": ("prelu_param { channel_shared: true }", IMAGE),
    "Scale": ("scale_param { bias_term: true }", IMAGE),
    "Scale axes": ("scale_param { axis: 0 num_axes: 2 }", IMAGE),
    "Scale to the end": ("scale_param { axis: -2 num_axes: -1 bias_term: true }", IMAGE),
    "Scale scalar": ("scale_param { num_axes: 0 }", IMAGE),
    "Bias": ("", IMAGE),
    "Bias axes": ("bias_param { axis: 2 num_axes: 2 }", IMAGE),
    "BatchNorm": ("", IMAGE),
    "BatchNorm global": ("batch_norm_param { use_global_stats: true eps: 10 }", IMAGE),
    "BatchNorm flat": ("", "dim: 7 dim: 3"),
    "LRN": ("lrn_param { local_size: 3 alpha: 0.7 beta: 0.75 k: 1.5 }", IMAGE),
    "LRN wide": ("lrn_param { local_size: 7 alpha: 0.7 beta: 1.25 }", IMAGE),
    "LRN within": ("lrn_param { local_size: 3 alpha: 0.7 beta: 0.5 norm_region: WITHIN_CHANNEL }", IMAGE),
    "MVN": ("", IMAGE),
    "MVN across": ("mvn_param { across_channels: true }", IMAGE),
    "MVN mean": ("mvn_param { normalize_variance: false }", IMAGE),
    "Tile": ("tile_param { axis: 2 tiles: 3 }", IMAGE),
}
#: Layer with several bottoms of the shape of x.
SEVERAL = {
    "Eltwise SUM": "",
    "Eltwise SUM coeff": "eltwise_param { coeff: 1 coeff: -2.5 coeff: 0.1 }",
    "Eltwise PROD": "eltwise_param { operation: PROD }",
    "Eltwise PROD unstable": "eltwise_param { operation: PROD stable_prod_grad: false }",
    "Eltwise MAX": "eltwise_param { operation: MAX }",
    "Scale": "scale_param { axis: 0 bias_term: true }",
    "Bias": "bias_param { axis: 0 }",
    "Concat": "",
    "Concat axis": "concat_param { axis: -1 }",
    "Concat axis 0": "concat_param { concat_dim: 0 }",
}
LOSSES = {
    "EuclideanLoss": "",
    "SoftmaxWithLoss": "",
    "SoftmaxWithLoss FULL": "loss_param { normalization: FULL ignore_label: 2 }",
    "SoftmaxWithLoss VALID": "loss_param { ignore_label: 2 }",
    "SoftmaxWithLoss BATCH_SIZE": "loss_param { normalization: BATCH_SIZE }",
    "SoftmaxWithLoss NONE": "loss_param { normalization: NONE }",
    "SoftmaxWithLoss normalize": "loss_param { normalize: false ignore_label: 0 }",
    "HingeLoss": "",
    "HingeLoss L2": "hinge_loss_param { norm: L2 }",
    "MultinomialLogisticLoss": "",
    "SigmoidCrossEntropyLoss": "",
    "SigmoidCrossEntropyLoss VALID": "loss_param { normalization: VALID ignore_label: 0 }",
    "SigmoidCrossEntropyLoss FULL": "loss_param { normalization: FULL }",
    "SigmoidCrossEntropyLoss NONE": "loss_param { normalization: NONE ignore_label: 1 }",
}

pytestmark = pytest.mark.parametrize("weight", [3.7, -0.5])


def check(net: str, **options: Any) -> GradientReport:
    return check_net_gradients(net, samples=30, **options)


def given(name: str, shape: str) -> str:
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {shape} }} }} }}\n'


def some_loss(blob: str, weight: float) -> str:
    """A loss that depends on every element: weight * (0.7 sum(blob^2) + sum(sigmoid(blob)))."""
    return f"""
layer {{ name: "{blob}2" type: "Reduction" bottom: "{blob}" top: "{blob}2" loss_weight: {weight}
        reduction_param {{ operation: SUMSQ coeff: 0.7 }} }}
layer {{ name: "{blob}1" type: "Sigmoid" bottom: "{blob}" top: "{blob}1" loss_weight: {weight} }}
"""


@pytest.mark.parametrize("case", LAYERS)
def test_layer(case: str, weight: float) -> None:
    options, shape = LAYERS[case]
    kind = case.split()[0]
    net = (
        "force_backward: true\n"
        + given("x", shape)
        + f'layer {{ name: "l" type: "{kind}" bottom: "x" top: "y" {options} }}\n'
        + some_loss("y", weight)
    )
    report = check(net)
    assert not report.failures, str(report)
    assert "x" in report.names
    constant = kind == "Power" and ("power: 0" in options or "scale: 0 " in options)
    moving = any(abs(p.numeric) > 1e-3 for p in report.partials)
    assert moving != (constant or case == "Softmax one class")


@pytest.mark.parametrize("case", LAYERS)
def test_layer_as_loss(case: str, weight: float) -> None:
    """The top itself carries the weight: the loss is weight * sum(top)."""
    options, shape = LAYERS[case]
    net = (
        "force_backward: true\n"
        + given("x", shape)
        + f'layer {{ name: "l" type: "{case.split()[0]}" bottom: "x" top: "y" loss_weight: {weight} {options} }}\n'
    )
    report = check(net)
    assert "x" in report.names
    assert not report.failures, str(report)


@pytest.mark.parametrize("case", SEVERAL)
def test_layer_of_several_bottoms(case: str, weight: float) -> None:
    names = "xz" if case in ("Scale", "Bias") else "xzw"
    bottoms = "".join(f'bottom: "{b}" ' for b in names)
    net = (
        "force_backward: true\n"
        + "".join(given(b, IMAGE) for b in names)
        + f'layer {{ name: "l" type: "{case.split()[0]}" {bottoms} top: "y" {SEVERAL[case]} }}\n'
        + some_loss("y", weight)
    )
    report = check(net)
    assert report.names[: len(names)] == list(names)
    assert not report.failures, str(report)


@pytest.mark.parametrize("case", LOSSES)
def test_loss(case: str, weight: float) -> None:
    kind = case.split()[0]
    labels, inputs = "dim: 2 dim: 4 dim: 3", {}
    if kind == "SoftmaxWithLoss":
        labels, inputs = "dim: 2 dim: 3", {"label": LABELS}
    elif kind in ("HingeLoss", "MultinomialLogisticLoss"):
        labels, inputs = "dim: 2", {"label": np.array([2, 7])}
    if kind == "MultinomialLogisticLoss":
        inputs["x"] = np.random.default_rng(0).uniform(0.1, 1, (2, 4, 3))
    net = (
        "force_backward: true\n"
        + given("x", "dim: 2 dim: 4 dim: 3")
        + given("label", labels)
        + f'layer {{ name: "l" type: "{kind}" bottom: "x" bottom: "label" top: "y" {LOSSES[case]}'
        + f" loss_weight: {weight} }}\n"
    )
    report = check(net, inputs=inputs)
    assert report.names == (["x", "label"] if kind == "EuclideanLoss" else ["x"])
    assert not report.failures, str(report)
    assert any(abs(p.numeric) > 1e-3 for p in report.partials)


@pytest.mark.parametrize("options", ["", "legacy_version: true"])
def test_contrastive_loss(options: str, weight: float) -> None:
    """With the distances far above 1e-4, which stands in Caffe's gradient only."""
    net = (
        "force_backward: true\n"
        + given("a", "dim: 6 dim: 4")
        + given("b", "dim: 6 dim: 4 dim: 1 dim: 1")
        + given("similar", "dim: 6")
        + f"""layer {{ name: "l" type: "ContrastiveLoss" bottom: "a" bottom: "b" bottom: "similar" top: "y"
                contrastive_loss_param {{ margin: 4 {options} }} loss_weight: {weight} }}"""
    )
    report = check(net, inputs={"similar": [1, 0, 1, 0, 0.5, 2]}, tolerance=1e-3)
    assert report.names == ["a", "b"]
    assert not report.failures, str(report)


@pytest.mark.parametrize("options", ["", "loss_param { ignore_label: 2 }", "loss_param { normalization: NONE }"])
def test_infogain_loss(options: str, weight: float) -> None:
    net = (
        "force_backward: true\n"
        + given("x", "dim: 2 dim: 4 dim: 3")
        + given("label", "dim: 2 dim: 3")
        + given("H", "dim: 4 dim: 4")
        + f"""layer {{ name: "l" type: "InfogainLoss" bottom: "x" bottom: "label" bottom: "H" top: "y" top: "prob"
                {options} loss_weight: {weight} loss_weight: 0 }}"""
    )
    report = check(net, inputs={"label": LABELS})
    assert report.names == ["x"]
    assert not report.failures, str(report)


def test_probabilities_of_a_softmax_loss(weight: float) -> None:
    """A second top that is used: both gradients add."""
    net = (
        "force_backward: true\n"
        + given("x", "dim: 2 dim: 4 dim: 3")
        + given("label", "dim: 2 dim: 3")
        + f"""layer {{ name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "y" top: "prob"
                loss_weight: {weight} }}"""
        + some_loss("prob", 2.0)
    )
    report = check(net, inputs={"label": LABELS})
    assert not report.failures, str(report)


@pytest.mark.parametrize(
    "body",
    [
        # windows on windows, read whole and as a matrix
        """layer { name: "s" type: "Slice" bottom: "x" top: "a" top: "b" slice_param { axis: 1 slice_point: 1 } }
        layer { name: "t" type: "Slice" bottom: "b" top: "c" top: "d" top: "e" slice_param { axis: 1 } }
        layer { name: "f" type: "Flatten" bottom: "d" top: "y" }
        layer { name: "i" type: "Power" bottom: "a" top: "i" power_param { power: 2 } loss_weight: 0.3 }
        layer { name: "j" type: "TanH" bottom: "c" top: "j" loss_weight: 0.4 }""",
        # a window that no single stride describes
        """layer { name: "s" type: "Slice" bottom: "x" top: "a" top: "b" slice_param { axis: 1 } }
        layer { name: "r" type: "Reshape" bottom: "b" top: "r" reshape_param { shape { dim: -1 dim: 6 } } }
        layer { name: "i" type: "InnerProduct" bottom: "r" top: "y" inner_product_param { num_output: 2 } }
        layer { name: "j" type: "Silence" bottom: "a" }""",
        # a flattened reshape
        """layer { name: "i" type: "InnerProduct" bottom: "x" top: "i" inner_product_param { num_output: 12 } }
        layer { name: "r" type: "Reshape" bottom: "i" top: "r" reshape_param { shape { dim: -1 dim: 4 } } }
        layer { name: "f" type: "Flatten" bottom: "r" top: "y" }""",
        # the parent is used beside its windows
        """layer { name: "s" type: "Slice" bottom: "x" top: "a" top: "y" slice_param { axis: 1 } }
        layer { name: "j" type: "Silence" bottom: "a" }
        layer { name: "q" type: "Power" bottom: "x" top: "q" power_param { power: 2 } loss_weight: 0.2 }""",
        # copies of one blob, one of them changed in place
        """layer { name: "s" type: "Split" bottom: "x" top: "a" top: "b" }
        layer { name: "t" type: "TanH" bottom: "b" top: "b" }
        layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "y" eltwise_param { operation: PROD } }""",
        # one blob several times in one layer
        """layer { name: "e" type: "Eltwise" bottom: "x" bottom: "x" top: "e" eltwise_param { operation: PROD } }
        layer { name: "c" type: "Concat" bottom: "e" bottom: "x" bottom: "e" top: "y" }""",
        # in place, where the layer below needs what it wrote
        """layer { name: "p" type: "Power" bottom: "x" top: "p" power_param { power: 3 shift: 3 } }
        layer { name: "t" type: "TanH" bottom: "p" top: "p" }
        layer { name: "q" type: "Power" bottom: "p" top: "p" power_param { power: 2 } }
        layer { name: "y" type: "Softmax" bottom: "p" top: "y" }""",
        """layer { name: "c" type: "Convolution" bottom: "x" bottom: "x" top: "a" top: "b"
                  convolution_param { num_output: 2 kernel_size: 2 } }
        layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "y" eltwise_param { operation: PROD } }""",
    ],
    ids=[
        "windows",
        "copied-window",
        "reshape-flatten",
        "shared-parent",
        "split-in-place",
        "repeated",
        "in-place-chain",
        "shared-weights",
    ],
)
def test_blobs_that_share_memory(body: str, weight: float) -> None:
    net = "force_backward: true\n" + given("x", IMAGE) + body + some_loss("y", weight)
    report = check(net)
    assert not report.failures, str(report)
