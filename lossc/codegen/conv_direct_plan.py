"""Which blocks and register tiles a direct convolution takes, where it reads x, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, prod

from lossc.codegen.contraction import (
    CACHE_LINE,
    L2_BYTES,
    PANEL_BYTES,
    Choice,
    Isa,
    Types,
    choose,
    crowded,
    round_up,
    tiles,
)
from lossc.codegen.conv_window import Spread, Window

MOST_POSITIONS = 512  # of a block, for whose sums there is room in the caches
FEWEST_POSITIONS = 48  # of a part of a plane
PARTS = (1, 2, 4, 8)  # into which the output channels of a block may be split
FEW_TASKS = 16  # below which output channels are worth sharing out
BALANCE = 4  # tasks come in multiples of this where they are few, for that many threads
INNER_CHANNELS = 8  # from which the loop over channels is the innermost one, else the one over a column of taps
FAR_PLANES = 0.1  # part of the time that planes in the whole L2 cache cost more than in the L1, few weights beside them
FAR_CYCLES = 0.3  # for a vector of a panel that does not stay in the L1 cache
PAIR_CYCLES = 0.68  # of the broadcast of a pair, which compilers do not make an operand of its product
PACK_CYCLES = {  # of one term of an output channel
    "vector": 0.2, "columns": 0.4, "scalar": 1.2, "pairs": 2.4, "columns of pairs": 1.6,
}  # fmt: skip
STORE_CYCLES = 6.0  # of one vector of results
PAIR_STORE_CYCLES = 4.2  # the same beside products of pairs, which leave more time for it
BLOCK_CYCLES = 2.0  # of one that need not be turned
HALF_CYCLES = 1.2  # the same, stored as bfloat16
COPY_CYCLES = 10.0  # of copying a block of channels that lies in memory as bfloat16, or of beginning a line of them
MISS_CYCLES = 11.0  # of a cache line that lies in memory as bfloat16, is read in place and was not fetched ahead
FAR_LINE_CYCLES = 0.5  # of one of a block's that do not stay in the L1 cache
FAR_SUMS = 1.5  # times that, where a block's sums do not stay in the L1 cache
COLUMNS = 4  # output channels that are turned at a time


@dataclass(frozen=True)
class Plan:
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


def _blocks(shape: Window, whole: bool) -> Iterator[tuple[int, int]]:
    """(rows, columns of a row) of blocks worth considering, of whole rows alone or not."""
    height, width = shape.out_shape[-2:]
    fewest = 1 if whole else ceil(width / MOST_POSITIONS)
    most = max(fewest, width // FEWEST_POSITIONS) if height == 1 and not whole else fewest
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
class Axis:
    """How the positions of one axis lie in what is read: ``step`` apart there, and in x for each line read."""

    step: int
    source: int

    @staticmethod
    def of(shape: Window, axis: int, strip: bool) -> Axis:
        """A strip holds what is read alone: where the kernel has one tap, what lies between is left out."""
        dense = strip and shape.kernel[axis] == 1
        return Axis(1, shape.stride[axis]) if dense else Axis(shape.stride[axis], 1)

    def count(self, shape: Window, axis: int, outputs: int) -> int:
        """Lines or columns that so many outputs read."""
        return (outputs - 1) * self.step + shape.extent(axis)


@dataclass(frozen=True)
class Source:
    """Where a block's elements of x lie, in place or in a strip: distances in elements, which are numbers, or pairs of
    channels that were made of them."""

    half: bool  # numbers are bfloat16, two that follow each other a pair

    unit: int  # of neighbouring positions: the channels, or pairs of them, that lie at one
    lines: int  # of the strip, for each channel and outer tap
    width: int  # of a line, in positions
    channel: int  # of blocks of channels, divided by the channels in one
    outer: tuple[int, ...]  # of neighbouring taps, for each axis before the last two; of the strip's all in one
    row: int  # of neighbouring rows of outputs
    column: int
    tap_row: int
    tap_column: int


def source_of(shape: Window, plan: Plan, types: Types) -> Source:
    down, across = (Axis.of(shape, axis, plan.strip) for axis in (-2, -1))
    unit = max(shape.source_block // (2 if shape.channel_pairs else 1), 1)
    half = shape.source_bf16 or shape.tap_pairs
    dilation_h, dilation_w = (dilation * unit for dilation in shape.dilation[-2:])
    if not plan.strip:
        width = shape.in_shape[-1]
        last = range(len(shape.kernel) - 2)
        outer = tuple(shape.dilation[a] * unit * prod(shape.in_shape[a + 1 :]) for a in last)
        lines, channel = 0, shape.source_strides[1]
    else:
        lines = down.count(shape, -2, plan.rows)
        width = across.count(shape, -1, plan.row_columns)
        if shape.tap_pairs:
            width = round_up(width + types.lanes - 1, types.lanes)  # vectors of a line may begin anywhere
        elif not shape.source_bf16:
            width = round_up(width, max(1, types.lanes // unit))
        channel, outer = prod(shape.kernel[:-2]) * lines * width, (lines * width,)
        if not shape.source_block and crowded(16, channel, 2 if half else types.size):
            channel += types.aligned(1)
    row, column = down.step * width * unit, across.step * unit
    return Source(half, unit, lines, width, channel, outer, row, column, dilation_h * width, dilation_w)


@dataclass(frozen=True)
class Level:
    """A loop over terms of a sum, which lie so far from each other in x."""

    count: int
    step: int
    early: int = 0  # by how much the last one lies nearer

    @property
    def span(self) -> int:
        """How far all iterations go."""
        return self.count * self.step - self.early


def levels_of(shape: Window, source: Source, strip: bool) -> list[Level]:
    """The loops over a sum's terms, the innermost last. Neighbours in a row of taps are none of the innermost loop's:
    gcc would keep what two positions of a tile read in registers, of which none are left."""
    outer = [prod(shape.kernel[:-2])] if strip else list(shape.kernel[:-2])
    taps = [Level(*level) for level in zip(outer, source.outer, strict=True)]
    rows, columns = Level(shape.kernel[-2], source.tap_row), Level(shape.kernel[-1], source.tap_column)
    if shape.tap_pairs:
        columns = Level(shape.row_taps, 2, shape.kernel[-1] % 2)
    channels = Level(shape.steps, source.channel)
    if shape.source_block:
        step = 2 if source.half else 1
        blocks = Level(shape.ic // shape.source_block, source.channel * source.unit)
        levels = [*taps, rows, columns, blocks, Level(source.unit // step, step)]
    else:
        levels = [*taps, rows, columns, channels] if channels_inside(shape) else [channels, *taps, columns, rows]
    return [level for level in levels if level.count > 1] or [channels]


def with_tap_pairs(shape: Window) -> Window:
    """The window with pairs of taps where those are fewer than pairs of channels: of few channels, an odd number."""
    if not shape.bf16 or shape.source_block or shape.dilation[-1] > 1:
        return shape
    other = replace(shape, tap_pairs=True)
    return other if other.steps * other.taps < shape.steps * shape.taps else shape


def channels_inside(shape: Window) -> bool:
    return shape.steps >= INNER_CHANNELS or shape.steps >= shape.kernel[-2]


def _step(shape: Window, types: Types, plan: Plan, nv: int) -> float:
    """Cycles of one term of a tile's sums: two FMAs and two loads a cycle, and what panels take from the L2 cache."""
    far = shape.steps * shape.taps * nv * types.lanes * types.size > PANEL_BYTES
    load = PAIR_CYCLES * plan.mr if shape.bf16 else (plan.mr + nv) / 2
    return max(plan.mr * nv / 2, load, 4.0) + (FAR_CYCLES * nv if far else 0.0)


