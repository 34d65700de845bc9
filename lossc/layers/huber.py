"""HuberLoss, SmoothL1Loss and L1Loss: the absolute distance, rounded off near 0 or not."""

from __future__ import annotations

from lossc.lang import functions as f
from lossc.lang.function import loss
from lossc.lang.node import Array
from lossc.layers.function import layer_of
from lossc.layers.reduced import alike, reduced


@loss("L1Loss")
def l1_loss(pred: Array, target: Array, *, reduction: str = "mean") -> Array:
    """|pred - target|; its gradient at 0 is 0. PyTorch's L1Loss."""
    return reduced(f.abs(pred - alike(pred, target)), reduction)


@loss("HuberLoss")
def huber_loss(pred: Array, target: Array, *, delta: float = 1.0, reduction: str = "mean") -> Array:
    """r^2 / 2 where |r| < delta, else delta (|r| - delta / 2), r = pred - target. Huber (1964); PyTorch's HuberLoss."""
    r = pred - alike(pred, target)
    near = f.abs(r) < delta
    return reduced(f.where(near, 0.5 * r * r, delta * (f.abs(r) - 0.5 * delta)), reduction)


@loss("SmoothL1Loss")
def smooth_l1_loss(pred: Array, target: Array, *, beta: float = 1.0, reduction: str = "mean") -> Array:
    """r^2 / (2 beta) where |r| < beta, else |r| - beta / 2. Girshick (2015); PyTorch's SmoothL1Loss."""
    r = pred - alike(pred, target)
    if beta == 0:
        return reduced(f.abs(r), reduction)
    near = f.abs(r) < beta
    return reduced(f.where(near, 0.5 * r * r / beta, f.abs(r) - 0.5 * beta), reduction)


L1Loss, HuberLoss, SmoothL1Loss = layer_of(l1_loss), layer_of(huber_loss), layer_of(smooth_l1_loss)
