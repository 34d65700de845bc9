"""Random expressions of the language, with broadcasting and reductions, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from conftest import compiled, differences, interpreted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lossc
from lossc.lang.function import Function

SHAPES = [(3, 4), (4,), (3, 1), (1, 4), ()]


def _norm(x: np.ndarray, axis: int) -> np.ndarray:
    return np.sqrt((x * x).sum(axis, keepdims=True))


#: Operations that are smooth enough: name -> (language, NumPy).
UNARY: dict[str, tuple[Any, Any]] = {
    "tanh": (lossc.tanh, np.tanh),
    "sigmoid": (lossc.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "softplus": (lossc.softplus, lambda x: np.logaddexp(0, x)),
    "square": (lambda x: x * x, lambda x: x * x),
    "root": (lambda x: lossc.sqrt(x * x + 1), lambda x: np.sqrt(x * x + 1)),
    "log": (lambda x: lossc.log(1.5 + lossc.tanh(x)), lambda x: np.log(1.5 + np.tanh(x))),
    "negate": (lambda x: 1 - x, lambda x: 1 - x),
    "scale": (lambda x: x / 3 + 0.5 * x, lambda x: x / 3 + 0.5 * x),
    "total": (lambda x: x - 0.1 * x.sum(), lambda x: x - 0.1 * x.sum()),
    "mean": (lambda x: x.mean() * x, lambda x: x.mean() * x),
}
ROWS: dict[str, tuple[Any, Any]] = {
    "softmax": (lambda x, k: lossc.softmax(x, k), lambda x, k: np.exp(x) / np.exp(x).sum(k, keepdims=True)),
    "logsumexp": (lambda x, k: lossc.logsumexp(x, k, True), lambda x, k: np.log(np.exp(x).sum(k, keepdims=True))),
    "sum": (lambda x, k: x.sum(k, keepdims=True), lambda x, k: x.sum(k, keepdims=True)),
    "mean": (lambda x, k: x - x.mean(k, keepdims=True), lambda x, k: x - x.mean(k, keepdims=True)),
    "norm": (lambda x, k: x / (1 + lossc.norm(x, k, True)), lambda x, k: x / (1 + _norm(x, k))),
}
BINARY: dict[str, Any] = {
    "add": lambda f, a, b: a + b,
    "subtract": lambda f, a, b: a - 2 * b,
    "multiply": lambda f, a, b: a * b,
    "divide": lambda f, a, b: a / (b * b + 1),
    "where": lambda f, a, b: f.where(b * b > 0.3, a, b),
    "logaddexp": lambda f, a, b: f.logaddexp(a, b),
}

leaves = st.integers(0, len(SHAPES) - 1).map(lambda k: ("input", k))
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(st.just("unary"), st.sampled_from(sorted(UNARY)), inner),
        st.tuples(st.just("row"), st.sampled_from(sorted(ROWS)), st.integers(0, 1), inner),
        st.tuples(st.just("binary"), st.sampled_from(sorted(BINARY)), inner, inner),
    ),
    max_leaves=7,
)


def build(tree: Any, values: Any, plain: bool) -> Any:
    """The tree's value; ``plain`` by NumPy."""
    if tree[0] == "input":
        return values[tree[1]]
    if tree[0] == "unary":
        return UNARY[tree[1]][plain](build(tree[2], values, plain))
    if tree[0] == "row":
        x = build(tree[3], values, plain)
        return ROWS[tree[1]][plain](x, tree[2]) if len(np.shape(x) if plain else x.shape) == 2 else x
    return BINARY[tree[1]](np if plain else lossc, *(build(t, values, plain) for t in tree[2:]))


def weighed(y: Any, plain: bool) -> Any:
    shape = np.shape(y) if plain else y.shape
    return (y * np.cos(np.arange(np.prod(shape, dtype=int)).reshape(shape) + 0.3)).sum()


def check(tree: Any, seed: int, run: Any) -> None:
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(s) for s in SHAPES]

    def traced(a, b, c, d, e):  # type: ignore[no-untyped-def]
        return weighed(build(tree, (a, b, c, d, e), False), False)

    def plain(*values: np.ndarray) -> float:
        return float(weighed(build(tree, values, True), True))

    value, grads = run(Function("Random", traced, True), *arrays)
    wanted = plain(*arrays)
    assert abs(value - wanted) <= 1e-9 * max(1, abs(wanted))
    for k, grad in enumerate(grads):
        numeric = differences(plain, arrays, k)
        got = np.zeros(SHAPES[k]) if grad is None else grad
        scale = max(1.0, float(np.abs(numeric).max(initial=0)))
        if not np.abs(got - numeric).max(initial=0) <= 1e-5 * scale:  # a kink of `where` between the two steps?
            closer = differences(plain, arrays, k, 1e-7)
            assert np.abs(got - closer).max(initial=0) <= 1e-4 * scale, k


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(trees, st.integers(0, 1000))
def test_interpreter(tree: Any, seed: int) -> None:
    check(tree, seed, interpreted)


@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow])
@given(trees, st.integers(0, 1000))
def test_generated_code(tree: Any, seed: int) -> None:
    check(tree, seed, compiled)