def _cost(shape: Window, types: Types, plan: Plan, spread: Spread | None) -> float:
    """Cycles of the whole convolution, for one thread."""
    vectors = ceil(shape.oc / types.lanes)
    source = source_of(shape, plan, types)
    depth = shape.steps * shape.taps
    inner = shape.steps if channels_inside(shape) else shape.kernel[-2]
    panels, rest = divmod(vectors, plan.nv)
    tiles_of_part = ceil((panels + (rest > 0)) / plan.parts)
    whole = min(panels, tiles_of_part)
    in_place = shape.source_bf16 and not plan.strip
    far = in_place and _lines(shape, plan.rows * plan.row_columns) * CACHE_LINE > PANEL_BYTES
    reading = FAR_LINE_CYCLES * _lines(shape, plan.mr) if far else 0.0

    def tile(nv: int) -> float:
        beside = 3 * depth / inner + 4 * plan.mr * nv + 20
        return depth * _step(shape, types, plan, nv) + beside * shape.beside + reading

    positions = ceil(plan.rows / plan.tile_rows) * ceil(plan.row_columns / plan.tile_columns)
    compute = positions * (whole * tile(plan.nv) + (tile(rest) if tiles_of_part > whole else 0))
    store = shape.oc / plan.parts * _store(shape, types, plan, spread)
    copy = 0.0
    if plan.strip:
        across = Axis.of(shape, -1, True)
        each = 10 + 3 * source.width / types.lanes * (1 if across.source == 1 else types.lanes / 3)
        if shape.source_bf16:
            each = COPY_CYCLES * (1 + source.width) * 2 / source.unit
        copy = shape.steps * prod(shape.kernel[:-2]) * source.lines * each
    tasks = _blocks_of_call(shape, plan.rows, plan.row_columns) * plan.parts
    panel = depth * plan.nv * types.lanes
    resident = (panel + plan.rows * plan.row_columns * (plan.nv * types.lanes + shape.steps)) * types.size
    penalty = 1.1 if resident > L2_BYTES else 1.0
    weights = vectors * types.lanes * depth * types.size
    if shape.taps == 1 and not (plan.strip or shape.source_block) and weights <= L2_BYTES // 4:
        penalty += FAR_PLANES * plan.rows * plan.row_columns * shape.steps * types.size / L2_BYTES
    pack = 0.0 if shape.frozen else PACK_CYCLES[packing(shape, types)] * shape.groups * vectors * types.lanes * depth
    miss = 0.0
    if in_place and (plan.rows, plan.row_columns) != shape.out_shape[-2:]:  # an image's first block waits for its lines
        miss = MISS_CYCLES * _lines(shape, plan.rows * plan.row_columns) * shape.n * shape.groups
    return round_up(tasks, BALANCE) * (compute + copy * shape.beside + store) * penalty + pack + miss


