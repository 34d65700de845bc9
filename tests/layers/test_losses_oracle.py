"""Every loss of Caffe's against formulas written here a second time, in NumPy and point by point."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layer_nets import run

from lossc import TRAIN, Net
from lossc.frontend.net import read_net_text
from lossc.testing.gradient import check_net_gradients

Array = np.ndarray
TINY = 2.0**-126


@dataclass
class Problem:
    """One loss layer with its inputs, and what it must give."""

    kind: str
    inputs: dict[str, Array]
    options: str = ""
    extras: dict[str, Any] = field(default_factory=dict)
    top: Array = field(default_factory=lambda: np.zeros(()))
    diffs: dict[str, Array] = field(default_factory=dict)
    scale: float = 1.0

    @property
    def prototxt(self) -> str:
        lines = ["force_backward: true"]
        for name, value in self.inputs.items():
            dims = " ".join(f"dim: {d}" for d in value.shape)
            lines.append(f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}')
        bottoms = " ".join(f'bottom: "{name}"' for name in self.inputs)
        extras = " ".join(f"{k}: {list(v) if isinstance(v, tuple) else v}" for k, v in self.extras.items())
        lines.append(f'layer {{ name: "l" type: "{self.kind}" {bottoms} top: "y" loss_weight: {self.scale}')
        lines.append(f"{self.options} lossc_param {{ {extras} }} }}")
        return "\n".join(lines)


def finish(
    p: Problem, losses: Array, gradients: dict[str, Array], weight: Array, counted: Array, divisor: float
) -> Problem:
    """Sets top and diffs. ``losses``, ``weight``, ``counted`` hold one number a point; ``gradients``: points first."""
    points = losses.shape
    weight = np.where(counted, weight, 0.0)
    reduction = p.extras.get("reduction", "mean")
    if p.extras.get("normalization") == "WEIGHTED":
        divisor = weight.sum() or 1.0
    if reduction != "mean":
        divisor = 1.0
    each = np.where(counted, weight * losses, 0.0)
    p.top = each if reduction == "none" else each.sum() / divisor
    for name, gradient in gradients.items():
        w = weight.reshape(points + (1,) * (gradient.ndim - len(points)))
        p.diffs[name] = np.where(w != 0, p.scale * w * gradient / divisor, 0.0)
    return p


WEIGHTS = st.floats(0.0, 3.0).map(lambda v: round(v, 2))
NUMBERS = st.floats(-3.0, 3.0).map(lambda v: round(v, 3))


def array(draw: st.DrawFn, shape: tuple[int, ...], values: st.SearchStrategy[float] = NUMBERS) -> Array:
    count = int(np.prod(shape))
    return np.array(draw(st.lists(values, min_size=count, max_size=count)), np.float64).reshape(shape)


def point_weights(draw: st.DrawFn, p: Problem, points: tuple[int, ...]) -> Array:
    """Adds a weight bottom, or not; the weights over all points."""
    which = draw(st.sampled_from(["none", "item", "point"]))
    if which == "none":
        return np.ones(points)
    shape = points if which == "point" else points[:1]
    p.inputs["w"] = array(draw, shape, WEIGHTS)
    return np.broadcast_to(p.inputs["w"].reshape(shape + (1,) * (len(points) - len(shape))), points)


def reductions(draw: st.DrawFn, p: Problem, modes: bool) -> str:
    """Draws a reduction and a normalisation that fits the weights drawn before; the latter's name."""
    reduction = draw(st.sampled_from([None, "mean", "sum", "none"]))
    if reduction:
        p.extras["reduction"] = reduction
    if reduction in (None, "mean"):
        if ("w" in p.inputs or "class_weight" in p.extras) and draw(st.booleans()):
            p.extras["normalization"] = "WEIGHTED"
        elif modes:
            mode: str = draw(st.sampled_from(["", "FULL", "VALID", "BATCH_SIZE", "NONE"]))
            return mode
    return ""


def divisor_of(mode: str, outer: int, points: int, counted: int) -> float:
    return float(max(1, {"FULL": points, "VALID": counted, "BATCH_SIZE": outer, "NONE": 1}[mode]))


def class_weight(draw: st.DrawFn, p: Problem, classes: int, name: str = "class_weight") -> Array | None:
    if not draw(st.booleans()):
        return None
    p.extras[name] = tuple(array(draw, (classes,), WEIGHTS).tolist())
    return np.array(p.extras[name])


