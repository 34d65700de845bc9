"""Pooling: the greatest or the mean value of each window."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Geometry
from lossc.layers.base import Layer, Shape


class Pooling(Layer):
    """MAX or AVE over windows of an N x C x H x W blob.

    The number of windows is rounded up (``round_mode: FLOOR``: down), and with padding no window starts behind the
    image. AVE divides by the part of the window that lies in image and padding. MAX's second top is the index
    h * W + w of the first maximum.
    """

    type = "Pooling"
    tops = (1, 2)

    def _method(self) -> str:
        p = self.param.pooling_param
        self.need(
            p.pool != p.STOCHASTIC,
            "STOCHASTIC pooling runs on GPUs only, in Caffe too",
            "pooling_param { pool: MAX } or AVE",
        )
        return "MAX" if p.pool == p.MAX else "AVE"

    def geometry(self, height: int, width: int) -> Geometry:
        p = self.param.pooling_param
        for name in ("pad", "stride"):
            both = p.HasField(name) and (p.HasField(f"{name}_h") or p.HasField(f"{name}_w"))
            self.need(not both, f"has {name} and {name}_h or {name}_w at once", "give one of the two")
        pad = (p.pad_h, p.pad_w) if p.HasField("pad_h") or p.HasField("pad_w") else (p.pad, p.pad)
        stride = (p.stride, p.stride)
        if p.HasField("stride_h") or p.HasField("stride_w"):
            stride = (p.stride_h, p.stride_w)
        sized = p.HasField("kernel_size")
        sides = p.HasField("kernel_h") or p.HasField("kernel_w")
        if p.global_pooling:
            self.need(not sized and not sides, "global_pooling takes the whole plane", "remove the kernel size")
            self.need(
                pad == (0, 0) and stride == (1, 1),
                "global_pooling takes pad 0 and stride 1 only",
                "remove pad and stride",
            )
            return Geometry((height, width), stride, pad, (1, 1))
        self.need(sized != sides, "needs kernel_size, or kernel_h and kernel_w", "give one of the two")
        kernel = (p.kernel_size, p.kernel_size) if sized else (p.kernel_h, p.kernel_w)
        self.need(min(kernel) > 0, "kernel sizes must be at least 1", "give both kernel_h and kernel_w")
        self.need(min(stride) > 0, "strides must be at least 1", "give both stride_h and stride_w")
        self.need(pad[0] < kernel[0] and pad[1] < kernel[1], f"pad {pad} must be smaller than the kernel {kernel}")
        return Geometry(kernel, stride, pad, (1, 1))

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        shape = bottoms[0]
        self.need(len(shape) == 4, f"the bottom must have 4 axes (N, C, H, W), not {list(shape)}")
        tops = len(self.param.top)
        self.need(self._method() == "MAX" or tops == 1, "only MAX has a second top, the index", "remove the second top")
        p, g = self.param.pooling_param, self.geometry(*shape[2:])
        away = math.floor if p.round_mode == p.FLOOR else math.ceil
        out = []
        for size, k, s, pad in zip(shape[2:], g.kernel, g.stride, g.pad, strict=True):
            n = away((size + 2 * pad - k) / s) + 1
            if any(g.pad) and (n - 1) * s >= size + pad:
                n -= 1
            self.need(n > 0, f"a window of {k} does not fit into {size} with pad {pad}", "a smaller kernel")
            out.append(n)
        return [(*shape[:2], *out)] * tops

    def forward(self, b: Builder, io: IO) -> None:
        method, geometry = self._method(), self.geometry(*io.bottom.shape[2:])
        mask = None
        if method == "MAX":
            mask = io.tops[1] if len(io.tops) > 1 else b.temp("mask", io.top.shape)
        io.saved["mask"] = mask
        b.pool("forward", method, io.bottom, io.top, geometry, mask=mask)

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is not None:
            geometry = self.geometry(*io.bottom.shape[2:])
            b.pool(
                "backward",
                self._method(),
                io.bottom_diff,
                io.top_diff,
                geometry,
                mask=io.saved["mask"],
                accumulate=True,
            )