def _lines(shape: Window, positions: int) -> float:
    """Cache lines that so many outputs of one tap read where x lies in memory as bfloat16."""
    apart = shape.stride[-1] * 2 * shape.source_block  # bytes
    return positions * shape.ic / shape.source_block * min(apart / CACHE_LINE, 1.0)


def _store(shape: Window, types: Types, plan: Plan, spread: Spread | None) -> float:
    """Cycles of storing a block's results, for each output channel."""
    positions = plan.rows * plan.row_columns
    between = spread.stride[0] * spread.stride[1] - 1 if spread else 0  # for each result
    if shape.target_block:
        cycles = HALF_CYCLES if shape.target_bf16 else BLOCK_CYCLES
        return positions * (cycles * shape.beside + between) / types.lanes
    far = positions * plan.nv * types.lanes * types.size > PANEL_BYTES
    vectors = plan.rows * ceil(spread.width / types.lanes) if spread else ceil(positions / types.lanes)
    cycles = PAIR_STORE_CYCLES if shape.bf16 else STORE_CYCLES
    return vectors * cycles * (FAR_SUMS if far else 1.0) + positions * between / types.lanes


def _blocks_of_call(shape: Window, rows: int, columns: int) -> int:
    height, width = shape.out_shape[-2:]
    planes = shape.n * shape.groups * prod(shape.out_shape[:-2])
    return planes * ceil(height / rows) * ceil(width / columns)


def packing(shape: Window, types: Types) -> str:
    """How weights are packed: a vector at a time, `COLUMNS` neighbouring terms of each output channel, or singly; or in
    rounded pairs, `COLUMNS` of them or singly."""
    run = shape.steps if shape.taps == 1 else shape.taps
    whole = run >= COLUMNS and shape.oc % types.lanes == 0
    if shape.bf16:
        return "columns of pairs" if whole and not shape.tap_pairs and shape.ic % 2 == 0 else "pairs"
    if shape.w_row == 1:
        return "vector"
    along = shape.w_channel == 1 or shape.taps > 1
    return "columns" if along and whole else "scalar"


def direct_plan(
    shape: Window, isa: Isa, types: Types, prefer: str = "", spread: Spread | None = None
) -> tuple[Plan, Choice]:
    """The best blocks and register tile, and how they were chosen; ``spread``: where results lie, if not densely."""
    shape = with_tap_pairs(shape)
    vectors = ceil(shape.oc / types.lanes)
    strips = (False, True) if shape.inside() and (shape.source_bf16 or not shape.bf16) else (True,)
    apart = spread is not None and not shape.target_block  # sums are, in whole rows

    def plans() -> Iterator[Plan]:
        for rows, columns in _blocks(shape, apart):
            few = _blocks_of_call(shape, rows, columns) < FEW_TASKS
            for tile_rows, tile_columns, nv in dict.fromkeys(_tiles(isa, types, vectors, rows, columns)):
                if shape.target_block % (nv * types.lanes) and nv * types.lanes % shape.target_block:
                    continue  # panels begin where blocks do, or lie in one
                for parts in PARTS if few else (1,):
                    if parts <= ceil(vectors / nv):
                        for strip in strips:
                            yield Plan(rows, columns, tile_rows, tile_columns, nv, parts, strip)

    form = f"conv direct {'x'.join(map(str, shape.kernel))}{' bf16' if shape.bf16 else ''}"
    return choose(plans(), lambda plan: _cost(shape, types, plan, spread), lambda plan: f"{form} {plan}", prefer)
