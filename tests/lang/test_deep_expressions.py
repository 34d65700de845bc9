"""Parts that are used again and again: what is written out as a tree would be exponentially large."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import interpreted

import lossc
from lossc.errors import GraphError
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


@pytest.mark.parametrize("depth", [200, 2000])
def test_a_loss_that_is_too_deep_says_so(depth: int) -> None:
    def deep(x):  # type: ignore[no-untyped-def]
        for _ in range(depth):
            x = lossc.tanh(x) + 0.5
        return x.sum()

    with pytest.raises(GraphError, match="operations follow each other") as caught:
        lossc.compile_loss(Function("TooDeep", deep, True), x=(4, 3))
    assert "several layers" in str(caught.value.fix)
