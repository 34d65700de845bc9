"""What ``Net.explain`` says, held against the C, against the net itself, and against the interpreter."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from explain_nets import AUX, INPUTS, ZERO, batch, fc, layer, reference_gradient, source

import lossc
from lossc.explain import FORMAT, Report, explain_net, explain_request
from lossc.explain.diff import weight_diff
from lossc.explain.measure import PARAMETERS
from lossc.frontend.net import read_net
from lossc.pipeline import Request, passes_of
from lossc.testing.golden import find_cases, load_case

HERE = Path(__file__).resolve().parents[1]


def explained(text: str, seed: int = 0, **options: object) -> tuple[lossc.Net, Report]:
    """The net after one pass over a batch, and its report."""
    net = lossc.Net(source(text), lossc.TRAIN, threads=1, **options)  # type: ignore[arg-type]
    net.forward_backward(**{k: v for k, v in batch(seed).items() if k in net.inputs})
    return net, net.explain()


def check_lines(report: Report) -> None:
    """Each weight's literal stands in the line of C that the report gives, outside comments, in its function."""
    lines = report.source.split("\n")
    for a in report.alphas:
        code = re.sub(r"/\*.*?\*/", "", lines[a.line - 1])
        assert re.search(rf"(?<![\w.-]){re.escape(a.literal)}", code), (a, code)
        heads = [line for line in lines[: a.line] if line.startswith("static ")]
        assert re.search(rf"\b{a.function}\(", heads[-1]), (a, heads[-1])


def check_weights(report: Report) -> None:
    """Every loss with a weight has one in the total and one in a gradient; its own diff is not stored.

    But for tops of Slice and Flatten, whose diff is the memory of the net's input's, which must be readable.
    """
    for loss in report.losses:
        roles = {a.role for a in report.alphas if loss.loss in a.losses}
        allowed = [{"total", "gradient"}] if loss.weight else [set()]
        if loss.weight and loss.type in ("Flatten", "Slice"):
            allowed.append({"total", "seed"})
        assert roles in allowed, (loss, roles)


def small_cases(folder: Path) -> list[Path]:
    return [f for f in find_cases(folder) if not load_case(f).unknown_types]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_weight_stands_in_the_line_that_is_named(dtype: str) -> None:
    for folder in small_cases(HERE / "golden")[:: 1 if dtype == "float32" else 5]:
        case = load_case(folder)
        report = explain_request(Request(read_net(case.net, phase=case.phase), dtype=dtype))
        check_lines(report)
        if case.phase == "TRAIN":
            check_weights(report)


@pytest.mark.slow
@pytest.mark.golden
def test_each_weight_of_every_golden_net(golden: Path) -> None:
    folders = small_cases(golden / "layers")
    folders += [golden / "nets" / name for name in ("lenet", "mnist_autoencoder", "mnist_siamese")]
    for folder in folders:
        report = explain_request(Request(read_net(folder / "net.prototxt", phase="TRAIN")))
        check_lines(report)
        check_weights(report)


def test_values_weights_and_total_are_the_nets_own() -> None:
    net, report = explained(AUX)
    assert report.total == net.loss
    by_name = {x.loss: x for x in report.losses}
    assert list(by_name) == ["aux/loss", "main/loss", "decay"]
    for name, x in by_name.items():
        assert x.value == float(net.blobs[name].data)
        assert x.weighted == pytest.approx(x.weight * x.value, rel=1e-6)
    assert [x.weight for x in report.losses] == [0.3, 1.0, 0.01]
    assert sum(x.weighted or 0 for x in report.losses) == pytest.approx(net.loss, rel=1e-6)
    assert by_name["aux/loss"].line == 1 + AUX[: AUX.index('name: "aux/loss"')].count("\n")
    alpha = next(a for a in report.alphas if a.losses == ("aux/loss",) and a.role == "gradient")
    assert alpha.derivation == "loss_weight 0.3 / N 8" and alpha.literal == "0.0375f"
    assert alpha.value == np.float32(0.3) / np.float32(8)


