"""The gradient of a convolution's weights where channels lie in blocks: sums over images and positions.

A register tile is a few channels of one side, broadcast from where they lie, times vectors of channels of the other;
its sums stay in registers over a long run of positions. Vectors run over dy's channels, which are read in place where
they lie in blocks, else from a turned copy; in a pointwise convolution they may run over x's channels instead
("swapped"), and the results need no turning. Of each tap, those positions alone are visited whose input exists.

Images are split into a number of chunks that depends on the shape alone, each with its own sums, which are added up in
order at the end. Where there is one chunk, its sums stay with the thread that computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from lossc.codegen.contraction import CACHE_LINE, Code, Isa, Types, finish, parameters, signature
from lossc.codegen.conv_weights_blocks_plan import Plan, Side, sides, tap_range, weights_plan
from lossc.codegen.conv_window import Part, Window, affine, decode
from lossc.codegen.environment import render
from lossc.codegen.names import comment


def weights_blocks_code(spec: Any, shape: Window, isa: Isa, types: Types, prefer: str = "") -> Code:
    """The C function that computes dw from x (the window's source) and dy (its target), either or both in blocks."""
    plan, choice = weights_plan(shape, isa, types, prefer)
    tile, lanes, taps = plan.tile, types.lanes, shape.taps
    row, column = sides(shape, tile.swapped)
    nr, unit = tile.nv * lanes, row.block or tile.mr
    terms = plan.rows * taps
    region = plan.columns * terms

    parts = [
        Part("n1", "n1", shape.n, plan.chunk_images),
        Part("group", "group", shape.groups, 1),
        Part("column0", "column0", ceil(column.channels / nr) * nr, plan.columns),
        Part("row0", "row0", row.channels, plan.rows),
    ]
    lines, at = decode(parts)
    chunks, tasks = parts[0].count, prod(part.count for part in parts)
    n1, group, column0, row0 = (at[name] for name in ("n1", "group", "column0", "row0"))
    tap = "tap" if taps > 1 else "0"
    even = shape.n % plan.chunk_images == 0 and plan.chunk_images % plan.images == 0

    end_terms = terms if tile.swapped else ceil(terms / lanes)
    end_blocks = plan.columns // nr * end_terms
    end_lines, end_at = decode([Part("part", "part", tasks // chunks, 1), Part("q", "q", end_blocks, 1)])
    end_lines += decode(parts[1:], "part")[0]
    end_tile = "0" if plan.columns == nr else "q" if end_terms == 1 else f"q / {end_terms}"
    end_term = "0" if end_terms == 1 else "q" if plan.columns == nr else f"(q % {end_terms})"
    outputs = [("row0", row0), ("term", "term")] if tile.swapped else [("column", "column"), ("co", "co")]

    turns = not column.block
    turned = types.aligned(plan.images * plan.lines * plan.width * nr) if turns else 0
    local = turned + (types.aligned(region) if chunks == 1 else 0)
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
            "rest": column.channels % nr // lanes if column.block else 0,
            "swapped": tile.swapped,
            "transposes": turns or not tile.swapped,
            **_positions(shape, plan, types, row, column, group),
            "unit": unit,
            "next": _next_rows(row, unit, types) if taps == 1 else "",
            "turns": turns,
            "turned_size": turned,
            "column_tail": turns and column.channels % nr,
            "decode": lines,
            "tasks": tasks,
            "chunks": chunks,
            "chunk_images": plan.chunk_images,
            "sums": affine([("u", region)], head="shared") if chunks > 1 else affine([], turned, head="local"),
            "terms": terms,
            "n1": n1,
            "n2": str(shape.n) if chunks == 1 else _end("n1", plan.chunk_images, shape.n),
            "images": plan.images,
            "image_count": plan.images if even else f"n2 - n < {plan.images} ? n2 - n : {plan.images}",
            "column0": column0,
            "column1": affine([(column0, 1)], plan.columns),
            "columns": column.channels,
            "row0": row0,
            "row1": affine([(row0, 1)], plan.rows),
            "taps": taps,
            "sums_at": affine([(_less("column", column0), terms), (_less("row", row0), taps * nr), (tap, nr)]),
            "out_row": taps * nr,
            "end_lines": end_lines,
            "end_tasks": tasks // chunks * end_blocks,
            "end_blocks": end_blocks,
            "end_sums": affine([(end_at["part"], region)], head="shared"),
            "end_column": affine([(column0, 1), (end_tile, nr)]),
            "end_columns": _valid("column", column.channels, nr),
            "end_term": affine([(end_term, 1 if tile.swapped else lanes)]),
            "end_rows": f"{'(int)' if terms % lanes else ''}{_valid('term', terms, lanes)}",
            "end_from": affine([(_less("column", column0), terms), ("term", nr)]),
            "chunk_region": tasks // chunks * region,
            "c": affine([(group, shape.oc), *((text, 1) for _, text in outputs)]),
            "j": affine([("column", 1), ("co", 1)] if tile.swapped else [(row0, taps), ("term", 1)]),
            "out_at": affine([("c", shape.w_row), ("j", 1)], head=spec.w),
        },
    )  # fmt: skip
    return Code(text, tuple(params), shared, local, choice)


@dataclass(frozen=True)
class _Axis:
    """C for the output positions on an axis that a tap visits in a block: `length` from `first` on."""

    start: str
    first: str
    length: str
    whole: str  # the length of the block
    block_lines: list[str]
    tap_lines: list[str]
    clip: dict[str, Any] | None


def _axis(shape: Window, axis: int, part: Part, start: str) -> _Axis:
    name, length = (("h", "lines"), ("w", "width"))[axis]
    end, block_lines = str(part.size), []
    if part.count > 1:
        end = f"{name}1"
        block_lines = [f"const ptrdiff_t {end} = {_end(start, part.step, part.size)};"]
    whole = end if start == "0" else f"{end} - {start}"
    ranges = [tap_range(shape, axis, tap) for tap in range(shape.kernel[axis])]
    if set(ranges) == {(0, part.size)}:
        return _Axis(start, start, whole, whole, block_lines, [], None)
    tap = f"k{name}" if shape.kernel[axis] > 1 else "0"
    first, last = f"{name}_first[{tap}]", f"{name}_last[{tap}]"
    if part.count > 1:
        first, last = f"{start} > {first} ? {start} : {first}", f"({end} < {last} ? {end} : {last})"
    tap_lines = [f"const ptrdiff_t {name} = {first};", f"const ptrdiff_t {length} = {last} - {name};"]
    clip = {"name": name, "first": [r[0] for r in ranges], "last": [r[1] for r in ranges]}
    return _Axis(start, name, length, whole, block_lines, tap_lines, clip)


def _positions(shape: Window, plan: Plan, types: Types, row: Side, column: Side, group: str) -> dict[str, Any]:
    """The view's part on positions: blocks of them, those of a tap, and where both sides have them."""
    width, nr, lanes = shape.out_shape[1], plan.tile.nv * types.lanes, types.lanes
    parts = [Part("h0", "h0", shape.out_shape[0], plan.lines), Part("w0", "w0", width, plan.width)]
    block_lines, at = decode(parts, "block")
    h, w = (_axis(shape, axis, part, at[part.first]) for axis, part in enumerate(parts))
    place = {"h": h.first, "w": w.first, "kh": "0", "kw": "0"}
    tap_lines = []
    for axis, name, text in ((0, "kh", f"tap / {shape.kernel[1]}"), (1, "kw", f"tap % {shape.kernel[1]}")):
        if shape.kernel[axis] > 1:
            place[name] = name
            tap_lines.append(f"const ptrdiff_t {name} = {text if shape.kernel[1 - axis] > 1 else 'tap'};")
    starts = [v * lanes for v in range(plan.tile.nv)]
    if column.block:
        offsets, image, line, step = [column.offset(c) for c in starts], column.image, column.line, column.step
        column_at = column.at(place, "column_plane")
    else:
        offsets, image, line, step = starts, plan.lines * plan.width * nr, width * nr, nr
        column_at = affine([(_less(h.first, h.start), line), (_less(w.first, w.start), step)], head="turned")
    return {
        "blocks": prod(part.count for part in parts),
        "block_lines": [*block_lines, *h.block_lines, *w.block_lines],
        "tap_lines": [*tap_lines, *h.tap_lines, *w.tap_lines],
        "clips": [axis.clip for axis in (h, w) if axis.clip],
        "lines": h.length,
        "width": w.length,
        "turned_columns": _valid("column", column.channels, nr),
        "turned_count": w.whole if plan.lines == 1 else f"({h.whole}) * {width}",
        "turned_from": affine([("l", column.image), (h.start, width), (w.start, 1)], head="column_plane"),
        "turned_line": column.channel,
        "row": {
            "name": row.name, "apart": 1 if row.block else row.channel, "image": row.image, "line": row.line,
            "step": row.step, "group": row.group(group), "at": row.at(place, "row_plane"),
            "plane": row.plane("row_image", "row", row.block or plan.tile.mr),
        },
        "column": {
            "name": column.name, "offsets": offsets, "image": image, "line": line, "step": step,
            "group": column.group(group), "at": column_at, "plane": column.plane("column_image", "column", nr),
        },
    }  # fmt: skip


def _next_rows(row: Side, unit: int, types: Types) -> str:
    """C for how far behind the rows at position w lie those that follow; of rows that lie apart, each step fetches
    another one's part of a cache line."""
    line = CACHE_LINE // types.size
    return affine([("0" if row.block else f"w % {line}", row.channel - 1)], unit * row.channel)


def _end(start: str, step: int, size: int) -> str:
    """C for the end of a part that begins at `start`."""
    return f"{start} + {step}" if size % step == 0 else f"{start} + {step} < {size} ? {start} + {step} : {size}"


def _less(text: str, other: str) -> str:
    """C for the difference, as a factor."""
    return "0" if text == other else text if other == "0" else f"({text} - {other})"


def _valid(start: str, size: int, step: int) -> str:
    """C for how many of `step` elements from `start` exist."""
    return str(step) if size % step == 0 else f"({size} - {start} < {step} ? {size} - {start} : {step})"
