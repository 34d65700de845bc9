"""Every field that a loss or Accuracy may be given: it changes what is computed, or is an error, or a warning."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from layer_nets import lower, run

from lossc.errors import GraphError
from lossc.frontend.caffe_pb2 import LayerParameter
from lossc.frontend.weights import write_blob
from lossc.ir.printer import to_text
from lossc.layers.base import COMMON
from lossc.layers.options import USED_BY
from lossc.layers.registry import LAYERS

RNG = np.random.default_rng(0)
SCORES = RNG.uniform(0.1, 0.9, (2, 3, 3))
PAIR = RNG.uniform(0.3, 0.6, (2, 3))
#: Bottoms by layer type.
BOTTOMS: dict[str, dict[str, np.ndarray]] = {
    "Accuracy": {"x": SCORES, "t": np.array([[0, 2, 1], [1, 0, 2]])},
    "ContrastiveLoss": {"x": PAIR, "t": 1 - PAIR, "s": np.array([0, 1])},
    "EuclideanLoss": {"x": SCORES, "t": 1 - SCORES},
    "HingeLoss": {"x": SCORES, "t": np.array([2, 7])},
    "InfogainLoss": {"x": SCORES, "t": np.array([[0, 2, 1], [1, 0, 2]]), "h": RNG.uniform(0, 1, (3, 3))},
    "MultinomialLogisticLoss": {"x": SCORES, "t": np.array([2, 7])},
    "SigmoidCrossEntropyLoss": {"x": SCORES, "t": RNG.integers(0, 2, (2, 3, 3))},
    "SoftmaxWithLoss": {"x": SCORES, "t": np.array([[0, 2, 1], [1, 0, 2]])},
}
TYPES = list(BOTTOMS)

#: Fields that say which layer this is, and where.
PLACE = {"name", "type", "bottom", "top", "lossc_param"}
CHANGES, GRAPH, WARNS = "changes the numbers", "changes the graph", "is warned of"
NO_WEIGHTS = "lossc_param's normalization: WEIGHTED has no effect without weights"

#: By field: what to write (the field's name stands for itself), and what comes of it: an error's message else. A field
#: whose effect is another one for some types is given again with the type.
FIELDS: dict[str, tuple[str, str]] = {
    "loss_weight": ("loss_weight: 0.5", CHANGES),
    "Accuracy loss_weight": ("loss_weight: 0.5", "Accuracy has no gradient, so its top cannot be a loss"),
    "param": ("param { lr_mult: 1 }", "1 param entry for 0 parameters"),
    "blobs": ("blobs { data: 1 }", "blobs have no effect in a net's description"),
    "include": ("include { phase: TEST }", CHANGES),
    "exclude": ("exclude { phase: TRAIN }", CHANGES),
    "phase": ("phase: TEST", "phase: TEST has no effect on a layer of a net for phase TRAIN"),
    "propagate_down": ("propagate_down: true propagate_down: false", CHANGES),
    "Accuracy propagate_down": (
        "propagate_down: true propagate_down: false", 'Accuracy cannot backpropagate to bottom 0, "x"'
    ),
    "ContrastiveLoss propagate_down": ("propagate_down: true propagate_down: true propagate_down: false", CHANGES),
    "InfogainLoss propagate_down": ("propagate_down: true propagate_down: false propagate_down: false", CHANGES),
    "accuracy_param.top_k": ("accuracy_param { top_k: 2 }", CHANGES),
    "accuracy_param.axis": ("accuracy_param { axis: 2 }", CHANGES),
    "accuracy_param.ignore_label": ("accuracy_param { ignore_label: 1 }", CHANGES),
    "contrastive_loss_param.margin": ("contrastive_loss_param { margin: 2 }", CHANGES),
    "contrastive_loss_param.legacy_version": ("contrastive_loss_param { legacy_version: true }", CHANGES),
    "hinge_loss_param.norm": ("hinge_loss_param { norm: L2 }", CHANGES),
    "infogain_loss_param.axis": ("infogain_loss_param { axis: 2 }", CHANGES),
    "infogain_loss_param.source": (
        'infogain_loss_param { source: "h.binaryproto" }',
        "source has no effect beside a third bottom that holds the matrix H",
    ),
    "loss_param.ignore_label": ("loss_param { ignore_label: 1 }", CHANGES),
    "loss_param.normalization": ("loss_param { normalization: NONE }", CHANGES),
    "loss_param.normalize": ("loss_param { normalize: false }", CHANGES),
    "SigmoidCrossEntropyLoss loss_param.normalize": ("loss_param { normalize: true }", CHANGES),
    "InfogainLoss loss_param.normalize": ("loss_param { normalize: true }", "does not know normalize"),
    "softmax_param.axis": ("softmax_param { axis: 2 }", CHANGES),
    "softmax_param.engine": ("softmax_param { engine: CAFFE }", WARNS),
    "lossc_param.loss_weight": ("lossc_param { loss_weight: runtime }", GRAPH),
    "Accuracy lossc_param.loss_weight": (
        "lossc_param { loss_weight: runtime }", "1 value of lossc_param's loss_weight for 0 tops with a weight"
    ),
    "lossc_param.reduction": ("lossc_param { reduction: sum }", CHANGES),
    "lossc_param.normalization": ("lossc_param { normalization: WEIGHTED }", NO_WEIGHTS),
    "lossc_param.class_weight": ("lossc_param { class_weight: [1, 2, 3] }", CHANGES),
    "lossc_param.class_weight_file": ('lossc_param { class_weight_file: "3.npy" }', CHANGES),
    "lossc_param.pos_weight": ("lossc_param { pos_weight: [1, 2, 3] }", CHANGES),
    "lossc_param.pos_weight_file": ('lossc_param { pos_weight_file: "3.npy" }', CHANGES),
    "lossc_param.label_smoothing": ("lossc_param { label_smoothing: 0.5 }", CHANGES),
    **{
        f"{kind} lossc_param.{name}": (f"lossc_param {{ {name}: {value} }}", CHANGES)
        for kind in ("HingeLoss", "MultinomialLogisticLoss")
        for name, value in (("class_weight", [*range(1, 10)]), ("class_weight_file", '"9.npy"'))
    },
}  # fmt: skip

#: What is refused, or warned of, beside another field or for some values only.
MORE: list[tuple[str, str, str]] = [
    *(
        (kind, f"propagate_down: true propagate_down: true {more}", f'{kind} cannot backpropagate to bottom {k}, "{b}"')
        for kind, more, k, b in (
            ("Accuracy", "", 0, "x"),
            ("ContrastiveLoss", "propagate_down: true", 2, "s"),
            ("HingeLoss", "loss_weight: 0", 1, "t"),
            ("InfogainLoss", "propagate_down: false loss_weight: 0", 1, "t"),
            ("MultinomialLogisticLoss", "", 1, "t"),
            ("SigmoidCrossEntropyLoss", "loss_weight: 0", 1, "t"),
            ("SoftmaxWithLoss", "", 1, "t"),
        )
    ),
    *(
        (kind, f"{message} {{ ignore_label: {label} }}",
         f"ignore_label {label} has no effect: no label in float32 is it")
        for kind, message, label in (
            ("Accuracy", "accuracy_param", 2147483647),
            ("InfogainLoss", "loss_param", 16777217),
            ("SigmoidCrossEntropyLoss", "loss_param", -16777219),
            ("SoftmaxWithLoss", "loss_param", 16777217),
        )
    ),
    *(
        (kind, "loss_param { normalization: FULL } lossc_param { reduction: sum }",
         'normalization has no effect beside reduction "sum"')
        for kind in USED_BY["loss_param"]
    ),
    *(
        (kind, "lossc_param { reduction: none normalization: WEIGHTED }",
         """lossc_param's normalization has no effect beside reduction "none\"""")
        for kind in TYPES if kind != "Accuracy"
    ),
    *(
        (kind, "lossc_param { loss_weight: runtime } loss_weight: 0",
         "1 value of lossc_param's loss_weight for 0 tops with a weight")
        for kind in TYPES if kind != "Accuracy"
    ),
    ("SigmoidCrossEntropyLoss", "lossc_param { pos_weight: 2 normalization: WEIGHTED }", NO_WEIGHTS),
    ("SigmoidCrossEntropyLoss", "loss_param { normalize: true normalization: NONE }", WARNS),
    ("SoftmaxWithLoss", "loss_param { normalize: true normalization: NONE }", WARNS),
]  # fmt: skip

