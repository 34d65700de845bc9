"""Options of losses: those without effect, those that contradict each other, files, labels that are not checked."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layer_nets import lower, run

from lossc.errors import GraphError, WeightsError
from lossc.frontend import read_net
from lossc.frontend.caffe_pb2 import LayerParameter
from lossc.frontend.weights import write_blob
from lossc.ir import Graph
from lossc.ir.interpret import Interpreter
from lossc.layers.net import import_net
from lossc.layers.options import USED_BY
from lossc.passes.pipeline import run_passes

SCORES = np.array([[1.0, 2.0, -1.0, 0.5], [0.0, 0.0, 0.0, 0.0], [3.0, -2.0, 0.25, 1.0]])


def net(kind: str, options: str = "", more: tuple[tuple[str, str], ...] = (), labels: str = "dim: 3") -> str:
    shapes = (("x", "dim: 3 dim: 4"), ("t", labels), *more)
    inputs = [f'layer {{ name: "{n}" type: "Input" top: "{n}" input_param {{ shape {{ {s} }} }} }}' for n, s in shapes]
    bottoms = " ".join(f'bottom: "{n}"' for n, _ in shapes)
    return "\n".join(
        [*inputs, "force_backward: true", f'layer {{ name: "l" type: "{kind}" {bottoms} top: "y" {options} }}']
    )


def refused(text: str) -> GraphError:
    with pytest.raises(GraphError) as caught:
        lower(text)
    assert (caught.value.layer, caught.value.file) == ("l", "<string>")
    assert caught.value.line is not None
    return caught.value


@pytest.mark.parametrize(
    ("kind", "options", "message", "fix"),
    [
        ("EuclideanLoss", "hinge_loss_param { norm: L2 }", "hinge_loss_param { norm } has no effect on EuclideanLoss",
         "remove it; HingeLoss uses it"),
        ("EuclideanLoss", "loss_param { ignore_label: 1 }",
         "loss_param { ignore_label } has no effect on EuclideanLoss",
         "remove it; InfogainLoss, SigmoidCrossEntropyLoss and SoftmaxWithLoss use it"),
        ("HingeLoss", "loss_param { normalization: FULL }", "loss_param { normalization } has no effect on HingeLoss",
         "remove it; InfogainLoss, SigmoidCrossEntropyLoss and SoftmaxWithLoss use it"),
        ("SoftmaxWithLoss", "accuracy_param { }", "accuracy_param has no effect on SoftmaxWithLoss",
         "remove it; Accuracy uses it"),
        ("Accuracy", "loss_param { ignore_label: 1 }", "loss_param { ignore_label } has no effect on Accuracy",
         "write accuracy_param { ignore_label: ... }"),
    ],
)  # fmt: skip
def test_settings_of_other_layers(kind: str, options: str, message: str, fix: str) -> None:
    error = refused(net(kind, options, labels="dim: 3 dim: 4" if kind == "EuclideanLoss" else "dim: 3"))
    assert (error.message, error.fix) == (message, fix)


def test_settings_of_layers_that_are_no_losses() -> None:
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }
        layer { name: "l" type: "ReLU" bottom: "x" top: "y" convolution_param { num_output: 3 pad: 1 } }"""
    error = refused(text)
    assert error.message == "convolution_param { num_output, pad } has no effect on ReLU"
    assert error.fix == "remove it; Convolution, Deconvolution and Im2col use it"