@st.composite
def softmax_like(draw: st.DrawFn, kind: str) -> Problem:
    """SoftmaxWithLoss or InfogainLoss over a random axis."""
    p = Problem(kind, {}, scale=draw(st.sampled_from([1.0, 0.25, -2.0])))
    before = (draw(st.integers(1, 3)),) + draw(st.sampled_from([(), (), (2,)]))
    after = draw(st.sampled_from([(), (1,), (2, 2), (3,)]))
    k, axis = draw(st.integers(1, 5)), len(before)
    x = array(draw, (*before, k, *after))
    points = before + after
    t = array(draw, points, st.integers(0, k - 1).map(float))
    p.inputs |= {"x": x, "t": t}
    h = array(draw, (k, k), WEIGHTS) if kind == "InfogainLoss" else None
    if h is not None:
        p.inputs["h"] = h.reshape(1, 1, k, k)
    weight = point_weights(draw, p, (int(np.prod(before)), int(np.prod(after))))
    cw = class_weight(draw, p, k)
    mode, ignore = reductions(draw, p, True), draw(st.sampled_from([None, 0, -1]))
    smoothing = draw(st.sampled_from([None, 0.1, 1.0])) if h is None else None
    if smoothing is not None:
        p.extras["label_smoothing"] = smoothing
    fields = (f"ignore_label: {ignore} " if ignore is not None else "") + (f"normalization: {mode}" if mode else "")
    p.options = f"loss_param {{ {fields} }}" if fields else ""
    p.options += f" infogain_loss_param {{ axis: {axis} }}" if h is not None else f" softmax_param {{ axis: {axis} }}"
    if ignore == -1 and draw(st.booleans()):
        t.reshape(-1)[0] = -1

    e, w_class = smoothing or 0.0, np.ones(k) if cw is None else cw
    rows = np.moveaxis(x, axis, -1).reshape(*weight.shape, k)
    losses, gradient, labels = np.zeros(weight.shape), np.zeros(rows.shape), t.reshape(weight.shape)
    factor = np.zeros(weight.shape)
    for at in np.ndindex(weight.shape):
        prob = np.exp(rows[at]) / np.exp(rows[at]).sum()
        label = int(labels[at]) if labels[at] != ignore else 0
        onehot = np.eye(k)[label]
        if h is not None:
            losses[at] = -(h[label] * np.log(np.maximum(prob, 1e-20))).sum()
            gradient[at], factor[at] = prob * h[label].sum() - h[label], w_class[label]
            continue
        target = (1 - e) * w_class[label] * onehot + e / k * w_class
        losses[at] = -(target * np.log(prob)).sum()
        gradient[at], factor[at] = prob * target.sum() - target, w_class[label]
    counted = labels != ignore if ignore is not None else np.ones(weight.shape, bool)
    divisor = divisor_of(mode or "VALID", weight.shape[0], weight.size, int(counted.sum()))
    if h is not None:
        weight = weight * factor
    elif p.extras.get("normalization") == "WEIGHTED":
        divisor = 1.0
        total = float(np.where(counted, weight * factor, 0.0).sum()) or 1.0
        p.extras.pop("normalization")
        finish(p, losses, {"x": gradient}, weight, counted, total)
        p.extras["normalization"] = "WEIGHTED"
        return place(p, x, axis, points)
    finish(p, losses, {"x": gradient}, weight, counted, divisor)
    return place(p, x, axis, points)


def place(p: Problem, x: Array, axis: int, points: tuple[int, ...]) -> Problem:
    """The gradient of rows back to where the rows come from; a top of points in their shape."""
    moved = np.moveaxis(x, axis, -1).shape
    p.diffs["x"] = np.moveaxis(p.diffs["x"].reshape(moved), -1, axis)
    p.top = p.top.reshape(points) if np.ndim(p.top) else p.top
    return p


@st.composite
def labelled(draw: st.DrawFn, kind: str) -> Problem:
    """HingeLoss or MultinomialLogisticLoss."""
    p = Problem(kind, {}, scale=draw(st.sampled_from([1.0, 0.25, -2.0])))
    n, k = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    values = NUMBERS if kind == "HingeLoss" else st.sampled_from([0.0, 1e-25, 0.125, 0.5, 0.75, 1.0])
    x = array(draw, draw(st.sampled_from([(n, k), (n, k, 1, 1)])), values)
    t = array(draw, (n,), st.integers(0, k - 1).map(float))
    p.inputs |= {"x": x, "t": t}
    weight = point_weights(draw, p, (n,))
    cw = class_weight(draw, p, k)
    reductions(draw, p, False)
    rows, labels = x.reshape(n, k), t.astype(int)
    losses, gradient = np.zeros(n), np.zeros((n, k))
    square = kind == "HingeLoss" and draw(st.booleans())
    if kind == "HingeLoss":
        p.options = f"hinge_loss_param {{ norm: {'L2' if square else 'L1'} }}"
    for i in range(n):
        if kind == "HingeLoss":
            sign = np.where(np.arange(k) == labels[i], -1.0, 1.0)
            margin = np.maximum(0, 1 + sign * rows[i])
            losses[i] = (margin**2).sum() if square else margin.sum()
            gradient[i] = 2 * margin * sign if square else (margin > 0) * sign
        else:
            prob = max(rows[i, labels[i]], 1e-20)
            losses[i], gradient[i, labels[i]] = -np.log(prob), -1 / prob
    weight = weight * (1.0 if cw is None else cw[labels])
    finish(p, losses, {"x": gradient}, weight, np.ones(n, bool), n)
    p.diffs["x"] = p.diffs["x"].reshape(x.shape)
    return p