#: Defaults, said aloud.
DEFAULTS = [
    ("Accuracy", "loss_weight: 0 propagate_down: false propagate_down: false accuracy_param { top_k: 1 axis: 1 }"),
    ("ContrastiveLoss", "contrastive_loss_param { margin: 1 legacy_version: false } lossc_param { reduction: mean }"),
    ("EuclideanLoss", "loss_weight: 1 phase: TRAIN propagate_down: true propagate_down: true lossc_param { }"),
    ("HingeLoss", "hinge_loss_param { norm: L1 } propagate_down: true propagate_down: false"),
    ("InfogainLoss", 'infogain_loss_param { source: "" axis: 1 } loss_param { normalization: VALID }'),
    ("SigmoidCrossEntropyLoss", "loss_param { normalization: BATCH_SIZE } lossc_param { pos_weight: [] }"),
    ("SoftmaxWithLoss", "softmax_param { engine: DEFAULT } loss_param { normalize: true }"),
]


def fields_of(kind: str) -> list[str]:
    """Every field of the LayerParameter and of the messages that the type uses, and its settings in lossc_param."""
    found = []
    for field in LayerParameter.DESCRIPTOR.fields:
        if field.name in PLACE:
            continue
        if field.name not in USED_BY:
            found.append(field.name)
        elif kind in USED_BY[field.name]:
            found += [f"{field.name}.{inner.name}" for inner in field.message_type.fields]
    return found + [f"lossc_param.{name}" for name in {**COMMON, **LAYERS[kind].extras}]


