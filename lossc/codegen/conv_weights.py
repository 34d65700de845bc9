"""The gradient of a convolution's weights: sums over images and positions of taps of x times output channels of dy.

Vectors run over output channels: a block of dy is turned to [position][co], unless its channels lie in blocks already.
The rows of a register tile are taps of x, broadcast from where they lie, at offsets known when the code is made, so
that no columns are copied. Images are split into a number of chunks that depends on the shape alone, each with its own
sums, which are added up in order at the end. Where x's channels lie in blocks, see ``conv_weights_blocks``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from lossc.codegen.contraction import (
    PANEL_BYTES,
    Code,
    Isa,
    Types,
    choose,
    finish,
    parameters,
    round_up,
    signature,
    tile_cycles,
    tiles,
)
from lossc.codegen.conv_weights_blocks import weights_blocks_code
from lossc.codegen.conv_window import Part, Window, affine, decode
from lossc.codegen.environment import render
from lossc.codegen.names import comment

TASKS = 16  # as many as this where images can be split
FEWEST_TERMS = 256  # taps of a task, for which it turns dy
SUMS_BYTES = 32 << 20  # of all chunks


@dataclass(frozen=True)
class _Axis:
    """One axis of the taps: how many, and how far apart in x."""

    size: int
    stride: int


@dataclass(frozen=True)
class _Tile:
    """mr consecutive taps: `step` of axis `axis`, all of the axes after it."""

    axis: int
    step: int
    mr: int
    nv: int


def _tiles(axes: list[_Axis], isa: Isa, types: Types, channels: int, block: int) -> Iterator[_Tile]:
    """``block``: how many output channels lie in one, or 0; a tile is whole blocks then, or a part of one."""
    widest = ceil(channels / types.lanes)
    allowed = [(mr, nv) for mr, nv in tiles(isa, types, 1 << 10) if nv <= widest] or [(1, 1)]
    if block:
        widths = [nr for nr in range(types.lanes, channels + 1, types.lanes) if channels % nr == 0]
        fitting = {nr // types.lanes for nr in widths if nr % block == 0 or block % nr == 0}
        allowed = [(mr, nv) for mr, nv in allowed if nv in fitting]
    for axis, this in enumerate(axes):
        after = prod(a.size for a in axes[axis + 1 :])
        for step in range(1, this.size + 1):
            for mr, nv in allowed:
                if mr == step * after:
                    yield _Tile(axis, step, mr, nv)


def _tile_cost(axes: list[_Axis], tile: _Tile, channels: int, types: Types, positions: int) -> float:
    vectors = round_up(ceil(channels / types.lanes), tile.nv)
    count = prod(a.size for a in axes[: tile.axis]) * ceil(axes[tile.axis].size / tile.step)
    return count * vectors / tile.nv * (positions * tile_cycles(tile.mr, tile.nv) + 4 * tile.mr * tile.nv + 40)


def _channel_blocks(shape: Window, others: int) -> int:
    """Blocks of equal size that the input channels are split into: enough tasks, each with enough taps."""
    divisors = [d for d in range(1, shape.ic + 1) if shape.ic % d == 0]
    sizes = [d for d in divisors if d == 1 or shape.ic // d * shape.taps >= FEWEST_TERMS]
    enough = [d for d in sizes if d * others >= TASKS]
    return enough[0] if enough else sizes[-1]


def weights_code(spec: Any, shape: Window, isa: Isa, types: Types, prefer: str = "") -> Code:
    """The C function that computes dw from x (the window's source) and dy (its target)."""
    if shape.source_block or (shape.target_block and shape.taps == 1):
        return weights_blocks_code(spec, shape, isa, types, prefer)
    lanes = types.lanes
    height, width = shape.out_shape[-2:]
    stride_h, stride_w = shape.stride[-2:]
    in_height, in_width = shape.in_shape[-2:]
    outer = range(len(shape.kernel) - 2)
    strip = not shape.inside()
    kz = prod(shape.kernel[:-2])

    def rows_for(nv: int) -> int:
        rows = max(1, min(height, PANEL_BYTES // (nv * lanes * types.size) // width))
        return ceil(height / ceil(height / rows))

    strip_width = round_up((width - 1) * stride_w + shape.extent(-1), lanes)

    def axes_for(rows: int, channels: int) -> list[_Axis]:
        if strip:
            lines = (rows - 1) * stride_h + shape.extent(-2)
            apart = [_Axis(channels, kz * lines * strip_width), _Axis(kz, lines * strip_width)]
            line = strip_width
        else:
            apart = [_Axis(channels, shape.source_strides[1])]
            apart += [_Axis(shape.kernel[a], shape.dilation[a] * prod(shape.in_shape[a + 1 :])) for a in outer]
            line = in_width
        apart += [_Axis(shape.kernel[-2], shape.dilation[-2] * line), _Axis(shape.kernel[-1], shape.dilation[-1])]
        return apart

    def cost(candidate: _Tile) -> float:
        """Cycles of the whole convolution, for one thread."""
        positions = rows_for(candidate.nv) * width
        cycles = _tile_cost(axes_for(1, shape.ic), candidate, shape.oc, types, positions) / positions
        return cycles * shape.n * shape.groups * prod(shape.out_shape)

    form = f"conv weights {'x'.join(map(str, shape.kernel))}"
    candidates = _tiles(axes_for(1, shape.ic), isa, types, shape.oc, shape.target_block)
    tile, choice = choose(candidates, cost, lambda candidate: f"{form} {candidate.mr}x{candidate.nv}", prefer)
    nr, mr = tile.nv * lanes, tile.mr
    co_tiles = ceil(shape.oc / nr)
    channel_blocks = _channel_blocks(shape, shape.groups * co_tiles)
    channels = shape.ic // channel_blocks
    if tile.axis == 0 and tile.step > channels:
        tile = _Tile(0, channels, channels * tile.mr // tile.step, tile.nv)
        mr = tile.mr
    rows = rows_for(tile.nv)
    axes = axes_for(rows, channels)
    split, after = axes[tile.axis], prod(a.size for a in axes[tile.axis + 1 :])
    before = prod(a.size for a in axes[: tile.axis])
    terms = channels * shape.taps
    spills = split.size % tile.step != 0
    region = (terms + (before * mr if spills else 0)) * nr
    tasks = shape.groups * co_tiles * channel_blocks
    chunks = max(1, min(shape.n, ceil(TASKS / tasks), SUMS_BYTES // (tasks * region * types.size)))
    images = ceil(shape.n / chunks)
    chunks = ceil(shape.n / images)

    parts = [
        Part("n1", "n1", shape.n, images),
        Part("group", "group", shape.groups, 1),
        Part("co0", "co0", shape.oc, nr),
        Part("c0", "c0", shape.ic, channels),
    ]
    lines, at = decode(parts)
    n1, group, co0, c0 = (at[name] for name in ("n1", "group", "co0", "c0"))
    end_parts = [*parts[1:], Part("tap0", "tap0", terms, lanes)]
    end_lines, end_at = decode(end_parts)
    before_terms, below = [], before
    for axis in axes[: tile.axis]:
        below //= axis.size
        index = "i" if below == 1 else f"(i / {below})"
        index = index if axis is axes[0] else f"({index.strip('()')} % {axis.size})"
        before_terms.append((index, axis.stride))

    plane_strides = [prod(shape.in_shape[a + 1 :]) for a in outer]
    block_parts = [Part("z", "z", prod(shape.out_shape[:-2]), 1), Part("h0", "h0", height, rows)]
    block_lines, block_at = decode(block_parts, "block")
    z, h0 = block_at["z"], block_at["h0"]
    z_of = ["0" if z == "0" else _split(z, shape.out_shape[:-2], a) for a in outer]
    k_of = [_split("kz", shape.kernel[:-2], a) if shape.kernel[a] > 1 else "0" for a in outer]
    image_stride, channel_stride = shape.source_strides
    image_terms = [("n", image_stride), (group, shape.ic * channel_stride), (c0, channel_stride)]
    plane_terms = [(_term(z), shape.stride[a] * plane_strides[a]) for a, z in enumerate(z_of)]
    direct = affine(
        [*image_terms, *plane_terms, (h0, stride_h * in_width)],
        sum(-shape.pad[a] * prod(shape.in_shape[a + 1 :]) for a in range(len(shape.pad))),
        head=shape.source,
    )
    block, position = shape.target_block, max(shape.target_block, 1)
    dy_image, dy_line = shape.target_strides
    dy_size = 0 if block else types.aligned(rows * width * nr)
    co_terms = [(co0, dy_line)]
    if nr < block and co0 != "0":
        co_terms = [(f"{co0} / {block}", block * dy_line), (f"{co0} % {block}", 1)]
    dy_place = [(z, height * width * position), (h0, width * position)]
    dy_at = affine([("n", dy_image), (group, shape.oc * dy_line), *co_terms, *dy_place], head=shape.target)
    strip_lines = (rows - 1) * stride_h + shape.extent(-2)
    local = dy_size + (types.aligned(channels * kz * strip_lines * strip_width + lanes) if strip else 0)
    shared = types.aligned(chunks * tasks * region)
    view_f = finish(spec, load=f"{types.vec}_load_n(o, m)", store=f"{types.vec}_store_n(o, %s, m)")
    params = parameters(spec, types, (shape.source, shape.target), spec.w)
    text = render(
        "conv_weights.c.j2",
        {},
        t=types,
        f=view_f,
        g={
            "name": spec.name,
            "comment": comment(spec.comment),
            "signature": signature(spec.name, params, types, shared, local),
            "source": shape.source,
            "target": shape.target,
            "mr": mr,
            "nv": tile.nv,
            "nr": nr,
            "offsets": _offsets(axes, tile),
            "row_jump": stride_h * (strip_width if strip else in_width) - width * stride_w,
            "stride_w": stride_w,
            "width": width,
            "height": height,
            "rows": rows,
            "blocks": prod(part.count for part in block_parts),
            "block_lines": block_lines,
            "decode": lines,
            "tasks": chunks * tasks,
            "chunks": chunks,
            "chunk_region": tasks * region,
            "images": images,
            "n": shape.n,
            "n1": n1,
            "region": region,
            "terms": terms,
            "turns": not block,
            "vectors": [_channel(v * lanes, shape) if block else v * lanes for v in range(tile.nv)],
            "dy_step": block or nr,
            "vectors_at": "vectors" if block else "turned",
            "co_tail": shape.oc % nr != 0,
            "co": _valid(co0, shape.oc, nr),
            "dy_at": dy_at,
            "dy_line": dy_line,
            "dy_size": dy_size,
            "strip": strip,
            "strip_width": strip_width,
            "strip_lines": strip_lines,
            "in_height": in_height,
            "in_width": in_width,
            "channels": channels,
            "kz": kz,
            "outer": [affine([(_term(z), shape.stride[a]), (_term(k), shape.dilation[a])], -shape.pad[a])
                      for a, (z, k) in enumerate(zip(z_of, k_of, strict=True))],
            "inside": "".join(f"z{a} >= 0 && z{a} < {shape.in_shape[a]} && " for a in outer),
            "image": affine(
                [*image_terms, ("ci", channel_stride), *((f"z{a}", plane_strides[a]) for a in outer)], head=shape.source
            ),
            "first_y": affine([(h0, stride_h)], -shape.pad[-2]),
            "margin": shape.pad[-1],
            "copied": max(0, min(in_width, strip_width - shape.pad[-1])),
            "x_at": "strip" if strip else direct,
            "before": before,
            "before_at": affine(before_terms, head="x_block"),
            "split": split.size,
            "split_stride": split.stride,
            "step": tile.step,
            "after": after,
            "spills": spills,
            "spill_at": terms * nr,
            "spill_rows": (split.size % tile.step) * after,
            "end_lines": end_lines,
            "end_tasks": prod(part.count for part in end_parts),
            "end_taps": _valid(end_at["tap0"], terms, lanes),
            "end_co": _valid(end_at["co0"], shape.oc, nr),
            "end_region": affine(
                [(end_at["group"], co_tiles * channel_blocks * region),
                 (f"({end_at['co0']} / {nr})" if co_tiles > 1 else "0", channel_blocks * region),
                 (f"({end_at['c0']} / {channels})" if channel_blocks > 1 else "0", region), (end_at["tap0"], nr)],
                head="shared",
            ),
            "c": affine([(end_at["group"], shape.oc), (end_at["co0"], 1), ("co", 1)]),
            "j": affine([(end_at["c0"], shape.taps), (end_at["tap0"], 1)]),
            "out_at": affine([("c", shape.w_row), ("j", 1)], head=spec.w),
        },
    )  # fmt: skip
    return Code(text, tuple(params), shared, local, choice)


def _channel(channel: int, shape: Window) -> int:
    """Where a channel of dy that lies in blocks is, from the first on."""
    inner = channel % shape.target_block
    return (channel - inner) * shape.target_strides[1] + inner


def _split(number: str, sizes: tuple[int, ...], axis: int) -> str:
    """C for one coordinate of a flattened number."""
    below = prod(sizes[axis + 1 :])
    text = number if below == 1 else f"{number} / {below}"
    return text if axis == 0 else f"{text} % {sizes[axis]}"


def _term(text: str) -> str:
    """`text` in brackets where it is not a single name."""
    return text if text.isalnum() else f"({text})"


def _valid(start: str, size: int, step: int) -> str:
    """C for how many of `step` elements from `start` exist."""
    if size % step == 0:
        return str(step)
    return str(size) if start == "0" else f"({size} - {start} < {step} ? {size} - {start} : {step})"


def _offsets(axes: list[_Axis], tile: _Tile) -> list[int]:
    """Where the tile's taps lie in x, in the order of the weights."""
    offsets = [step * axes[tile.axis].stride for step in range(tile.step)]
    for axis in axes[tile.axis + 1 :]:
        offsets = [base + i * axis.stride for base in offsets for i in range(axis.size)]
    return offsets
