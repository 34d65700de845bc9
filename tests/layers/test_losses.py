"""Edges of losses and statistics: ignored labels, clipped probabilities, labels out of range, moving averages."""

from __future__ import annotations

import numpy as np
import pytest
from layer_nets import lower, run

from lossc.errors import DataError
from lossc.ir.interpret import Interpreter

FLT_MIN = float(np.finfo(np.float32).tiny)


def net(
    kind: str, options: str = "", scores: str = "dim: 3 dim: 4", labels: str = "dim: 3", tops: str = 'top: "y"'
) -> str:
    return f"""
force_backward: true
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {scores} }} }} }}
layer {{ name: "t" type: "Input" top: "t" input_param {{ shape {{ {labels} }} }} }}
layer {{ name: "l" type: "{kind}" bottom: "x" bottom: "t" {tops} {options} }}
"""


SCORES = np.array([[1.0, 2.0, -1.0, 0.5], [0.0, 0.0, 0.0, 0.0], [3.0, -2.0, 0.25, 1.0]])


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - x.max(1, keepdims=True) - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_all_labels_ignored(dtype: str) -> None:
    options = "loss_param { ignore_label: -1 }"
    out = run(net("SoftmaxWithLoss", options), {"x": SCORES, "t": -1}, dtype=dtype)
    assert out["y"] == 0
    assert out["loss"] == 0
    assert not out["x.diff"].any()


def test_probability_is_clipped_in_the_loss_and_not_in_the_gradient() -> None:
    scores = np.array([[0.0, 200.0, 0, 0], [0.0, -np.inf, 0, 0], [1.0, 1.0, 1.0, 1.0]])
    out = run(net("SoftmaxWithLoss", "loss_param { normalization: NONE }"), {"x": scores, "t": [0, 1, 2]}, dtype="f32")
    assert out["y"] == pytest.approx(-2 * np.log(FLT_MIN) + np.log(4), rel=1e-6)
    np.testing.assert_allclose(out["x.diff"][0], [-1, 1, 0, 0], atol=1e-7)


def test_nan_is_not_hidden() -> None:
    scores = np.where(np.arange(12).reshape(3, 4) == 5, np.nan, SCORES)
    assert np.isnan(run(net("SoftmaxWithLoss"), {"x": scores, "t": [0, 1, 2]})["y"])


@pytest.mark.parametrize("label", [4, -1, 1.5])
@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "Accuracy"])
def test_label_out_of_range(kind: str, label: float) -> None:
    with pytest.raises(DataError) as caught:
        run(net(kind), {"x": SCORES, "t": [0, label, 2]})
    assert f'blob "t" holds the label {label:g} at index 1' in str(caught.value)


def test_ignored_label_may_be_out_of_range() -> None:
    out = run(net("SoftmaxWithLoss", "loss_param { ignore_label: 255 }"), {"x": SCORES, "t": [0, 255, 2]})
    wanted = -log_softmax(SCORES)[[0, 2], [0, 2]].mean()
    assert out["y"] == pytest.approx(wanted)
    assert not out["x.diff"][1].any()


@pytest.mark.parametrize(
    ("options", "divisor"),
    [
        ("", 3),
        ("ignore_label: 1", 2),
        ("ignore_label: 1 normalization: FULL", 3),
        ("ignore_label: 1 normalization: BATCH_SIZE", 3),
        ("ignore_label: 1 normalization: NONE", 1),
        ("ignore_label: 1 normalize: true", 2),
        ("ignore_label: 1 normalize: false", 3),
        ("ignore_label: 1 normalize: false normalization: VALID", 2),
    ],
)
def test_softmax_normalisation(options: str, divisor: float) -> None:
    labels = [0, 1, 2]
    points = -log_softmax(SCORES)[range(3), labels]
    if "ignore" in options:
        points[1] = 0
    out = run(net("SoftmaxWithLoss", f"loss_param {{ {options} }}"), {"x": SCORES, "t": labels})
    assert out["y"] == pytest.approx(points.sum() / divisor)


@pytest.mark.parametrize(
    ("options", "divisor", "ignored"),
    [
        ("", 3, None),
        ("normalization: VALID", 12, None),
        ("normalization: FULL", 12, None),
        ("normalize: true", 12, None),
        ("normalize: false", 3, None),
        ("ignore_label: 0 normalization: VALID", 9, 0),
        ("ignore_label: 0", 3, 0),
        ("ignore_label: 0 normalization: NONE", 1, 0),
    ],
)
def test_sigmoid_normalisation(options: str, divisor: float, ignored: int | None) -> None:
    target = np.array([[1.0, 0.7, 1, 1], [-0.5, 2.5, 1, 1], [1, 1, 0, 3.0]])  # 0.7 and -0.5 count as 0
    p = 1 / (1 + np.exp(-SCORES))
    points = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    if ignored is not None:
        points[np.trunc(target) == ignored] = 0
    shape = "dim: 3 dim: 4"
    out = run(net("SigmoidCrossEntropyLoss", f"loss_param {{ {options} }}", labels=shape), {"x": SCORES, "t": target})
    assert out["y"] == pytest.approx(points.sum() / divisor)


