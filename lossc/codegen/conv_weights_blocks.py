"""The gradient of a convolution's weights where channels lie in blocks: sums over images and positions.

A register tile is a few channels of one side, broadcast from where they lie, times vectors of channels of the other;
its sums stay in registers over a long run of positions. Vectors run over dy's channels, which are read in place where
they lie in blocks too, else from a turned copy; in a pointwise convolution they may run over x's channels instead
("swapped"), and the results need no turning. Of each tap, those positions alone are visited whose input exists.

Images are split into a number of chunks that depends on the shape alone, each with its own sums, which are added up in
order at the end. Where there is one chunk, its sums stay with the thread that computes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from lossc.codegen.contraction import (
    Choice,
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
from lossc.codegen.conv_window import Part, Window, affine, decode
from lossc.codegen.environment import render
from lossc.codegen.names import comment

TASKS = 16  # as many as this where the shape allows
COLUMN_BYTES = 32 << 10  # of the vectors' side, which stay in the L1 cache while all rows pass by
FEWEST_POSITIONS = 1024  # of a chunk of images, which are worth sums of its own
SUMS_BYTES = 32 << 20  # of all chunks
FETCH = 4  # cycles for a vector of columns that is read for the first time in a task, if it lies next to the last one


@dataclass(frozen=True)
class _Tile:
    """mr rows by nv vectors of columns; rows are x's channels and columns dy's, or the other way round if `swapped`."""

    mr: int
    nv: int
    swapped: bool


@dataclass(frozen=True)
class _Side:
    """x or dy: distances between its elements, from image to image, channel to channel and so on."""

    name: str
    channels: int  # of a group
    block: int
    image: int
    channel: int
    line: int
    step: int
    first: tuple[tuple[str, int], ...]  # the place of output position (h, w) of tap (kh, kw) in a plane
    before: int = 0  # what is less in it

    def group(self, group: str) -> str:
        """C for the address of a group's first channel in image n."""
        return affine([("n", self.image), (group, self.channels * self.channel)], head=self.name)

    def plane(self, image: str, channel: str, width: int) -> str:
        """C for the address of `channel`, a multiple of `width`, where `image` is the first one's."""
        terms = [(channel, self.channel)]
        if self.block and width < self.block:
            terms = [(f"{channel} / {self.block}", self.block * self.channel), (f"{channel} % {self.block}", 1)]
        return affine(terms, head=image)

    def offset(self, channel: int) -> int:
        """How far `channel` lies behind the first one."""
        inner = channel % self.block if self.block else 0
        return (channel - inner) * self.channel + inner


def _sides(shape: Window) -> tuple[_Side, _Side]:
    """x and dy."""
    width, in_width = shape.out_shape[-1], shape.in_shape[-1]
    size = max(shape.source_block, 1)
    taps = [("kh", shape.dilation[0] * in_width * size)] if shape.kernel[0] > 1 else []
    taps += [("kw", shape.dilation[1] * size)] if shape.kernel[1] > 1 else []
    line, step = shape.stride[0] * in_width * size, shape.stride[1] * size
    x = _Side(
        shape.source, shape.ic, shape.source_block, *shape.source_strides, line, step,
        (("h", line), *taps, ("w", step)), (shape.pad[0] * in_width + shape.pad[1]) * size,
    )  # fmt: skip
    size = max(shape.target_block, 1)
    dy = _Side(
        shape.target, shape.oc, shape.target_block, *shape.target_strides, width * size, size,
        (("h", width * size), ("w", size)),
    )  # fmt: skip
    return x, dy


