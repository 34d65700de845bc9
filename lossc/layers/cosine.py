"""CosineEmbeddingLoss: the angle between features of pairs that are alike, or not."""

from __future__ import annotations

from lossc.lang import functions as f
from lossc.lang.function import loss
from lossc.lang.node import Array
from lossc.layers.function import layer_of
from lossc.layers.reduced import reduced

#: What PyTorch adds to squared lengths.
_EPSILON = 1e-12


@loss("CosineEmbeddingLoss")
def cosine_embedding_loss(a: Array, b: Array, like: Array, *, margin: float = 0.0, reduction: str = "mean") -> Array:
    """1 - cos(a, b) for pairs that are alike (``like`` 1), max(cos(a, b) - margin, 0) for others (-1).

    PyTorch's CosineEmbeddingLoss. Bottoms: two of items x features, and one number per pair.
    """
    cosine = f.sum(a * b, -1) / f.sqrt((f.sum(a * a, -1) + _EPSILON) * (f.sum(b * b, -1) + _EPSILON))
    y = like.reshape(cosine.shape)
    near = f.where(y == 1, 1 - cosine, 0.0)
    return reduced(near + f.where(y == -1, f.clip(cosine - margin, 0.0), 0.0), reduction)


CosineEmbeddingLoss = layer_of(cosine_embedding_loss)