@st.composite
def sigmoid(draw: st.DrawFn) -> Problem:
    """SigmoidCrossEntropyLoss."""
    p = Problem("SigmoidCrossEntropyLoss", {}, scale=draw(st.sampled_from([1.0, 0.25])))
    shape = (draw(st.integers(1, 3)),) + draw(st.sampled_from([(), (2,), (3, 2)]))
    x = array(draw, shape)
    t = array(draw, shape, st.sampled_from([0.0, 0.25, 1.0, -1.0]))
    p.inputs |= {"x": x, "t": t}
    weight = point_weights(draw, p, shape)
    channels = shape[1] if len(shape) > 1 else 1
    cw, pw = class_weight(draw, p, channels), class_weight(draw, p, channels, "pos_weight")
    mode, ignore = reductions(draw, p, True), draw(st.sampled_from([None, -1]))
    fields = (f"ignore_label: {ignore} " if ignore is not None else "") + (f"normalization: {mode}" if mode else "")
    p.options = f"loss_param {{ {fields} }}" if fields else ""
    per_channel = (channels,) + (1,) * (len(shape) - 2) if len(shape) > 1 else (1,)
    pos = np.ones(()) if pw is None else pw.reshape(per_channel)
    s = 1 / (1 + np.exp(-x))
    losses = -(pos * t * np.log(s) + (1 - t) * np.log(1 - s))
    gradient = (1 - t) * s - pos * t * (1 - s)
    weight = weight * (1.0 if cw is None else cw.reshape(per_channel))
    counted = t.astype(int) != ignore if ignore is not None else np.ones(shape, bool)
    divisor = divisor_of(mode or "BATCH_SIZE", shape[0], x.size, int(counted.sum()))
    return finish(p, losses, {"x": gradient}, weight, counted, divisor)


@st.composite
def pairs(draw: st.DrawFn, kind: str) -> Problem:
    """EuclideanLoss or ContrastiveLoss."""
    p = Problem(kind, {}, scale=draw(st.sampled_from([1.0, 0.25])))
    n, c = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    a, b = array(draw, (n, c)), array(draw, (n, c))
    p.inputs |= {"x": a, "b": b}
    losses, gradient = ((a - b) ** 2).sum(1) / 2, a - b
    if kind == "ContrastiveLoss":
        similar = array(draw, (n,), st.sampled_from([0.0, 1.0, 0.5]))
        legacy, margin = draw(st.booleans()), draw(st.sampled_from([1.0, 2.5]))
        p.inputs["s"] = similar
        p.options = f"contrastive_loss_param {{ margin: {margin} legacy_version: {str(legacy).lower()} }}"
        for i in range(n):
            if int(similar[i]):
                continue
            d = np.sqrt(((a[i] - b[i]) ** 2).sum())
            gap = margin - d**2 if legacy else margin - d
            losses[i] = max(gap, 0.0) / 2 if legacy else max(gap, 0.0) ** 2 / 2
            gradient[i] *= 0.0 if gap <= 0 else -1.0 if legacy else -gap / (d + 1e-4)
    weight = point_weights(draw, p, (n,))
    reductions(draw, p, False)
    return finish(p, losses, {"x": gradient, "b": -gradient}, weight, np.ones(n, bool), n)


KINDS: dict[str, st.SearchStrategy[Problem]] = {
    "SoftmaxWithLoss": softmax_like("SoftmaxWithLoss"),
    "InfogainLoss": softmax_like("InfogainLoss"),
    "HingeLoss": labelled("HingeLoss"),
    "MultinomialLogisticLoss": labelled("MultinomialLogisticLoss"),
    "SigmoidCrossEntropyLoss": sigmoid(),
    "EuclideanLoss": pairs("EuclideanLoss"),
    "ContrastiveLoss": pairs("ContrastiveLoss"),
}