def _tap_range(shape: Window, axis: int, tap: int) -> tuple[int, int]:
    """The output positions [first, last) whose input at this tap exists."""
    shift, stride = shape.pad[axis] - tap * shape.dilation[axis], shape.stride[axis]
    first = max(0, ceil(shift / stride))
    last = min(shape.out_shape[axis], (shape.in_shape[axis] - 1 + shift) // stride + 1)
    return (first, last) if first < last else (0, 0)


def _candidates(shape: Window, isa: Isa, types: Types) -> Iterator[_Tile]:
    for swapped in (False, True) if shape.taps == 1 and shape.source_block else (False,):
        row, column = reversed(_sides(shape)) if swapped else _sides(shape)
        for mr, nv in tiles(isa, types, 1 << 10):
            nr = nv * types.lanes
            fits = not column.block or nr % column.block == 0 or column.block % nr == 0
            if fits and nv <= ceil(column.channels / types.lanes) and (row.block or row.channels) % mr == 0:
                yield _Tile(mr, nv, swapped)


@dataclass(frozen=True)
class _Plan:
    """How the work is cut up: `columns` and `rows` are channels of either side in a task, `lines` and `width` output
    positions and `images` images of a block, over which columns stay in the L1 cache."""

    tile: _Tile
    chunk_images: int
    columns: int
    rows: int
    lines: int
    width: int
    images: int


def _block(shape: Window, nr: int, size: int) -> tuple[int, int]:
    """Lines and positions of a line in a block, of about equal blocks."""
    height, width = shape.out_shape
    most = max(1, COLUMN_BYTES // (nr * size))
    if most < width or height == 1:
        return 1, ceil(width / ceil(width / most))
    return ceil(height / ceil(height / (most // width))), width


def _plan(shape: Window, types: Types, tile: _Tile) -> _Plan:
    row, column = reversed(_sides(shape)) if tile.swapped else _sides(shape)
    nr, unit = tile.nv * types.lanes, row.block or tile.mr
    positions = prod(shape.out_shape)
    weights = shape.groups * shape.oc * shape.ic * shape.taps * types.size
    chunks = max(1, min(TASKS, shape.n * positions // FEWEST_POSITIONS, shape.n, SUMS_BYTES // weights))
    chunk_images = ceil(shape.n / chunks)
    chunks = ceil(shape.n / chunk_images)
    column_tiles, units = ceil(column.channels / nr), row.channels // unit

    def price(parts: tuple[int, int]) -> tuple[int, int]:
        tasks = chunks * shape.groups * prod(parts)
        return -min(tasks, TASKS), parts[0] * row.channels + parts[1] * column.channels

    parts = [(c, r) for c in _divisors(column_tiles) for r in _divisors(units)]
    column_parts, row_parts = min(parts, key=price)
    lines, width = _block(shape, nr, types.size)
    whole = lines * width == positions
    images = max(1, min(chunk_images, COLUMN_BYTES // (nr * types.size * positions))) if whole else 1
    return _Plan(tile, chunk_images, column_tiles // column_parts * nr, units // row_parts * unit, lines, width, images)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _cost(shape: Window, types: Types, plan: _Plan) -> float:
    """Cycles of the whole convolution, for one thread."""
    tile = plan.tile
    row, column = reversed(_sides(shape)) if tile.swapped else _sides(shape)
    vectors = ceil(column.channels / types.lanes)
    full, rest = divmod(vectors, tile.nv)
    widths = [tile.nv] * full + [rest if column.block else tile.nv] * (rest > 0)
    visits = prod(
        sum(last - first for first, last in (_tap_range(shape, axis, tap) for tap in range(shape.kernel[axis])))
        for axis in (0, 1)
    )
    blocks = ceil(prod(shape.out_shape) / (plan.lines * plan.width)) * ceil(shape.n / plan.images)
    calls = shape.groups * row.channels / tile.mr
    cycles = sum(
        shape.n * visits * tile_cycles(tile.mr, nv) + blocks * shape.taps * (4 * tile.mr * nv + 40) for nv in widths
    )
    fetch = types.lanes if not column.block else FETCH * prod(shape.stride) if tile.swapped else FETCH
    fetched = shape.n * prod(shape.out_shape) * vectors * fetch
    finished = 0 if tile.swapped else shape.oc * shape.ic * shape.taps
    return calls * cycles + shape.groups * (fetched * row.channels / plan.rows + finished)


def weights_blocks_code(spec: Any, shape: Window, isa: Isa, types: Types, prefer: str = "") -> Code:
    """The C function that computes dw from x (the window's source) and dy (its target), either or both in blocks."""
    form = f"conv weights blocks {'x'.join(map(str, shape.kernel))}"
    plan, choice = choose(
        (_plan(shape, types, tile) for tile in _candidates(shape, isa, types)),
        lambda p: _cost(shape, types, p),
        lambda p: f"{form} {p.tile.mr}x{p.tile.nv}{' swapped' if p.tile.swapped else ''}",
        prefer,
    )
    return _code(spec, shape, types, plan, choice)


def _code(spec: Any, shape: Window, types: Types, plan: _Plan, choice: Choice) -> Code:
    tile, lanes, taps = plan.tile, types.lanes, shape.taps
    row, column = reversed(_sides(shape)) if tile.swapped else _sides(shape)
    nr, unit = tile.nv * lanes, row.block or tile.mr
    height, width = shape.out_shape
    terms = plan.rows * taps
    region = round_up(plan.columns, nr) * terms
    column_tiles = ceil(column.channels / nr)

    parts = [
        Part("n1", "n1", shape.n, plan.chunk_images),
        Part("group", "group", shape.groups, 1),
        Part("column0", "column0", column_tiles * nr, plan.columns),
        Part("row0", "row0", row.channels, plan.rows),
    ]
    lines, at = decode(parts)
    chunks, tasks = parts[0].count, prod(part.count for part in parts)
    n1, group, column0, row0 = (at[name] for name in ("n1", "group", "column0", "row0"))
    block_parts = [Part("h0", "h0", height, plan.lines), Part("w0", "w0", width, plan.width)]
    block_lines, block_at = decode(block_parts, "block")

    ends, clips, tap_lines = {}, [], []
    if shape.kernel[0] > 1:
        tap_lines.append(f"const ptrdiff_t kh = {'tap' if shape.kernel[1] == 1 else f'tap / {shape.kernel[1]}'};")
    if shape.kernel[1] > 1:
        tap_lines.append(f"const ptrdiff_t kw = {'tap' if shape.kernel[0] == 1 else f'tap % {shape.kernel[1]}'};")
    for axis, (name, length) in enumerate((("h", "lines"), ("w", "width"))):
        part, start, tap = block_parts[axis], block_at[f"{name}0"], f"k{name}" if shape.kernel[axis] > 1 else "0"
        end = ends[name] = str(part.size) if part.count == 1 else f"{name}1"
        if part.count > 1:
            block_lines.append(f"const ptrdiff_t {end} = {_end(start, part.step, part.size)};")
        ranges = [_tap_range(shape, axis, t) for t in range(shape.kernel[axis])]
        first, last = start, end
        if set(ranges) != {(0, part.size)}:
            clips.append({"name": name, "first": [r[0] for r in ranges], "last": [r[1] for r in ranges]})
            first, last = f"{name}_first[{tap}]", f"{name}_last[{tap}]"
            if part.count > 1:
                first, last = f"{start} > {first} ? {start} : {first}", f"({end} < {last} ? {end} : {last})"
        tap_lines.append(f"const ptrdiff_t {name} = {first};")
        tap_lines.append(f"const ptrdiff_t {length} = {last}{'' if first == '0' else f' - {name}'};")

    turns = not column.block
    turned_image = plan.lines * plan.width * nr
    turned_size = types.aligned(plan.images * turned_image) if turns else 0
    starts = [v * lanes for v in range(tile.nv)]
    turned_first = ((_less("h", block_at["h0"]), width * nr), (_less("w", block_at["w0"]), nr))
    tap = "tap" if taps > 1 else "0"
    even = shape.n % plan.chunk_images == 0 and plan.chunk_images % plan.images == 0
    term_blocks = terms if tile.swapped else ceil(terms / lanes)
    end_blocks = plan.columns // nr * term_blocks
    end_lines, end_at = decode([Part("part", "part", tasks // chunks, 1), Part("q", "q", end_blocks, 1)])
    end_lines += decode(parts[1:], "part")[0]
    per_term = 1 if tile.swapped else lanes
    tile_of = "0" if plan.columns == nr else "q" if term_blocks == 1 else f"q / {term_blocks}"
    term_of = "0" if term_blocks == 1 else f"q % {term_blocks}" if plan.columns > nr else "q"
    local = turned_size + (types.aligned(region) if chunks == 1 else 0)
    shared = types.aligned(tasks * region) if chunks > 1 else 0
    params = parameters(spec, types, (shape.source, shape.target), spec.w)
    text = render(
        "conv_weights_blocks.c.j2",
        {},
        t=types,
        f=finish(spec, load=f"{types.vec}_load_n(o, m)", store=f"{types.vec}_store_n(o, %s, m)"),
        g={
            "name": spec.name,
            "comment": comment(spec.comment),
            "signature": signature(spec.name, params, types, shared, local),
            "mr": tile.mr,
            "nv": tile.nv,
            "nr": nr,
            "swapped": tile.swapped,
            "rest": column.channels % nr // lanes if column.block else 0,
            "row": {
                "name": row.name,
                "apart": 1 if row.block else row.channel,
                "image": row.image,
                "line": row.line,
                "step": row.step,
                "group": row.group(group),
                "plane": row.plane("row_image", "row", unit),
                "at": affine(row.first, -row.before, head="row_plane"),
            },
            "column": {
                "name": column.name,
                "offsets": starts if turns else [column.offset(start) for start in starts],
                "image": turned_image if turns else column.image,
                "line": width * nr if turns else column.line,
                "step": nr if turns else column.step,
                "group": column.group(group),
                "plane": column.plane("column_image", "column", nr),
                "at": affine(turned_first if turns else column.first, -column.before,
                             head="turned" if turns else "column_plane"),
            },
            "unit": unit,
            "next": unit * row.channel if taps == 1 else 0,
            "out_row": taps * nr,
            "clips": clips,
            "chunks": chunks,
            "chunk_images": plan.chunk_images,
            "chunk_region": tasks // chunks * region,
            "region": region,
            "parts": tasks // chunks,
            "turns": turns,
            "transposes": turns or not tile.swapped,
            "turned_size": turned_size,
            "turned_columns": _valid("column", column.channels, nr),
            "turned_from": affine(
                [("l", column.image), (block_at["h0"], width), (block_at["w0"], 1)], head="column_plane"
            ),
            "turned_line": column.channel,
            "turned_count": affine([(_less(ends["w"], block_at["w0"]), 1)]) if plan.lines == 1
            else f"{_less(ends['h'], block_at['h0'])} * {width}",
            "column_tail": turns and column.channels % nr,
            "tasks": tasks,
            "decode": lines,
            "sums": affine([("u", region)], head="shared") if chunks > 1 else affine([], turned_size, head="local"),
            "terms": terms,
            "n1": n1,
            "n2": str(shape.n) if chunks == 1 else _end("n1", plan.chunk_images, shape.n),
            "images": plan.images,
            "image_count": str(plan.images) if even else f"n2 - n < {plan.images} ? n2 - n : {plan.images}",
            "blocks": prod(part.count for part in block_parts),
            "block_lines": block_lines,
            "column0": column0,
            "column1": affine([(column0, 1)], plan.columns),
            "columns": column.channels,
            "row0": row0,
            "row1": affine([(row0, 1)], plan.rows),
            "taps": taps,
            "tap_lines": tap_lines,
            "sums_at": affine([(_less("column", column0), terms), (_less("row", row0), taps * nr), (tap, nr)]),
            "end_lines": end_lines,
            "end_blocks": end_blocks,
            "end_sums": affine([(end_at["part"], region)], head="shared"),
            "end_column": affine([(column0, 1), (tile_of, nr)]),
            "end_term": affine([(term_of, per_term)]),
            "end_rows": str(lanes) if terms % lanes == 0 else f"(int){_valid('term', terms, lanes)}",
            "end_columns": _valid("column", column.channels, nr),
            "end_from": affine([(_less("column", column0), terms), ("term", nr)]),
            "c": affine([(group, shape.oc), (row0, 1), ("term", 1)] if tile.swapped
                        else [(group, shape.oc), ("column", 1), ("co", 1)]),
            "j": affine([(row0, taps), ("term", 1)]),
            "out_at": affine([("c", shape.w_row), ("j", 1)], head=spec.w),
        },
    )  # fmt: skip
    return Code(text, tuple(params), shared, local, choice)


def _end(start: str, step: int, size: int) -> str:
    """C for the end of a part that begins at `start`."""
    return f"{start} + {step}" if size % step == 0 else f"{start} + {step} < {size} ? {start} + {step} : {size}"


def _less(text: str, other: str) -> str:
    """C for the difference, as a factor."""
    return text if other == "0" else f"({text} - {other})"


def _valid(start: str, size: int, step: int) -> str:
    """C for how many of `step` elements from `start` exist."""
    return str(step) if size % step == 0 else f"({size} - {start} < {step} ? {size} - {start} : {step})"
