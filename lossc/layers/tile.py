"""Tile: repeats a blob along one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossc.ir import IO, Builder, Ref
from lossc.ir.expr import expr, total
from lossc.layers.base import Layer, Shape


class Tile(Layer):
    """The bottom ``tiles`` times one behind the other along ``axis``; dx is the sum over the copies."""

    type = "Tile"

    def _axis(self, shape: Shape) -> int:
        return self.axis(self.param.tile_param.axis, len(shape))

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        shape, tiles = bottoms[0], self.param.tile_param.tiles
        self.need(tiles > 0, "tiles must be at least 1", "tile_param { tiles: ... }")
        axis = self._axis(shape)
        return [(*shape[:axis], shape[axis] * tiles, *shape[axis + 1 :])]

    def _parts(self, bottom: Ref, top: Ref) -> tuple[Ref, Ref]:
        """Bottom (outer, rest) and top (outer, tiles, rest)."""
        outer = math.prod(bottom.shape[: self._axis(bottom.shape)])
        rest = bottom.size // outer
        return bottom.reshape(outer, rest), top.reshape(outer, self.param.tile_param.tiles, rest)

    def forward(self, b: Builder, io: IO) -> None:
        x, y = self._parts(io.bottom, io.top)
        b.map((y["oti"], x["oi"]))

    def backward(self, b: Builder, io: IO) -> None:
        if io.bottom_diff is not None:
            dx, dy = self._parts(io.bottom_diff, io.top_diff)
            b.add(dx["oi"], total(expr(dy["oti"]), "t"))
