"""The gradient of a convolution's weights by Winograd's minimal filtering: dw = G^T (sum of (B^T x B) * (A dy A^T)) G.

The sum runs over tiles, so that each element of a transformed tile is one matrix product of x's channels with dy's.
Where the sums are small, the images are split into chunks with sums of their own, so that what a thread transforms
stays in its caches. Else all threads transform a block of tiles and meet, then share out the products, which add to one
sum. The number of chunks depends on the shape alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from lossc.codegen.contraction import (
    Choice,
    Code,
    Isa,
    Micro,
    Types,
    choose,
    finish,
    parameters,
    round_up,
    signature,
    tile_cycles,
    tiles,
)
from lossc.codegen.conv_window import Window, affine
from lossc.codegen.environment import render
from lossc.codegen.filtering import Blocks, Filtering, blocks_of, sandwich, source_of, transposed
from lossc.codegen.names import comment
from lossc.codegen.winograd import image_at, plane, transform_cycles

BLOCK_BYTES = 2 << 20  # of a block's transformed tiles, which all threads read in the last-level cache
LEAST_TILES = 128  # of a block, for all of which its sums are read and written once
CHUNKS = 8  # at the most
LEAST_CHUNKS = 4  # tasks, below which all threads work on one block at a time
CHUNKS_BYTES = 6 << 20  # of the sums of all chunks
CHUNK_BYTES = 512 << 10  # of a block's transformed tiles where one thread alone uses them
CHUNK_TILES = 32  # of such a block, for all of which its sums are read and written once
SUMS_CYCLES = 0.25  # an element of sums that no core's cache holds, read and written once a block
END_CHANNELS = 16  # of x, whose weights a task of the last step computes


@dataclass(frozen=True)
class _Plan:
    filtering: Filtering
    mr: int  # channels of x
    nv: int
    blocks: Blocks
    chunks: int  # 0: one block at a time

    def __str__(self) -> str:
        chunks = f" chunks {self.chunks}" if self.chunks else ""
        return f"{self.filtering} {self.mr}x{self.nv} tiles {self.blocks.tiles}{chunks}"


def _sums(shape: Window, types: Types, filtering: Filtering, mr: int, nv: int) -> int:
    """Elements of the sums of one group."""
    nr = nv * types.lanes
    return filtering.products**2 * round_up(shape.ic, mr) * ceil(shape.oc / nr) * nr


def _cost(shape: Window, types: Types, plan: _Plan) -> float:
    """Cycles of the whole gradient, for one thread."""
    square, blocks = plan.filtering.products ** 2, plan.blocks
    row_tiles, panels = ceil(shape.ic / plan.mr), ceil(shape.oc / (plan.nv * types.lanes))
    step = tile_cycles(plan.mr, plan.nv)
    product = square * row_tiles * panels * (blocks.tiles * step + 4 * plan.mr * plan.nv + 20)
    sums = _sums(shape, types, plan.filtering, plan.mr, plan.nv)
    far = 0.0 if plan.chunks else SUMS_CYCLES * sums
    transform = blocks.tiles * transform_cycles(plan.filtering, shape, types)
    return shape.groups * (blocks.count * (product + transform + far) + max(1, plan.chunks) * sums)


def winograd_weights_plan(
    shape: Window, isa: Isa, types: Types, among: Sequence[Filtering], prefer: str = ""
) -> tuple[_Plan, Choice]:
    """The best filtering and register tile, and how it was chosen."""

    def plans() -> Iterator[_Plan]:
        for filtering in among:
            bytes_of_tile = filtering.products**2 * (shape.ic + shape.oc) * types.size
            most = max(LEAST_TILES, BLOCK_BYTES // bytes_of_tile), max(CHUNK_TILES, CHUNK_BYTES // bytes_of_tile)
            large, small = (blocks_of(filtering.m, shape.n, shape.out_shape, count) for count in most)
            found = []
            for mr, nv in tiles(isa, types, round_up(shape.ic, types.lanes)):
                if types.lanes % mr and mr % types.lanes:
                    continue
                bytes_of_sums = _sums(shape, types, filtering, mr, nv) * types.size
                chunks = min(CHUNKS, small.count, CHUNKS_BYTES // (shape.groups * bytes_of_sums))
                if chunks * shape.groups < LEAST_CHUNKS:
                    found.append(_Plan(filtering, mr, nv, large, 0))
                else:
                    found.append(_Plan(filtering, mr, nv, small, ceil(small.count / ceil(small.count / chunks))))
            # a register tile that fills the sums up to too many for chunks is no reason to do without them
            yield from [plan for plan in found if plan.chunks] or found

    return choose(plans(), lambda plan: _cost(shape, types, plan), lambda plan: f"conv weights winograd {plan}", prefer)


def winograd_weights_code(
    spec: Any, shape: Window, isa: Isa, types: Types, among: Sequence[Filtering], prefer: str = ""
) -> Code:
    """The C function that computes dw from x (the window's source) and dy (its target), with the best filtering."""
    plan, choice = winograd_weights_plan(shape, isa, types, among, prefer)
    filtering, blocks, lanes, mr = plan.filtering, plan.blocks, types.lanes, plan.mr
    products, count, taps = filtering.products, blocks.tiles, filtering.r**2
    nr, x_block = plan.nv * lanes, max(mr, lanes)
    rows, panels = round_up(shape.ic, mr), ceil(shape.oc / nr)
    x_plane = plane(round_up(shape.ic, x_block) * count, products, types)
    dy_plane = plane(panels * nr * count, products, types)
    sums_plane = plane(rows * panels * nr, products, types)
    x = source_of(
        f"{spec.name}_x", blocks, filtering.r - 1, shape.pad, shape.in_shape, shape.ic, shape.source_strides[1],
        shape.source_block, types,
    )  # fmt: skip
    dy = source_of(
        f"{spec.name}_dy", blocks, 0, (0, 0), shape.out_shape, shape.oc, shape.target_strides[1], shape.target_block,
        types,
    )  # fmt: skip
    end = min(shape.ic, END_CHANNELS)
    lines_row = round_up(end * taps, lanes)
    x_size, dy_size, sums_size = (types.aligned(products**2 * size) for size in (x_plane, dy_plane, sums_plane))
    strip_size = types.aligned(max(x.scratch, dy.scratch, end * taps * lanes))
    tiles_size = x_size + dy_size
    strip_at = tiles_size if plan.chunks else 0
    offsets = {"x": 0, "dy": x_size, "sums": tiles_size, "strip": strip_at, "lines": strip_at + strip_size}
    local = strip_at + strip_size + types.aligned(lanes * lines_row)
    shared = shape.groups * plan.chunks * sums_size if plan.chunks else tiles_size + shape.groups * sums_size
    micro = Micro(
        f"{spec.name}_tile", f"a: transformed {shape.source}, b: transformed {shape.target}.", mr, plan.nv, nr,
        1, x_block, nr, nr, add=True,
    )  # fmt: skip
    params = parameters(spec, types, (shape.source, shape.target), spec.w)
    group = "group" if shape.groups > 1 else "0"
    text = render(
        "conv_winograd_weights.c.j2",
        {},
        t=types,
        k=micro,
        f=finish(spec, load=f"{types.vec}_load_n(o, m)", store=f"{types.vec}_store_n(o, %s, m)"),
        b=blocks,
        x=x,
        dy=dy,
        g={
            "comment": comment(spec.comment),
            "signature": signature(spec.name, params, types, shared, local),
            "at": offsets,
            "transpose": f"{spec.name}_transpose",
            "to_x": sandwich(
                f"{spec.name}_input", f"B^T {shape.source} B of a tile", filtering.input, types,
                x.steps, (products * x_plane, x_plane),
            ),
            "to_dy": sandwich(
                f"{spec.name}_output", f"A {shape.target} A^T of a tile", transposed(filtering.output), types,
                dy.steps, (products * dy_plane, dy_plane),
            ),
            "to_weights": sandwich(
                f"{spec.name}_weights", "G^T (sums of products) G: the taps of one channel",
                transposed(filtering.weights), types,
                (products * lanes, lanes) if plan.chunks else (products * sums_plane, sums_plane),
                (filtering.r * lanes, lanes),
            ),
            "tiles_in": "local" if plan.chunks else "shared",
            "chunks": plan.chunks,
            "chunk_blocks": ceil(blocks.count / plan.chunks) if plan.chunks else 0,
            "sums_size": sums_size,
            "x": shape.source,
            "dy": shape.target,
            "groups": shape.groups,
            "ic": shape.ic,
            "oc": shape.oc,
            "x_vectors": ceil(shape.ic / lanes),
            "dy_vectors": ceil(shape.oc / lanes),
            "oc_vectors": ceil(shape.oc / lanes),
            "x_block": x_block,
            "x_plane": x_plane,
            "dy_plane": dy_plane,
            "sums_plane": sums_plane,
            "products": products,
            "taps": taps,
            "rows": rows,
            "panels": panels,
            "end": end,
            "ends": ceil(shape.ic / end),
            "lines_row": lines_row,
            "x_image": image_at(shape.source, group, shape.ic, shape.source_strides, lanes, shape.source_block),
            "dy_image": image_at(shape.target, group, shape.oc, shape.target_strides, lanes, shape.target_block),
            "x_tile": _tile(x_block, lanes, count),
            "dy_tile": _tile(nr, lanes, count),
            "sums_at": f"(cv * {lanes} / {nr} * {rows} + ci) * {nr} + cv * {lanes} % {nr}",
            "c": affine([(group, shape.oc), ("cv", lanes), ("co", 1)]),
            "out_at": affine([("c", shape.w_row), ("j", 1)], head=spec.w),
        },
    )  # fmt: skip
    return Code(text, tuple(params), shared, local, choice)


def _tile(block: int, lanes: int, count: int) -> str:
    """C for where the vector of channels `cv` of the first tile of the block's image `i` lies."""
    return f"cv * {lanes} / {block} * {count * block} + i * count * {block} + cv * {lanes} % {block}"
