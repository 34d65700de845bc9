"""Each operation of the language: value and gradient against NumPy in float64, broadcasting included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Loss, differences

import lossc
from lossc.lang.function import Function

RNG = np.random.default_rng(7)
A, B, C = RNG.standard_normal((3, 4)), RNG.standard_normal((3, 4)), RNG.standard_normal((2, 3, 5))
ROW, COLUMN, POSITIVE = RNG.standard_normal(4), RNG.standard_normal((3, 1)), RNG.uniform(0.5, 2.0, (3, 4))
M, N_ = RNG.standard_normal((4, 5)), RNG.standard_normal((2, 5, 3))
WEIGHTS = RNG.standard_normal((3, 4))
LABEL = np.array([2.0, 0.0, 3.0])


def erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray, axis: Any = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def norm(x: np.ndarray, axis: Any = None) -> np.ndarray:
    return np.sqrt((x * x).sum(axis))


def one_hot(label: np.ndarray, n: int) -> np.ndarray:
    return np.eye(n)[label.astype(int)]


def take(x: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    return np.take_along_axis(x, index.astype(int), axis)


class Plain:
    """The language's functions in NumPy."""

    erf, sigmoid, softmax, norm, one_hot, take_along_axis = map(
        staticmethod, (erf, sigmoid, softmax, norm, one_hot, take)
    )
    relu = staticmethod(lambda x: np.maximum(x, 0))
    softplus = staticmethod(lambda x: np.logaddexp(0, x))
    log_sigmoid = staticmethod(lambda x: -np.logaddexp(0, -x))
    log_softmax = staticmethod(lambda x, axis=-1: np.log(softmax(x, axis)))
    logsumexp = staticmethod(lambda x, axis=None: np.log(np.exp(x).sum(axis)))

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


