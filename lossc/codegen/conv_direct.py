"""A convolution with vectors along output channels: x is broadcast from where it lies, at any number of taps.

The weights are packed once a call into panels of a few vectors of output channels, in the order of the sums' terms. A
register tile is a number of positions times a panel, and its sums stay in registers over all taps and channels. x is
read in place where no position touches the padding, else from a strip: the lines that a task needs, once, with margins
of zeros. Finished tiles are turned on their way out, so that vectors run along positions there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from lossc.codegen.contraction import (
    CACHE_LINE,
    L2_BYTES,
    PANEL_BYTES,
    Choice,
    Code,
    Isa,
    Types,
    choose,
    crowded,
    finish,
    parameters,
    round_up,
    signature,
    tiles,
)
from lossc.codegen.conv_window import Part, Window, affine, decode, outer_axes
from lossc.codegen.environment import render
from lossc.codegen.names import comment

MOST_POSITIONS = 512  # of a block, for whose sums there is room in the caches
FEWEST_POSITIONS = 48  # of a part of a plane
PARTS = (1, 2, 4, 8)  # into which the output channels of a block may be split
FEW_TASKS = 16  # below which output channels are worth sharing out
BALANCE = 4  # tasks come in multiples of this where they are few, for that many threads
INNER_CHANNELS = 8  # from which the loop over channels is the innermost one, else the one over a column of taps
FAR_CYCLES = 0.3  # for a vector of a panel that does not stay in the L1 cache
PACK_CYCLES = {"vector": 0.2, "columns": 0.4, "scalar": 1.2}  # of one weight
STORE_CYCLES = 6.0  # of one vector of results
FAR_SUMS = 1.5  # times that, where a block's sums do not stay in the L1 cache
COLUMNS = 4  # output channels that are turned at a time


@dataclass(frozen=True)
class _Plan:
    rows: int
    row_columns: int
    tile_rows: int
    tile_columns: int
    nv: int
    parts: int  # tasks that share out the output channels of a block
    strip: bool

    @property
    def mr(self) -> int:
        return self.tile_rows * self.tile_columns

    def __str__(self) -> str:
        parts = f"/{self.parts}" if self.parts > 1 else ""
        block = f"block {self.rows}x{self.row_columns}{parts}"
        tile = f"{self.tile_rows}x{self.tile_columns}" if self.tile_rows > 1 else f"{self.tile_columns}"
        return f"{tile}x{self.nv} {block}{' strip' if self.strip else ''}"


def _blocks(shape: Window) -> Iterator[tuple[int, int]]:
    """(rows, columns of a row) of blocks worth considering."""
    height, width = shape.out_shape[-2:]
    fewest = ceil(width / MOST_POSITIONS)
    most = max(fewest, width // FEWEST_POSITIONS) if height == 1 else fewest
    for columns in dict.fromkeys(ceil(width / parts) for parts in range(fewest, most + 1)):
        yield 1, columns
    if fewest > 1:
        return
    for rows in sorted({ceil(height / parts) for parts in range(1, height + 1)} - {1}):
        if rows * width <= MOST_POSITIONS:
            yield rows, width


def _tiles(isa: Isa, types: Types, vectors: int, rows: int, columns: int) -> Iterator[tuple[int, int, int]]:
    """(rows, columns, vectors) of register tiles that divide a block well."""
    most: dict[int, int] = {}
    for mr, nv in tiles(isa, types, rows * columns):
        if nv <= vectors:
            most[nv] = max(mr, most.get(nv, 0))
    for nv, mr in most.items():
        if mr >= columns:
            yield ceil(rows / ceil(rows / (mr // columns))), columns, nv
        parts = ceil(columns / mr)
        for columns_of_tile in {ceil(columns / parts), ceil(columns / (parts + 1))}:
            yield 1, columns_of_tile, nv


@dataclass(frozen=True)
class _Axis:
    """How the positions of one axis lie in what is read: ``step`` apart there, and in x for each line read."""

    step: int
    source: int

    @staticmethod
    def of(shape: Window, axis: int, strip: bool) -> _Axis:
        """A strip holds what is read alone: where the kernel has one tap, what lies between is left out."""
        dense = strip and shape.kernel[axis] == 1
        return _Axis(1, shape.stride[axis]) if dense else _Axis(shape.stride[axis], 1)

    def count(self, shape: Window, axis: int, outputs: int) -> int:
        """Lines or columns that so many outputs read."""
        return (outputs - 1) * self.step + shape.extent(axis)


@dataclass(frozen=True)
class _Source:
    """Where a block's elements of x lie, in place or in a strip: distances in elements."""

    lines: int  # of the strip, for each channel and outer tap
    width: int  # of a line
    channel: int
    outer: tuple[int, ...]  # of neighbouring taps, for each axis before the last two; of the strip's all in one
    row: int  # of neighbouring rows of outputs
    column: int
    tap_row: int
    tap_column: int


