"""Where a direct convolution's sums go: into blocks of channels, or apart from each other."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from lossc.codegen.contraction import CACHE_LINE, L2_BYTES, Finish, Types
from lossc.codegen.conv_direct_plan import Plan
from lossc.codegen.conv_window import Spread, Window, affine

Terms = list[tuple[str, int]]  # of a sum: C and a factor
Fresh = list[tuple[str, str, int]]  # C for where what is new in a block begins, and the block; positions each


def block_view(
    shape: Window, plan: Plan, types: Types, at: dict[str, str], fresh: Fresh, view_f: Finish, spread: Spread | None
) -> dict[str, Any] | None:
    """How finished tiles are stored where the target's channels lie in blocks: straight from registers, but for
    epilogues, which would be written out for each vector."""
    size, channel = shape.target_block, shape.target_strides[1]
    if not size:
        return None
    tile = [("r", plan.row_columns)] if plan.rows > plan.tile_rows else []
    tile += [("p", 1)] if plan.row_columns > plan.tile_columns else []
    first, within = _positions(shape, plan, at, tile, spread)
    straight = not view_f.lines
    overlaps = plan.rows % plan.tile_rows or plan.row_columns % plan.tile_columns
    skips = bool(fresh or (overlaps and (view_f.accumulate or not straight)))  # the same sums may be stored twice
    own = [("const ptrdiff_t skip", "skip")] if skips else []
    own += [(f"const {types.vec} alpha", "alpha")] if view_f.alpha else []
    own += [(f"const int {view_f.accumulate}", view_f.accumulate)] if isinstance(view_f.accumulate, str) else []
    panel = [(at["group"], shape.oc), ("tile", plan.nv * types.lanes)]
    far = shape.n * shape.groups * shape.oc * prod(shape.out_shape) * types.size > L2_BYTES
    fetches = view_f.reads("j") if shape.target_bf16 and far else []
    image = (at["n"], shape.target_strides[0])

    def block_of(c: str) -> str:
        inside = [(c, channel)] if types.lanes == size else [(f"{c} / {size}", size * channel), (f"{c} % {size}", 1)]
        return affine([image, *inside], head=shape.target)

    return {
        "size": size,
        "straight": straight,
        "params": [param for param, _ in own] if straight else [],
        "args": "".join(f", {arg}" for _, arg in own) if straight else "",
        "vectors": [v * types.lanes // size * size * channel + v * types.lanes % size for v in range(plan.nv)],
        "c": affine([*panel, ("v", 1)]),
        "channel": block_of("c"),
        "c0": affine(panel),
        "channel0": block_of("c0"),
        "position": affine(tile),
        "first": affine(first),
        "j": affine([*first, *within("i")]),
        "row": affine([(term, factor * size) for term, factor in within("r")]),
        "fetch": [{"at": address, "step": CACHE_LINE // (size * (2 if half else types.size)) or 1}
                  for address, half in fetches],
        "skips": skips,
        "stale": bool(fresh and tile),
        "stored": " + ".join(f"({new} - {old})" + (f" * {by}" if by > 1 else "") for new, old, by in fresh) or "0",
    }  # fmt: skip


def _positions(
    shape: Window, plan: Plan, at: dict[str, str], tile: Terms, spread: Spread | None
) -> tuple[Terms, Callable[[str], Terms]]:
    """Terms of the place in the target's planes of a tile's first position, and those that its `i`th adds."""
    height, width = shape.out_shape[-2:]
    if not spread:
        return [(at["z"], height * width), (at["h0"], width), (at["w0"], 1), *tile], lambda i: [(i, 1)]
    down, across = spread.stride[0] * spread.width, spread.stride[1]
    steps = {"r": down, "p": across}
    first = [(at["h0"], down), (at["w0"], across), *((name, steps[name]) for name, _ in tile)]
    columns = plan.tile_columns
    if plan.tile_rows == 1:
        return first, lambda i: [(i, across)]
    return first, lambda i: [(f"{i} / {columns}", down), (f"{i} % {columns}", across)]


def sums_row(plan: Plan, nr: int, apart: Spread | None) -> str:
    """C for the place of position `r` of a tile among the sums, whose rows may lie apart."""
    if not apart:
        return f"r * {nr}"
    step = apart.stride[1] * nr
    if plan.tile_rows == 1:
        return f"r * {step}"
    return f"r / {plan.tile_columns} * {apart.width * nr} + r % {plan.tile_columns} * {step}"


def spread_view(
    spec: Any, shape: Window, plan: Plan, nr: int, at: dict[str, str], spread: Spread | None
) -> dict[str, Any] | None:
    """How results are stored that lie apart, and what lies between them."""
    if not spread:
        return None
    h0, h1, w0, w1 = (at[name] for name in ("h0", "h1", "w0", "w1"))
    down, across = spread.stride
    row = down * spread.width
    stays = spec.accumulate if spec.epilogue is None else False  # what is between
    return {
        "stride": spread.stride,
        "width": spread.width,
        "row": row,
        "h1": h1,
        "h2": affine([(h0, 1)], plan.rows),
        "line": affine([("h" if h0 == "0" else f"(h - {h0})", spread.width * nr)]),
        "last": f"(h + 1) * {down} < {spread.height} ? (h + 1) * {row} : {spread.height * spread.width}",
        "c": affine([(at["group"], shape.oc), ("tile", nr), ("r", 1)]),
        "fills": stays is not True,
        "unless": stays if isinstance(stays, str) else "",
        "row0": affine([(h1, down)]),
        "row_end": _end(h0, plan.rows, down, spread.height),
        "column0": affine([(w1, across)]),
        "column_end": _end(w0, plan.row_columns, across, spread.width),
    }


def _end(first: str, count: int, step: int, size: int) -> str:
    """C for the end of what `count` results from `first` on, `step` apart, take up of `size`."""
    if first == "0":
        return str(min(count * step, size))
    end = f"({first} + {count}) * {step}"
    return f"({end} < {size} ? {end} : {size})"
