"""InnerProduct: ``y = x W^T + b``, the fully connected layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder
from lossc.ir.expr import expr, total
from lossc.layers.base import Layer, ParamSpec, Shape


class InnerProduct(Layer):
    """y[m,o] = sum_k x[m,k] W[o,k] + b[o]; the axes from ``axis`` on are flattened into k.

    dx = dy W; dW = dy^T x; db = sum_m dy. W is (num_output, k), or (k, num_output) with ``transpose``.
    """

    type = "InnerProduct"

    def _sizes(self, bottom: Shape) -> tuple[int, int, int]:
        p = self.param.inner_product_param
        axis = self.axis(p.axis, len(bottom))
        return math.prod(bottom[:axis]), math.prod(bottom[axis:]), axis

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        out = self.param.inner_product_param.num_output
        self.need(out > 0, "num_output must be at least 1", "inner_product_param { num_output: ... }")
        return [(*bottoms[0][: self._sizes(bottoms[0])[2]], out)]

    def params(self, *bottoms: Shape) -> Sequence[ParamSpec]:
        p = self.param.inner_product_param
        k = self._sizes(bottoms[0])[1]
        weight = ParamSpec((k, p.num_output) if p.transpose else (p.num_output, k), p.weight_filler)
        return (weight, ParamSpec((p.num_output,), p.bias_filler)) if p.bias_term else (weight,)

    def forward(self, b: Builder, io: IO) -> None:
        m, k, _ = self._sizes(io.bottom.shape)
        w = io.params[0] if self.param.inner_product_param.transpose else io.params[0].transpose(1, 0)
        y = io.top.reshape(m, w.shape[1])
        b.gemm(io.bottom.reshape(m, k), w, y)
        if len(io.params) > 1:
            b.add(y["ij"], io.params[1]["j"], note="bias")

    def backward(self, b: Builder, io: IO) -> None:
        m, k, _ = self._sizes(io.bottom.shape)
        transpose = self.param.inner_product_param.transpose
        x, w = io.bottom.reshape(m, k), io.params[0] if transpose else io.params[0].transpose(1, 0)
        dy = io.top_diff.reshape(m, w.shape[1])
        if io.param_diffs[0] is not None:
            dw = io.param_diffs[0] if transpose else io.param_diffs[0].transpose(1, 0)
            b.gemm(x.transpose(1, 0), dy, dw, accumulate=True, note="weight gradient")
        if len(io.params) > 1 and io.param_diffs[1] is not None:
            b.add(io.param_diffs[1]["j"], total(expr(dy["ij"]), "i"), note="bias gradient")
        if io.bottom_diff is not None:
            b.gemm(dy, w.transpose(1, 0), io.bottom_diff.reshape(m, k), accumulate=True, note="data gradient")