def _source(shape: Window, plan: _Plan, types: Types) -> _Source:
    down, across = (_Axis.of(shape, axis, plan.strip) for axis in (-2, -1))
    dilation_h, dilation_w = shape.dilation[-2:]
    if not plan.strip:
        width = shape.in_shape[-1]
        last = range(len(shape.kernel) - 2)
        outer = tuple(shape.dilation[a] * prod(shape.in_shape[a + 1 :]) for a in last)
        channel = shape.source_strides[1]
        return _Source(0, width, channel, outer, down.step * width, across.step, dilation_h * width, dilation_w)
    lines = down.count(shape, -2, plan.rows)
    width = round_up(across.count(shape, -1, plan.row_columns), types.lanes)
    channel = prod(shape.kernel[:-2]) * lines * width
    if crowded(16, channel, types.size):
        channel += types.aligned(1)
    return _Source(
        lines, width, channel, (lines * width,), down.step * width, across.step, dilation_h * width, dilation_w
    )


def _levels(shape: Window, source: _Source, strip: bool) -> list[tuple[int, int]]:
    """The loops over a sum's terms, the innermost last: count and distance in x. Neighbours in a row of taps are none
    of the innermost loop's: gcc would keep what two positions of a tile read in registers, of which none are left."""
    outer = [prod(shape.kernel[:-2])] if strip else list(shape.kernel[:-2])
    taps = list(zip(outer, source.outer, strict=True))
    rows, columns = (shape.kernel[-2], source.tap_row), (shape.kernel[-1], source.tap_column)
    channels = (shape.ic, source.channel)
    levels = [*taps, rows, columns, channels] if _channels_inside(shape) else [channels, *taps, columns, rows]
    return [level for level in levels if level[0] > 1] or [channels]


def _channels_inside(shape: Window) -> bool:
    return shape.ic >= INNER_CHANNELS or shape.ic >= shape.kernel[-2]


def _step(types: Types, plan: _Plan, nv: int, depth: int) -> float:
    """Cycles of one term of a tile's sums: two FMAs and two loads a cycle, and what panels take from the L2 cache."""
    far = depth * nv * types.lanes * types.size > PANEL_BYTES
    return max(plan.mr * nv / 2, (plan.mr + nv) / 2, 4.0) + (FAR_CYCLES * nv if far else 0.0)


def _cost(shape: Window, types: Types, plan: _Plan) -> float:
    """Cycles of the whole convolution, for one thread."""
    vectors = ceil(shape.oc / types.lanes)
    source = _source(shape, plan, types)
    depth = shape.ic * shape.taps
    inner = shape.ic if _channels_inside(shape) else shape.kernel[-2]
    panels, rest = divmod(vectors, plan.nv)
    tiles_of_part = ceil((panels + (rest > 0)) / plan.parts)
    whole = min(panels, tiles_of_part)

    def tile(nv: int) -> float:
        return depth * _step(types, plan, nv, depth) + 3 * depth / inner + 4 * plan.mr * nv + 20

    positions = ceil(plan.rows / plan.tile_rows) * ceil(plan.row_columns / plan.tile_columns)
    compute = positions * (whole * tile(plan.nv) + (tile(rest) if tiles_of_part > whole else 0))
    row_vectors = ceil(plan.rows * plan.row_columns / types.lanes)
    far = plan.rows * plan.row_columns * plan.nv * types.lanes * types.size > PANEL_BYTES
    store = shape.oc / plan.parts * row_vectors * STORE_CYCLES * (FAR_SUMS if far else 1.0)
    copy = 0.0
    if plan.strip:
        across = _Axis.of(shape, -1, True)
        each = 10 + 3 * source.width / types.lanes * (1 if across.source == 1 else types.lanes / 3)
        copy = shape.ic * prod(shape.kernel[:-2]) * source.lines * each
    tasks = _blocks_of_call(shape, plan.rows, plan.row_columns) * plan.parts
    panel = depth * plan.nv * types.lanes
    resident = (panel + plan.rows * plan.row_columns * (plan.nv * types.lanes + shape.ic)) * types.size
    penalty = 1.1 if resident > L2_BYTES else 1.0
    pack = PACK_CYCLES[_packing(shape, types)] * shape.groups * vectors * types.lanes * depth
    return round_up(tasks, BALANCE) * (compute + copy + store) * penalty + pack


