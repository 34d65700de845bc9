"""FocalLoss and SigmoidFocalLoss: cross-entropy that looks away from what is easy."""

from __future__ import annotations

from lossc.lang import functions as f
from lossc.lang.function import loss
from lossc.lang.node import Array
from lossc.layers.function import layer_of
from lossc.layers.reduced import alike, reduced


@loss("FocalLoss")
def focal_loss(
    scores: Array, label: Array, *, gamma: float = 2.0, alpha: float = 1.0, axis: int = 1, reduction: str = "mean"
) -> Array:
    """-alpha (1 - p)^gamma log p, p = softmax(scores)[label] along ``axis``. Lin et al. (ICCV 2017), eq. 5.

    Bottoms: scores, and one label per point: the scores' shape without ``axis``.
    """
    at = axis % len(scores.shape)
    points = tuple(1 if k == at else e for k, e in enumerate(scores.shape))
    chosen = f.take_along_axis(f.log_softmax(scores, at), label.reshape(points), at)
    return reduced(-alpha * (-f.expm1(chosen)) ** gamma * chosen, reduction)


@loss("SigmoidFocalLoss")
def sigmoid_focal_loss(
    scores: Array, target: Array, *, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean"
) -> Array:
    """alpha_t (1 - p_t)^gamma times the sigmoid cross-entropy, for targets of 0 or 1 each. Lin et al. (ICCV 2017).

    p_t is the probability given to the target, alpha_t = alpha for targets of 1, 1 - alpha for 0, and none where alpha
    is negative; torchvision's sigmoid_focal_loss.
    """
    t = alike(scores, target)
    entropy = f.softplus(scores) - scores * t
    missed = f.sigmoid(scores) * (1 - t) + f.sigmoid(-scores) * t
    value = entropy * missed**gamma
    return reduced(value * (alpha * t + (1 - alpha) * (1 - t)) if alpha >= 0 else value, reduction)


FocalLoss, SigmoidFocalLoss = layer_of(focal_loss), layer_of(sigmoid_focal_loss)
