"""Compiled losses on arrays of other libraries, which are read where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lossc
from lossc.errors import UsageError


@lossc.loss("SharedMemory")
def squares(pred, target):  # type: ignore[no-untyped-def]
    return ((pred - target) ** 2).sum()


class Foreign:
    """An array that speaks DLPack and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def read(fn: Any) -> list[int]:
    """The addresses that the C was given last."""
    return [int(fn._native._ffi.cast("uintptr_t", fn._at[k])) for k in range(2)]


X, Y = (np.random.default_rng(k).standard_normal((6, 4)).astype(np.float32) for k in (1, 2))


def check(pred: Any, target: Any, addresses: list[int]) -> None:
    fn = lossc.compile_loss(squares, pred=(6, 4), target=(6, 4))
    value = fn(pred, target)
    assert read(fn) == addresses
    assert isinstance(value.loss, float)
    assert type(value.grad_pred) is np.ndarray
    np.testing.assert_allclose(value.grad_pred, 2 * (X - Y), rtol=1e-6)


def test_whatever_speaks_dlpack() -> None:
    check(Foreign(X), Foreign(Y), [X.ctypes.data, Y.ctypes.data])


def test_another_type_is_an_error() -> None:
    fn = lossc.compile_loss(squares, pred=(6, 4), target=(6, 4))
    with pytest.raises(UsageError, match='"pred" is of float64'):
        fn(Foreign(X.astype(np.float64)), Foreign(Y))


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch", reason="it reads PyTorch's tensors")
    pred, target = torch.from_numpy(X.copy()).requires_grad_(), torch.from_numpy(Y.copy())
    check(pred, target, [pred.data_ptr(), target.data_ptr()])


def test_jax_arrays() -> None:
    jnp = pytest.importorskip("jax.numpy", reason="it reads JAX's arrays")
    pred, target = jnp.array(X), jnp.array(Y)
    check(pred, target, [pred.unsafe_buffer_pointer(), target.unsafe_buffer_pointer()])
