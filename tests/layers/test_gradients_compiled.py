"""Every layer's gradient as generated code computes it, in float64, against central differences."""

from __future__ import annotations

import pytest
from test_gradients import IMAGE, LABELS, LAYERS, LOSSES, given, some_loss

from lossc.testing.compiled import check_compiled_gradients

pytestmark = pytest.mark.parametrize("weight", [3.7, pytest.param(-0.5, marks=pytest.mark.slow)])


@pytest.mark.parametrize("case", LAYERS)
def test_layer(case: str, weight: float) -> None:
    options, shape = LAYERS[case]
    net = (
        "force_backward: true\n"
        + given("x", shape)
        + f'layer {{ name: "l" type: "{case.split()[0]}" bottom: "x" top: "y" {options} }}\n'
        + some_loss("y", weight)
    )
    report = check_compiled_gradients(net, samples=30)
    assert "x" in report.names
    assert not report.failures, str(report)


@pytest.mark.parametrize("case", LOSSES)
def test_loss(case: str, weight: float) -> None:
    kind = case.split()[0]
    labels, inputs = "dim: 2 dim: 4 dim: 3", {}
    if kind == "SoftmaxWithLoss":
        labels, inputs = "dim: 2 dim: 3", {"label": LABELS}
    elif kind in ("HingeLoss", "MultinomialLogisticLoss"):
        labels, inputs = "dim: 2", {"label": [2, 7]}
    activation = "Sigmoid" if kind == "MultinomialLogisticLoss" else "TanH"  # probabilities must not be negative
    net = (
        "force_backward: true\n"
        + given("x", "dim: 2 dim: 4 dim: 3")
        + given("label", labels)
        + f'layer {{ name: "a" type: "{activation}" bottom: "x" top: "a" }}\n'
        + f'layer {{ name: "l" type: "{kind}" bottom: "a" bottom: "label" top: "y" {LOSSES[case]}'
        + f" loss_weight: {weight} }}\n"
    )
    report = check_compiled_gradients(net, inputs=inputs, samples=30)
    assert "x" in report.names
    assert not report.failures, str(report)


def test_dropout_repeats(weight: float) -> None:
    """The check counts on it: the same pass counter gives the same mask."""
    net = (
        "force_backward: true\n"
        + given("x", IMAGE)
        + 'layer { name: "d" type: "Dropout" bottom: "x" top: "y" dropout_param { dropout_ratio: 0.6 } }\n'
        + some_loss("y", weight)
    )
    report = check_compiled_gradients(net, samples=60)
    kept = [p for p in report.partials if abs(p.numeric) > 1e-9]
    assert 0 < len(kept) < len(report.partials)
    assert not report.failures, str(report)


def test_depthwise_layers_between_others(weight: float) -> None:
    """Their images have their channels in blocks."""

    def layer(name: str, bottom: str, more: str) -> str:
        options = f'convolution_param {{ num_output: 16 {more} weight_filler {{ type: "msra" }} }}'
        return f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {options} }}\n'

    net = (
        "force_backward: true\n"
        + given("x", IMAGE)
        + layer("wide", "x", "kernel_size: 1")
        + layer("d1", "wide", "group: 16 kernel_size: 3 pad: 1")
        + layer("d2", "d1", "group: 16 kernel_h: 3 kernel_w: 2 stride: 2 pad_h: 1 pad_w: 0")
        + layer("y", "d2", "kernel_size: 1")
        + some_loss("y", weight)
    )
    report = check_compiled_gradients(net, samples=30)
    assert {"x", "d1/0", "d2/0"} <= set(report.names)
    assert not report.failures, str(report)
