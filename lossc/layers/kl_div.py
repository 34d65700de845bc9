"""KLDivLoss: how far one distribution is from another."""

from __future__ import annotations

from lossc.lang import functions as f
from lossc.lang.function import loss
from lossc.lang.node import Array
from lossc.layers.function import layer_of
from lossc.layers.reduced import alike, reduced


@loss("KLDivLoss")
def kl_div_loss(log_p: Array, target: Array, *, reduction: str = "mean", log_target: bool = False) -> Array:
    """target (log target - log_p): Kullback and Leibler (1951), 0 where the target is. PyTorch's KLDivLoss.

    ``log_p`` are logarithms of probabilities, and so are the targets with ``log_target``. "mean" is over all elements,
    as PyTorch's; "batchmean" is the divergence per item.
    """
    t = alike(log_p, target)
    if log_target:
        return reduced(f.exp(t) * (t - log_p), reduction)
    return reduced(f.where(t > 0, t * f.log(f.where(t > 0, t, 1.0)), 0.0) - t * log_p, reduction)


KLDivLoss = layer_of(kl_div_loss)
