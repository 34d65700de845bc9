"""``lossc.torch.wrap``: losses compiled to C in PyTorch programs. Needs PyTorch, which lossc itself does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lossc.errors import UsageError
from lossc.lang.function import Function
from lossc.runtime.loss import CompiledLoss, compile_loss

try:
    import torch
except ImportError as error:
    raise UsageError("lossc.torch needs PyTorch", fix="pip install torch") from error

_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


class _Loss(torch.autograd.Function):
    """Value and gradients in one call; ``backward`` only scales them."""

    @staticmethod
    def forward(ctx: Any, fn: CompiledLoss, *tensors: Any) -> Any:
        value = fn(*(t.detach() for t in tensors))
        ctx.gradients = dict(zip(fn.wanted, value[1:], strict=True))
        ctx.names = list(fn.shapes)
        return torch.tensor(value.loss, dtype=tensors[0].dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, top_diff: Any) -> Any:
        found = [ctx.gradients.get(name) for name in ctx.names]
        return None, *(None if g is None else torch.from_numpy(g) * top_diff for g in found)


def wrap(loss: CompiledLoss | Function | str, *, threads: int | None = None, **parameters: Any) -> Callable[..., Any]:
    """A loss as a function of tensors in the CPU's memory, for ``loss(pred, target).backward()``.

    ``loss``: what ``lossc.compile_loss`` returned; its gradients are those that were asked for there. Or what
    ``@lossc.loss`` made, or a built-in loss's name: it is compiled at the first call with tensors of other shapes,
    another dtype (float32 or float64, the first tensor's) or other tensors that require gradients.

    Raises UsageError for tensors on other devices or of other dtypes, and where a gradient is required that the loss
    does not have.
    """
    if isinstance(loss, CompiledLoss):
        return lambda *tensors: _Loss.apply(loss, *_checked(loss, tensors))
    made: dict[Any, CompiledLoss] = {}

    def call(*tensors: Any) -> Any:
        if not tensors or not all(isinstance(t, torch.Tensor) for t in tensors):
            raise UsageError("a wrapped loss takes tensors", fix="give one for each bottom")
        needed = tuple(t.requires_grad for t in tensors)
        key = (*(tuple(t.shape) for t in tensors), tensors[0].dtype, needed)
        if key not in made:
            made[key] = _compiled(loss, tensors, needed, threads, parameters)
        return _Loss.apply(made[key], *_checked(made[key], tensors))

    return call


def _compiled(
    loss: Function | str, tensors: Any, needed: tuple[bool, ...], threads: int | None, parameters: dict[str, Any]
) -> CompiledLoss:
    from lossc.pipeline import built_in_function

    function = built_in_function(loss) if isinstance(loss, str) else loss
    names = [f"bottom{k}" for k in range(len(tensors))]
    if function is not None:
        known = [*function.bottoms, *function.learned]
        names = [*known[: len(tensors)], *names[len(known) :]]
    dtype = _DTYPES.get(tensors[0].dtype)
    if dtype is None:
        raise UsageError(f"tensors of {tensors[0].dtype} cannot be used", fix="float32 or float64")
    shapes = {name: tuple(t.shape) for name, t in zip(names, tensors, strict=True)}
    grad = [name for name, need in zip(names, needed, strict=True) if need]
    return compile_loss(loss, shapes=shapes, grad=grad, dtype=dtype, threads=threads, **parameters)


def _checked(fn: CompiledLoss, tensors: Any) -> Any:
    for name, t in zip(fn.shapes, tensors, strict=False):
        if t.requires_grad and name not in fn.wanted:
            raise UsageError(f'"{name}" requires a gradient that the loss was not compiled for', fix=f'grad=["{name}"]')
        if t.device.type != "cpu":
            raise UsageError(f'"{name}" is on {t.device}', fix="compiled losses work in the CPU's memory: t.cpu()")
    return tensors
