"""Convolutions of stride 1 by Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", 2015): F(2x2,3x3), F(4x4,3x3) and F(2x2,5x5).

A task computes all output channels of a block of tiles. Lines of the input are turned so that vectors run along
channels, each tile is transformed in registers, one matrix product for each element of a transformed tile follows, and
the same steps backwards.

Where operands may be rounded to bfloat16, these matrix products may be of pairs: of two neighbouring channels of the
transformed tiles, which then lie as bfloat16, and of the transformed weights. Transforms compute in float32. The
largest error in the outputs of 64 to 512 channels, beside the largest output, is 0.3 to 0.6% for F(2x2,3x3) and
F(2x2,5x5), where that of rounded inputs and weights is 0.2 to 0.3%; their root mean square, beside the outputs', 0.33
to 0.37% against 0.23 to 0.25% (inputs that passed a ReLU, random weights). F(4x4,3x3) comes to 5 to 7%, and 2%: it
stays in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from lossc.codegen.contraction import (
    L2_BYTES,
    Choice,
    Code,
    Isa,
    Micro,
    Types,
    choose,
    crowded,
    finish,
    parameters,
    prepared,
    round_up,
    signature,
    tile_cycles,
    tiles,
)
from lossc.codegen.conv_window import Window, affine
from lossc.codegen.environment import render
from lossc.codegen.filtering import (
    FILTERINGS,
    Blocks,
    Filtering,
    blocks_of,
    sandwich,
    scalar_sum,
    source_of,
)
from lossc.codegen.names import comment

BLOCKS = (16, 32, 64, 128, 256)  # tiles
BALANCE = 4  # tasks come in multiples of this where they are few, for that many threads
PAIRS_M = 2  # outputs along the edge of the largest tile whose transforms are rounded to bfloat16
STREAM_BYTES = 8.0  # of transformed weights that come from beyond the L2 cache, in a cycle
TRANSFORM = 1.2  # cycles an element of a transformed tile, for a vector of channels
PAIR_TRANSFORM = 0.7  # of that, where it is stored as bfloat16
TURN = 0.6  # cycles an element of the image, where its channels do not lie in blocks


@dataclass(frozen=True)
class _Plan:
    filtering: Filtering
    mr: int  # tiles
    nv: int
    blocks: Blocks
    pairs: bool = False  # transformed tiles and weights are rounded to bfloat16

    def __str__(self) -> str:
        rounded = "bf16 " if self.pairs else ""
        return f"{rounded}{self.filtering} {self.mr}x{self.nv} tiles {self.blocks.tiles}"


def filterings(shape: Window, largest: int) -> tuple[Filtering, ...]:
    """Those that compute a convolution of this form, with tiles of at most ``largest`` outputs along an edge."""
    if any(s != 1 for s in (*shape.stride, *shape.dilation)) or any(pad < 0 for pad in shape.pad):
        return ()
    return tuple(f for f in FILTERINGS if shape.kernel == (f.r, f.r) and f.m <= largest)


def transform_cycles(filtering: Filtering, shape: Window, types: Types) -> float:
    """Of one tile's input and output, all channels."""
    tile = TRANSFORM * filtering.products**2
    turn = TURN * filtering.m**2 * types.lanes
    sides = (shape.ic, shape.source_block), (shape.oc, shape.target_block)
    return sum(ceil(channels / types.lanes) * (tile if block else tile + turn) for channels, block in sides)


def _cost(shape: Window, types: Types, plan: _Plan) -> float:
    """Cycles of the whole convolution, for one thread."""
    shape = replace(shape, bf16=plan.pairs)
    square, blocks = plan.filtering.products ** 2, plan.blocks
    panels = ceil(shape.oc / (plan.nv * types.lanes))
    step = tile_cycles(plan.mr, plan.nv)
    store = (4 * plan.mr * plan.nv + 20) * shape.beside
    compute = square * panels * ceil(blocks.tiles / plan.mr) * (shape.steps * step + store)
    weights = square * panels * plan.nv * types.lanes * shape.steps * types.size
    reading = weights / STREAM_BYTES if weights > L2_BYTES else 0.0
    transform = blocks.tiles * transform_cycles(plan.filtering, shape, types) * (PAIR_TRANSFORM if plan.pairs else 1.0)
    once = 0.0 if shape.frozen else weights / types.size * (10.0 / square + 0.5)
    resident = square * (shape.steps + shape.oc) * blocks.tiles * types.size
    penalty = 1.0 if resident <= L2_BYTES else 1.1 if resident <= 4 * L2_BYTES else 1.25
    per_task = max(compute, reading) + transform
    return shape.groups * (round_up(blocks.count, BALANCE) * per_task * penalty + once)


