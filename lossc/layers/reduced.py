"""What the losses that follow PyTorch share: shapes that must agree, and its ``reduction``."""

from __future__ import annotations

from lossc.errors import GraphError
from lossc.lang import functions as f
from lossc.lang.node import Array, shape_error


def alike(pred: Array, target: Array) -> Array:
    """``target`` in the shape of ``pred``. Raises ShapeError where it has another number of elements."""
    if target.size != pred.size:
        raise shape_error(f"one target per prediction: {list(pred.shape)} and {list(target.shape)}")
    return target.reshape(pred.shape)


def reduced(values: Array, reduction: str) -> Array:
    """The "mean", the "sum", or the sum divided by the number of items ("batchmean"). Raises GraphError."""
    if reduction == "mean":
        return f.mean(values)
    if reduction == "sum":
        return f.sum(values)
    if reduction == "batchmean":
        return f.sum(values) / values.shape[0]
    raise GraphError(f'reduction cannot be "{reduction}"', fix='"mean", "sum" or "batchmean"')
