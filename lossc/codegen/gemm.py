"""C code of one matrix product: C[i,j] (+)= epilogue(alpha * sum over k of A[i,k] B[k,j]).

One operand is broadcast element by element, vectors run along the columns of the other (Goto and van de Geijn,
"Anatomy of high-performance matrix multiplication", 2008). Which is which, what is packed and how it is blocked is
chosen here from the shapes, so that the same shapes always give the same sums, whatever the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from lossc.codegen.contraction import (
    L2_BYTES,
    Code,
    Epilogue,
    Isa,
    Micro,
    Types,
    best_tile,
    crowded,
    finish,
    round_up,
    signature,
    tiling_cost,
    types_of,
)
from lossc.codegen.environment import render
from lossc.codegen.names import comment

PACK_CONTIGUOUS, PACK_STRIDED, CROSSED_STORE = 0.25, 0.8, 0.8  # cycles an element, measured with 16 floats a vector
LONGEST_DEPTH = 512  # more terms than this are summed in blocks
PACK_ROWS = 64  # of a panel are packed at a time by one thread
BLOCK_COLUMNS_BYTES = 8 << 20  # of a packed block of b, shared by all threads in the last-level cache


@dataclass(frozen=True)
class GemmSpec:
    """A product of fixed shape. Strides are in elements: a (m, k), b (k, n), c (m, n).

    ``alpha`` is a C literal or an expression that is read once; ``alpha_args`` are the parameters it needs.
    ``accumulate`` adds to what C holds.
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
    accumulate: bool = False
    epilogue: Epilogue | None = None
    alpha_args: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Side:
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


def _sides(spec: GemmSpec) -> tuple[_Side, _Side]:
    """The product as it is, and transposed."""
    along_rows = spec.c_strides[1] != 1 and spec.c_strides[0] == 1
    straight = _Side(
        spec.a, spec.b, spec.m, spec.n, spec.k, *spec.a_strides, *spec.b_strides, "i", "j", crossed=along_rows
    )
    turned = _Side(
        spec.b, spec.a, spec.n, spec.m, spec.k, *spec.b_strides[::-1], *spec.a_strides[::-1], "j", "i",
        crossed=not along_rows,
    )  # fmt: skip
    return straight, turned


@dataclass(frozen=True)
class _Plan:
    side: _Side
    mr: int
    nv: int
    block_k: int
    pack_a: bool
    pack_b: bool
    cost: float


def _plan(side: _Side, isa: Isa, types: Types, one_block: bool) -> _Plan:
    vectors = ceil(side.columns / types.lanes)
    blocks = 1 if one_block else ceil(side.k / LONGEST_DEPTH)
    block_k = ceil(side.k / blocks)
    mr, nv = best_tile(isa, side.rows, vectors, block_k)
    row_tiles, panels = ceil(side.rows / mr), ceil(vectors / nv)
    elements_a, elements_b = side.rows * side.k, side.k * side.columns
    pack_b = side.b_column != 1 or row_tiles > 4
    unfriendly = crowded(mr, side.a_row, types.size) if side.a_k == 1 else side.a_row != 1
    pack_a = panels >= 4 and (unfriendly or elements_a * types.size > L2_BYTES)
    cost = blocks * tiling_cost(side.rows, vectors, block_k, mr, nv)
    if pack_b:
        cost += elements_b * (PACK_CONTIGUOUS if side.b_column == 1 else PACK_STRIDED)
    if pack_a:
        cost += elements_a * (PACK_CONTIGUOUS if side.a_row == 1 else PACK_STRIDED)
    if side.crossed:
        cost += blocks * side.rows * side.columns * CROSSED_STORE
    return _Plan(side, mr, nv, block_k, pack_a, pack_b, cost)


def _terms(*terms: tuple[str, int]) -> str:
    """C for base + index * stride + ...: zero strides and factors of one are left out."""
    parts = [text if stride == 1 else f"{text} * {stride}" for text, stride in terms if stride]
    return " + ".join(parts)