def winograd_plan(
    shape: Window, isa: Isa, types: Types, among: Sequence[Filtering], prefer: str = ""
) -> tuple[_Plan, Choice]:
    """The best filtering, register tile and block, and how it was chosen."""

    def plans() -> Iterator[_Plan]:
        for filtering in among:
            found = dict.fromkeys(blocks_of(filtering.m, shape.n, shape.out_shape, most) for most in BLOCKS)
            for blocks in found:
                for mr, nv in tiles(isa, types, blocks.tiles):
                    yield _Plan(filtering, mr, nv, blocks)
                    if shape.bf16 and filtering.m <= PAIRS_M:
                        yield _Plan(filtering, mr, nv, blocks, pairs=True)

    return choose(plans(), lambda plan: _cost(shape, types, plan), lambda plan: f"conv winograd {plan}", prefer)


def plane(size: int, products: int, types: Types) -> int:
    """`size` rounded up so that the products of one tile do not evict each other."""
    size = round_up(size, types.lanes)
    return size + types.aligned(1) if crowded(products**2, size, types.size) else size


def image_at(head: str, group: str, channels: int, strides: tuple[int, int], lanes: int, block: int) -> str:
    """C for the first of the channels of vector `cv` in image `n`, of `channels` a group."""
    vectors = block // lanes
    vector = [(f"cv / {vectors}", block * strides[1]), (f"cv % {vectors}", lanes)]
    vector = vector if vectors > 1 else [("cv", lanes * strides[1])]
    return affine([("n", strides[0]), (group, channels * strides[1]), *vector], head=head)


def _target_at(shape: Window, lanes: int) -> str:
    """C for the first position of channel `c` in image `n` of the target."""
    (image, channel), block = shape.target_strides, shape.target_block
    where = [(f"c / {block}", block * channel), (f"c % {block}", 1)] if block > lanes else [("c", channel)]
    return affine([("n", image), *where], head=shape.target)


def _absent(shape: Window, nr: int) -> str:
    """C for whether channel `part` of a pair, where there are pairs, or output channel `r` of a panel's vector does not
    exist, or nothing where all do."""
    absent = [f"2 * ci + part >= {shape.ic}"] if shape.bf16 and shape.ic % 2 else []
    return " || ".join([*absent, f"row0 + r >= {shape.oc}"] if shape.oc % nr else absent)


def _inside(blocks: Blocks) -> str:
    """C for whether element (i, l) of the tile at `line` and `column` is an output, or nothing where all are."""
    sides = ("line + i", blocks.height), ("column + l", blocks.width)
    return " && ".join(f"{at} < {extent}" for at, extent in sides if extent % blocks.m)