def test_shares_at_the_joints_agree_with_the_interpreter() -> None:
    net, report = explained(AUX, dtype="float64")
    assert [j.blob for j in report.joints] == ["trunk1", "trunk2", PARAMETERS]
    assert report.joints[0].consumers == ("aux/fc", "trunk2")
    params = {f"{name}/{k}": b.data.copy() for name, blobs in net.params.items() for k, b in enumerate(blobs)}
    for joint in report.joints[:-1]:
        wanted = {s.loss: reference_gradient(AUX, s.loss, joint.blob, batch(), params) for s in joint.shares}
        norms = {name: float(np.linalg.norm(g)) for name, g in wanted.items()}
        assert set(wanted) == ({"aux/loss", "main/loss", "decay"} if joint.blob == "trunk1" else {"main/loss", "decay"})
        for s in joint.shares:
            assert s.norm == pytest.approx(norms[s.loss], rel=1e-9) and s.norm > 0
            assert s.share == pytest.approx(norms[s.loss] / sum(norms.values()), rel=1e-9)
            for other, cosine in s.cosines.items():
                apart = float((wanted[s.loss] * wanted[other]).sum()) / (norms[s.loss] * norms[other])
                assert cosine == pytest.approx(apart, abs=1e-9)
    assert report.warnings == ()


def test_gradients_at_a_joint_add_up_to_the_nets_own() -> None:
    net = lossc.Net(source(AUX), lossc.TRAIN, threads=1, keep=["trunk1"], dtype="float64")
    net.forward_backward(**batch())
    joint = net.explain().joints[0]
    squares = sum(s.norm**2 for s in joint.shares)
    products = sum(s.norm * t.norm * (s.cosines[t.loss] or 0) for s in joint.shares for t in joint.shares if s is not t)
    assert squares + products == pytest.approx(float((net.blobs["trunk1"].diff ** 2).sum()), rel=1e-9)


NOISY = (
    INPUTS
    + fc("ip", "data", 6)
    + layer("BatchNorm", "bn", "ip", "bn")
    + layer("Dropout", "drop", "bn", "bn", "dropout_param { dropout_ratio: 0.5 }")
    + fc("one", "bn", 4)
    + fc("two", "bn", 4)
    + layer("SoftmaxWithLoss", "loss1", "one label", "loss1")
    + layer("SoftmaxWithLoss", "loss2", "two label", "loss2", "loss_weight: 0.5")
)


def test_explaining_repeats_the_last_pass_and_changes_nothing() -> None:
    """Dropout's random numbers are those of the pass; BatchNorm's averages, gradients and counters stay as they are."""
    nets = [lossc.Net(source(NOISY), lossc.TRAIN, threads=1, seed=5) for _ in range(2)]
    for k in range(2):
        for net in nets:
            net.forward_backward(**batch(k))
    report = nets[0].explain()
    assert report.total == nets[0].loss
    assert [x.value for x in report.losses] == [float(nets[0].blobs[x.loss].data) for x in report.losses]
    for net in nets:
        net.forward_backward(**batch(3))
    assert nets[0].loss == nets[1].loss and nets[0].native.passes == nets[1].native.passes
    for name, blobs in nets[0].params.items():
        for one, other in zip(blobs, nets[1].params[name], strict=True):
            assert np.array_equal(one.data, other.data) and np.array_equal(one.diff, other.diff)


NORMALISERS = {
    "": ("VALID", "N 8", 8.0),
    "loss_param { normalization: FULL }": ("FULL", "N 8", 8.0),
    "loss_param { normalization: BATCH_SIZE }": ("BATCH_SIZE", "N 8", 8.0),
    "loss_param { normalization: NONE }": ("NONE", "", 1.0),
    "loss_param { normalize: false }": ("BATCH_SIZE", "N 8", 8.0),
    "loss_param { ignore_label: 2 }": ("VALID", "points that count", None),
    "loss_param { ignore_label: 2 normalization: FULL }": ("FULL", "N 8", 8.0),
}


@pytest.mark.parametrize("options", sorted(NORMALISERS))
def test_normaliser(options: str) -> None:
    mode, derivation, divisor = NORMALISERS[options]
    text = INPUTS + fc("ip", "data", 4) + layer("SoftmaxWithLoss", "loss", "ip label", "loss", options)
    net, report = explained(text)
    (loss,) = report.losses
    counted = float((batch()["label"] != 2).sum())
    assert 0 < counted < 8
    assert (loss.mode, loss.normaliser) == (mode, derivation)
    assert loss.divisor == (counted if divisor is None else divisor)
    assert explain_request(net.request).losses[0].divisor == divisor


