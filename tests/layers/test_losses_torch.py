"""Losses with PyTorch's manners against PyTorch: weighted means, label smoothing, ignored labels, pos_weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layer_nets import run

torch = pytest.importorskip("torch", reason="PyTorch is the oracle here, and is not installed")
F: Any = torch.nn.functional

RNG = np.random.default_rng(11)
SCORES, LABELS = RNG.normal(size=(5, 4)), np.array([0, 3, 1, 1, 2])
IMAGES, MAP = RNG.normal(size=(2, 4, 3, 2)), RNG.integers(0, 4, (2, 3, 2))
WEIGHTS = (0.5, 2.0, 0.0, 1.25)


def net(kind: str, extras: str, options: str, arrays: dict[str, np.ndarray]) -> str:
    lines = ["force_backward: true"]
    for name, value in arrays.items():
        dims = " ".join(f"dim: {d}" for d in value.shape)
        lines.append(f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}')
    bottoms = " ".join(f'bottom: "{name}"' for name in arrays)
    return "\n".join(
        [*lines, f'layer {{ name: "l" type: "{kind}" {bottoms} top: "y" {options} lossc_param {{ {extras} }} }}']
    )


def compare(text: str, arrays: dict[str, np.ndarray], loss: Any, x: Any) -> None:
    """Our value and gradient against a PyTorch loss of ``x``, whose elements are summed where there are many."""
    got = run(text, arrays)
    loss.sum().backward()
    np.testing.assert_allclose(got["y"], loss.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got["x.diff"], x.grad.numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("shape", ["rows", "images"])
@pytest.mark.parametrize("ignore", [None, 1])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(shape: str, ignore: int | None, smoothing: float, weighted: bool, reduction: str) -> None:
    scores, labels = (SCORES, LABELS) if shape == "rows" else (IMAGES, MAP)
    extras = f"label_smoothing: {smoothing} reduction: {reduction} "
    extras += "normalization: WEIGHTED " if reduction == "mean" and weighted else ""
    extras += f"class_weight: {list(WEIGHTS)}" if weighted else ""
    options = f"loss_param {{ ignore_label: {ignore} }}" if ignore is not None else ""
    arrays = {"x": scores, "t": labels}
    x = torch.tensor(scores, requires_grad=True)
    loss = F.cross_entropy(
        x,
        torch.tensor(labels),
        weight=torch.tensor(WEIGHTS, dtype=torch.float64) if weighted else None,
        ignore_index=-100 if ignore is None else ignore,
        label_smoothing=smoothing,
        reduction=reduction,
    )
    compare(net("SoftmaxWithLoss", extras, options, arrays), arrays, loss, x)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "extras", ["", "pos_weight: [0.5, 2, 0, 1.25]", "class_weight: [0.5, 2, 0, 1.25] pos_weight: 3"]
)
@pytest.mark.parametrize("rank", [2, 4])
def test_binary_cross_entropy_with_logits(reduction: str, extras: str, rank: int) -> None:
    scores = SCORES if rank == 2 else IMAGES
    targets = RNG.uniform(0, 1, scores.shape)
    column = torch.tensor(WEIGHTS, dtype=torch.float64).reshape((4,) + (1,) * (rank - 2))
    given = {"pos_weight": column} if extras.startswith("pos") else {}
    if extras.startswith("class"):
        given = {"weight": column.expand(scores.shape[1:]), "pos_weight": torch.tensor(3.0, dtype=torch.float64)}
    x = torch.tensor(scores, requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, torch.tensor(targets), reduction=reduction, **given)
    arrays = {"x": scores, "t": targets}
    options = "loss_param { normalization: FULL }" if reduction == "mean" else ""
    compare(net("SigmoidCrossEntropyLoss", f"reduction: {reduction} {extras}", options, arrays), arrays, loss, x)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_of_probabilities(weighted: bool, reduction: str) -> None:
    prob = np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True)
    x = torch.tensor(prob, requires_grad=True)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64) if weighted else None
    loss = F.nll_loss(torch.log(x), torch.tensor(LABELS), weight=weight, reduction=reduction)
    extras = f"reduction: {reduction} " + (f"class_weight: {list(WEIGHTS)} " if weighted else "")
    extras += "normalization: WEIGHTED" if reduction == "mean" and weighted else ""
    arrays = {"x": prob, "t": LABELS}
    compare(net("MultinomialLogisticLoss", extras, "", arrays), arrays, loss, x)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_half_squared_error(reduction: str) -> None:
    """Caffe halves the sum per item; PyTorch does not, and keeps one value per element."""
    target, weight = RNG.normal(size=SCORES.shape), RNG.uniform(0, 2, 5)
    x = torch.tensor(SCORES, requires_grad=True)
    loss = F.mse_loss(x, torch.tensor(target), reduction="none").sum(1) / 2 * torch.tensor(weight)
    arrays = {"x": SCORES, "t": target, "w": weight}
    loss = loss if reduction == "none" else loss.sum()
    compare(net("EuclideanLoss", f"reduction: {reduction}", "", arrays), arrays, loss, x)


def test_infogain_with_the_identity_is_cross_entropy() -> None:
    x = torch.tensor(SCORES, requires_grad=True)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    loss = F.cross_entropy(x, torch.tensor(LABELS), weight=weight)
    arrays = {"x": SCORES, "t": LABELS, "h": np.eye(4)}
    extras = f"normalization: WEIGHTED class_weight: {list(WEIGHTS)}"
    compare(net("InfogainLoss", extras, "", arrays), arrays, loss, x)