def net(kind: str, options: str, force: bool = True) -> str:
    inputs = [
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}'
        for name, value in BOTTOMS[kind].items()
        for dims in [" ".join(f"dim: {e}" for e in value.shape)]
    ]
    bottoms = " ".join(f'bottom: "{name}"' for name in BOTTOMS[kind])
    layer = f'layer {{ name: "l" type: "{kind}" {bottoms} top: "y" {options} }}'
    return "\n".join([*inputs, f"force_backward: {str(force).lower()}", layer])


def outcome(kind: str, options: str, force: bool = True) -> tuple[dict[str, list[float]], str]:
    """The top, the gradient and the total loss, and the graph."""
    text = net(kind, options, force)
    out = run(text, BOTTOMS[kind])
    numbers = {name: out[name].reshape(-1).tolist() for name in ("y", "x.diff", "loss") if name in out}
    return numbers, to_text(lower(text))


def check(kind: str, options: str, verdict: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if verdict not in (CHANGES, GRAPH, WARNS):
            with pytest.raises(GraphError) as error:
                lower(net(kind, options))
            assert error.value.message == verdict
            assert (error.value.layer, error.value.file) == ("l", "<string>")
            assert error.value.line is not None
            assert error.value.fix
            return
        force = "propagate_down" not in options  # which it would overrule
        numbers, graph = outcome(kind, options, force)
    plain_numbers, plain_graph = outcome(kind, "", force)
    assert bool(caught) == (verdict == WARNS)
    assert verdict != CHANGES or numbers != plain_numbers
    assert verdict != GRAPH or graph != plain_graph


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind in TYPES for field in fields_of(kind)])
def test_no_field_is_silent(kind: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_blob(tmp_path / "h.binaryproto", np.eye(3)[None, None])
    for classes in (3, 9):
        np.save(tmp_path / f"{classes}.npy", np.arange(1.0, classes + 1))
    check(kind, *FIELDS.get(f"{kind} {field}", FIELDS.get(field, ("", "no entry in FIELDS"))))


@pytest.mark.parametrize(("kind", "options", "verdict"), MORE)
def test_what_means_nothing_beside_another_field(kind: str, options: str, verdict: str) -> None:
    check(kind, options, verdict)


@pytest.mark.parametrize("kind", TYPES)
def test_messages_of_other_types(kind: str) -> None:
    for message, users in USED_BY.items():
        if kind not in users:
            given, names = ("min: 0 max: 1", " { min, max }") if message == "clip_param" else ("", "")  # both required
            check(kind, f"{message} {{ {given} }}", f"{message}{names} has no effect on {kind}")


@pytest.mark.parametrize(("kind", "options"), DEFAULTS)
def test_defaults_said_aloud_are_welcome(kind: str, options: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert outcome(kind, options)[0] == outcome(kind, "")[0]
