"""Parts that are used again and again: what is written out as a tree would be exponentially large."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import interpreted

import lossc
from lossc.frontend.net import read_net_text
from lossc.ir import Access
from lossc.ir.expr import Load, op, tanh
from lossc.ir.printer import show_expr
from lossc.lang.function import Function


def shared(depth: int):  # type: ignore[no-untyped-def]
    x = op("add", Load(Access("x", 0, ())), 1.0)
    for _ in range(depth):
        x = tanh(x) * x
    return x


def test_equal_trees_are_compared_once_a_pair() -> None:
    a, b, shorter = shared(60), shared(60), shared(59)
    other = tanh(shorter) * tanh(shorter)
    found = [a == b, a == shorter, a == other, a == tanh(shorter) * shorter, len({a, b, other})]
    assert found == [True, False, False, True, 2]  # not the trees: a message would write them out


def test_large_trees_are_summed_up_where_they_are_shown() -> None:
    assert show_expr(shared(1)) == "tanh(x[] + 1) * (x[] + 1)"
    assert show_expr(shared(40)) == "...(81 operations on x[])"


def test_a_deep_loss() -> None:
    def deep(x):  # type: ignore[no-untyped-def]
        for _ in range(15):
            x = lossc.tanh(x) * x + 0.5
        return x.sum()

    x = np.linspace(-1, 1, 5)
    value, (grad,) = interpreted(Function("Deep", deep, True), x)
    y, slope = x, np.ones(5)
    for _ in range(15):
        y, slope = np.tanh(y) * y + 0.5, slope * ((1 - np.tanh(y) ** 2) * y + np.tanh(y))
    np.testing.assert_allclose(value, y.sum())
    np.testing.assert_allclose(grad, slope, rtol=1e-9)


def chain(depth: int) -> Function:
    """A loss of 2 ``depth`` operations one behind the other."""

    def deep(x, y):  # type: ignore[no-untyped-def]
        for _ in range(depth):
            x = lossc.tanh(x) + y
        return (x * x).sum()

    return Function("Deep", deep, True)


def by_hand(depth: int, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Value and gradients of ``chain(depth)``."""
    values = [x]
    for _ in range(depth):
        values.append(np.tanh(values[-1]) + y)
    dx, dy = 2 * values[-1], np.zeros_like(y)
    for value in reversed(values[:-1]):
        dy += dx
        dx = dx * (1 - np.tanh(value) ** 2)
    return float((values[-1] ** 2).sum()), dx, dy


@pytest.mark.parametrize("depth", [20, 100, 1000])
def test_long_chains(depth: int) -> None:
    """However long: where one function of C would become too deep, a value in between gets memory."""
    rng = np.random.default_rng(depth)
    x, y = 0.1 * rng.standard_normal((4, 3)), 0.001 * rng.standard_normal((4, 3))
    value, dx, dy = by_hand(depth, x, y)
    loss, grads = interpreted(chain(depth), x, y)
    np.testing.assert_allclose(loss, value, rtol=1e-9)
    np.testing.assert_allclose(grads[0], dx, rtol=1e-7)
    np.testing.assert_allclose(grads[1], dy, rtol=1e-7)


def test_a_chain_of_two_thousand_operations_in_c() -> None:
    rng = np.random.default_rng(0)
    x, y = 0.1 * rng.standard_normal((4, 3)), 0.001 * rng.standard_normal((4, 3))
    fn = lossc.compile_loss(chain(1000), x=(4, 3), y=(4, 3), grad="all", dtype="float64", threads=1)
    value, dx, dy = by_hand(1000, x, y)
    found = fn(x, y)
    np.testing.assert_allclose(found.loss, value, rtol=1e-9)
    np.testing.assert_allclose(found.grad_x, dx, rtol=1e-7)
    np.testing.assert_allclose(found.grad_y, dy, rtol=1e-7)


def test_usual_losses_stay_one_sweep() -> None:
    """A chain that is not very long is one function still."""
    fn = lossc.compile_loss(chain(20), x=(4, 3), y=(4, 3))
    assert fn.source.count("static void Deep") + fn.source.count("static void deep") == 1


def test_a_long_chain_of_layers() -> None:
    """Fusing stops, too, before functions become too deep."""
    text = 'layer { name: "x" type: "Input" top: "t0" input_param { shape { dim: 2 dim: 3 } } } force_backward: true '
    for k in range(300):
        text += f'layer {{ name: "l{k}" type: "TanH" bottom: "t{k}" top: "t{k + 1}" }}'
    text += 'layer { name: "loss" type: "Reduction" bottom: "t300" top: "loss" loss_weight: 1 }'
    net = lossc.Net(read_net_text(text, "net.prototxt"), lossc.TRAIN, dtype="float64")
    x = np.linspace(-1, 1, 6).reshape(2, 3)
    values = [x]
    for _ in range(300):
        values.append(np.tanh(values[-1]))
    net.forward_backward(t0=x)
    assert net.loss == pytest.approx(values[-1].sum())
    np.testing.assert_allclose(net.blobs["t0"].diff, np.prod([1 - v**2 for v in values[1:]], axis=0), rtol=1e-9)


@pytest.mark.parametrize("before", range(4))
def test_a_chain_that_is_cut_at_a_condition(before: int) -> None:
    """A condition cannot be kept in memory: what it is made of can."""

    def deep(x, t):  # type: ignore[no-untyped-def]
        for _ in range(before):
            x = x * t + 1
        for _ in range(90):
            x = lossc.where(x > t, x * 0.5 + 0.25, x)
        return x.sum()

    x, t = np.linspace(-1, 1, 5), np.full(5, 0.75)
    value, (grad, *_) = interpreted(Function("Deep", deep, True), x, t)
    y, slope = x, np.ones(5)
    for _ in range(before):
        y, slope = y * t + 1, slope * t
    for _ in range(90):
        y, slope = np.where(y > t, y * 0.5 + 0.25, y), np.where(y > t, slope * 0.5, slope)
    np.testing.assert_allclose(value, y.sum(), rtol=1e-12)
    np.testing.assert_allclose(grad, slope, rtol=1e-12)