NP = Plain()
#: Name: (function of the language's module and arrays, arrays). Every function is weighed so that gradients differ.
CASES: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "add row": (lambda f, a, b: a + b, (A, ROW)),
    "subtract column": (lambda f, a, b: b - 2 * a, (A, COLUMN)),
    "multiply": (lambda f, a, b: a * b * 3, (A, COLUMN)),
    "divide": (lambda f, a, b: a / b + 1 / b, (A, POSITIVE)),
    "divide by scalar": (lambda f, a, b: a / b.sum() - b / 7, (A, POSITIVE)),
    "negative": (lambda f, a: -a + abs(a), (A,)),
    "power": (lambda f, a: a**3 + a**2 - a**1 + a**0, (A,)),
    "power fraction": (lambda f, a, b: a**1.7 + a**-1 + a**0.5 + a**b + 2**b, (POSITIVE, A)),
    "exp": (lambda f, a: f.exp(a) - f.expm1(a / 2), (A,)),
    "log": (lambda f, a: f.log(a) * f.log1p(a) + f.sqrt(a), (POSITIVE,)),
    "tanh": (lambda f, a: f.tanh(a) + f.erf(a), (A,)),
    "sigmoid": (lambda f, a: f.sigmoid(a) * f.softplus(a) - f.log_sigmoid(2 * a) + (1 - f.sigmoid(a)), (A,)),
    "steps": (lambda f, a: f.floor(3 * a) + f.sign(a) * a + f.trunc(2 * a), (A,)),
    "maximum": (lambda f, a, b: f.maximum(a, b) - f.minimum(a, 0.3) + f.relu(b), (A, ROW)),
    "clip": (lambda f, a: f.clip(a, -0.5, 0.7) * a, (A,)),
    "where": (lambda f, a, b: f.where((a > b) & ~(a > 1) | (b < -1), a * b, b - a), (A, B)),
    "truth as number": (lambda f, a, b: (a > 0) * b + (a < b), (A, B)),
    "guarded": (lambda f, a: f.where(a > 0, f.log(f.where(a > 0, a, 1)), 0.0), (A,)),
    "logaddexp": (lambda f, a, b: f.logaddexp(a, b), (A, ROW)),
    "sum": (lambda f, a: a.sum() * a.sum(0) + a.sum(1, keepdims=True), (A,)),
    "mean": (lambda f, a: a.mean() + a.mean(axis=-1)[:, None] * a, (A,)),
    "extremes": (lambda f, a: a.max(1)[:, None] * a + a.min(0) - a.max(), (A,)),
    "sum of axes": (lambda f, c: (c * c).sum((0, 2)) * c.sum((0, 1, 2)), (C,)),
    "norm": (lambda f, a: f.norm(a, 1)[:, None] * a + f.norm(a), (A,)),
    "softmax": (lambda f, a: f.softmax(a, 1) * a + f.softmax(a, 0), (A,)),
    "softmax all": (lambda f, c: f.softmax(c, (1, 2)) * c, (C,)),
    "log_softmax": (lambda f, a: f.log_softmax(a, 1) * a, (A,)),
    "logsumexp": (lambda f, a: f.logsumexp(a, 1)[:, None] * a - f.log(f.exp(a).sum(0)), (A,)),
    "log of softmax": (lambda f, a: f.log(f.softmax(a)) * f.log(f.sigmoid(a)) + f.log(1 + f.exp(a)), (A,)),
    "part of softmax": (lambda f, a: f.softmax(a, 1)[:, 1:3] * a[:, :2] + f.log_softmax(a, 1)[:, 2:], (A,)),
    "normalise rows": (lambda f, a: (a - a.mean(1, keepdims=True)) / f.sqrt(a.var(1, keepdims=True) + 1e-3), (A,)),
    "normalise columns": (lambda f, a: (a - a.mean(0)) / f.sqrt(a.var(0) + 1e-3) * a, (A,)),
    "normalise all": (lambda f, a: (a - a.mean()) / a.std(), (A,)),
    "slices": (lambda f, a: a[1:, ::2] * a[:-1, 1::2] + a[0, 0] * a[2, -1], (A,)),
    "differences": (lambda f, a: abs((a * a)[:, 1:] - (a * a)[:, :-1]), (A,)),
    "axes": (lambda f, a, c: a.T[None, :, :, None] * c[:, None, :, :], (A, C)),
    "reshape": (lambda f, a: a.reshape(2, 6).sum(0) * a.reshape(-1)[:6] + (a * 2).reshape(6, 2)[:, 0], (A,)),
    "reshape sums": (lambda f, c: (c + c.mean(2, keepdims=True)).reshape(2, -1) * c.reshape(2, 15), (C,)),
    "transpose": (lambda f, c: f.transpose(c, (2, 0, 1)) * c.transpose(2, 0, 1) + f.swapaxes(c, 0, 2).sum(), (C,)),
    "matmul": (lambda f, a, m: f.tanh(a @ m) @ m.T, (A, M)),
    "matmul of itself": (lambda f, a: f.softmax(a @ a.T, 1), (A,)),
    "matmul stack": (lambda f, c, n: f.exp(c @ n), (C, N_)),
    "matmul shared": (lambda f, c, m: c @ m.T @ m, (C, M)),
    "matmul vector": (lambda f, a, r: a @ r * (r @ r), (A, ROW)),
    "pairs": (lambda f, a: f.norm(a[:, None, :] - a[None, :, :] + 0.1, 2), (A,)),
    "pairs of logs": (lambda f, a: f.log_softmax(-((a[:, None] - a[None]) ** 2).sum(-1), 1), (A,)),
    "label": (lambda f, a, y: f.take_along_axis(f.log_softmax(a, 1), y[:, None], 1), (A, LABEL)),
    "label of product": (lambda f, a, y: -f.log(f.take_along_axis(f.softmax(a), y[:, None], 1)), (A, LABEL)),
    "one_hot": (lambda f, a, y: f.where(f.one_hot(y, 4) > 0, a * a, 2 * a) + f.one_hot(y, 4) * a, (A, LABEL)),
    "constants": (lambda f, a: a * np.array([1.0, 2.0, 3.0, 5.0]) + np.arange(4) - 2 * np.eye(3, 4), (A,)),
    "diagonal": (lambda f, a: (a @ a.T) * np.eye(3) - f.where(np.eye(3, dtype=bool), 0.0, f.exp(a @ a.T)), (A,)),
    "large diagonal": (lambda f, a: (f.exp(a.reshape(12, 1)) * a.reshape(1, 12) * np.eye(12)).sum(0), (A,)),
    "conditions": (lambda f, a: f.where(np.array([True, False, True, True]) & (a > 0), a * a, a), (A,)),
    "concatenate": (lambda f, a, b: f.concatenate([a * 2, b.T.T, a - b], 1) ** 2, (A, B)),
    "stack": (lambda f, a, b: f.stack([a, f.exp(b)], 0).sum(1), (A, B)),
    "expand": (lambda f, r: f.broadcast_to(r * r, (3, 4)) * f.expand_dims(r, 0) + f.squeeze(r[None, :], 0), (ROW,)),
    "numpy": (lambda f, a: np.where(a > 0, np.exp(a), np.abs(a)) + np.sum(a, axis=1, keepdims=True), (A,)),
    "numpy norm": (lambda f, a: np.linalg.norm(a, axis=0) * np.mean(a, 0) - np.max(a) + np.square(a), (A,)),
    "numpy logs": (lambda f, a: np.log2(a) * np.log10(a) + np.exp2(a), (POSITIVE,)),
    "numpy diff": (lambda f, a: np.diff(a * a, axis=0)[:, 1:] * np.diff(a, 2)[:2, :1] + np.average(a), (A,)),
    "numpy isnan": (lambda f, a: np.where(np.isnan(a), 0.0, a * a), (A,)),
    "astype": (lambda f, a: (a > 0).astype(float) * a + f.where(f.floor(a).astype(bool), a, 0.0), (A,)),
    "astype of numbers": (lambda f, a: a.astype("float64") * a, (A,)),
    "common parts": (lambda f, a: f.exp(a) * f.exp(a) + f.exp(a), (A,)),
}


def weighed(y: Any) -> Any:
    """A sum in which every element counts differently."""
    shape = np.shape(y) if not hasattr(y, "op") else y.shape
    size = math.prod(shape)
    return (y * (np.cos(np.arange(size)).reshape(shape) + 1.3)).sum() if shape else y * 1.3


@pytest.mark.parametrize("case", CASES)
def test_operation(case: str, run: Loss) -> None:
    build, arrays = CASES[case]
    names = "pqrs"[: len(arrays)]
    scope: dict[str, Any] = {"build": build, "weighed": weighed, "lossc": lossc}
    exec(f"def call({', '.join(names)}):\n    return weighed(build(lossc, {', '.join(names)}))", scope)
    value, grads = run(Function("Tested", scope["call"], True), *arrays)

    def plain(*values: np.ndarray) -> float:
        return float(weighed(build(NP, *values)))

    assert value == pytest.approx(plain(*arrays), rel=1e-10, abs=1e-10)
    for k, grad in enumerate(grads):
        wanted = differences(plain, arrays, k) if arrays[k] is not LABEL else np.zeros(3)
        got = np.zeros_like(arrays[k]) if grad is None else grad
        np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=2e-7, err_msg=f"gradient of operand {k}")
