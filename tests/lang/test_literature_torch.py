"""Losses against PyTorch's, value and gradients: the built-in ones with options, and others from the literature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import compiled, interpreted

import lossc
from lossc.lang.function import Function
from lossc.layers.registry import LAYERS

torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
F = torch.nn.functional
RNG = np.random.default_rng(11)
X, Y, Z = (RNG.standard_normal((6, 5)) for _ in range(3))
X[0, 0] = Y[0, 0]  # a kink
IMAGE, MAP = RNG.standard_normal((2, 4, 3, 3)), RNG.integers(0, 4, (2, 3, 3)).astype(float)
LABEL, SIGN = RNG.integers(0, 5, 6).astype(float), np.array([1, -1, 1, -1, -1, 1.0])
BITS = RNG.integers(0, 2, (6, 5)).astype(float)
P = torch.softmax(torch.tensor(Z), 1).numpy()
COUNTS = RNG.integers(0, 6, (6, 5)).astype(float)


def whole(t: Any) -> Any:
    return t.long()


def sigmoid_focal(x: Any, t: Any, alpha: float = 0.25, gamma: float = 2.0) -> Any:
    p = torch.sigmoid(x)
    p_t = p * t + (1 - p) * (1 - t)
    out = F.binary_cross_entropy_with_logits(x, t, reduction="none") * (1 - p_t) ** gamma
    return (out * (alpha * t + (1 - alpha) * (1 - t)) if alpha >= 0 else out).mean()


def focal(x: Any, y: Any, gamma: float = 2.0, alpha: float = 1.0) -> Any:
    log_p = -F.cross_entropy(x, whole(y), reduction="none")
    return (-alpha * (1 - log_p.exp()) ** gamma * log_p).mean()


def dice(p: Any, t: Any, smooth: float = 1.0, square: bool = False, sigmoid: bool = False) -> Any:
    p = torch.sigmoid(p) if sigmoid else p
    size = (p**2).sum(1) + (t**2).sum(1) if square else p.sum(1) + t.sum(1)
    return (1 - (2 * (p * t).sum(1) + smooth) / (size + smooth)).mean()


def pinball(p: Any, t: Any, q: float = 0.5) -> Any:
    return torch.maximum(q * (t - p), (q - 1) * (t - p)).mean()


#: Built-in type, arrays, parameters here, PyTorch's function.
BUILT_IN: list[tuple[str, tuple[np.ndarray, ...], dict[str, Any], Callable[..., Any]]] = [
    ("L1Loss", (X, Y), {}, F.l1_loss),
    ("L1Loss", (X, Y), {"reduction": "sum"}, lambda x, y: F.l1_loss(x, y, reduction="sum")),
    ("HuberLoss", (X, Y), {}, F.huber_loss),
    ("HuberLoss", (X, Y), {"delta": 0.4, "reduction": "sum"}, lambda x, y: F.huber_loss(x, y, "sum", 0.4)),
    ("SmoothL1Loss", (X, Y), {"beta": 0.7}, lambda x, y: F.smooth_l1_loss(x, y, beta=0.7)),
    ("SmoothL1Loss", (X, Y), {"beta": 0.0}, lambda x, y: F.smooth_l1_loss(x, y, beta=0.0)),
    ("FocalLoss", (X, LABEL), {"gamma": 1.5, "alpha": 0.5}, lambda x, y: focal(x, y, 1.5, 0.5)),
    ("FocalLoss", (IMAGE, MAP), {}, focal),
    ("SigmoidFocalLoss", (X, BITS), {}, sigmoid_focal),
    ("SigmoidFocalLoss", (X, BITS), {"alpha": -1.0, "gamma": 3.0}, lambda x, t: sigmoid_focal(x, t, -1, 3)),
    ("KLDivLoss", (X, P), {}, F.kl_div),
    ("KLDivLoss", (X, BITS), {"reduction": "batchmean"}, lambda x, y: F.kl_div(x, y, reduction="batchmean")),
    ("KLDivLoss", (X, Z), {"log_target": True}, lambda x, y: F.kl_div(x, y, log_target=True)),
    ("TripletMarginLoss", (X, Y, Z), {}, F.triplet_margin_loss),
    ("TripletMarginLoss", (X, Y, Z), {"margin": 0.3, "swap": True},
     lambda a, p, n: F.triplet_margin_loss(a, p, n, 0.3, swap=True)),
    ("TripletMarginLoss", (X, Y, Z), {"p": 1.0}, lambda a, p, n: F.triplet_margin_loss(a, p, n, p=1)),
    ("TripletMarginLoss", (X, Y, Z), {"p": 3.0}, lambda a, p, n: F.triplet_margin_loss(a, p, n, p=3)),
    ("CosineEmbeddingLoss", (X, Y, SIGN), {}, F.cosine_embedding_loss),
    ("CosineEmbeddingLoss", (X, Y, SIGN), {"margin": 0.2}, lambda a, b, y: F.cosine_embedding_loss(a, b, y, 0.2)),
    ("DiceLoss", (P, BITS), {}, dice),
    ("DiceLoss", (X, BITS), {"smooth": 0.1, "square": True, "sigmoid": True}, lambda p, t: dice(p, t, 0.1, True, True)),
    ("QuantileLoss", (X, Y), {}, pinball),
    ("QuantileLoss", (X, Y), {"quantile": 0.9}, lambda p, t: pinball(p, t, 0.9)),
    ("PoissonNLLLoss", (X, COUNTS), {}, F.poisson_nll_loss),
    ("PoissonNLLLoss", (P, COUNTS), {"log_input": False, "full": True},
     lambda x, t: F.poisson_nll_loss(x, t, False, True)),
]  # fmt: skip


def oracle(call: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> tuple[float, list[Any]]:
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    value = call(*tensors)
    value.backward()
    return float(value.detach()), [None if t.grad is None else t.grad.numpy() for t in tensors]


def compare(got: tuple[float, list[Any]], wanted: tuple[float, list[Any]]) -> None:
    """Wherever PyTorch has a gradient; it has none for labels, and NaN where it computes what ``where`` drops."""
    assert got[0] == pytest.approx(wanted[0], rel=1e-9, abs=1e-9)
    for k, (g, w) in enumerate(zip(got[1], wanted[1], strict=True)):
        if w is not None:
            g = np.zeros_like(w) if g is None else g
            assert np.isfinite(g).all()
            np.testing.assert_allclose(np.where(np.isnan(w), w, g), w, rtol=1e-8, atol=1e-9, err_msg=f"bottom {k}")


@pytest.mark.parametrize("case", range(len(BUILT_IN)), ids=lambda k: f"{BUILT_IN[k][0]} {BUILT_IN[k][2] or ''}")
@pytest.mark.parametrize("how", ["interpreter", "C"])
def test_built_in(case: int, how: str) -> None:
    name, arrays, parameters, call = BUILT_IN[case]
    function = LAYERS[name].function  # type: ignore[attr-defined]
    if how == "interpreter":
        got = interpreted(Function("Copy", function.call, True), *arrays, **parameters)
    else:
        fn = lossc.compile_loss(
            name, shapes=dict(zip(function.bottoms, map(np.shape, arrays), strict=True)), grad="all",
            dtype="float64", threads=1, **parameters,
        )  # fmt: skip
        value = fn(*arrays)
        grads = dict(zip(fn.wanted, value[1:], strict=True))
        got = value.loss, [grads.get(b) for b in function.bottoms]
    compare(got, oracle(call, arrays))


# ---- losses from the literature, in the language and in PyTorch


def cross_entropy(x, y):  # type: ignore[no-untyped-def]
    return -lossc.take_along_axis(lossc.log_softmax(x, 1), y[:, None], 1).mean()


def label_smoothing(x, y, *, epsilon=0.1):  # type: ignore[no-untyped-def]  # Szegedy et al. 2016
    goal = (1 - epsilon) * lossc.one_hot(y, x.shape[1]) + epsilon / x.shape[1]
    return -(goal * lossc.log_softmax(x)).sum() / x.shape[0]


def bce_logits(x, t):  # type: ignore[no-untyped-def]
    return -(t * lossc.log(lossc.sigmoid(x)) + (1 - t) * lossc.log(1 - lossc.sigmoid(x))).mean()


def soft_margin(x, t):  # type: ignore[no-untyped-def]
    return lossc.log(1 + lossc.exp(-(2 * t - 1) * x)).mean()


def hinge_embedding(x, t):  # type: ignore[no-untyped-def]
    return lossc.where(t > 0, x, lossc.clip(1 - x, 0)).mean()


def margin_ranking(a, b, t):  # type: ignore[no-untyped-def]
    return lossc.clip(-(2 * t - 1) * (a - b) + 0.2, 0).mean()


def multi_margin(x, y):  # type: ignore[no-untyped-def]
    right = lossc.take_along_axis(x, y[:, None], 1)
    return (lossc.clip(1 - right + x, 0) * (1 - lossc.one_hot(y, x.shape[1]))).sum() / x.size


def gaussian_nll(mean, target, raw):  # type: ignore[no-untyped-def]
    variance = lossc.clip(lossc.exp(raw), 1e-6)
    return (0.5 * (lossc.log(variance) + (mean - target) ** 2 / variance)).mean()


def info_nce(a, b, *, temperature=0.5):  # type: ignore[no-untyped-def]  # van den Oord et al. 2018
    a, b = a / lossc.norm(a, 1, True), b / lossc.norm(b, 1, True)
    scores = a @ b.T / temperature
    return -(lossc.log_softmax(scores, 1) * lossc.eye(scores.shape[0])).sum() / scores.shape[0]


def contrastive(a, b, like, *, margin=2.0):  # type: ignore[no-untyped-def]  # Hadsell et al. 2006
    d = lossc.norm(a - b, 1)
    return lossc.where(like > 0, d * d, lossc.clip(margin - d, 0) ** 2).mean() / 2


def center(x, centres, y):  # type: ignore[no-untyped-def]  # Wen et al. 2016
    return ((x - centres[y]) ** 2).sum() / (2 * x.shape[0])


def batch_hard(x, y):  # type: ignore[no-untyped-def]  # Hermans et al. 2017
    d = lossc.norm(x[:, None, :] - x[None, :, :] + 1e-3, 2)
    same = y[:, None] == y[None, :]
    return lossc.softplus(lossc.where(same, d, 0).max(1) - lossc.where(same, 1e3, d).min(1)).mean()


def log_cosh(x, t):  # type: ignore[no-untyped-def]
    return (lossc.logaddexp(x - t, t - x) - np.log(2)).mean()


def charbonnier(x, t):  # type: ignore[no-untyped-def]  # Charbonnier et al. 1994
    return lossc.sqrt((x - t) ** 2 + 1e-3).mean()


def wing(x, t, *, width=1.0, curve=0.5):  # type: ignore[no-untyped-def]  # Feng et al. 2018
    r = lossc.abs(x - t)
    offset = width - width * np.log(1 + width / curve)
    return lossc.where(r < width, width * lossc.log(1 + r / curve), r - offset).sum()


def tversky(p, t, *, alpha=0.3, beta=0.7):  # type: ignore[no-untyped-def]  # Salehi et al. 2017
    both = (p * t).sum()
    return 1 - both / (both + alpha * (p * (1 - t)).sum() + beta * ((1 - p) * t).sum())


def total_variation(image):  # type: ignore[no-untyped-def]  # Rudin et al. 1992
    return (abs(image[:, :, 1:] - image[:, :, :-1]).sum() + abs(image[..., 1:] - image[..., :-1]).sum()) / image.size


def distillation(x, teacher, *, heat=3.0):  # type: ignore[no-untyped-def]  # Hinton et al. 2015
    q = lossc.softmax(lossc.stop_gradient(teacher) / heat)
    return (q * (lossc.log(q) - lossc.log_softmax(x / heat))).sum() * heat**2 / x.shape[0]


def barlow_twins(a, b):  # type: ignore[no-untyped-def]  # Zbontar et al. 2021
    a, b = (a - a.mean(0)) / a.std(0), (b - b.mean(0)) / b.std(0)
    c = a.T @ b / a.shape[0]
    unit = lossc.eye(c.shape[0])
    return ((c - unit) ** 2 * lossc.where(unit > 0, 1.0, 0.01)).sum()


def gan_generator(x):  # type: ignore[no-untyped-def]  # Goodfellow et al. 2014
    return -lossc.log(lossc.sigmoid(x)).mean()


def arcface(x, weights, y, *, margin=0.3, s=8.0):  # type: ignore[no-untyped-def]  # Deng et al. 2019
    cosine = (x / lossc.norm(x, 1, True)) @ (weights / lossc.norm(weights, 1, True)).T
    sine = lossc.sqrt(1 - cosine**2 + 1e-6)
    moved = cosine * np.cos(margin) - sine * np.sin(margin)
    scores = s * lossc.where(lossc.one_hot(y, weights.shape[0]) > 0, moved, cosine)
    return -lossc.take_along_axis(lossc.log_softmax(scores, 1), y[:, None], 1).mean()


def t_arcface(x: Any, w: Any, y: Any) -> Any:
    cosine = F.normalize(x) @ F.normalize(w).T
    moved = cosine * np.cos(0.3) - torch.sqrt(1 - cosine**2 + 1e-6) * np.sin(0.3)
    return F.cross_entropy(8 * torch.where(F.one_hot(whole(y), w.shape[0]) > 0, moved, cosine), whole(y))


def t_batch_hard(x: Any, y: Any) -> Any:
    d = (x[:, None] - x[None] + 1e-3).norm(dim=2)
    same = y[:, None] == y[None]
    return F.softplus(torch.where(same, d, 0.0).amax(1) - torch.where(same, 1e3, d).amin(1)).mean()


def t_barlow(a: Any, b: Any) -> Any:
    a, b = (a - a.mean(0)) / a.std(0, False), (b - b.mean(0)) / b.std(0, False)
    c, unit = a.T @ b / a.shape[0], torch.eye(a.shape[1])
    return ((c - unit) ** 2 * torch.where(unit > 0, 1.0, 0.01)).sum()


def t_tversky(p: Any, t: Any) -> Any:
    both = (p * t).sum()
    return 1 - both / (both + 0.3 * (p * (1 - t)).sum() + 0.7 * ((1 - p) * t).sum())


def t_wing(x: Any, t: Any) -> Any:
    r = (x - t).abs()
    return torch.where(r < 1, torch.log(1 + r / 0.5), r - (1 - np.log(3.0))).sum()


LITERATURE: list[tuple[Callable[..., Any], tuple[np.ndarray, ...], Callable[..., Any]]] = [
    (cross_entropy, (X, LABEL), lambda x, y: F.cross_entropy(x, whole(y))),
    (label_smoothing, (X, LABEL), lambda x, y: F.cross_entropy(x, whole(y), label_smoothing=0.1)),
    (bce_logits, (X, BITS), F.binary_cross_entropy_with_logits),
    (soft_margin, (X, BITS), lambda x, t: F.soft_margin_loss(x, 2 * t.detach() - 1)),
    (hinge_embedding, (X, BITS), lambda x, t: F.hinge_embedding_loss(x, 2 * t - 1)),
    (margin_ranking, (X, Y, BITS), lambda a, b, t: F.margin_ranking_loss(a, b, 2 * t.detach() - 1, 0.2)),
    (multi_margin, (X, LABEL), lambda x, y: F.multi_margin_loss(x, whole(y))),
    (gaussian_nll, (X, Y, Z), lambda m, t, r: F.gaussian_nll_loss(m, t, r.exp())),
    (info_nce, (X, Y), lambda a, b: F.cross_entropy(F.normalize(a) @ F.normalize(b).T / 0.5, torch.arange(6))),
    (contrastive, (X, Y, SIGN), lambda a, b, s: torch.where(
        s > 0, (a - b).norm(dim=1) ** 2, (2 - (a - b).norm(dim=1)).clamp(min=0) ** 2).mean() / 2),
    (center, (X, Z[:5], LABEL), lambda x, c, y: ((x - c[whole(y)]) ** 2).sum() / 12),
    (batch_hard, (X, LABEL % 2), t_batch_hard),
    (log_cosh, (X, Y), lambda x, t: torch.log(torch.cosh(x - t)).mean()),
    (charbonnier, (X, Y), lambda x, t: torch.sqrt((x - t) ** 2 + 1e-3).mean()),
    (wing, (X, Y), t_wing),
    (tversky, (P, BITS), t_tversky),
    (total_variation, (IMAGE,), lambda i: (
        (i[:, :, 1:] - i[:, :, :-1]).abs().sum() + (i[..., 1:] - i[..., :-1]).abs().sum()) / i.numel()),
    (distillation, (X, Y), lambda x, t: F.kl_div(
        F.log_softmax(x / 3, 1), F.softmax(t.detach() / 3, 1), reduction="batchmean") * 9),
    (barlow_twins, (X, Y), t_barlow),
    (gan_generator, (3 * X,), lambda x: F.softplus(-x).mean()),
    (arcface, (X, Z[:5], LABEL), t_arcface),
]  # fmt: skip


@pytest.mark.parametrize("case", LITERATURE, ids=lambda c: c[0].__name__)
@pytest.mark.parametrize("how", ["interpreter", "C"])
def test_literature(case: Any, how: str) -> None:
    call, arrays, torchs = case
    function = Function(f"My {call.__name__}", call, True)
    run = interpreted if how == "interpreter" else compiled
    compare(run(function, *arrays), oracle(torchs, arrays))
