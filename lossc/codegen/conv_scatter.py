"""The gradient of a convolution's data by scattering: columns of dx are computed and added where they came from.

A task computes some channels of dx of one image in a zeroed plane with margins, private to its thread: blocks of rows of
dy times the turned weights give the columns, one for each tap, whose lines are added to the plane. Where the stride is
not 1, the plane's elements are dealt out by their remainder, so that these lines are contiguous too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from lossc.codegen.contraction import (
    Code,
    Isa,
    Micro,
    Types,
    crowded,
    finish,
    parameters,
    round_up,
    signature,
    tile_cycles,
    tiles,
)
from lossc.codegen.conv_window import Part, Window, affine, decode
from lossc.codegen.environment import render
from lossc.codegen.names import comment

PLANE_BYTES = 128 << 10  # of the channels that a task computes
LONGEST_BLOCK = 256  # positions of dy, unless one row is longer
PACK_FROM = 512  # positions of a call from which packing the weights pays
ENOUGH_TASKS = 4


@dataclass(frozen=True)
class _Block:
    channels: int
    rows: int
    mr: int
    nv: int


def _plane_shape(shape: Window) -> tuple[int, ...]:
    """The plane of dx with margins on every axis, the last one in units of its stride."""
    sizes = [
        max((out - 1) * stride + shape.extent(axis), size + pad)
        for axis, (out, stride, size, pad) in enumerate(
            zip(shape.out_shape, shape.stride, shape.in_shape, shape.pad, strict=True)
        )
    ]
    return (*sizes[:-1], ceil(sizes[-1] / shape.stride[-1]))


def _best_block(shape: Window, isa: Isa, types: Types, plane: int) -> _Block:
    height, width = shape.out_shape[-2:]
    channels = max(1, min(shape.ic, PLANE_BYTES // (plane * types.size)))
    if shape.n * shape.groups < ENOUGH_TASKS:
        channels = min(channels, ceil(shape.ic * shape.n * shape.groups / ENOUGH_TASKS))
    channels = ceil(shape.ic / ceil(shape.ic / channels))
    terms = channels * shape.taps
    heights = sorted({ceil(height / parts) for parts in range(1, height + 1)})

    def cost(block: _Block) -> float:
        vectors = ceil(block.rows * width / (block.nv * types.lanes)) * block.nv
        step = tile_cycles(block.mr, block.nv)
        call = shape.oc * step + 3 * block.mr * block.nv + 20
        compute = ceil(terms / block.mr) * vectors / block.nv * call
        add = terms * (10 + block.rows * (2 + 3 * ceil(width / types.lanes)))
        copy = shape.oc * (4 + 2 * vectors)
        return ceil(height / block.rows) * (compute + add + copy)

    blocks = (
        _Block(channels, rows, mr, nv)
        for rows in heights
        if rows == 1 or rows * width <= LONGEST_BLOCK
        for mr, nv in tiles(isa, types, terms)
    )
    return min(blocks, key=cost)


def scatter_code(spec: Any, shape: Window, isa: Isa, types: Types) -> Code:
    """The C function that computes the window's source (dx) from its target (dy)."""
    plane_shape = _plane_shape(shape)
    stride_w = shape.stride[-1]
    line = plane_shape[-1]
    strides = [prod(plane_shape[a + 1 : -1]) * stride_w * line for a in range(len(plane_shape) - 1)]
    plane = plane_shape[0] * strides[0]
    block = _best_block(shape, isa, types, plane)
    mr, nr, lanes = block.mr, block.nv * types.lanes, types.lanes
    height, width = shape.out_shape[-2:]
    block_width = round_up(block.rows * width, nr)
    terms = block.channels * shape.taps
    row_tiles = ceil(terms / mr)
    outer = range(len(shape.kernel) - 2)

    parts = [
        Part("n", "n", shape.n, 1),
        Part("group", "group", shape.groups, 1),
        Part("c1", "c0", shape.ic, block.channels),
    ]
    lines, at = decode(parts)
    pack = shape.n * shape.positions >= PACK_FROM or crowded(shape.oc, shape.w_row, types.size)
    blocks_of_channels = parts[2].count
    view_f = finish(spec, load=f"{types.vec}_load_n(o, m)", store=f"{types.vec}_store_n(o, %s, m)")
    if at["n"] == "0" and view_f.mentions("n"):
        lines.append("const ptrdiff_t n = 0;")
    n, group, c0, c1 = (at[name] for name in ("n", "group", "c0", "c1"))

    def coordinate(number: str, shape_of: tuple[int, ...], axis: int, end: int) -> str:
        """The axis' coordinate in a number flattened over the axes before `end`."""
        below = prod(shape_of[axis + 1 : end])
        text = number if below == 1 else f"{number} / {below}"
        return text if axis == 0 else f"{text} % {shape_of[axis]}"

    tap_terms = [(f"(tap / {shape.taps})", plane)]
    for a in range(len(shape.kernel) - 1):
        below, size = prod(shape.kernel[a + 1 :]), shape.kernel[a]
        if size > 1:
            tap_terms.append((f"(tap / {below} % {size})", shape.dilation[a] * strides[a]))
    tap_w = f"tap % {shape.kernel[-1]} * {shape.dilation[-1]}"
    column = tap_w if stride_w == 1 else f"({tap_w}) % {stride_w} * {line} + ({tap_w}) / {stride_w}"
    block_terms = [(f"({coordinate('z', shape.out_shape[:-2], a, len(outer))})", shape.stride[a] * strides[a]) for a in outer]
    block_terms.append(("h0", shape.stride[-2] * strides[-1]))
    line_terms = [("ci", plane)] + [
        (f"({coordinate('row', shape.in_shape[:-1], a, len(shape.in_shape) - 1)} + {shape.pad[a]})", strides[a])
        for a in range(len(shape.in_shape) - 1)
    ]
    micro = Micro(
        f"{spec.name}_tile", f"a: {spec.w} turned, b: rows of {shape.target}.", mr, block.nv, nr,
        1, mr if pack else shape.w_row, block_width, block_width,
    )  # fmt: skip
    planes_size = types.aligned(block.channels * plane + lanes)
    cols_size = types.aligned(shape.oc * block_width)
    sums_size = types.aligned(mr * block_width + lanes)
    row_size = types.aligned(shape.in_shape[-1]) if stride_w > 1 else 0
    local = planes_size + cols_size + sums_size + row_size
    shared = types.aligned(shape.groups * blocks_of_channels * row_tiles * shape.oc * mr) if pack else 0
    params = parameters(spec, types, (shape.target, spec.w), shape.source)
    pack_parts = [*parts[1:], Part("tile", "tile", row_tiles, 1), Part("co", "co", shape.oc, 1)]
    pack_lines, pack_at = decode(pack_parts)
    block_index = affine([(group, blocks_of_channels)], head="" if c1 == "0" else f"c1 / {block.channels}")
    packed_tile = f"packed + (({block_index}) * {row_tiles} + tile) * {shape.oc * mr}"
    text = render(
        "conv_scatter.c.j2",
        {},
        t=types,
        k=micro,
        f=view_f,
        g={
            "comment": comment(spec.comment),
            "signature": signature(spec.name, params, types, shared, local),
            "w": spec.w,
            "target": shape.target,
            "pack": pack,
            "pack_lines": pack_lines,
            "first_pack": "0" if row_tiles == 1 else f"tile * {mr}" if terms % mr == 0
            else f"tile * {mr} < {terms - mr} ? tile * {mr} : {terms - mr}",
            "row_blocks": ceil(height / block.rows),
            "needs_j": view_f.mentions("j"),
            "pack_tasks": prod(part.count for part in pack_parts),
            "pack_from": affine(
                [(pack_at["group"], shape.w_group), (pack_at["co"], shape.w_row), (pack_at["c0"], shape.taps), ("first", 1)],
                head=spec.w,
            ),
            "a_tile": packed_tile if pack
            else affine([(group, shape.w_group), (c0, shape.taps), ("first", 1)], head=spec.w),
            "decode": lines,
            "tasks": prod(part.count for part in parts),
            "planes": prod(shape.out_shape[:-2]),
            "height": height,
            "block_rows": block.rows,
            "block_width": block_width,
            "row_tiles": row_tiles,
            "row_tail": terms % mr != 0,
            "terms": terms,
            "oc": shape.oc,
            "channels": block.channels,
            "plane": plane,
            "width": width,
            "planes_size": planes_size,
            "cols_at": planes_size,
            "sums_at": planes_size + cols_size,
            "row_at": planes_size + cols_size + sums_size,
            "from_dy": affine(
                [(n, shape.target_strides[0]), (group, shape.oc * shape.target_strides[1]),
                 ("co", shape.target_strides[1]), ("z", height * width), ("h0", width)],
                head=shape.target,
            ),
            "to_tap": affine(tap_terms, head="planes") + " + " + column,
            "to_block": affine(block_terms, head="at_tap"),
            "row_step": shape.stride[-2] * strides[-1],
            "vectors": width // lanes,
            "rest": width % lanes,
            "stride_w": stride_w,
            "line": line,
            "pad_w": shape.pad[-1],
            "in_width": shape.in_shape[-1],
            "in_rows": prod(shape.in_shape[:-1]),
            "line_at": affine(line_terms, head="planes"),
            "fresh": f"{c1} - {c0}" if c1 != c0 else "0",
            "c": affine([(group, shape.ic), (c0, 1), ("ci", 1)]),
            "out_at": affine([(n, shape.source_strides[0]), ("c", shape.source_strides[1])], head=shape.source),
        },
    )  # fmt: skip
    return Code(text, tuple(params), shared, local)
