"""Compiled losses: where gradients lie, and that nobody's results change later."""

from __future__ import annotations

import numpy as np
import pytest

import lossc


def _pair(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape, np.float32), rng.standard_normal(shape, np.float32)


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.mark.parametrize("shape", [(4, 5), (600, 1024)])  # the latter has pages of its own
def test_gradients_that_somebody_holds_stay(shape: tuple[int, ...]) -> None:
    loss = lossc.compile_loss("EuclideanLoss", shapes={"a": shape, "b": shape})
    a, b = _pair(shape)
    first = loss(a, b).grad_a
    part = loss(b, a).grad_a[1:, ::2]
    wanted, wanted_part = first.copy(), part.copy()
    for _ in range(4):
        loss(a, a + 1)
    np.testing.assert_array_equal(first, wanted)
    np.testing.assert_array_equal(part, wanted_part)
    np.testing.assert_allclose(first, (a - b) / shape[0], rtol=1e-6)


def test_gradients_that_nobody_holds_give_their_memory_to_the_next() -> None:
    loss = lossc.compile_loss("EuclideanLoss", shapes={"a": (4, 5), "b": (4, 5)})
    a, b = _pair((4, 5))
    assert len({_address(loss(a, b).grad_a) for _ in range(5)}) == 1
    held = [loss(a, b).grad_a for _ in range(5)]
    assert len({_address(g) for g in held}) == 5


def test_large_gradients_begin_on_a_cache_line() -> None:
    """Above 16 MiB they are written past the caches, wherever the inputs begin."""
    shape = (1025, 4096)
    loss = lossc.compile_loss("EuclideanLoss", shapes={"a": shape, "b": shape}, grad=["a", "b"])
    assert "_stream(" in loss.source
    room = np.zeros(2 * 1025 * 4096 + 3, np.float32)
    a, b = room[1 : 1 + 1025 * 4096].reshape(shape), room[2 + 1025 * 4096 : -1].reshape(shape)
    a[...], b[...] = _pair(shape)
    value, grad_a, grad_b = loss(a, b)
    assert _address(grad_a) % 64 == _address(grad_b) % 64 == 0
    np.testing.assert_allclose(value, float(np.square(a.astype(float) - b).sum()) / 2 / 1025, rtol=1e-6)
    np.testing.assert_array_equal(grad_a, (a - b) * np.float32(1 / 1025))
    np.testing.assert_array_equal(grad_b, -grad_a)