def _blocks_of_call(shape: Window, rows: int, columns: int) -> int:
    height, width = shape.out_shape[-2:]
    planes = shape.n * shape.groups * prod(shape.out_shape[:-2])
    return planes * ceil(height / rows) * ceil(width / columns)


def _packing(shape: Window, types: Types) -> str:
    """How weights are packed: a vector at a time, `COLUMNS` neighbouring terms of each output channel, or singly."""
    if shape.w_row == 1:
        return "vector"
    run = shape.ic if shape.taps == 1 else shape.taps
    along = shape.w_channel == 1 or shape.taps > 1
    return "columns" if along and run >= COLUMNS and shape.oc % types.lanes == 0 else "scalar"


def direct_plan(shape: Window, isa: Isa, types: Types, prefer: str = "") -> tuple[_Plan, Choice]:
    """The best blocks and register tile, and how they were chosen."""
    vectors = ceil(shape.oc / types.lanes)
    strips = (False, True) if shape.inside() else (True,)

    def plans() -> Iterator[_Plan]:
        for rows, columns in _blocks(shape):
            few = _blocks_of_call(shape, rows, columns) < FEW_TASKS
            for tile_rows, tile_columns, nv in dict.fromkeys(_tiles(isa, types, vectors, rows, columns)):
                for parts in PARTS if few else (1,):
                    if parts <= ceil(vectors / nv):
                        for strip in strips:
                            yield _Plan(rows, columns, tile_rows, tile_columns, nv, parts, strip)

    form = f"conv direct {'x'.join(map(str, shape.kernel))}"
    return choose(plans(), lambda plan: _cost(shape, types, plan), lambda plan: f"{form} {plan}", prefer)


