"""TripletMarginLoss: an anchor is to be nearer to its like than to another."""

from __future__ import annotations

from lossc.lang import functions as f
from lossc.lang.function import loss
from lossc.lang.node import Array
from lossc.layers.function import layer_of
from lossc.layers.reduced import reduced


@loss("TripletMarginLoss")
def triplet_margin_loss(
    anchor: Array,
    positive: Array,
    negative: Array,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Array:
    """max(d(a, p) - d(a, n) + margin, 0), d the p-norm of the difference + eps. PyTorch's TripletMarginLoss.

    Balntas et al. (BMVC 2016): with ``swap`` the nearer of d(a, n) and d(p, n) counts. Bottoms: items x features.
    """
    far = _distance(anchor, negative, p, eps)
    if swap:
        far = f.minimum(far, _distance(positive, negative, p, eps))
    return reduced(f.clip(_distance(anchor, positive, p, eps) - far + margin, 0.0), reduction)


def _distance(a: Array, b: Array, p: float, eps: float) -> Array:
    r = a - b + eps
    return f.norm(r, -1) if p == 2 else f.sum(f.abs(r) ** p, -1) ** (1 / p)


TripletMarginLoss = layer_of(triplet_margin_loss)
