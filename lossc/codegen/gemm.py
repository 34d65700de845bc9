"""C code of one matrix product: C[i,j] (+)= epilogue(alpha * sum over k of A[i,k] B[k,j]).

One operand is broadcast element by element, vectors run along the columns of the other (Goto and van de Geijn,
"Anatomy of high-performance matrix multiplication", 2008). Which is which, what is packed and how it is blocked is
chosen here from the shapes, so that the same shapes always give the same sums, whatever the number of threads.

Where operands are rounded to bfloat16 both are packed as pairs of successive terms, which then count as one term; for
scalar products as lines whose vectors pair the terms of two (``runtime/bf16.h``).
"""

from __future__ import annotations

from math import ceil
from typing import Any

from lossc.codegen.contraction import (
    CACHE_LINE,
    L2_BYTES,
    Code,
    Isa,
    Micro,
    Types,
    finish,
    is_one,
    parameters,
    prepared,
    round_up,
    signature,
    types_of,
)
from lossc.codegen.environment import render
from lossc.codegen.gemm_plan import FEW, PACK_ROWS, RUN, GemmSpec, Plan, along_rows, chunks_of, gemm_plan
from lossc.codegen.names import comment
from lossc.errors import InternalError

SUMS_BYTES = 192 << 10  # of unfinished sums, which stay in the L2 cache
LARGE_OUTPUT = 8 << 20  # bytes of C
OWN = 4  # panels, from which on threads pack blocks of them for themselves
BLOCK_COLUMNS_BYTES = 8 << 20  # of a packed block of b, shared by all threads in the last-level cache


def _terms(*terms: tuple[str, int]) -> str:
    """C for base + index * stride + ...: zero strides and factors of one are left out."""
    parts = [text if stride == 1 else f"{text} * {stride}" for text, stride in terms if stride]
    return " + ".join(parts)


def _packed_a(plan: Plan, row_tiles: int, depth: int) -> str:
    """Where a tile begins: tiles that meet one after the other lie so, which the caches foresee."""
    mr = plan.mr
    if plan.dot:
        return _terms(("packed_a", 1), ("row0", depth))
    if plan.block_k == depth:
        return _terms(("packed_a", 1), ("row_tile", mr * depth))
    return _terms(("packed_a", 1), ("p0", row_tiles * mr), ("row_tile * depth", mr))


def _next_block(plan: Plan, nr: int, types: Types) -> dict[str, Any]:
    """How tiles fetch the next block of b, as it lies in memory: each some of its lines, from the place ``at``."""
    side, line = plan.side, CACHE_LINE // types.size
    length, lines = (nr, plan.block_k) if side.b_column == 1 else (plan.block_k, nr)
    place = (("next_column", side.b_column), ("(next + l)", side.b_k))
    if side.b_column != 1:
        place = (("(next_column + l)", side.b_column), ("next", side.b_k))
    shifted = max(side.b_k, side.b_column) % line != 0  # lines of b begin anywhere in a cache line, and end in one more
    offsets = [*range(0, length, line), *([length - 1] if shifted else [])]
    return {"at": _terms((side.b, 1), *place), "offsets": offsets, "lines": lines}


def _plain(spec: GemmSpec) -> bool:
    """Whether C gets the sums as they are."""
    return not (spec.epilogue and spec.epilogue.lines) and is_one(spec.alpha)


def _direct(spec: GemmSpec, row: int, nr: int, row_tail: bool, column_tail: bool, overlaps: bool) -> dict[str, Any]:
    """How tiles ``inside`` C, which overlap nothing, store their sums there themselves."""
    whole = ["row == row0"] if row_tail else []
    whole += ["column == column0" if overlaps else f"column_end - column == {nr}"] if column_tail else []
    adds = f", {int(spec.accumulate) if isinstance(spec.accumulate, bool) else spec.accumulate}"
    at = _terms((spec.c, 1), ("row0", row), ("column", 1))
    return {"inside": " && ".join(whole), "at": at, "row": row, "adds": adds if spec.accumulate else ""}


