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
}
#: Layer with several bottoms of the shape of x.
SEVERAL = {
    "Eltwise SUM": "",
    "Eltwise SUM coeff": "eltwise_param { coeff: 1 coeff: -2.5 coeff: 0.1 }",
    "Eltwise PROD": "eltwise_param { operation: PROD }",
    "Eltwise PROD unstable": "eltwise_param { operation: PROD stable_prod_grad: false }",
    "Eltwise MAX": "eltwise_param { operation: MAX }",
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


def sum_of_squares(blob: str, weight: float) -> str:
    """A loss that depends on every element: weight * 0.7 * sum(blob^2), plus weight * sum(blob)."""
    return f"""
layer {{ name: "{blob}2" type: "Reduction" bottom: "{blob}" top: "{blob}2" loss_weight: {weight}
        reduction_param {{ operation: SUMSQ coeff: 0.7 }} }}
layer {{ name: "{blob}1" type: "Reduction" bottom: "{blob}" top: "{blob}1" loss_weight: {weight} }}
"""


@pytest.mark.parametrize("case", LAYERS)
def test_layer(case: str, weight: float) -> None:
    options, shape = LAYERS[case]
    kind = case.split()[0]
    net = (
        "force_backward: true\n"
        + given("x", shape)
        + f'layer {{ name: "l" type: "{kind}" bottom: "x" top: "y" {options} }}\n'
        + sum_of_squares("y", weight)
    )
    report = check(net)
    assert not report.failures, str(report)
    assert "x" in report.names
    assert len(report.names) == 1 + ("l/0" in report.names) + ("l/1" in report.names)
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
    bottoms = "".join(f'bottom: "{b}" ' for b in "xzw")
    net = (
        "force_backward: true\n"
        + "".join(given(b, IMAGE) for b in "xzw")
        + f'layer {{ name: "l" type: "{case.split()[0]}" {bottoms} top: "y" {SEVERAL[case]} }}\n'
        + sum_of_squares("y", weight)
    )
    report = check(net)
    assert report.names == ["x", "z", "w"]
    assert not report.failures, str(report)


@pytest.mark.parametrize("case", LOSSES)
def test_loss(case: str, weight: float) -> None:
    kind = case.split()[0]
    labels = "dim: 2 dim: 3" if kind == "SoftmaxWithLoss" else "dim: 2 dim: 4 dim: 3"
    inputs = {"label": LABELS} if kind == "SoftmaxWithLoss" else {}
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


def test_probabilities_of_a_softmax_loss(weight: float) -> None:
    """A second top that is used: both gradients add."""
    net = (
        "force_backward: true\n"
        + given("x", "dim: 2 dim: 4 dim: 3")
        + given("label", "dim: 2 dim: 3")
        + f"""layer {{ name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "y" top: "prob"
                loss_weight: {weight} }}"""
        + sum_of_squares("prob", 2.0)
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
    ids=["windows", "copied-window", "shared-parent", "split-in-place", "repeated", "in-place-chain", "shared-weights"],
)
def test_blobs_that_share_memory(body: str, weight: float) -> None:
    net = "force_backward: true\n" + given("x", IMAGE) + body + sum_of_squares("y", weight)
    report = check(net)
    assert not report.failures, str(report)
