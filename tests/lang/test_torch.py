"""``lossc.torch.wrap``: compiled losses as PyTorch's autograd functions."""

from __future__ import annotations

import pytest

import lossc
from lossc.errors import UsageError

torch = pytest.importorskip("torch", reason="it wraps losses for PyTorch")


@lossc.loss("TorchHuber")
def huber(pred, target, *, delta=1.0):  # type: ignore[no-untyped-def]
    r = lossc.abs(pred - target)
    return lossc.where(r < delta, 0.5 * r * r, delta * (r - 0.5 * delta)).mean()


def tensors(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(6, 4, dtype=dtype, requires_grad=True), torch.randn(6, 4, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trains_a_torch_model(dtype: torch.dtype) -> None:
    pred, target = tensors(dtype)
    weights = torch.ones(4, dtype=dtype, requires_grad=True)
    wrapped = lossc.torch.wrap(huber, delta=0.4)
    (wrapped(pred * weights, target) * 3).backward()
    mine = pred.grad, weights.grad
    pred.grad = weights.grad = None
    (torch.nn.functional.huber_loss(pred * weights, target, delta=0.4) * 3).backward()
    for a, b in zip(mine, (pred.grad, weights.grad), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_by_torch_itself() -> None:
    pred, target = tensors(torch.float64)
    assert torch.autograd.gradcheck(lossc.torch.wrap("SmoothL1Loss", beta=0.3), (pred, target.requires_grad_()))


def test_compiled_loss_reads_tensors_where_they_lie() -> None:
    pred, target = tensors()
    fn = lossc.compile_loss(huber, pred=(6, 4), target=(6, 4))
    value = lossc.torch.wrap(fn)(pred, target)
    assert value.item() == pytest.approx(fn(pred.detach().numpy(), target.numpy()).loss)
    assert fn(pred, target).loss == value.item()  # a tensor as it is, by DLPack
    with pytest.raises(UsageError, match='"target" requires a gradient'):
        lossc.torch.wrap(fn)(pred, target.requires_grad_())


def test_what_cannot_be_used() -> None:
    pred, target = tensors()
    with pytest.raises(UsageError, match="takes tensors"):
        lossc.torch.wrap(huber)(pred, [1.0])
    with pytest.raises(UsageError, match="float16"):
        lossc.torch.wrap(huber)(pred.half(), target.half())
    with pytest.raises(UsageError, match="on meta"):
        lossc.torch.wrap(lossc.compile_loss(huber, pred=(6, 4), target=(6, 4)))(pred, target.to("meta"))
