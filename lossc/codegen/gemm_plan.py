"""Which register tile, blocks and packing a matrix product takes, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from lossc.codegen.contraction import (
    CACHE_LINE,
    L2_BYTES,
    PAGE,
    PANEL_BYTES,
    Choice,
    Epilogue,
    Isa,
    Types,
    choose,
    crowded,
    round_up,
    tile_cycles,
    tiles,
    tiling_cost,
)

PACK_CONTIGUOUS, PACK_STRIDED, CROSSED_STORE = 0.25, 0.6, 0.8  # cycles an element, measured on Ice Lake
REUSE = 24  # panels for which packing rows that are friendly anyhow pays, where terms are blocked
FAR_STEP = 0.5  # cycles an element of a large matrix that is read across its rows, or by too many rows at once
FAR_LINE = 2.0  # cycles for a vector of a scalar product's operands where they do not stay in the L1 cache
AGAIN = 3.0  # cycles for a vector that another row tile reads again, where rows may evict each other
RUN = 32  # terms of a large matrix that are read for all its columns at a time
CHUNKS, CHUNK_TERMS = 16, 256  # of terms that have sums of their own: at most, and how many terms make one worth while
EVICTED = 3.0  # cycles to broadcast an element of rows that evict each other from the L1 cache
LANES_SUM = 10  # cycles to add up the lanes of a vector
FEW = 32  # rows or columns for which scalar products are considered
IN_PLACE = 40  # tiles of rows, for which lines of b that lie along the columns are read where they are, unless crowded
WHOLE_BYTES = 28 << 10  # of a panel, whose terms are not blocked: an L1 cache of 32 KB less some rows and sums
BLOCK_BYTES = 16 << 10  # of a block: all tiles' sums pass through that cache beside it
PACK_ROWS = 32  # of a panel are packed at a time by one thread


@dataclass(frozen=True)
class GemmSpec:
    """A product of fixed shape. Strides are in elements: a (m, k), b (k, n), c (m, n).

    ``alpha`` is a C literal or an expression that is read once; ``alpha_args`` are the parameters it needs.
    ``accumulate`` adds to what C holds, always or where the int parameter that it names is not 0. ``frozen``: the
    operand, a or b, that is the same in every call. ``bf16``: products of a and b rounded to bfloat16, in float32 sums.
    """

    name: str
    comment: str
    a: str
    b: str
    c: str
    m: int
    n: int
    k: int
    a_strides: tuple[int, int]
    b_strides: tuple[int, int]
    c_strides: tuple[int, int]
    alpha: str = "1.0f"
    alpha_comment: str = ""
    accumulate: bool | str = False
    epilogue: Epilogue | None = None
    alpha_args: tuple[str, ...] = ()
    frozen: str = ""
    bf16: bool = False

    @property
    def key(self) -> str:
        """All that candidates and their times depend on, as text: specs of one key have the same candidates."""
        operands = zip("abc", (self.a_strides, self.b_strides, self.c_strides), strict=True)
        strides = " ".join(f"{name} {row},{column}" for name, (row, column) in operands)
        held = "".join(f" frozen {name}" for name in "ab" if getattr(self, name) == self.frozen)
        more = f"{' add' if self.accumulate else ''}{held}{' bf16' if self.bf16 else ''}"
        return f"gemm {self.m}x{self.n}x{self.k} {strides}{more}"


@dataclass(frozen=True)
class Side:
    """The product as the micro-kernel sees it: `rows` of a are broadcast, vectors run along the `columns` of b."""

    a: str
    b: str
    rows: int
    columns: int
    k: int
    a_row: int
    a_k: int
    b_k: int
    b_column: int
    row_variable: str
    column_variable: str
    crossed: bool  # c's contiguous axis is the rows
    bf16: bool

    @property
    def terms(self) -> int:
        """What a sum has, as far as packed operands go: pairs count once."""
        return ceil(self.k / 2) if self.bf16 else self.k


def along_rows(spec: GemmSpec) -> bool:
    """Whether the epilogue's vectors run along the rows' axis of C: where its columns are more than one and apart."""
    return spec.c_strides[1] != 1 and spec.n > 1


def _sides(spec: GemmSpec) -> tuple[Side, Side]:
    """The product as it is, and transposed."""
    straight = Side(
        spec.a, spec.b, spec.m, spec.n, spec.k, *spec.a_strides, *spec.b_strides, "i", "j", along_rows(spec),
        spec.bf16,
    )  # fmt: skip
    turned = Side(
        spec.b, spec.a, spec.n, spec.m, spec.k, *spec.b_strides[::-1], *spec.a_strides[::-1], "j", "i",
        not along_rows(spec), spec.bf16,
    )  # fmt: skip
    return straight, turned


@dataclass(frozen=True)
class Plan:
    side: Side
    mr: int
    nv: int
    block_k: int
    pack_a: bool
    pack_b: bool
    cost: float
    dot: bool = False  # nv columns, vectors along k
    run: int = 0  # terms for which all columns pass by at a time, in chunks of terms

    def __str__(self) -> str:
        packed = "a" * self.pack_a + "b" * self.pack_b
        way = "dot" if self.dot else "stream" if self.run else ""
        words = (way, "crossed" * self.side.crossed, f"packed {packed}" if packed else "")
        return " ".join(filter(None, (f"{self.mr}x{self.nv}", *words)))


def _plan(side: Side, types: Types, mr: int, nv: int, frozen: str) -> Plan:
    """The product with this register tile: its blocks, what is packed, and the cycles this may take."""
    vectors = ceil(side.columns / types.lanes)
    lone = vectors <= nv and side.a != frozen and not side.bf16  # rows pass by once, in the order in which they lie
    width = nv * types.lanes * types.size
    block_k = terms = side.terms
    if terms * width > (L2_BYTES if lone else WHOLE_BYTES):  # even blocks, of whole runs of packing
        most = (L2_BYTES if lone else BLOCK_BYTES) // width
        block_k = min(round_up(ceil(terms / ceil(terms / most)), PACK_ROWS), max(most // PACK_ROWS, 1) * PACK_ROWS)
    blocks = ceil(terms / block_k)
    row_tiles, panels = ceil(side.rows / mr), ceil(vectors / nv)
    elements_a, elements_b = side.rows * side.k, side.k * side.columns
    far_apart = crowded(block_k, side.b_k, types.size, ceil(width / CACHE_LINE))
    near = row_tiles <= (4 if far_apart else IN_PLACE)
    pack_b = side.b_column != 1 or not near or side.b == frozen or side.bf16
    far = side.a_row != 1 or side.a_k * types.size >= PAGE
    unfriendly = crowded(mr, side.a_row, types.size) if side.a_k == 1 else far
    pack_a = panels >= 4 and (unfriendly or (blocks > 1 and panels >= REUSE)) or side.a == frozen or side.bf16
    cost = blocks * tiling_cost(side.rows, vectors, block_k, mr, nv)
    if pack_b and side.b != frozen:
        cost += elements_b * (PACK_CONTIGUOUS if side.b_column == 1 else PACK_STRIDED)
    if pack_a and side.a != frozen:
        cost += elements_a * (PACK_CONTIGUOUS if side.a_row == 1 else PACK_STRIDED)
    if not pack_b and _passes_by(side, types):
        cost += elements_b * FAR_STEP
    if not pack_a and side.a_k == 1 and unfriendly:
        cost += EVICTED * elements_a * panels
    if not pack_a and side.a_k != 1 and elements_a * types.size > L2_BYTES:
        cost += elements_a * FAR_STEP
    if side.crossed:
        cost += side.rows * side.columns * CROSSED_STORE
    return Plan(side, mr, nv, block_k, pack_a, pack_b, cost)


def _passes_by(side: Side, types: Types) -> bool:
    """Whether b is a large matrix that lies row by row, in the order of the terms."""
    dense = side.b_column == 1 and side.b_k == side.columns
    return dense and side.columns * types.size >= PAGE and side.columns * side.k * types.size > L2_BYTES


def chunks_of(side: Side) -> int:
    """Parts of the terms that have sums of their own."""
    return max(1, min(CHUNKS, side.k // CHUNK_TERMS))


def _stream_plan(side: Side, types: Types, mr: int, nv: int) -> Plan:
    """The product of few rows with a large matrix that passes by once, in the order in which it lies."""
    vectors, row_tiles = ceil(side.columns / types.lanes), ceil(side.rows / mr)
    cost = ceil(side.k / RUN) * tiling_cost(side.rows, vectors, RUN, mr, nv)
    cost += AGAIN * vectors * side.k * (row_tiles - 1) + side.rows * vectors * chunks_of(side)
    cost += side.rows * side.k * (PACK_CONTIGUOUS if side.a_row == 1 else PACK_STRIDED)
    return Plan(side, mr, nv, side.terms, True, False, cost, run=RUN)


def _dot_plan(side: Side, types: Types, mr: int, nv: int, frozen: str) -> Plan:
    """The product by scalar products, for few rows or columns: nothing is packed, but every sum is added up. Pairs are
    packed nevertheless, in lines; the cost is that of what is not frozen."""
    steps = ceil(side.terms / types.lanes)
    step = tile_cycles(mr, nv)
    if not side.bf16 and side.rows * side.k * types.size > PANEL_BYTES:
        step += FAR_LINE * (mr + (nv if side.rows > mr else 0))
    cost = ceil(side.rows / mr) * ceil(side.columns / nv) * (steps * step + mr * nv * LANES_SUM + 20)
    if side.crossed:
        cost += side.rows * side.columns * CROSSED_STORE
    lines = [(side.a, side.rows), (side.b, side.columns)] if side.bf16 else []
    cost += sum(count * side.k * PACK_CONTIGUOUS for operand, count in lines if operand != frozen)
    return Plan(side, mr, nv, side.terms, side.bf16, side.bf16, cost, dot=True)


def gemm_plan(spec: GemmSpec, isa: Isa, types: Types, prefer: str) -> tuple[Plan, Choice]:
    plans = [_plan(side, types, *tile, spec.frozen) for side in _sides(spec) for tile in tiles(isa, types, side.rows)]
    if spec.a_strides[1] == 1 and spec.b_strides[0] == 1 and min(spec.m, spec.n) <= FEW:
        for side in _sides(spec):
            small = [(mr, nv) for mr, nv in tiles(isa, types, side.rows) if nv <= side.columns]
            plans += [_dot_plan(side, types, *tile, spec.frozen) for tile in small]
    for side in _sides(spec):
        if side.rows <= FEW and _passes_by(side, types) and not (spec.bf16 or spec.frozen):
            whole = [(mr, nv) for mr, nv in tiles(isa, types, side.rows) if nv % ceil(side.rows / mr) == 0]
            plans += [_stream_plan(side, types, *tile) for tile in whole]  # which share out the lines that they fetch
    form = f"gemm {'n' if spec.a_strides[1] == 1 else 't'}{'n' if spec.b_strides[1] == 1 else 't'}"
    form += " bf16" if spec.bf16 else ""
    return choose(plans, lambda plan: plan.cost, lambda plan: f"{form} {plan}", prefer)