def gemm_code(spec: GemmSpec, isa: Isa, dtype: str) -> Code:
    """The C function of a matrix product; every thread of the team calls it.

    Parameters of the function: a, b, c, those of the epilogue and of alpha, then scratch where it is needed.
    """
    types = types_of(isa, dtype)
    one_block = spec.accumulate and spec.epilogue is not None  # a partial sum in C could not be told from the old value
    plan = min((_plan(side, isa, types, one_block) for side in _sides(spec)), key=lambda p: p.cost)
    side, mr, nr = plan.side, plan.mr, plan.nv * types.lanes
    row_tiles, panels = ceil(side.rows / mr), ceil(side.columns / nr)
    blocked = plan.block_k < side.k
    depth = "depth" if blocked else str(side.k)
    p = "(p0 + p)" if blocked else "p"

    block_panels = max(1, BLOCK_COLUMNS_BYTES // (plan.block_k * nr * types.size))
    column_blocks = plan.pack_b and block_panels < panels
    block_tiles = max(1, L2_BYTES // (plan.block_k * mr * types.size))
    block_tiles = ceil(row_tiles / ceil(row_tiles / block_tiles))
    row_blocks = block_tiles < row_tiles and not column_blocks
    tasks = row_tiles if column_blocks else panels * (round_up(row_tiles, block_tiles) if row_blocks else row_tiles)

    a_panel, b_panel = plan.block_k * mr, plan.block_k * nr
    a_packed = types.aligned(row_tiles * a_panel) if plan.pack_a else 0
    b_packed = min(panels, block_panels) * b_panel if plan.pack_b else 0
    masked = not plan.pack_b and side.columns % nr != 0
    micro = Micro(
        name=f"{spec.name}_tile", what=f"a: {side.a}, b: {side.b}.", mr=mr, nv=plan.nv, nr=nr,
        a_row=1 if plan.pack_a else side.a_row, a_k=mr if plan.pack_a else side.a_k,
        b_k=nr if plan.pack_b else side.b_k, out_row=nr, masked=masked,
    )  # fmt: skip

    i_stride, j_stride = spec.c_strides
    contiguous = 1 in spec.c_strides
    vector_length = mr if side.crossed else side.columns
    masked_store = side.crossed or vector_length % types.lanes != 0
    arguments = ", m" if masked_store else ""
    kind = ("" if contiguous else "_strided") + ("_n" if masked_store else "")
    stride = "" if contiguous else f", {j_stride}"
    view_f = finish(
        spec,
        load=f"{types.vec}_load{kind}(o{stride}{arguments})",
        store=f"{types.vec}_store{kind}(o, %s{stride}{arguments})",
        later="p0 > 0" if blocked else "",
        unfinished=f"p0 + {plan.block_k} < {side.k}",
    )
    real = types.real
    params = [f"const {real} *restrict {spec.a}", f"const {real} *restrict {spec.b}", f"{real} *restrict {spec.c}"]
    params += [a for a in (*(spec.epilogue.args if spec.epilogue else ()), *spec.alpha_args) if a not in params]
    text = render(
        "gemm.c.j2",
        {},
        t=types,
        k=micro,
        f=view_f,
        g={
            "comment": comment(spec.comment),
            "signature": signature(spec.name, params, types, a_packed + b_packed, 0),
            "a": side.a,
            "b": side.b,
            "k": side.k,
            "rows": side.rows,
            "columns": side.columns,
            "depth": depth,
            "block_k": plan.block_k,
            "row_tiles": row_tiles,
            "panels": panels,
            "tasks": tasks,
            "row_blocks": row_blocks,
            "block_tiles": block_tiles,
            "column_blocks": column_blocks,
            "block_panels": block_panels,
            "block_columns": block_panels * nr,
            "row_tail": side.rows % mr != 0,
            "column_tail": side.columns % nr != 0,
            "pack_a": plan.pack_a,
            "pack_b": plan.pack_b,
            "pack_rows": PACK_ROWS,
            "pack_chunks": ceil(plan.block_k / PACK_ROWS),
            "a_panel": a_panel,
            "b_panel": b_panel,
            "a_packed": a_packed,
            "a_row": side.a_row,
            "b_column": side.b_column,
            "a_from": _terms((side.a, 1), ("row0", side.a_row), (p, side.a_k)),
            "b_from": _terms((side.b, 1), ("column", side.b_column), (p, side.b_k)),
            "a_tile": f"packed_a + row_tile * {a_panel}" if plan.pack_a else _terms(
                (side.a, 1), ("row0", side.a_row), ("p0", side.a_k if blocked else 0)),
            "b_tile": f"packed_b + panel * {b_panel}" if plan.pack_b else _terms(
                (side.b, 1), ("column", side.b_column), ("p0", side.b_k if blocked else 0)),
            "c_at": _terms((spec.c, 1), ("i", i_stride), ("j", j_stride)),
            "rv": side.row_variable,
            "cv": side.column_variable,
            "crossed": side.crossed,
            "masked_store": masked_store,
            "needs_m": masked_store or view_f.mentions("m"),
        },
    )  # fmt: skip
    return Code(text, tuple(params), a_packed + b_packed, 0)