def test_sigmoid_loss_of_great_scores() -> None:
    scores = np.array([[1000.0, -1000.0, 1000.0, -1000.0]] * 3)
    target = np.array([[1.0, 0.0, 0.0, 1.0]] * 3)
    text = net("SigmoidCrossEntropyLoss", labels="dim: 3 dim: 4")
    out = run(text, {"x": scores, "t": target}, dtype="f32")
    assert out["y"] == 2000
    np.testing.assert_allclose(out["x.diff"], np.array([[0, 0, 1, -1]] * 3) / 3, rtol=1e-6)


@pytest.mark.parametrize("weights", ["", "loss_weight: 1", "loss_weight: 1 loss_weight: 0"])
def test_probabilities_as_second_top(weights: str) -> None:
    text = net("SoftmaxWithLoss", weights, tops='top: "y" top: "p"')
    out = run(text, {"x": SCORES, "t": [0, 1, 2]})
    assert out["loss"] == out["y"]
    np.testing.assert_allclose(out["p"], np.exp(log_softmax(SCORES)))


def test_contrastive_loss_of_equal_features() -> None:
    """d is 0: the gradient of the distance is, too, thanks to the 1e-4 below it."""
    text = """force_backward: true
        layer { name: "x" type: "Input" top: "a" top: "b" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 2 } } }
        layer { name: "l" type: "ContrastiveLoss" bottom: "a" bottom: "b" bottom: "t" top: "y" }"""
    out = run(text, {"a": 1, "b": 1, "t": [0, 1]})
    assert out["y"] == 0.25
    assert not out["a.diff"].any() and not out["b.diff"].any()


def test_batch_norm_keeps_moving_sums() -> None:
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 2 dim: 3 } } }
        layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y"
                batch_norm_param { moving_average_fraction: 0.5 eps: 0 } }"""
    graph = lower(text)
    interpreter = Interpreter(graph, "f64")
    interpreter.run(["init"])
    x = np.random.default_rng(0).standard_normal((4, 2, 3))
    interpreter["x"][...] = x
    interpreter.run(["forward"])
    interpreter.run(["forward"])
    mean, variance, factor = (interpreter[graph.param_of["bn", k]] for k in range(3))
    assert factor[0] == 1.5
    np.testing.assert_allclose(mean / factor, x.mean((0, 2)))
    np.testing.assert_allclose(variance / factor, x.var((0, 2), ddof=1))
    np.testing.assert_allclose(interpreter["y"].var((0, 2)), 1)
    test = run(text, {"x": x}, {("bn", 0): mean, ("bn", 1): variance, ("bn", 2): factor}, phase="TEST")
    centred = x - x.mean((0, 2), keepdims=True)
    np.testing.assert_allclose(test["y"], centred / x.std((0, 2), ddof=1, keepdims=True))


def test_loss_is_one_sweep_in_each_direction() -> None:
    graph = lower(net("SoftmaxWithLoss"))
    assert [n.kernel.kind for n in graph.nodes if n.layer == "l" and n.section == "forward"] == ["check_label", "map"]
    adds = [n for n in graph.section("backward") if n.layer == "l" and "x.diff" in n.kernel.accumulates]
    assert len(adds) == 1


def test_accuracy_counts_ties_against_the_label() -> None:
    text = net("Accuracy", tops='top: "y" top: "c"')
    out = run(text, {"x": SCORES, "t": [1, 1, 0]})
    assert out["y"] == pytest.approx(2 / 3)
    np.testing.assert_array_equal(out["c"], [1, 0.5, 0, 0])
    top2 = net("Accuracy", "accuracy_param { top_k: 2 ignore_label: 1 }", tops='top: "y" top: "c"')
    out = run(top2, {"x": SCORES, "t": [1, 0, 3]})
    assert out["y"] == 0.5
    np.testing.assert_array_equal(out["c"], [0, 0, 0, 1])


def test_accuracy_without_labels_that_count() -> None:
    out = run(net("Accuracy", "accuracy_param { ignore_label: 7 }"), {"x": SCORES, "t": 7})
    assert out["y"] == 0
