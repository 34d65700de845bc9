"""The gradient of a convolution's data by scattering: columns of dx are computed and added where they came from.

A task computes some channels of dx of one image in a zeroed plane with margins, private to its thread: blocks of rows
of dy times the turned weights give the columns, one for each tap, whose lines are added to the plane. Where the stride
is not 1, the plane's elements are dealt out by their remainder, so that these lines are contiguous too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from lossc.codegen.contraction import (
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
    batch: int  # rows of kernels at a time

    def __str__(self) -> str:
        return f"{self.mr}x{self.nv} block {self.channels}x{self.rows} batch {self.batch}"


def _plane_shape(shape: Window, lanes: int) -> tuple[int, ...]:
    """The plane of dx with margins on every axis, the last one in units of its stride and of vectors."""
    sizes = [
        max((out - 1) * stride + shape.extent(axis), size + pad)
        for axis, (out, stride, size, pad) in enumerate(
            zip(shape.out_shape, shape.stride, shape.in_shape, shape.pad, strict=True)
        )
    ]
    return (*sizes[:-1], round_up(ceil(sizes[-1] / shape.stride[-1]), lanes))


def _best_block(shape: Window, isa: Isa, types: Types, plane: int, prefer: str) -> tuple[_Block, Choice]:
    height, width = shape.out_shape[-2:]
    channels = max(1, min(shape.ic, PLANE_BYTES // (plane * types.size)))
    if shape.n * shape.groups < ENOUGH_TASKS:
        channels = min(channels, ceil(shape.ic * shape.n * shape.groups / ENOUGH_TASKS))
    channels = ceil(shape.ic / ceil(shape.ic / channels))
    kernel_rows, kernel_width = channels * shape.taps // shape.kernel[-1], shape.kernel[-1]
    heights = sorted({ceil(height / parts) for parts in range(1, height + 1)})
    spans = min(kernel_width, shape.stride[-1]) * (1 + ceil(width / types.lanes)) + kernel_width

    planes = prod(shape.out_shape[:-2])
    calls = shape.n * shape.groups * ceil(shape.ic / channels) * planes

    def cost(block: _Block) -> float:
        """Cycles of the whole convolution, for one thread."""
        panels = ceil(block.rows * width / (block.nv * types.lanes))
        call = shape.oc * tile_cycles(block.mr, block.nv) + 3 * block.mr * block.nv + 20
        batches = ceil(kernel_rows / block.batch)
        compute = batches * ceil(block.batch * kernel_width / block.mr) * panels * call
        add = batches * block.batch * (10 + block.rows * 2 * spans)
        copy = shape.oc * (4 + 2 * panels * block.nv)
        return calls * ceil(height / block.rows) * (compute + add + copy)

    blocks = (
        _Block(channels, rows, mr, nv, batch)
        for rows in heights
        if rows == 1 or rows * width <= LONGEST_BLOCK
        for batch in {min(b, kernel_rows) for b in (1, 2, 3, 4, 6, 8, 12)}
        for mr, nv in tiles(isa, types, batch * kernel_width)
    )
    form = f"conv scatter {'x'.join(map(str, shape.kernel))}"
    return choose(blocks, cost, lambda block: f"{form} {block}", prefer)


def scatter_code(spec: Any, shape: Window, isa: Isa, types: Types, prefer: str = "") -> Code:
    """The C function that computes the window's source (dx) from its target (dy)."""
    plane_shape = _plane_shape(shape, types.lanes)
    stride_w = shape.stride[-1]
    line = plane_shape[-1]
    strides = [prod(plane_shape[a + 1 : -1]) * stride_w * line for a in range(len(plane_shape) - 1)]
    plane = plane_shape[0] * strides[0]
    block, choice = _best_block(shape, isa, types, plane, prefer)
    mr, nr, lanes = block.mr, block.nv * types.lanes, types.lanes
    height, width = shape.out_shape[-2:]
    block_width = round_up(block.rows * width, nr)
    terms = block.channels * shape.taps
    batch_taps = block.batch * shape.kernel[-1]
    batches = ceil(terms / batch_taps)
    row_tiles = ceil(batch_taps / mr)
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

    kernel_w = shape.kernel[-1]
    kernel_rows = prod(shape.kernel[:-1])
    at_group = [(_bracket("tg" if kernel_rows == 1 else f"tg / {kernel_rows}"), plane)]
    for a in range(len(shape.kernel) - 1):
        below, size = prod(shape.kernel[a + 1 : -1]), shape.kernel[a]
        if size > 1:
            quotient = "tg" if below == 1 else f"tg / {below}"
            at_group.append((_bracket(f"{quotient} % {size}"), shape.dilation[a] * strides[a]))
    planes_out = shape.out_shape[:-2]
    block_parts = [Part("z", "z", prod(planes_out), 1), Part("h0", "h0", height, block.rows)]
    block_lines, block_at = decode(block_parts, "block")
    z, h0 = block_at["z"], block_at["h0"]
    block_terms = [
        ("0" if z == "0" else _bracket(coordinate(z, planes_out, a, len(outer))), shape.stride[a] * strides[a])
        for a in outer
    ]
    block_terms.append((h0, shape.stride[-2] * strides[-1]))
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
    margin = types.aligned(shape.extent(-1) // stride_w + 1)  # before the sums: shifted lines begin there
    sums_size = margin + types.aligned(batch_taps * block_width + lanes)
    row_size = types.aligned(shape.in_shape[-1]) if stride_w > 1 else 0
    local = planes_size + cols_size + sums_size + row_size
    packed = types.aligned(shape.groups * blocks_of_channels * batches * row_tiles * shape.oc * mr) if pack else 0
    frozen = pack and shape.frozen
    shared = 0 if frozen else packed
    params = parameters(spec, types, (shape.target, "packed" if frozen else spec.w), shape.source)
    pack_parts = [
        *parts[1:],
        Part("group1", "group0", terms // kernel_w, block.batch),
        Part("tile", "row", batch_taps, mr),
        Part("co", "co", shape.oc, 1),
    ]
    pack_lines, pack_at = decode(pack_parts)
    channel_block = "0" if c1 == "0" else "c1" if block.channels == 1 else f"(c1 / {block.channels})"
    block_index = affine([(group, blocks_of_channels), (channel_block, 1)])
    tile_number = affine(
        [(_bracket(block_index), batches * row_tiles),
         ("group1" if block.batch == 1 else f"(group1 / {block.batch})" if batches > 1 else "0", row_tiles),
         (f"(tile / {mr})" if row_tiles > 1 else "0", 1)]
    )  # fmt: skip
    packed_tile = affine([(_bracket(tile_number), shape.oc * mr)], head="packed")
    g = {
        "comment": comment(spec.comment),
        "signature": signature(spec.name, params, types, shared, local),
        "w": spec.w,
        "target": shape.target,
        "pack": pack,
        "pack_here": pack and not frozen,
        "pack_lines": pack_lines,
        "needs_j": view_f.mentions("j"),
        "pack_tasks": prod(part.count for part in pack_parts),
        "pack_from": affine(
            [(pack_at["group"], shape.w_group), (pack_at["co"], shape.w_row), (pack_at["c0"], shape.taps),
             (pack_at["group0"], kernel_w), (pack_at["row"], 1)],
            head=spec.w,
        ),
        "a_tile": packed_tile if pack
        else affine([(group, shape.w_group), (c0, shape.taps), ("group0", kernel_w), ("row", 1)], head=spec.w),
        "decode": lines,
        "tasks": prod(part.count for part in parts),
        "blocks": prod(part.count for part in block_parts),
        "block_lines": block_lines,
        "height": height,
        "rows": block.rows,
        "block_width": block_width,
        "name": spec.name,
        "mask": types.vec.replace("v", "m", 1),
        "kw": kernel_w,
        "batch": block.batch,
        "taps_groups": terms // kernel_w,
        "batch_tail": terms // kernel_w % block.batch != 0,
        "phases": _phases(shape, line, block_width),
        "oc": shape.oc,
        "channels": block.channels,
        "plane": plane,
        "width": width,
        "planes_size": planes_size,
        "cols_at": planes_size,
        "sums_at": planes_size + cols_size + margin,
        "row_at": planes_size + cols_size + sums_size,
        "from_dy": affine(
            [(n, shape.target_strides[0]), (group, shape.oc * shape.target_strides[1]),
             ("co", shape.target_strides[1]), (z, height * width), (h0, width)],
            head=shape.target,
        ),
        "to_group": affine([*block_terms, *at_group]),
        "row_step": shape.stride[-2] * strides[-1],
        "stride_w": stride_w,
        "line": line,
        "pad_w": shape.pad[-1],
        "in_width": shape.in_shape[-1],
        "in_rows": prod(shape.in_shape[:-1]),
        "line_at": affine(line_terms, head="planes"),
        "fresh": f"{c1} - {c0}" if c1 != c0 else "0",
        "c": affine([(group, shape.ic), (c0, 1), ("ci", 1)]),
        "out_at": affine([(n, shape.source_strides[0]), ("c", shape.source_strides[1])], head=shape.source),
    }  # fmt: skip
    text = render("conv_scatter.c.j2", {}, t=types, k=micro, f=view_f, g=g)
    before = prepared(spec, types, packed, "lib/scatter_packing.j2", micro, g) if frozen else None
    return Code(text, tuple(params), shared, local, choice, before)


def _bracket(text: str) -> str:
    return text if text.isalnum() else f"({text})"


def _phases(shape: Window, line: int, block_width: int) -> list[dict[str, Any]]:
    """For each remainder of a position by the stride: its taps, where they lie, and by how much they are shifted."""
    width, stride = shape.out_shape[-1], shape.stride[-1]
    phases = []
    for phase in range(stride):
        taps = [k for k in range(shape.kernel[-1]) if k * shape.dilation[-1] % stride == phase]
        if taps:
            shifts = [k * shape.dilation[-1] // stride for k in taps]
            rows = [
                {"at": k * block_width - shift, "shift": shift, "end": width + shift}
                for k, shift in zip(taps, shifts, strict=True)
            ]
            phases.append({"at": phase * line, "span": width + max(shifts), "taps": rows})
    return phases
