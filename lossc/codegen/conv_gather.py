"""The implicit matrix product of a convolution: weights are broadcast, vectors run along output positions.

A task computes all output channels of one block of positions: whole rows of one image, several small images, or a part
of a long row. The block's columns are copied line by line into ``col``; padding and strides are dealt with once for
each input line, in a strip of lines with margins, so that all lines of ``col`` are plain contiguous copies.

Where operands are rounded to bfloat16, an element of weights, strip and ``col`` is a pair: of two channels at one tap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from lossc.codegen.contraction import (
    L2_BYTES,
    PANEL_BYTES,
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
from lossc.codegen.conv_window import Part, Window, affine, decode, fills_vectors, outer_axes, output_parts
from lossc.codegen.environment import render
from lossc.codegen.names import comment

LONGEST_BLOCK = 512  # positions
PACK_FROM = 512  # positions of a call from which packing the weights pays
APART = 1.08  # by how much a product is slower whose panels are parts of longer lines, which caches do not foresee
PARTS = (1, 2, 4)  # into which the output channels of few, large blocks may be split
BALANCE = 4  # tasks come in multiples of this where they are few, for that many threads


@dataclass(frozen=True)
class _Block:
    images: int
    rows: int
    row_columns: int
    mr: int
    nv: int
    width: int  # of a line of col: the block's positions rounded up to whole panels
    chunk: int  # input channels at a time
    parts: int  # tasks that share out the output channels of a block

    def __str__(self) -> str:
        positions = f"{self.images}x{self.rows}x{self.row_columns}"
        return f"{self.mr}x{self.nv} block {positions}{f'/{self.parts}' if self.parts > 1 else ''} chunk {self.chunk}"


def _shapes(shape: Window) -> Iterator[tuple[int, int, int]]:
    """(images, rows, columns of a row) of blocks worth considering."""
    height, width = shape.out_shape[-2:]
    if width > LONGEST_BLOCK:
        for parts in range(ceil(width / LONGEST_BLOCK), ceil(width / 64) + 1):
            yield 1, 1, ceil(width / parts)
        return
    for rows in sorted({ceil(height / parts) for parts in range(1, height + 1)}):
        if rows == 1 or rows * width <= LONGEST_BLOCK:
            yield 1, rows, width
    for images in range(2, min(shape.n, LONGEST_BLOCK // (height * width)) + 1):
        yield images, height, width


def _strip_lines(shape: Window, rows: int) -> int:
    return (rows - 1) * shape.stride[-2] + shape.extent(-2)


def _strips(shape: Window) -> bool:
    """Whether lines are brought into a strip first. Pairs are, unless each line of them is needed but once."""
    return shape.stride[-1] > 1 or not shape.inside() or (shape.bf16 and (shape.taps > 1 or shape.ic % 2 == 1))


def _cost(shape: Window, types: Types, block: _Block) -> float:
    """Cycles of the whole convolution, for one thread."""
    lines = block.images * block.rows
    depth = shape.steps * shape.taps
    chunks = ceil(shape.steps / block.chunk)
    row_tiles = ceil(ceil(shape.oc / block.mr) / block.parts)
    panels = block.width // (block.nv * types.lanes)
    step = tile_cycles(block.mr, block.nv)
    compute = row_tiles * panels * (depth * step + chunks * (4 * block.mr * block.nv + 20) * shape.beside)
    compute *= APART if panels > 1 else 1.0
    row_vectors = ceil(block.row_columns / types.lanes)
    lone = 2 if shape.bf16 and not _strips(shape) else 1  # lines that one of col is made of
    copy = depth * lines * (1.5 * lone * row_vectors + 1)
    if _strips(shape):
        strips = shape.ic * prod(shape.kernel[:-2]) * block.images * _strip_lines(shape, block.rows)
        copy += strips * (15 + shape.stride[-1] * 3 * row_vectors)
    store = shape.oc / block.parts * lines * row_vectors * 5
    height, width = shape.out_shape[-2:]
    planes = shape.groups * prod(shape.out_shape[:-2])
    tasks = ceil(shape.n / block.images) * planes * ceil(height / block.rows) * ceil(width / block.row_columns)
    rows = row_tiles if chunks > 1 else 1
    resident = (block.chunk * shape.taps + rows * block.mr) * block.width * types.size
    penalty = 1.25 if resident > L2_BYTES else 1.0
    return round_up(tasks * block.parts, BALANCE) * (compute + (copy + store) * shape.beside) * penalty


def _best_block(shape: Window, isa: Isa, types: Types, prefer: str) -> tuple[_Block, Choice]:
    def blocks() -> Iterator[_Block]:
        for images, rows, row_columns in _shapes(shape):
            for mr, nv in tiles(isa, types, shape.oc):
                nr = nv * types.lanes
                width = round_up(images * rows * row_columns, nr)
                chunks = ceil(shape.steps / max(1, PANEL_BYTES // (shape.taps * nr * types.size)))
                for parts in PARTS if images > 1 and ceil(shape.oc / mr) >= PARTS[-1] else (1,):
                    yield _Block(images, rows, row_columns, mr, nv, width, ceil(shape.steps / chunks), parts)

    form = f"conv gather {'x'.join(map(str, shape.kernel))}{' bf16' if shape.bf16 else ''}"
    return choose(blocks(), lambda block: _cost(shape, types, block), lambda block: f"{form} {block}", prefer)


def gather_code(spec: Any, shape: Window, isa: Isa, types: Types, prefer: str = "") -> Code:
    """The C function for a spec whose output is the window's target."""
    block, choice = _best_block(shape, isa, types, prefer)
    mr, nr, lanes = block.mr, block.nv * types.lanes, types.lanes
    height, width = shape.out_shape[-2:]
    in_height, in_width = shape.in_shape[-2:]
    stride_h, stride_w = shape.stride[-2:]
    pad_h, pad_w = shape.pad[-2:]
    dilation_h, dilation_w = shape.dilation[-2:]
    taps, plane = shape.taps, height * width
    row_tiles = ceil(shape.oc / mr)
    blocked = block.chunk < shape.steps
    part_tiles = ceil(row_tiles / block.parts)

    tile = Part("tile0", "tile0", row_tiles, part_tiles)
    parts = output_parts(shape, block.images, block.rows, block.row_columns, tile)
    lines, at = decode(parts)
    tile0 = at["tile0"]
    if tile0 != "0":
        end = f"tile0 + {part_tiles}"
        end = end if row_tiles % part_tiles == 0 else f"{end} < {row_tiles} ? {end} : {row_tiles}"
        lines.append(f"const ptrdiff_t tile1 = {end};")
    group, z, h0, h1, w0, w1 = (at[name] for name in ("group", "z", "h0", "h1", "w0", "w1"))
    if block.images > 1:
        image = affine([(at["n0"], 1), ("q", 1)])
        image = f"({image})" if "+" in image else image
        lines += [] if at["n0"] != "0" else ["const ptrdiff_t n0 = 0;"]
        lines += [] if at["n1"] != "0" else ["const ptrdiff_t n1 = 0;"]
        if at["n1"] != "0" and at["n0"] == "n1":
            lines.append("const ptrdiff_t n0 = n1;")
    else:
        image = at["n"]

    masked = not fills_vectors(shape, block.rows, block.row_columns, lanes)
    view_f = finish(
        spec,
        load=f"{types.vec}_load{'_n' if masked else ''}(o{', m' if masked else ''})",
        store=f"{types.vec}_store{'_n' if masked else ''}(o, %s{', m' if masked else ''})",
    )
    if block.images == 1 and at["n"] == "0" and view_f.mentions("n"):
        lines.append("const ptrdiff_t n = 0;")
    j1 = affine([(z, plane), (h1, width), (w1, 1)])
    j2_constant = (block.rows - 1) * width + block.row_columns
    lines.append(f"const ptrdiff_t j1 = {j1};")
    lines.append(f"const ptrdiff_t j2 = {affine([(z, plane), (h0, width), (w0, 1)], j2_constant)};")
    fresh = [(h1, h0, block.row_columns)] if h1 != h0 else []
    fresh += [(w1, w0, 1)] if w1 != w0 else []

    strip = _strips(shape)
    strip_rows = _strip_lines(shape, block.rows)
    strip_width = round_up(ceil(((block.row_columns - 1) * stride_w + shape.extent(-1)) / stride_w) + lanes, lanes)
    strip_image = strip_rows * stride_w * strip_width
    outer = outer_axes(shape, z)
    planes = [(f"z{a}", prod(shape.in_shape[a + 1 :])) for a in range(len(outer))]
    channel_step = shape.source_strides[1] * (2 if shape.bf16 else 1)
    source = affine(
        [(image, shape.source_strides[0]), (group, shape.ic * shape.source_strides[1]), ("ci", channel_step)]
        + planes,
        head=shape.source,
    )
    if strip:
        phase = f"(kw * {dilation_w} % {stride_w}) * {strip_width} + kw * {dilation_w} / {stride_w}"
        column = affine([("kw", dilation_w)]) if stride_w == 1 else phase
        first = [("q", strip_image)] if block.images > 1 else []
        line_from = affine([*first, ("kh", dilation_h * stride_w * strip_width)], head="strip") + " + " + column
        row_step = stride_h * stride_w * strip_width
    else:
        at_line = [(h0, stride_h * in_width), ("kh", dilation_h * in_width), (w0, 1), ("kw", dilation_w)]
        line_from = affine(at_line, -pad_h * in_width - pad_w, head=source)
        row_step = stride_h * in_width
    columns = block.images * block.rows * block.row_columns
    covered = columns - block.row_columns + round_up(block.row_columns, lanes)

    depth = shape.steps * taps
    pack = shape.frozen or shape.flipped or shape.bf16 or shape.n * shape.positions >= PACK_FROM
    pack = pack or crowded(mr, depth, types.size)
    c0 = "c0" if blocked else "0"
    packed_tile = [(group, row_tiles * depth * mr), ("tile", depth * mr), (c0, taps * mr)]
    direct_tile = [(group, shape.w_group), ("row0", shape.w_row), (c0, taps)]
    micro = Micro(
        f"{spec.name}_tile", f"a: {spec.w}, b: columns of {shape.source}.", mr, block.nv, nr,
        1 if pack else shape.w_row, mr if pack else 1, block.width, block.width, add=blocked,
        pairs=shape.bf16,
    )  # fmt: skip
    col_size = types.aligned(block.chunk * taps * block.width + lanes)
    sums_size = types.aligned((part_tiles if blocked else 1) * mr * block.width + lanes)
    packed = types.aligned(shape.groups * row_tiles * depth * mr) if pack else 0
    shared = 0 if shape.frozen else packed
    local = col_size + sums_size + (types.aligned(strip_image * block.images) if strip else 0)
    params = parameters(spec, types, (shape.source, "packed" if shape.frozen else spec.w), shape.target)
    tail = shape.steps % block.chunk != 0
    g = {
        "name": spec.name,
        "comment": comment(spec.comment),
        "signature": signature(spec.name, params, types, shared, local),
        "w": spec.w,
        "w_row": shape.w_row,
        "w_from": shape.weights_at(spec.w, group),
        "flip": shape.flipped,
        "groups": shape.groups,
        "ic": shape.steps,
        "pairs": shape.bf16,
        "both": f"2 * ci + 1 < {shape.ic}" if shape.bf16 and shape.ic % 2 else "",
        "channel": shape.source_strides[1],
        "w_channel": shape.w_channel,
        "oc": shape.oc,
        "kk": taps,
        "kz": prod(shape.kernel[:-2]),
        "kh": shape.kernel[-2],
        "kw": shape.kernel[-1],
        "outer": outer,
        "inside": "".join(f"z{a} >= 0 && z{a} < {shape.in_shape[a]} && " for a in range(len(outer))),
        "ih": in_height,
        "iw": in_width,
        "sw": stride_w,
        "tiles": row_tiles,
        "tile0": tile0,
        "tile1": str(row_tiles) if tile0 == "0" else "tile1",
        "tile_of_part": "tile" if tile0 == "0" else "(tile - tile0)",
        "row_tail": shape.oc % mr != 0,
        "blocked": blocked,
        "chunk": block.chunk,
        "chunk_end": f"c0 + {'channels' if tail else block.chunk}" if blocked else str(shape.steps),
        "depth": (f"channels * {taps}" if tail else str(block.chunk * taps)) if blocked else str(depth),
        "depth_tail": tail,
        "pack": pack,
        "pack_here": pack and not shape.frozen,
        "a_tile": affine(packed_tile, head="packed") if pack else affine(direct_tile, head=spec.w),
        "width": block.width,
        "images": block.images,
        "rows": block.rows,
        "row_columns": block.row_columns,
        "row_vectors": block.row_columns // lanes,
        "row_rest": block.row_columns % lanes,
        "next_block": not strip and taps == 1 and block.images * block.rows == 1 and block.row_columns < width,
        "row_step": row_step,
        "image_columns": block.rows * block.row_columns,
        "spare": list(range(covered, block.width, lanes)),
        "line_from": line_from,
        "image": source,
        "strip": strip,
        "strip_rows": strip_rows,
        "strip_width": strip_width,
        "strip_image": f"q * {strip_image} + " if block.images > 1 else "",
        "strip_at": col_size + sums_size,
        "first_y": affine([(h0, stride_h)], -pad_h),
        "first_x": affine([(w0, stride_w)], -pad_w),
        "sums_at": col_size,
        "sums": affine(
            [("tile" if tile0 == "0" else "(tile - tile0)", mr * block.width if blocked else 0)], head="sums_of"
        ),
        "c_of_r": affine([(group, shape.oc), ("r", 1)]),
        "fresh": "".join(f" + ({new} - {old}) * {by}" for new, old, by in fresh),
        "out_at": affine(
            [("n" if block.images > 1 else image, shape.target_strides[0]), ("c", shape.target_strides[1])],
            head=shape.target,
        ),
        "masked_store": masked,
        "needs_m": view_f.mentions("m"),
        "decode": lines,
        "tasks": prod(part.count for part in parts),
    }
    text = render("conv_gather.c.j2", {}, t=types, k=micro, f=view_f, g=g)
    before = prepared(spec, types, packed, "lib/gather_packing.j2", micro, g) if shape.frozen else None
    return Code(text, tuple(params), shared, local, choice, before)