def gemm_code(spec: GemmSpec, isa: Isa, dtype: str, *, prefer: str = "") -> Code:
    """The C function of a matrix product; every thread of the team calls it. ``prefer``: the candidate's name to take
    in place of the model's choice, where there is one of this name.

    Parameters of the function: a, b, c, those of the epilogue and of alpha, then scratch where it is needed.
    """
    if spec.bf16 and dtype != "f32":
        raise InternalError(f"product {spec.name}: operands are rounded to bfloat16 in float32 alone")
    types = types_of(isa, dtype)
    plan, choice = gemm_plan(spec, isa, types, prefer)
    side, mr, nr = plan.side, plan.mr, plan.nv * (1 if plan.dot else types.lanes)
    row_tiles, panels = ceil(side.rows / mr), ceil(side.columns / nr)
    blocked = plan.block_k < side.terms
    lines = plan.dot and spec.bf16  # packed along the sums
    depth = round_up(side.terms, types.lanes) if lines else side.terms  # of a packed operand
    block_panels = panels if lines else min(panels, max(1, BLOCK_COLUMNS_BYTES // (depth * nr * types.size)))
    block_tiles = max(1, SUMS_BYTES // (mr * nr * types.size)) if blocked else 1
    row_blocks = ceil(row_tiles / block_tiles)
    block_tiles = ceil(row_tiles / row_blocks)

    # Where one or two threads use a panel, each packs the block at hand, which then does not leave its core's caches.
    pack_own = blocked and row_blocks == 1 and panels >= OWN and 1 in (side.b_column, side.b_k)
    pack_own = pack_own and plan.pack_b and side.b != spec.frozen and not spec.bf16
    if pack_own:
        block_panels = panels

    group = 1  # of panels that a row tile meets in turn: where C is large, so that its rows are written in long runs
    if not blocked and block_panels == panels and side.rows * side.columns * types.size > LARGE_OUTPUT:
        group = max(1, min(panels, L2_BYTES // 4 // (depth * nr * types.size)))
        group = ceil(panels / ceil(panels / group))
    frozen = "packed_a" if plan.pack_a and side.a == spec.frozen else ""
    if plan.pack_b and side.b == spec.frozen:
        frozen, block_panels = "packed_b", panels
    a_packed = types.aligned((side.rows if plan.dot else row_tiles * mr) * depth) if plan.pack_a else 0
    b_packed = (side.columns if plan.dot else block_panels * nr) * depth if plan.pack_b and not pack_own else 0
    a_scratch, b_scratch = a_packed * (frozen != "packed_a"), b_packed * (frozen != "packed_b")
    shared = a_scratch + b_scratch
    row_tail, column_tail = side.rows % mr != 0, side.columns % nr != 0
    fetch_c = not (plan.dot or side.crossed) and side.rows * side.columns * types.size > L2_BYTES
    # Columns that are not packed: the last panel overlaps its neighbour, or if it is the only one, loads are masked.
    unpacked = not plan.pack_b and not plan.dot and column_tail
    overlaps = plan.dot or (unpacked and not plan.run and side.columns > nr)
    masked = unpacked and not overlaps
    row_stride, column_stride = spec.c_strides if side.row_variable == "i" else spec.c_strides[::-1]
    direct = not (blocked or plan.run or plan.dot or masked or side.crossed) and column_stride == 1 and _plain(spec)
    share = plan.nv // row_tiles * types.lanes if plan.run else 0  # of the next run, for each step of a tile
    what = f"a: {side.a}, b: {side.b}{', pairs of bfloat16' if spec.bf16 else ''}."
    micro = Micro(
        name=f"{spec.name}_tile", what=what, mr=mr, nv=plan.nv, nr=nr,
        a_row=depth if lines else 1 if plan.pack_a else side.a_row, a_k=mr if plan.pack_a else side.a_k,
        b_k=nr if plan.pack_b else side.b_k, out_row=nr, add=blocked or plan.run > 0, masked=masked,
        b_column=depth if lines else side.b_column, depth=depth, pairs=spec.bf16,
        fetched=tuple(range(0, share, types.lanes)), next_step=share,
        direct=direct, adds=direct and spec.accumulate is not False,
    )  # fmt: skip
    sums = types.aligned(block_tiles * mr * nr) if blocked else 0
    chunks = chunks_of(side) if plan.run else 0
    region = row_tiles * panels * mr * nr  # of a chunk
    shared += chunks * region
    local = sums + (plan.block_k * nr if pack_own else 0)
    tiled_a, tiled_b = plan.pack_a and not lines, plan.pack_b and not lines
    turns = {"packed_a": tiled_a and side.a_row != 1, "packed_b": tiled_b and side.b_column != 1}
    transposes = side.crossed or any(turn and packed != frozen for packed, turn in turns.items())
    p0 = 1 if blocked or plan.run else 0  # the tile's operands begin at term p0
    each = 2 if spec.bf16 else 1  # elements of an operand as it lies for one that is packed

    i_stride, j_stride = spec.c_strides
    apart = i_stride if along_rows(spec) else j_stride
    masked_store = side.crossed or plan.dot or side.columns % types.lanes != 0
    column0 = "column0" if overlaps else "column"  # of the tile's sums
    sums_end = overlaps and masked_store  # a vector of sums may reach over it
    arguments = ", m" if masked_store else ""
    kind = ("" if apart == 1 else "_strided") + ("_n" if masked_store else "")
    stride = "" if apart == 1 else f", {apart}"
    view_f = finish(
        spec,
        load=f"{types.vec}_load{kind}(o{stride}{arguments})",
        store=f"{types.vec}_store{kind}(o, %s{stride}{arguments})",
    )
    sources = [frozen if frozen and operand == spec.frozen else operand for operand in (spec.a, spec.b)]
    params = parameters(spec, types, sources, spec.c)
    g = {
        "comment": comment(spec.comment),
        "signature": signature(spec.name, params, types, shared, local),
        "dot": plan.dot,
        "turned_at": f"{types.vec}_load_n(turned + ({side.column_variable} - {column0}) * {mr} + "
        f"({side.row_variable} - row0), m)",
        "sum_at": f"{types.vec}_load{'_n' if sums_end else ''}(%s + ({side.row_variable} - row0) * {nr} + "
        f"({side.column_variable} - {column0}){', m' if sums_end else ''})",
        "a": side.a,
        "b": side.b,
        "k": depth,
        "terms": side.k,
        "pairs": spec.bf16,
        "lines": lines,
        "rows": side.rows,
        "columns": side.columns,
        "blocked": blocked,
        "block_k": plan.block_k,
        "ahead": ceil(plan.block_k * nr * types.size / CACHE_LINE / block_tiles) if block_tiles >= FEW else 0,
        "line": CACHE_LINE // types.size,
        "row_tiles": row_tiles,
        "block_tiles": block_tiles,
        "panels": panels,
        "group": group,
        "grouped_panels": round_up(panels, group),
        "c": spec.c,
        "column_blocks": block_panels < panels and plan.pack_b,
        "block_panels": block_panels,
        "row_tail": row_tail,
        "column_tail": column_tail,
        "overlaps": overlaps,
        "ends": not direct or row_tail or column_tail or fetch_c,
        "direct": _direct(spec, row_stride, nr, row_tail, column_tail, overlaps) if direct else None,
        "sums_arguments": f", {nr}{', 0' if micro.adds else ''}" if direct
        else ", (int)(column_end - column)" if masked else "",
        "pack_a": plan.pack_a,
        "pack_b": plan.pack_b and not pack_own,
        "run": plan.run,
        "chunks": chunks,
        "chunk_terms": round_up(ceil(side.k / chunks), RUN) if chunks else 0,
        "chunk_region": region,
        "sums_at": a_scratch,
        "next_run": _terms((side.b, 1), (f"(p0 + {RUN})", side.b_k)),
        "pack_own": pack_own,
        "own_from": _terms((side.b, 1), ("column", side.b_column), ("p0", side.b_k)),
        "own_line": _terms((side.b, 1), ("column", side.b_column), ("(p0 + p)", side.b_k)),
        "own_at": sums,
        "fetch": _next_block(plan, nr, types) if blocked and (pack_own or not plan.pack_b) else None,
        "frozen": frozen,
        "pack_rows": PACK_ROWS,
        "fetch_c": fetch_c,
        "pack_chunks": ceil(depth / PACK_ROWS),
        "packed_b_at": a_scratch,
        "a_row": side.a_row,
        "b_column": side.b_column,
        "a_k": side.a_k,
        "b_k": side.b_k,
        "a_from": _terms((side.a, 1), ("row0", side.a_row), ("p", side.a_k)),
        "b_from": _terms((side.b, 1), ("column", side.b_column), ("p", side.b_k)),
        "a_from1": _terms((side.a, 1), ("row0", side.a_row), ("p1", side.a_k * each)),
        "b_from1": _terms((side.b, 1), ("column", side.b_column), ("p1", side.b_k * each)),
        "transpose": f"{spec.name}_transpose",
        "transposes": transposes,
        "a_tile": _packed_a(plan, row_tiles, depth) if plan.pack_a
        else _terms((side.a, 1), ("row0", side.a_row), ("p0", p0 * side.a_k)),
        "b_tile": "packed_b" if pack_own
        else _terms(("packed_b", 1), ("column0", depth)) if lines
        else _terms(("packed_b", 1), ("panel", nr * depth), ("p0", p0 * nr)) if plan.pack_b
        else _terms((side.b, 1), (column0, side.b_column), ("p0", p0 * side.b_k)),
        "c_at": _terms((spec.c, 1), ("i", i_stride), ("j", j_stride)),
        "rv": side.row_variable,
        "cv": side.column_variable,
        "crossed": side.crossed,
        "masked_store": masked_store,
        "needs_m": view_f.mentions("m"),
    }  # fmt: skip
    text = render("gemm.c.j2", {}, t=types, k=micro, f=view_f, g=g)
    before = None
    if frozen:
        size = a_packed if frozen == "packed_a" else b_packed
        packing = "lib/gemm_packing.j2"
        before = prepared(spec, types, size, packing, micro, g, packed=frozen, transposes=turns[frozen])
    return Code(text, tuple(params), shared, local, choice, before)
