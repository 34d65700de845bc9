"""DiceLoss: overlap of predicted and true masks."""

from __future__ import annotations

from lossc.lang import functions as f
from lossc.lang.function import loss
from lossc.lang.node import Array
from lossc.layers.function import layer_of
from lossc.layers.reduced import alike, reduced


@loss("DiceLoss")
def dice_loss(
    pred: Array, target: Array, *, smooth: float = 1.0, square: bool = False, sigmoid: bool = False,
    reduction: str = "mean",
) -> Array:  # fmt: skip
    """1 - (2 sum p t + smooth) / (sum p + sum t + smooth), the sums over each item. Dice (1945).

    ``square``: sums of squares in the denominator, as Milletari et al. (3DV 2016) have it. ``sigmoid``: the
    predictions are scores.
    """
    t = alike(pred, target).reshape(pred.shape[0], -1)
    p = pred.reshape(pred.shape[0], -1)
    p = f.sigmoid(p) if sigmoid else p
    size = f.sum(p * p, 1) + f.sum(t * t, 1) if square else f.sum(p, 1) + f.sum(t, 1)
    return reduced(1 - (2 * f.sum(p * t, 1) + smooth) / (size + smooth), reduction)


DiceLoss = layer_of(dice_loss)
