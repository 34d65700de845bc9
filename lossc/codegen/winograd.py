"""Convolutions of stride 1 by Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", 2015): F(2x2,3x3), F(4x4,3x3) and F(2x2,5x5).

A task computes all output channels of a block of consecutive tiles, across rows and images, so that small planes fill
vectors too. Lines of the input are combined vertically, dealt out by column, and combined horizontally with vectors
along tiles; one matrix product for each element of a transformed tile follows, and the same steps backwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from lossc.codegen.contraction import (
    L2_BYTES,
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
from lossc.codegen.filtering import FILTERINGS, Filtering, scalar_sum, vector_sum
from lossc.codegen.names import comment

LONGEST_BLOCK = 256  # tiles
BALANCE = 4  # tasks come in multiples of this where they are few, for that many threads
STREAM_BYTES = 8.0  # of transformed weights that come from beyond the L2 cache, in a cycle

@dataclass(frozen=True)
class _Block:
    filtering: Filtering
    mr: int
    nv: int
    panels: int

    def __str__(self) -> str:
        return f"{self.filtering} {self.mr}x{self.nv} panels {self.panels}"


def filterings(shape: Window, largest: int) -> tuple[Filtering, ...]:
    """Those that compute a convolution of this form, with tiles of at most ``largest`` outputs along an edge."""
    if any(s != 1 for s in (*shape.stride, *shape.dilation)) or any(pad < 0 for pad in shape.pad):
        return ()
    return tuple(f for f in FILTERINGS if shape.kernel == (f.r, f.r) and f.m <= largest)


def tiles_of(shape: Window, m: int) -> tuple[int, int]:
    return ceil(shape.out_shape[0] / m), ceil(shape.out_shape[1] / m)


def _cost(shape: Window, types: Types, block: _Block) -> float:
    """Cycles of the whole convolution, for one thread."""
    square, lanes = block.filtering.products ** 2, types.lanes
    vectors = block.panels * block.nv
    row_tiles = ceil(shape.oc / block.mr)
    count = shape.n * prod(tiles_of(shape, block.filtering.m))
    blocks = ceil(count / (vectors * lanes)) * shape.groups
    step = tile_cycles(block.mr, block.nv)
    tile = shape.ic * step + 4 * block.mr * block.nv + 20
    compute = square * row_tiles * block.panels * tile
    weights = square * row_tiles * block.mr * shape.ic * types.size
    reading = weights / STREAM_BYTES if weights > L2_BYTES else 0.0
    transform = vectors * (8.0 * square * shape.ic + 8.0 * square * shape.oc)
    once = shape.groups * shape.ic * row_tiles * block.mr * (10.0 + square / 2)
    resident = square * (shape.ic + shape.oc) * vectors * lanes * types.size
    penalty = 1.0 if resident <= L2_BYTES else 1.1 if resident <= 4 * L2_BYTES else 1.25
    per_task = max(compute, reading) + transform
    return round_up(blocks, BALANCE) * per_task * penalty + once


def winograd_block(shape: Window, isa: Isa, types: Types, among: Sequence[Filtering]) -> tuple[_Block, Choice]:
    """The best filtering, register tile and block, and how it was chosen."""

    def blocks() -> Iterator[_Block]:
        for filtering in among:
            count = shape.n * prod(tiles_of(shape, filtering.m))
            for mr, nv in tiles(isa, types, shape.oc):
                nr = nv * types.lanes
                for panels in range(1, min(ceil(count / nr), max(1, LONGEST_BLOCK // nr)) + 1):
                    yield _Block(filtering, mr, nv, panels)

    return choose(blocks(), lambda block: _cost(shape, types, block), lambda block: f"conv winograd {block}")


def winograd_code(spec: Any, shape: Window, isa: Isa, types: Types, among: Sequence[Filtering]) -> Code:
    """The C function for a spec whose output is the window's target, with the best of the filterings."""
    block, choice = winograd_block(shape, isa, types, among)
    filtering, mr, lanes = block.filtering, block.mr, types.lanes
    m, taps, edge, products = filtering.m, filtering.r, filtering.window, filtering.products
    nr = block.nv * lanes
    width = nr * block.panels
    rows, columns = tiles_of(shape, m)
    count = shape.n * rows * columns
    blocks = ceil(count / width)
    row_tiles = ceil(shape.oc / mr)
    micro = Micro(
        f"{spec.name}_tile", f"a: transformed {spec.w}, b: transformed {shape.source}.", mr, block.nv, nr, 1, mr, nr, nr
    )
    run = min(columns, width)
    line = round_up(run * m + taps - 1, lanes) + (m + 1) * lanes
    dealt_line = width + 2 * lanes
    at, offsets = 0, {}
    for name, size in (
        ("from", products**2 * shape.ic * width),
        ("sums", products**2 * shape.oc * width),
        ("strip", products * line),
        ("phases", m * (line // m + 2 * lanes)),
        ("dealt", products * edge * dealt_line),
        ("lines", m * (m * width + lanes)),
    ):
        offsets[name] = at
        at += types.aligned(size)
    shared = types.aligned(shape.groups * products**2 * row_tiles * shape.ic * mr)
    params = parameters(spec, types, (shape.source, spec.w), shape.target)
    view_f = finish(spec, load=f"{types.vec}_load_n(o, m)", store=f"{types.vec}_store_n(o, %s, m)")
    group = "group" if shape.groups > 1 else "0"
    height_in, width_in = shape.in_shape
    d = [f"d{i}" for i in range(products)]
    text = render(
        "conv_winograd.c.j2",
        {},
        t=types,
        k=micro,
        f=view_f,
        g={
            "name": spec.name,
            "comment": comment(spec.comment),
            "signature": signature(spec.name, params, types, shared, at),
            "at": offsets,
            "m": m,
            "edge": edge,
            "taps": taps,
            "products": products,
            "groups": shape.groups,
            "ic": shape.ic,
            "oc": shape.oc,
            "tiles": row_tiles,
            "row_tail": shape.oc % mr != 0,
            "w": spec.w,
            "w_row": shape.w_row,
            "w_from": shape.weights_at(spec.w, group),
            "flip": shape.flipped,
            "panels": block.panels,
            "width": width,
            "rows": rows,
            "columns": columns,
            "count": count,
            "blocks": blocks,
            "tasks": blocks * shape.groups,
            "line": line,
            "phase": line // m + 2 * lanes,
            "dealt_line": dealt_line,
            "lines_line": m * width + lanes,
            "in_height": height_in,
            "in_width": width_in,
            "height": shape.out_shape[0],
            "row": shape.out_shape[1],
            "pad_h": shape.pad[0],
            "pad_w": shape.pad[1],
            "image": affine(
                [("n", shape.source_strides[0]), (group, shape.ic * shape.source_strides[1]),
                 ("ci", shape.source_strides[1])],
                head=shape.source,
            ),
            "c": affine([(group, shape.oc), ("co", 1)]),
            "out_at": affine([("n", shape.target_strides[0]), ("c", shape.target_strides[1])], head=shape.target),
            "to_input": [vector_sum(row, d[:edge], types) for row in filtering.input],
            "to_output": [vector_sum(row, d, types) for row in filtering.output],
            "to_weights": [scalar_sum(row, d[:taps], types) for row in filtering.weights],
        },
    )  # fmt: skip
    return Code(text, tuple(params), shared, at, choice)
