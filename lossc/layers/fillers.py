"""Fillers: the first values of parameters, and of DummyData's tops."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lossc.errors import GraphError
from lossc.ir import Builder, Ref, Scalar
from lossc.ir.expr import Expr, absolute, expr, iota, total
from lossc.layers.access import full


@dataclass(frozen=True)
class ConstantFiller:
    """Stands for a FillerParameter where a layer's own default is another than Caffe's 0."""

    value: float = 0.0
    type: str = "constant"


def fill(b: Builder, ref: Ref, filler: Any) -> None:
    """Emits the kernels that fill ``ref`` as Caffe's FillerParameter says.

    Raises GraphError for an unknown type, for settings out of range, and for a shape that the filler cannot fill.
    """
    if filler.type not in FILLERS:
        near = difflib.get_close_matches(filler.type, FILLERS, 1)
        hint = f'did you mean "{near[0]}"?' if near else "known fillers: " + ", ".join(FILLERS)
        raise GraphError(f'unknown filler type "{filler.type}"', fix=hint, layer=b.layer)
    FILLERS[filler.type](b, ref, filler)


def filler_or(param: Any, name: str, value: float) -> Any:
    """The FillerParameter called ``name`` of a layer's message; where it is not given, one with a constant."""
    return getattr(param, name) if param.HasField(name) else ConstantFiller(value)


def is_constant(filler: Any) -> bool:
    """Whether the filler gives the same values every time."""
    return filler.type in ("constant", "bilinear")


def _constant(b: Builder, ref: Ref, filler: Any) -> None:
    b.fill(full(ref), Scalar(filler.value))


def _uniform(b: Builder, ref: Ref, filler: Any) -> None:
    _require(b, filler.min <= filler.max, f"uniform filler: min {filler.min:g} is above max {filler.max:g}")
    b.random(ref, "uniform", filler.min, filler.max)


def _gaussian(b: Builder, ref: Ref, filler: Any) -> None:
    """With ``sparse`` s >= 0 each value is kept with probability s / shape[0] and is 0 otherwise, independently of the
    rest, so that about s inputs reach each of the shape[0] outputs of a square matrix.
    """
    _require(b, filler.std >= 0, f"gaussian filler: std {filler.std:g} is negative")
    _require(b, filler.sparse >= -1, f"gaussian filler: sparse {filler.sparse} is negative")
    if filler.sparse < 0:
        b.random(ref, "gaussian", filler.mean, filler.std)
        return
    _require(b, ref.ndim > 0, "gaussian filler: sparse needs at least one axis")
    values, kept = b.temp("gaussian", ref.shape), b.temp("kept", ref.shape)
    b.random(values, "gaussian", filler.mean, filler.std)
    b.random(kept, "bernoulli", min(1.0, filler.sparse / ref.shape[0]), 1.0)
    b.map((full(ref), expr(full(values)) * full(kept)))


def _positive_unitball(b: Builder, ref: Ref, filler: Any) -> None:
    """Uniform in 0..1, then each slice along the first axis divided by its sum."""
    _require(b, ref.ndim > 0, "positive_unitball filler: needs at least one axis")
    values = b.temp("uniform", (ref.shape[0], ref.size // ref.shape[0]))
    b.random(values, "uniform", 0.0, 1.0)
    u = expr(values["oi"])
    b.map((ref.reshape(*values.shape)["oi"], u / total(u, "i")))


def _fan(ref: Ref, filler: Any) -> float:
    """Caffe's fan_in (values per output), fan_out, or their average."""
    fan_in = ref.size / ref.shape[0] if ref.ndim else 1.0
    fan_out = ref.size / ref.shape[1] if ref.ndim > 1 else float(ref.size)
    return {filler.FAN_IN: fan_in, filler.FAN_OUT: fan_out, filler.AVERAGE: (fan_in + fan_out) / 2}[
        filler.variance_norm
    ]


def _xavier(b: Builder, ref: Ref, filler: Any) -> None:
    """Glorot and Bengio (2010): variance 1 / fan."""
    reach = math.sqrt(3.0 / _fan(ref, filler))
    b.random(ref, "uniform", -reach, reach)


def _msra(b: Builder, ref: Ref, filler: Any) -> None:
    """He et al. (2015): variance 2 / fan."""
    b.random(ref, "gaussian", 0.0, math.sqrt(2.0 / _fan(ref, filler)))


def _bilinear(b: Builder, ref: Ref, filler: Any) -> None:
    """The kernel of bilinear interpolation, the same for every channel, for a Deconvolution that enlarges."""
    square = ref.ndim == 4 and ref.shape[2] == ref.shape[3]
    _require(b, square, f"bilinear filler: needs 4 axes and a square kernel, not {list(ref.shape)}")
    f = float(-(-ref.shape[3] // 2))
    centre = Scalar((ref.shape[3] - 1) / (2.0 * f), "centre")

    def weight(axis: str) -> Expr:
        return 1.0 - absolute(iota(full(ref), axis) / Scalar(f, "factor") - centre)

    b.map((full(ref), weight("w") * weight("h")))


def _require(b: Builder, condition: bool, message: str) -> None:
    if not condition:
        raise GraphError(message, layer=b.layer)


FILLERS: dict[str, Callable[[Builder, Ref, Any], None]] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