def test_a_head_of_weight_0_has_no_backward_and_says_so() -> None:
    _, report = explained(ZERO)
    (head,) = report.zero_heads
    assert (head.loss, head.layers, head.backward) == ("aux/loss", ("aux/fc", "aux/loss"), 0)
    assert head.forward > 0 and "forward stays, since aux/loss is an output" in head.removed
    assert {b.layer: b.backward for b in report.boxes if b.layer in head.layers} == {"aux/fc": 0, "aux/loss": 0}
    assert not [a for a in report.alphas if "aux/loss" in a.losses]
    with_weight = explain_request(Request(source(AUX)))
    kernels = [sum(b.forward + b.backward for b in r.boxes) for r in (with_weight, report)]
    assert head.saved == kernels[0] - kernels[1] > 0
    assert head.saved_flops == 2 * (2 * 8 * 9 * 4)  # the gradients of weights and of data of 8 x 9 by 9 x 4
    assert [s.loss for j in report.joints for s in j.shares].count("aux/loss") == 0
    _, unseen = explained(ZERO + layer("Silence", "hush", "aux/loss", ""))
    (head,) = unseen.zero_heads
    assert (head.forward, head.backward) == (0, 0) and "nobody looks at aux/loss" in head.removed


def test_warnings_for_heads_that_move_nothing() -> None:
    dead = AUX.replace(
        fc("aux/fc", "trunk1", 4),
        layer("Power", "off", "trunk1", "off", "power_param { shift: -1e6 }")
        + layer("ReLU", "dead", "off", "off")
        + fc("aux/fc", "off", 4),
    )
    _, report = explained(dead)
    assert report.warnings == ("aux/loss does not move the trunk: its gradient is exactly 0 at trunk1",)
    assert [s.norm for s in report.joints[0].shares if s.loss == "aux/loss"] == [0.0]
    net = lossc.Net(source(AUX), lossc.TRAIN, threads=1)
    net.forward(**batch())
    history = [{"aux/loss": 1.5, "main/loss": 1.0 + k, "decay": 0.5 * k} for k in range(3)]
    (warning,) = explain_net(net, history=history).warnings
    assert warning == "aux/loss never moved: it was 1.5 in all of 3 iterations"
    assert explain_net(net, history=[history[0]] * 3).warnings == ()


def test_weights_that_can_change() -> None:
    weights = {"aux/loss": lossc.Runtime(), "main/loss": lossc.Schedule("exp", gamma=0.5)}
    net = lossc.Net(source(AUX), lossc.TRAIN, threads=1, loss_weights=weights)
    net.loss_weights["aux/loss"] = 0.75
    net.iter = 2
    net.forward_backward(**batch())
    report = net.explain()
    check_lines(report)
    check_weights(report)
    assert [(x.loss, x.kind, x.weight) for x in report.losses] == [
        ("aux/loss", "runtime", 0.75), ("main/loss", "exp", 0.25), ("decay", "constant", 0.01),
    ]  # fmt: skip
    assert report.total == net.loss
    alpha = next(a for a in report.alphas if a.losses == ("aux/loss",) and a.role == "gradient")
    assert alpha.literal == "aux_loss_loss_weight[0]" and alpha.derivation == "aux/loss.loss_weight[] / N 8"
    _, constant = explained(AUX.replace("loss_weight: 0.3", "loss_weight: 0.75"))
    assert [s.norm for s in report.joints[0].shares][0] == pytest.approx(
        [s.norm for s in constant.joints[0].shares][0], rel=1e-5
    )


def test_an_input_that_is_changed_in_place_is_not_measured_but_said_so() -> None:
    text = INPUTS + layer("ReLU", "relu", "data", "data") + fc("ip", "data", 4)
    _, report = explained(text + layer("SoftmaxWithLoss", "loss", "ip label", "loss"))
    assert report.warnings == (
        "gradients were not measured: data is changed in place, so that the last batch is gone",
    )
    assert report.total is not None and report.losses[0].value == report.total


def test_several_weighted_tops_of_one_layer_are_told_apart() -> None:
    cut = layer("Slice", "left", "ip", "left right", "slice_param { slice_point: 1 } loss_weight: 0.5 loss_weight: -2")
    net, report = explained(INPUTS + fc("ip", "data", 4) + cut + layer("Silence", "hush", "label", ""))
    assert [(x.loss, x.weight) for x in report.losses] == [("left", 0.5), ("right", -2.0)]
    assert report.total == net.loss
    left, right = report.joints[-1].shares
    assert right.norm == pytest.approx(left.norm * 4 * math.sqrt(3), rel=1e-5)


