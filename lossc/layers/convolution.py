"""Convolution over any number of spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lossc.ir import IO, Builder, Geometry, Ref
from lossc.ir.expr import expr, total
from lossc.ir.kernels import epilogue_labels
from lossc.layers.base import Layer, ParamSpec, Shape


class Convolution(Layer):
    """y[n,o] = sum_c x[n,c] * w[o,c] + b[o], a cross-correlation; each group of outputs sees its own group of channels.

    Channels are at ``axis``; the axes before are the batch, those behind are space. Several bottoms of one shape share
    the weights, one top each. w is (num_output, channels / group, kernel...), b is (num_output).
    """

    type = "Convolution"
    bottoms = (1, None)
    tops = (1, None)

    def geometry(self, spatial: int) -> Geometry:
        """Kernel, stride, pad and dilation for each of the spatial axes. Raises ShapeError."""
        p = self.param.convolution_param
        kernel = self._per_axis(p, "kernel_size", "kernel", None, spatial)
        stride = self._per_axis(p, "stride", "stride", 1, spatial)
        self.need(min(kernel, default=1) > 0, "kernel sizes must be at least 1")
        self.need(min(stride, default=1) > 0, "strides must be at least 1")
        dilation = self._per_axis(p, "dilation", "", 1, spatial)
        self.need(min(dilation, default=1) > 0, "dilations must be at least 1")
        return Geometry(kernel, stride, self._per_axis(p, "pad", "pad", 0, spatial), dilation)

    def _per_axis(self, p: Any, name: str, short: str, default: int | None, spatial: int) -> tuple[int, ...]:
        """A setting for each spatial axis: NAME once or per axis, or SHORT_h and SHORT_w."""
        given = list(getattr(p, name))
        if short and (p.HasField(f"{short}_h") or p.HasField(f"{short}_w")):
            self.need(
                spatial == 2, f"{short}_h and {short}_w need two spatial axes, there are {spatial}", f"use {name}"
            )
            self.need(not given, f"has {name} and {short}_h or {short}_w at once", "give one of the two")
            given = [getattr(p, f"{short}_h"), getattr(p, f"{short}_w")]
            return tuple(given)
        if not given and default is None:
            self.need(spatial == 0, "has no kernel_size", f"convolution_param {{ {name}: ... }}")
        if not given:
            given = [default or 0]
        self.need(
            len(given) in (1, spatial) or spatial == 0,
            f"{len(given)} values of {name} for {spatial} spatial axes",
            "give one for all, or one per axis",
        )
        return tuple(given) if len(given) == spatial else tuple(given[:1]) * spatial

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        p, shape = self.param.convolution_param, bottoms[0]
        self.need(
            len(self.param.top) == len(bottoms), f"{len(bottoms)} bottoms need as many tops", "one top per bottom"
        )
        for other in bottoms[1:]:
            self.need(other == shape, f"bottoms share the weights, so their shapes must agree: {shape} and {other}")
        axis = self.axis(p.axis, len(shape))
        self.need(p.num_output > 0, "num_output must be at least 1", "convolution_param { num_output: ... }")
        self.need(p.group > 0, "group must be at least 1")
        self.need(shape[axis] % p.group == 0, f"{shape[axis]} channels cannot be split into {p.group} groups")
        self.need(p.num_output % p.group == 0, f"num_output {p.num_output} cannot be split into {p.group} groups")
        space = shape[axis + 1 :]
        g = self.geometry(len(space))
        out = []
        for size, k, s, pad, d in zip(space, g.kernel, g.stride, g.pad, g.dilation, strict=True):
            extent = d * (k - 1) + 1
            room = size + 2 * pad - extent
            out.append(math.trunc(room / s) + 1)  # towards zero, as C divides
            self.need(
                out[-1] > 0,
                f"a kernel of {extent} does not fit into {size} with pad {pad}",
                "a smaller kernel_size, or a larger pad",
            )
        return [(*shape[:axis], p.num_output, *out)] * len(bottoms)

    def params(self, *bottoms: Shape) -> Sequence[ParamSpec]:
        p, shape = self.param.convolution_param, bottoms[0]
        axis = self.axis(p.axis, len(shape))
        kernel = self.geometry(len(shape) - axis - 1).kernel
        weight = ParamSpec((p.num_output, shape[axis] // p.group, *kernel), p.weight_filler)
        return (weight, ParamSpec((p.num_output,), p.bias_filler)) if p.bias_term else (weight,)

    def _images(self, ref: Ref, axis: int) -> Ref:
        """A blob as (batch, channels, two or more spatial axes)."""
        space = ref.shape[axis + 1 :]
        return ref.reshape(math.prod(ref.shape[:axis]), ref.shape[axis], *_flat_axes(space), *space)

    def _parts(self, io: IO, weights: Ref) -> tuple[int, Ref, Geometry]:
        """Channel axis, weights and geometry; fewer than two spatial axes are filled up with axes of extent 1."""
        axis = self.axis(self.param.convolution_param.axis, io.bottom.ndim)
        g = self.geometry(io.bottom.ndim - axis - 1)
        ones, zeros = _flat_axes(g.kernel), (0,) * len(_flat_axes(g.kernel))
        w = weights.reshape(*weights.shape[:2], *ones, *g.kernel)
        wide = Geometry((*ones, *g.kernel), (*ones, *g.stride), (*zeros, *g.pad), (*ones, *g.dilation))
        return axis, w, wide

    def forward(self, b: Builder, io: IO) -> None:
        axis, w, geometry = self._parts(io, io.params[0])
        group = self.param.convolution_param.group
        for bottom, top in zip(io.bottoms, io.tops, strict=True):
            y = self._images(top, axis)
            b.conv("forward", self._images(bottom, axis), w, y, geometry, groups=group)
            if len(io.params) > 1:
                b.add(y[epilogue_labels(y)], io.params[1]["c"], note="bias")

    def backward(self, b: Builder, io: IO) -> None:
        axis, w, geometry = self._parts(io, io.params[0])
        group = self.param.convolution_param.group
        dw = None if io.param_diffs[0] is None else self._parts(io, io.param_diffs[0])[1]
        db = io.param_diffs[1] if len(io.params) > 1 else None
        for bottom, top_diff, bottom_diff in zip(io.bottoms, io.top_diffs, io.bottom_diffs, strict=True):
            x, dy = self._images(bottom, axis), self._images(top_diff, axis)
            labels = epilogue_labels(dy)
            if db is not None:
                b.add(db["c"], total(expr(dy[labels]), labels.replace("c", "")), note="bias gradient")
            if dw is not None:
                b.conv("bwd_weights", x, dw, dy, geometry, groups=group, accumulate=True)
            if bottom_diff is not None:
                dx = self._images(bottom_diff, axis)
                b.conv("bwd_data", dx, w, dy, geometry, groups=group, accumulate=True)


def _flat_axes(space: tuple[int, ...]) -> tuple[int, ...]:
    """Extents 1 that make up two spatial axes."""
    return (1,) * max(0, 2 - len(space))
