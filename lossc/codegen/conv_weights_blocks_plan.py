"""How the sums of a gradient of weights are cut up where channels lie in blocks: the register tile, blocks, tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod

from lossc.codegen.contraction import CACHE_LINE, Choice, Isa, Types, choose, tile_cycles, tiles
from lossc.codegen.conv_window import Window, affine

TASKS = 16  # as many as this where the shape allows
BLOCK_BYTES = 32 << 10  # of a tile's columns in a block, of the rows that pass by and of those fetched ahead
FEWEST_POSITIONS = 1024  # of a chunk of images, which are worth sums of its own
SUMS_BYTES = 32 << 20  # of all chunks
FETCH = 4  # cycles for a vector of columns, the first time that a task reads it where it lies next to the last one
FETCH_APART = 16  # the same, where it does not
TURN = 3  # cycles for a result that is turned on its way out


@dataclass(frozen=True)
class Tile:
    """mr rows by nv vectors of columns; rows are x's channels and columns dy's, or the other way round if `swapped`."""

    mr: int
    nv: int
    swapped: bool


@dataclass(frozen=True)
class Side:
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

    def at(self, place: dict[str, str], plane: str) -> str:
        """C for the address of a position in a plane; `place`: C for h, w, kh and kw, "0" for what is always 0."""
        return affine([(place[name], step) for name, step in self.first], -self.before, head=plane)

    def offset(self, channel: int) -> int:
        """How far `channel` lies behind the first one, in blocks."""
        inner = channel % self.block
        return (channel - inner) * self.channel + inner


def sides(shape: Window, swapped: bool) -> tuple[Side, Side]:
    """The sides of rows and of columns: x and dy, or the other way round if `swapped`."""
    width, in_width = shape.out_shape[1], shape.in_shape[1]
    size = max(shape.source_block, 1)
    line, step = shape.stride[0] * in_width * size, shape.stride[1] * size
    taps = (("kh", shape.dilation[0] * in_width * size), ("kw", shape.dilation[1] * size))
    x = Side(
        shape.source, shape.ic, shape.source_block, *shape.source_strides, line, step,
        (("h", line), ("w", step), *taps), (shape.pad[0] * in_width + shape.pad[1]) * size,
    )  # fmt: skip
    size = max(shape.target_block, 1)
    dy = Side(
        shape.target, shape.oc, shape.target_block, *shape.target_strides, width * size, size,
        (("h", width * size), ("w", size)),
    )  # fmt: skip
    return (dy, x) if swapped else (x, dy)


def tap_range(shape: Window, axis: int, tap: int) -> tuple[int, int]:
    """The output positions [first, last) whose input at this tap exists."""
    shift, stride = shape.pad[axis] - tap * shape.dilation[axis], shape.stride[axis]
    first = max(0, ceil(shift / stride))
    last = min(shape.out_shape[axis], (shape.in_shape[axis] - 1 + shift) // stride + 1)
    return (first, last) if first < last else (0, 0)


def _candidates(shape: Window, isa: Isa, types: Types) -> Iterator[Tile]:
    for swapped in (False, True) if shape.taps == 1 and shape.source_block else (False,):
        row, column = sides(shape, swapped)
        for mr, nv in tiles(isa, types, 1 << 10):
            nr = nv * types.lanes
            fits = not column.block or nr % column.block == 0 or column.block % nr == 0
            # a step fetches one of the rows that follow, where they lie apart
            fetched = row.block or shape.taps > 1 or mr <= CACHE_LINE // types.size
            if fits and fetched and nv <= ceil(column.channels / types.lanes) and (row.block or row.channels) % mr == 0:
                yield Tile(mr, nv, swapped)


@dataclass(frozen=True)
class Plan:
    """How the work is cut up: into chunks of images, tasks of `columns` and `rows` channels of either side, and blocks
    of `images` images, `lines` lines and `width` positions of each, for which a tile's columns stay in the L1 cache."""

    tile: Tile
    chunk_images: int
    columns: int
    rows: int
    lines: int
    width: int
    images: int


def _block(shape: Window, most: int) -> tuple[int, int]:
    """Lines and positions of a line in a block, of about equal blocks of about `most` positions."""
    height, width = shape.out_shape
    if most < width or height == 1:
        return 1, ceil(width / ceil(width / most))
    return ceil(height / ceil(height / (most // width))), width


def _plan(shape: Window, types: Types, tile: Tile) -> Plan:
    row, column = sides(shape, tile.swapped)
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
    most = max(1, BLOCK_BYTES // ((nr + unit * (2 if shape.taps == 1 else 1)) * types.size))
    lines, width = _block(shape, most)
    images = ceil(chunk_images / ceil(chunk_images / max(1, most // positions)))
    return Plan(tile, chunk_images, column_tiles // column_parts * nr, units // row_parts * unit, lines, width, images)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _cost(shape: Window, types: Types, plan: Plan) -> float:
    """Cycles of the whole convolution, for one thread."""
    tile = plan.tile
    row, column = sides(shape, tile.swapped)
    vectors = ceil(column.channels / types.lanes)
    full, rest = divmod(vectors, tile.nv)
    widths = [tile.nv] * full + [rest if column.block else tile.nv] * (rest > 0)
    visits = prod(
        sum(last - first for first, last in (tap_range(shape, axis, tap) for tap in range(shape.kernel[axis])))
        for axis in (0, 1)
    )
    blocks = ceil(prod(shape.out_shape) / (plan.lines * plan.width)) * ceil(shape.n / plan.images)
    calls = shape.groups * row.channels / tile.mr
    cycles = sum(
        shape.n * visits * tile_cycles(tile.mr, nv) + blocks * shape.taps * (4 * tile.mr * nv + 40) for nv in widths
    )
    fetch = types.lanes if not column.block else FETCH_APART if tile.swapped and prod(shape.stride) > 1 else FETCH
    fetched = shape.n * prod(shape.out_shape) * vectors * fetch
    finished = 0 if tile.swapped else shape.oc * shape.ic * shape.taps * TURN
    return calls * cycles + shape.groups * (fetched * row.channels / plan.rows + finished)


def weights_plan(shape: Window, isa: Isa, types: Types, prefer: str = "") -> tuple[Plan, Choice]:
    """The plan that is expected to take least time, or the one called ``prefer``."""
    form = f"conv weights blocks {'x'.join(map(str, shape.kernel))}"
    return choose(
        (_plan(shape, types, tile) for tile in _candidates(shape, isa, types)),
        lambda p: _cost(shape, types, p),
        lambda p: f"{form} {p.tile.mr}x{p.tile.nv}{' swapped' if p.tile.swapped else ''}",
        prefer,
    )