def test_diff_shows_the_weights_in_question_alone() -> None:
    request = Request(source(AUX))
    text = weight_diff(request, "aux/loss")
    gone = [line for line in text.splitlines() if line.startswith("-") and not line.startswith("---")]
    new = [line for line in text.splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert any("0.0375f" in line for line in gone) and not any("0.0375f" in line for line in new)
    assert any("aux_loss_loss_weight[0]" in line for line in new) and any("set_loss_weight" in line for line in new)
    assert not any("main_fc_diff" in line for line in gone)
    assert weight_diff(request, "aux/loss", lossc.Schedule("dann", gamma=10.0, max_iter=100)).count("dann") > 0


def test_every_step_names_a_pass_and_a_reason() -> None:
    _, report = explained(AUX)
    names = {p.name for p in passes_of(Request(source(AUX)))}
    assert {"fold-loss-weight", "join-loss", "fuse-epilogues"} <= {s.by for s in report.steps} <= names
    assert all(s.layer and s.what and s.why for s in report.steps)
    folded = [s for s in report.steps if s.by == "fold-loss-weight" and s.layer == "aux/loss"]
    assert folded and folded[0].what.startswith("loss_weight 0.3 folded into")


def test_a_loss_diff_that_must_be_readable_is_shown_as_stored() -> None:
    report = explain_request(Request(source(AUX), keep=("aux/loss",)))
    check_lines(report)
    roles = {x.loss: {a.role for a in report.alphas if a.losses == (x.loss,)} for x in report.losses}
    assert roles["aux/loss"] == {"gradient", "seed", "total"} and roles["main/loss"] == {"gradient", "total"}


def test_without_a_pass_nothing_is_measured() -> None:
    net = lossc.Net(source(AUX), lossc.TRAIN, threads=1)
    report = net.explain()
    assert report.total is None and report.joints == () and all(x.value is None for x in report.losses)
    net.forward(**batch())
    quick = net.explain(gradients=False)
    assert quick.total == net.loss and quick.joints == ()


def test_json_has_the_documented_form() -> None:
    _, report = explained(AUX)
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["format"] == FORMAT and "source" not in content
    assert set(content) == {
        "format", "net", "file", "phase", "target", "dtype", "losses", "total", "alphas", "zero_heads", "joints",
        "steps", "warnings", "boxes", "edges",
    }  # fmt: skip
    assert content["losses"][0]["weight"] == 0.3 and content["joints"][0]["shares"][0]["loss"] == "aux/loss"
    two = fc("ip", "data", 4) + layer("SoftmaxWithLoss", "one", "ip label", "one")
    two += layer("Reduction", "sum", "ip", "sum", "reduction_param { operation: SUMSQ } loss_weight: 1")
    net = lossc.Net(source(INPUTS + two), lossc.TRAIN, threads=1)
    net.forward(data=np.full((8, 12), np.nan), label=np.zeros(8))
    wild = net.explain()
    assert math.isnan(wild.total or 0) and json.loads(json.dumps(wild.to_json(), allow_nan=False))["total"] == "nan"
    assert any("not finite" in w for w in wild.warnings)


@pytest.mark.parametrize(
    ("type_", "target"),
    [
        ("HuberLoss", "y"), ("KLDivLoss", "y"), ("FocalLoss", "label"), ("CosineEmbeddingLoss", "y"),
        ("HingeLoss", "label"),
    ],  # fmt: skip
)
def test_losses_of_all_kinds_are_followed_into_the_c(type_: str, target: str) -> None:
    text = 'layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 8 dim: 4 } } }\n' + INPUTS
    ends = f"ip {target}" + (" label" if type_ == "CosineEmbeddingLoss" else "")
    text += fc("ip", "data", 4) + layer(type_, "loss", ends, "loss", "loss_weight: 0.5")
    net = lossc.Net(source(text), lossc.TRAIN, threads=1)
    random = np.random.default_rng(2)
    net.forward_backward(data=random.normal(size=(8, 12)), label=np.ones(8), y=random.random((8, 4)))
    report = net.explain()
    check_lines(report)
    check_weights(report)
    assert report.total == net.loss and report.losses[0].divisor in (8, 32) and not report.warnings