def winograd_code(
    spec: Any, shape: Window, isa: Isa, types: Types, among: Sequence[Filtering], prefer: str = ""
) -> Code:
    """The C function for a spec whose output is the window's target, with the best of the filterings."""
    plan, choice = winograd_plan(shape, isa, types, among, prefer)
    shape = replace(shape, bf16=plan.pairs)
    filtering, blocks, lanes = plan.filtering, plan.blocks, types.lanes
    m, products = filtering.m, filtering.products
    nr, each = plan.nv * lanes, 2 if plan.pairs else 1  # transformed inputs in a real's place
    panels, count = ceil(shape.oc / nr), blocks.tiles
    ic_row, oc_row = round_up(shape.ic, max(lanes, each)) // each, panels * nr
    if crowded(plan.mr, ic_row, types.size):
        ic_row += lanes
    turned_plane, sums_plane = (plane(count * row, products, types) for row in (ic_row, oc_row))
    turned_size = products**2 * turned_plane
    ic_row, turned_plane = ic_row * each, turned_plane * each
    turned, y = types.stored(plan.pairs), types.stored(shape.target_bf16)
    source = source_of(
        f"{spec.name}_window", blocks, filtering.r - 1, shape.pad, shape.in_shape, shape.ic, shape.source_strides[1],
        shape.source_block, types, shape.source_bf16, each,
    )  # fmt: skip
    whole = blocks.columns * m == blocks.width
    lines_row = round_up(blocks.width * (blocks.rows * m if whole else 1), lanes)
    micro = Micro(
        f"{spec.name}_tile", f"a: transformed {shape.source}, b: transformed {spec.w}.", plan.mr, plan.nv, nr,
        ic_row, each, nr, oc_row, pairs=plan.pairs, halves=plan.pairs,
    )  # fmt: skip
    strip_size = max(source.scratch, 0 if shape.target_block else blocks.rows * blocks.columns * m**2 * lanes)
    at, offsets = 0, {}
    for name, size in (
        ("turned", turned_size),
        ("sums", products**2 * sums_plane),
        ("strip", strip_size),
        ("lines", 0 if shape.target_block else lanes * lines_row),
    ):
        offsets[name] = at
        at += types.aligned(size)
    packed = types.aligned(shape.groups * products**2 * panels * shape.steps * nr)
    shared = 0 if shape.frozen else packed
    sources = shape.source, "packed" if shape.frozen else spec.w
    params = parameters(spec, types, sources, shape.target, halves=spec.halves)
    group = "group" if shape.groups > 1 else "0"
    g = {
        "comment": comment(spec.comment),
        "signature": signature(spec.name, params, types, shared, at),
        "at": offsets,
        "transpose": f"{spec.name}_transpose",
        "strips": strip_size > 0,
        "turns": not (shape.source_block and shape.target_block),
        "to_input": sandwich(
            f"{spec.name}_input", f"B^T {shape.source} B of a tile", filtering.input, types,
            source.steps, (products * turned_plane, turned_plane), (shape.source_bf16, plan.pairs),
        ),
        "to_output": sandwich(
            f"{spec.name}_output", f"A^T (sums of products) A: a tile of {shape.target}", filtering.output, types,
            (products * sums_plane, sums_plane), (blocks.columns * m * lanes, lanes),
        ),
        "to_weights": [scalar_sum(row, [f"d{i}" for i in range(filtering.r)], types) for row in filtering.weights],
        "taps": filtering.r,
        "products": products,
        "groups": shape.groups,
        "ic": shape.ic,
        "steps": shape.steps,
        "pairs": plan.pairs,
        "oc": shape.oc,
        "turned": turned,
        "turned_from": f"({turned.real} *)local" if plan.pairs else "local",
        "y": y,
        "turned_plane": turned_plane,
        "sums_plane": sums_plane,
        "ic_row": ic_row,
        "oc_row": oc_row,
        "ic_vectors": round_up(shape.ic, max(lanes, each)) // lanes,
        "oc_vectors": ceil(shape.oc / lanes),
        "panels": panels,
        "lines_row": lines_row,
        "w": spec.w,
        "w_row": shape.w_row,
        "w_channel": shape.w_channel,
        "w_absent": _absent(shape, nr),
        "w_from": shape.weights_at(spec.w, group),
        "pack_here": not shape.frozen,
        "flip": shape.flipped,
        "image": image_at(shape.source, group, shape.ic, shape.source_strides, lanes, shape.source_block),
        "c": affine([(group, shape.oc), ("cv", lanes), ("0" if shape.target_block else "co", 1)]),
        "out_block": shape.target_block,
        "out_inside": _inside(blocks),
        "out_at": _target_at(shape, lanes),
    }  # fmt: skip
    if shape.target_block:
        view_f = finish(spec, load=f"{y.load}(o)", store=f"{y.store}(o, %s)")
    else:
        view_f = finish(spec, load=f"{types.vec}_load_n(o, m)", store=f"{types.vec}_store_n(o, %s, m)")
    text = render("conv_winograd.c.j2", {}, t=types, k=micro, f=view_f, b=blocks, s=source, g=g)
    before = prepared(spec, types, packed, "lib/winograd_packing.j2", micro, g) if shape.frozen else None
    return Code(text, tuple(params), shared, at, choice, before)