def test_every_message_of_settings_belongs_to_a_type() -> None:
    messages = {f.name for f in LayerParameter.DESCRIPTOR.fields if f.name.endswith("_param")}
    assert set(USED_BY) == messages - {"lossc_param"}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("SoftmaxWithLoss", "loss_param { normalization: FULL } lossc_param { reduction: sum }",
         'normalization has no effect beside reduction "sum"'),
        ("SoftmaxWithLoss", "loss_param { normalize: true } lossc_param { reduction: none }",
         'normalize has no effect beside reduction "none"'),
        ("HingeLoss", "lossc_param { reduction: none normalization: WEIGHTED }",
         """lossc_param's normalization has no effect beside reduction "none\""""),
        ("SoftmaxWithLoss", "loss_param { normalization: FULL } lossc_param { normalization: WEIGHTED }",
         "normalization and lossc_param's normalization contradict each other"),
        ("SoftmaxWithLoss", "lossc_param { class_weight: [1, 2] }", "2 values of class_weight for 4 classes"),
        ("SoftmaxWithLoss", "lossc_param { label_smoothing: 1.5 }", "label_smoothing cannot be 1.5"),
        ("HingeLoss", "lossc_param { label_smoothing: 0.1 }",
         'HingeLoss has no setting "label_smoothing" in lossc_param'),
        ("InfogainLoss", "", "needs the matrix H as third bottom, or from a file"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(kind: str, options: str, message: str) -> None:
    assert refused(net(kind, options)).message == message


def test_weights_of_a_wrong_count() -> None:
    error = refused(net("SoftmaxWithLoss", more=(("w", "dim: 5"),)))
    assert error.message == "5 weights [5] for 3 points in 3 items"


def test_normalize_beside_normalization_counts_for_nothing() -> None:
    """As in Caffe, whose published nets have both."""
    both = run(net("SoftmaxWithLoss", "loss_param { normalize: true normalization: NONE }"), {"x": SCORES})
    one = run(net("SoftmaxWithLoss", "loss_param { normalization: NONE }"), {"x": SCORES})
    assert both["y"] == one["y"]


# ---- files


def from_file(folder: Path, text: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """As layer_nets.run, of a net in a file, so that the files it names are found beside it."""
    (folder / "net.prototxt").write_text(text)
    graph = load(folder / "net.prototxt")
    interpreter = Interpreter(graph, "f64")
    interpreter.run(["init"])
    for name, value in inputs.items():
        interpreter[graph.data_of[name]][...] = value
    interpreter.run(["forward", "backward"])
    return {"y": interpreter["y"], "x.diff": interpreter[graph.diff_of["x"]]}


def load(path: Path) -> Graph:
    source = read_net(path)
    graph = import_net(source.param, "TRAIN", file=source.file, line_of=source.line, tables=source.tables)
    graph.options["keep"] = "all"
    run_passes(graph, optimise=False)
    return graph


def test_infogain_matrix_from_a_file(tmp_path: Path) -> None:
    h = np.random.default_rng(0).uniform(0, 2, (1, 1, 4, 4)).astype(np.float32)
    write_blob(tmp_path / "h.binaryproto", h)
    inputs = {"x": SCORES, "t": [2, 0, 3]}
    options = 'infogain_loss_param { source: "h.binaryproto" }'
    got = from_file(tmp_path, net("InfogainLoss", options), inputs)
    wanted = run(net("InfogainLoss", more=(("h", "dim: 1 dim: 1 dim: 4 dim: 4"),)), {**inputs, "h": h})
    np.testing.assert_array_equal(got["y"], wanted["y"])
    np.testing.assert_array_equal(got["x.diff"], wanted["x.diff"])
    weighted = from_file(tmp_path, net("InfogainLoss", options, (("w", "dim: 3"),)), {**inputs, "w": 2.0})
    np.testing.assert_allclose(weighted["y"], 2 * wanted["y"], rtol=1e-14)


def test_infogain_matrix_given_twice(tmp_path: Path) -> None:
    write_blob(tmp_path / "h.binaryproto", np.eye(4)[None, None])
    options = 'infogain_loss_param { source: "h.binaryproto" }'
    (tmp_path / "net.prototxt").write_text(net("InfogainLoss", options, (("h", "dim: 1 dim: 1 dim: 4 dim: 4"),)))
    with pytest.raises(GraphError, match="source has no effect beside a third bottom"):
        load(tmp_path / "net.prototxt")


def test_infogain_matrix_of_a_wrong_shape(tmp_path: Path) -> None:
    write_blob(tmp_path / "h.binaryproto", np.eye(3))
    (tmp_path / "net.prototxt").write_text(net("InfogainLoss", 'infogain_loss_param { source: "h.binaryproto" }'))
    with pytest.raises(GraphError, match=r"the matrix H in h.binaryproto must be 4 x 4, not \[3, 3\]"):
        load(tmp_path / "net.prototxt")


@pytest.mark.parametrize("name", ["w.npy", "w.binaryproto"])
def test_class_weights_from_a_file(tmp_path: Path, name: str) -> None:
    weights = np.array([1, 0.5, 2, 0.25], np.float32)
    if name.endswith(".npy"):
        np.save(tmp_path / name, weights)
    else:
        write_blob(tmp_path / name, weights)
    inputs = {"x": SCORES, "t": [2, 0, 3]}
    got = from_file(tmp_path, net("SoftmaxWithLoss", f'lossc_param {{ class_weight_file: "{name}" }}'), inputs)
    wanted = run(net("SoftmaxWithLoss", "lossc_param { class_weight: [1, 0.5, 2, 0.25] }"), inputs)
    np.testing.assert_array_equal(got["y"], wanted["y"])
    np.testing.assert_array_equal(got["x.diff"], wanted["x.diff"])


def test_class_weights_given_twice(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.ones(4))
    options = 'lossc_param { class_weight: [1, 2, 3, 4] class_weight_file: "w.npy" }'
    (tmp_path / "net.prototxt").write_text(net("HingeLoss", options))
    with pytest.raises(GraphError, match="class_weight and class_weight_file are both given"):
        load(tmp_path / "net.prototxt")


def test_one_weight_for_all_channels_beside_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.ones(4))
    for name in ("class_weight", "pos_weight"):
        options = f'lossc_param {{ {name}: 2 {name}_file: "w.npy" }}'
        (tmp_path / "net.prototxt").write_text(net("SigmoidCrossEntropyLoss", options, labels="dim: 3 dim: 4"))
        with pytest.raises(GraphError, match=f"{name} and {name}_file are both given"):
            load(tmp_path / "net.prototxt")


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "SigmoidCrossEntropyLoss"])
def test_normalize_beside_normalization_is_told_of_once(kind: str) -> None:
    labels, shape = ("dim: 3 dim: 4", (3, 4)) if kind == "SigmoidCrossEntropyLoss" else ("dim: 3", (3,))
    inputs = {"x": SCORES, "t": np.ones(shape)}
    text = net(kind, "loss_param { normalize: false normalization: NONE }", labels=labels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        both = [run(text, inputs)["y"] for _ in range(2)]
    assert [str(w.message) for w in caught] == [
        '<string>:4: layer "l": normalize: false has no effect beside normalization: NONE\n  fix: remove normalize'
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = run(net(kind, "loss_param { normalization: NONE }", labels=labels), inputs)["y"]
    assert both == [alone, alone]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(net("InfogainLoss", 'infogain_loss_param { source: "none.binaryproto" }'))
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert str(caught.value).startswith(f'{path}:4: layer "l": source none.binaryproto: no such file')
    (tmp_path / "w.npy").write_bytes(b"no array")
    path.write_text(net("HingeLoss", 'lossc_param { class_weight_file: "w.npy" }'))
    with pytest.raises(WeightsError, match=r"class_weight_file w\.npy: cannot be read"):
        load(path)


# ---- edges


def test_no_weight_left() -> None:
    """The weighted mean of nothing is 0, not 0 / 0."""
    text = net("SoftmaxWithLoss", "lossc_param { normalization: WEIGHTED }", (("w", "dim: 3"),))
    out = run(text, {"x": SCORES, "t": [0, 1, 2], "w": 0})
    assert out["y"] == 0
    assert not out["x.diff"].any()


def test_a_clipped_probability_with_smoothing() -> None:
    """Only the label's own part is clipped, so that the other classes still pull."""
    scores = np.array([[0.0, 200.0, 0, 0], [0.0] * 4, [0.0] * 4])
    text = net("SoftmaxWithLoss", "loss_param { normalization: NONE } lossc_param { label_smoothing: 0.5 }")
    out = run(text, {"x": scores, "t": [0, 1, 2]})
    assert out["y"] == pytest.approx(0.5 * -np.log(2.0**-126) + 0.5 * 150 + 2 * np.log(4), rel=1e-6)
    np.testing.assert_allclose(out["x.diff"][0], [-0.625, 0.875, -0.125, -0.125], atol=1e-12)


def test_second_tops_gradient_through_infogain() -> None:
    """The probabilities may be used elsewhere: their gradient reaches the scores too."""
    more = (("h", "dim: 4 dim: 4"),)
    text = net("InfogainLoss", 'top: "p" loss_weight: 0 loss_weight: 0', more)
    text += '\nlayer { name: "e" type: "EuclideanLoss" bottom: "p" bottom: "q" top: "e" }'
    text = 'layer { name: "q" type: "Input" top: "q" input_param { shape { dim: 3 dim: 4 } } }\n' + text
    q = np.full((3, 4), 0.25)
    out = run(text, {"x": SCORES, "t": [0, 1, 2], "h": np.eye(4), "q": q})
    p = np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True)
    g = (p - q) / 3
    np.testing.assert_allclose(out["x.diff"], p * (g - (g * p).sum(1, keepdims=True)), rtol=1e-12, atol=1e-15)
