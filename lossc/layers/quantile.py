"""QuantileLoss: regression to a quantile."""

from __future__ import annotations

from lossc.lang import functions as f
from lossc.lang.function import loss
from lossc.lang.node import Array
from lossc.layers.function import layer_of
from lossc.layers.reduced import alike, reduced


@loss("QuantileLoss")
def quantile_loss(pred: Array, target: Array, *, quantile: float = 0.5, reduction: str = "mean") -> Array:
    """quantile * r where the prediction is too low by r, (1 - quantile) * r where it is too high by r.

    Koenker and Bassett (1978), also called pinball loss.
    """
    r = alike(pred, target) - pred
    return reduced(f.maximum(quantile * r, (quantile - 1) * r), reduction)


QuantileLoss = layer_of(quantile_loss)
