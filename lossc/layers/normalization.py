"""What a loss over many points is divided by: Caffe's LossParameter."""

from __future__ import annotations

from typing import Any

from lossc.ir import IO, Builder, Scalar
from lossc.ir.expr import Expr, Value, expr, maximum, total, where


def mode_of(loss_param: Any, default: int) -> int:
    """The NormalizationMode that counts; the older ``normalize`` only where ``normalization`` is not given."""
    if loss_param.HasField("normalization"):
        return loss_param.normalization
    if loss_param.HasField("normalize"):
        return loss_param.VALID if loss_param.normalize else loss_param.BATCH_SIZE
    return default


def ignored_label(loss_param: Any) -> int | None:
    """``ignore_label``, or None."""
    return loss_param.ignore_label if loss_param.HasField("ignore_label") else None


def normaliser(
    b: Builder, io: IO, loss_param: Any, mode: int, outer: int, inner: int, ignored: Expr | None, labels: str
) -> Value:
    """The divisor of a loss over ``outer * inner`` points, kept for backward in ``io.saved["normaliser"]``.

    FULL: all points; VALID: those where the truth value ``ignored``, over the dimensions ``labels``, is false;
    BATCH_SIZE: ``outer``; NONE: 1. Never less than 1.
    """
    value: Value
    if mode == loss_param.VALID and ignored is not None:
        count = b.temp("count", ())
        b.map((count[""], maximum(1.0, total(where(ignored, 0.0, 1.0), labels))), note="points that count")
        value = expr(count[""])
    elif mode in (loss_param.FULL, loss_param.VALID):
        value = Scalar(outer * inner, "N")
    elif mode == loss_param.BATCH_SIZE:
        value = Scalar(outer, "N")
    else:
        value = Scalar(1.0)
    io.saved["normaliser"] = value
    io.saved["mode"] = loss_param.NormalizationMode.Name(mode)
    return value