def direct_code(spec: Any, shape: Window, isa: Isa, types: Types, prefer: str = "") -> Code:
    """The C function for a spec whose output is the window's target."""
    plan, choice = direct_plan(shape, isa, types, prefer)
    source = _source(shape, plan, types)
    lanes, nr, taps = types.lanes, plan.nv * types.lanes, shape.taps
    height, width = shape.out_shape[-2:]
    depth, plane = shape.ic * taps, height * width
    vectors = ceil(shape.oc / lanes)
    panels, rest = divmod(vectors, plan.nv)
    tile_count = panels + (rest > 0)
    part_tiles = ceil(tile_count / plan.parts)

    parts = [
        Part("n", "n", shape.n, 1),
        Part("group", "group", shape.groups, 1),
        Part("z", "z", prod(shape.out_shape[:-2]), 1),
        Part("h1", "h0", height, plan.rows),
        Part("w1", "w0", width, plan.row_columns),
        Part("tile0", "tile0", tile_count, part_tiles),
    ]
    lines, at = decode(parts)
    n, group, z, h0, h1, w0, w1, tile0 = (at[name] for name in ("n", "group", "z", "h0", "h1", "w0", "w1", "tile0"))
    if tile0 != "0":
        lines.append(f"const ptrdiff_t tile1 = {_end('tile0', part_tiles, tile_count)};")
    j1 = affine([(z, plane), (h1, width), (w1, 1)])
    j2 = affine([(z, plane), (h0, width), (w0, 1)], (plan.rows - 1) * width + plan.row_columns)
    lines += [f"const ptrdiff_t j1 = {j1};", f"const ptrdiff_t j2 = {j2};"]
    fresh = [(h1, h0, plan.row_columns * nr)] if h1 != h0 else []
    fresh += [(w1, w0, nr)] if w1 != w0 else []

    last = (height % plan.rows * width) if width == plan.row_columns else width % plan.row_columns
    masked = plan.rows * plan.row_columns % lanes != 0 or last % lanes != 0
    view_f = finish(
        spec,
        load=f"{types.vec}_load{'_n' if masked else ''}(o{', m' if masked else ''})",
        store=f"{types.vec}_store{'_n' if masked else ''}(o, %s{', m' if masked else ''})",
    )
    if n == "0" and view_f.mentions("n"):
        lines.append("const ptrdiff_t n = 0;")

    down, across = (_Axis.of(shape, axis, plan.strip) for axis in (-2, -1))
    axes = outer_axes(shape, z, taps=plan.strip)
    planes = [(f"z{a}", prod(shape.in_shape[a + 1 :])) for a in range(len(axes))]
    image_terms = [(n, shape.source_strides[0]), (group, shape.ic * shape.source_strides[1])]
    if plan.strip:
        x_block = "strip"
    else:
        first = [(h0, shape.stride[-2] * source.width), (w0, shape.stride[-1])]
        corner = -shape.pad[-2] * source.width - shape.pad[-1]
        x_block = affine([*image_terms, *planes, *first], corner, head=shape.source)

    levels = _levels(shape, source, plan.strip)
    within = [*(count * step for count, step in levels[1:]), 0]
    jumps = [step - advanced for (_, step), advanced in zip(levels, within, strict=True)]
    tile_view: dict[str, Any] = {
        "mr": plan.mr,
        "nr": nr,
        "ahead": [],
        "offsets": [r * source.row + c * source.column for r in range(plan.tile_rows)
                    for c in range(plan.tile_columns)],
        "levels": [{"count": count, "jump": f"x {'+' if jump >= 0 else '-'}= {abs(jump)}"}
                   for (count, _), jump in zip(levels, jumps, strict=True)],
    }  # fmt: skip
    if not plan.strip and _large(types, shape.n, shape.groups * shape.ic, prod(shape.in_shape)):
        ahead = plan.row_columns * source.column if plan.row_columns < width else plan.rows * source.row
        next_block = ahead if plan.row_columns < width or plan.rows < height else shape.source_strides[0]
        span = tile_view["offsets"][-1]
        tile_view["ahead"] = [next_block + place for place in range(0, span + 1, CACHE_LINE // types.size)]
    micros = [{"name": f"{spec.name}_tile", "nv": plan.nv}] if panels else []
    micros += [{"name": f"{spec.name}_rest" if panels else f"{spec.name}_tile", "nv": rest}] if rest else []
    inside = _channels_inside(shape)
    channel = "ci" if taps > 1 and shape.ic > 1 else "0"

    sums_size = types.aligned((plan.rows * plan.row_columns + lanes) * nr + COLUMNS)
    local = sums_size + (types.aligned(shape.ic * source.channel) if plan.strip else 0)
    shared = types.aligned(shape.groups * vectors * lanes * depth)
    params = parameters(spec, types, (shape.source, spec.w), shape.target)
    text = render(
        "conv_direct.c.j2",
        {},
        t=types,
        f=view_f,
        k=tile_view,
        g={
            "name": spec.name,
            "comment": comment(spec.comment),
            "signature": signature(spec.name, params, types, shared, local),
            "micros": micros,
            "source": shape.source,
            "target": shape.target,
            "w": spec.w,
            "w_row": shape.w_row,
            "w_from": shape.weights_at(spec.w, "group" if shape.groups > 1 else "0", channel),
            "w_step": shape.w_channel if taps == 1 else 1,
            "packing": _packing(shape, types),
            "pack_channels": 1 if taps == 1 else shape.ic,
            "pack_terms": shape.ic if taps == 1 else taps,
            "pack_decode": ", ".join(_pack_decode(shape, vectors, 1 if taps == 1 else shape.ic)),
            "flip": shape.flipped and taps > 1,
            "groups": shape.groups,
            "ic": shape.ic,
            "oc": shape.oc,
            "kz": prod(shape.kernel[:-2]),
            "nv": plan.nv,
            "rest": rest,
            "panels": panels,
            "vectors": vectors,
            "group_size": vectors * lanes * depth,
            "panel_size": nr * depth,
            "order": "taps][ci" if inside else "ci][taps by columns",
            "term": _term(shape, channel, inside),
            "row_tail": shape.oc % lanes != 0,
            "tile0": tile0,
            "tile1": str(tile_count) if tile0 == "0" else "tile1",
            "strip": plan.strip,
            "strip_at": sums_size,
            "strip_channel": source.channel,
            "strip_lines": source.lines,
            "strip_width": source.width,
            "across": across.source,
            "down": down.source,
            "first_y": affine([(h0, shape.stride[-2])], -shape.pad[-2]),
            "first_x": affine([(w0, shape.stride[-1])], -shape.pad[-1]),
            "ih": shape.in_shape[-2],
            "iw": shape.in_shape[-1],
            "outer": axes,
            "inside": "".join(f"z{a} >= 0 && z{a} < {shape.in_shape[a]} && " for a in range(len(axes))),
            "image": affine([*image_terms, ("ci", shape.source_strides[1]), *planes], head=shape.source),
            "x_block": x_block,
            "packed": affine([(group, vectors * lanes * depth), ("tile", nr * depth)], head="packed"),
            "rows": plan.rows,
            "row_columns": plan.row_columns,
            "tile_rows": plan.tile_rows,
            "tile_columns": plan.tile_columns,
            "x_row": source.row,
            "x_column": source.column,
            "fetch": range(0, plan.mr, CACHE_LINE // types.size)
            if _large(types, shape.n, shape.groups * shape.oc, prod(shape.out_shape)) else (),
            "fetch_at": affine(
                [(n, shape.target_strides[0]), (group, shape.oc * shape.target_strides[1]),
                 ("tile", nr * shape.target_strides[1]), ("i", shape.target_strides[1]),
                 (z, plane), (h0, width), (w0, 1)],
                head=shape.target,
            ),
            "fresh": "".join(f" + ({new} - {old}) * {by}" for new, old, by in fresh),
            "column_step": COLUMNS,
            "channel_tail": shape.oc % nr != 0 or nr % COLUMNS != 0,
            "channels": f"({shape.oc} - tile * {nr} < {nr} ? {shape.oc} - tile * {nr} : {nr})"
            if shape.oc % nr else str(nr),
            "c": affine([(group, shape.oc), ("tile", nr), ("r", 1), ("i", 1)]),
            "out_at": affine([(n, shape.target_strides[0]), ("c", shape.target_strides[1])], head=shape.target),
            "masked_store": masked,
            "needs_m": view_f.mentions("m"),
            "decode": lines,
            "tasks": prod(part.count for part in parts),
        },
    )  # fmt: skip
    return Code(text, tuple(params), shared, local, choice)


def _large(types: Types, images: int, channels: int, plane: int) -> bool:
    """Whether a blob comes from beyond the L2 cache."""
    return images * channels * plane * types.size > L2_BYTES


def _end(first: str, step: int, size: int) -> str:
    """C for the end of a part that begins at `first`."""
    return f"{first} + {step}" if size % step == 0 else f"{first} + {step} < {size} ? {first} + {step} : {size}"


def _pack_decode(shape: Window, vectors: int, channels: int) -> list[str]:
    """C for the group, vector of output channels and channel of a part of the weights."""
    below = "" if channels == 1 else f" / {channels}"
    parts = [f"group = u / {vectors * channels}"] if shape.groups > 1 else []
    parts.append(f"v = u{below}{f' % {vectors}' if shape.groups > 1 else ''}")
    return [*parts, f"ci = u % {channels}"] if channels > 1 else parts


def _term(shape: Window, channel: str, inside: bool) -> str:
    """C for the place of tap `p` of a channel among a sum's terms, or of channel `p` where there is one tap."""
    if shape.taps == 1:
        return "p"
    if inside:
        return affine([("p", shape.ic), (channel, 1)])
    height, width = shape.kernel[-2:]
    outer = prod(shape.kernel[:-2]) > 1
    terms = [(channel, shape.taps), (f"p / {height * width}" if outer else "0", height * width), (f"p % {width}", height)]
    return affine([*terms, (f"p / {width}{f' % {height}' if outer else ''}", 1)])
