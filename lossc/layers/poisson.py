"""PoissonNLLLoss: counts."""

from __future__ import annotations

import math

from lossc.lang import functions as f
from lossc.lang.function import loss
from lossc.lang.node import Array
from lossc.layers.function import layer_of
from lossc.layers.reduced import alike, reduced


@loss("PoissonNLLLoss")
def poisson_nll_loss(
    pred: Array, target: Array, *, log_input: bool = True, full: bool = False, eps: float = 1e-8,
    reduction: str = "mean",
) -> Array:  # fmt: skip
    """exp(pred) - target * pred; without ``log_input`` pred - target * log(pred + eps). PyTorch's PoissonNLLLoss.

    ``full`` adds Stirling's approximation of log(target!) where the target is above 1.
    """
    t = alike(pred, target)
    value = f.exp(pred) - t * pred if log_input else pred - t * f.log(pred + eps)
    if full:
        safe = f.where(t > 1, t, 1.0)
        value = value + f.where(t > 1, safe * f.log(safe) - safe + 0.5 * f.log(2 * math.pi * safe), 0.0)
    return reduced(value, reduction)


PoissonNLLLoss = layer_of(poisson_nll_loss)