def check(p: Problem, got: dict[str, Array], rtol: float, atol: float) -> None:
    np.testing.assert_allclose(got["y"], p.top, rtol=rtol, atol=atol, err_msg=p.prototxt)
    np.testing.assert_allclose(got["loss"], p.scale * np.sum(p.top), rtol=rtol, atol=atol, err_msg=p.prototxt)
    for name, wanted in p.diffs.items():
        largest = float(np.abs(wanted).max(initial=1.0))
        np.testing.assert_allclose(got[f"{name}.diff"], wanted, rtol=rtol, atol=atol * largest, err_msg=p.prototxt)


@pytest.mark.parametrize("kind", KINDS)
def test_interpreted(kind: str) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(KINDS[kind])
    def body(p: Problem) -> None:
        check(p, run(p.prototxt, p.inputs), 1e-9, 1e-11)

    body()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_compiled(kind: str, dtype: str) -> None:
    rtol, atol = (3e-5, 3e-6) if dtype == "float32" else (1e-9, 1e-11)

    @settings(max_examples=4, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(KINDS[kind])
    def body(p: Problem) -> None:
        net = Net(read_net_text(p.prototxt), TRAIN, dtype=dtype, threads=2, keep=("y",))
        loss = net.forward_backward(**p.inputs)
        got = {"y": net.blobs["y"].data, "loss": np.asarray(loss)}
        got |= {f"{name}.diff": net.blobs[name].diff for name in p.diffs}
        check(p, got, rtol, atol)

    body()


OWN_OPTIONS = {
    "SoftmaxWithLoss": ("", "loss_param { ignore_label: 3 }", "loss_param { normalization: BATCH_SIZE }"),
    "InfogainLoss": ("", "loss_param { ignore_label: 3 normalization: FULL }"),
    "HingeLoss": ("hinge_loss_param { norm: L1 }", "hinge_loss_param { norm: L2 }"),
    "MultinomialLogisticLoss": ("",),
    "SigmoidCrossEntropyLoss": ("", "loss_param { ignore_label: 1 }"),
    "EuclideanLoss": ("",),
    "ContrastiveLoss": (
        "contrastive_loss_param { margin: 2 }",
        "contrastive_loss_param { margin: 2 legacy_version: true }",
    ),
}
COMBINED = ("", "reduction: sum", "reduction: none", "normalization: WEIGHTED")
#: Layer type, Caffe's options and ours, and whether points have weights; two normalisations at once are an error, and
#: so are the weights' sum as one without weights.
GRADIENTS = [
    (kind, options, extras, weighted)
    for kind, choices in OWN_OPTIONS.items()
    for options in choices
    for extras in COMBINED
    for weighted in (False, True)
    if not (extras and "normalization" in options) and (weighted or "WEIGHTED" not in extras)
]
CLASSES = "class_weight: [1, 2, 0.5, 3]"


@pytest.mark.parametrize("optimise", [False, True], ids=["lowered", "optimised"])
@pytest.mark.parametrize("scale", [0.25, -2.0])
@pytest.mark.parametrize(("kind", "options", "extras", "weighted"), GRADIENTS)
def test_gradient(kind: str, options: str, extras: str, weighted: bool, scale: float, optimise: bool) -> None:
    rng = np.random.default_rng(3)
    inputs = {"x": rng.uniform(0.1, 0.9, (3, 4)), "t": np.array([0.0, 3.0, 1.0])}
    if kind in ("SigmoidCrossEntropyLoss", "EuclideanLoss", "ContrastiveLoss"):
        inputs["t"] = np.round(rng.uniform(0, 1.5, (3, 4)), 3)
    if kind == "InfogainLoss":
        inputs["h"] = rng.uniform(0, 1, (4, 4))
    if kind == "ContrastiveLoss":
        inputs["s"] = np.array([0.0, 1.0, 0.0])
    if weighted:
        inputs["w"] = np.array([0.5, 2.0, 1.25])
        extras += f" {CLASSES}" if kind not in ("EuclideanLoss", "ContrastiveLoss") else ""
        extras += " label_smoothing: 0.2" if kind == "SoftmaxWithLoss" else ""
        extras += " pos_weight: [1, 2, 0.5, 3]" if kind == "SigmoidCrossEntropyLoss" else ""
    p = Problem(kind, inputs, options=options, scale=scale)
    text = p.prototxt.replace("lossc_param {  }", f"lossc_param {{ {extras} }}")
    # Caffe's contrastive gradient divides by d + 1e-4 where the derivative has d
    tolerance = 1e-3 if kind == "ContrastiveLoss" and "legacy" not in options else 1e-6
    report = check_net_gradients(text, inputs=inputs, optimise=optimise, tolerance=tolerance)
    assert "x" in report.names
    assert not report.failures, str(report)
