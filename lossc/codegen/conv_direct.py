"""A convolution with vectors along output channels: x is broadcast from where it lies, at any number of taps.

The weights are packed once a call into panels of a few vectors of output channels, in the order of the sums' terms. A
register tile is a number of positions times a panel, and its sums stay in registers over all taps and channels. x is
read in place where no position touches the padding, else from a strip: the lines that a task needs, once, with margins
of zeros. Finished tiles are turned on their way out, so that vectors run along positions there, unless the output's
channels lie in blocks.

Where operands are rounded to bfloat16, an element of the panels is a pair: of two channels at one tap. So is one of the
strip, which is always there, unless x lies in memory as bfloat16: its pairs are broadcast from where they lie. Of few
channels, an odd number, the pairs are of neighbouring taps: of bfloat16 numbers in the strip.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

from lossc.codegen.contraction import CACHE_LINE, L2_BYTES, Code, Isa, Types, finish, parameters, prepared, signature
from lossc.codegen.conv_direct_plan import (
    COLUMNS,
    Axis,
    Level,
    channels_inside,
    direct_plan,
    levels_of,
    packing,
    source_of,
    with_tap_pairs,
)
from lossc.codegen.conv_direct_target import block_view, spread_view, sums_row
from lossc.codegen.conv_window import Part, Spread, Window, affine, decode, fills_vectors, outer_axes, output_parts
from lossc.codegen.environment import render
from lossc.codegen.names import comment


def direct_code(
    spec: Any, shape: Window, isa: Isa, types: Types, prefer: str = "", spread: Spread | None = None
) -> Code:
    """The C function for a spec whose output is the window's target, or where the window's results are ``spread``."""
    shape = with_tap_pairs(shape)
    plan, choice = direct_plan(shape, isa, types, prefer, spread)
    source = source_of(shape, plan, types)
    lanes, nr, taps = types.lanes, plan.nv * types.lanes, shape.taps
    height, width = shape.out_shape[-2:]
    depth, plane = shape.steps * taps, height * width
    vectors = ceil(shape.oc / lanes)
    panels, rest = divmod(vectors, plan.nv)
    tile_count = panels + (rest > 0)
    part_tiles = ceil(tile_count / plan.parts)

    parts = output_parts(shape, 1, plan.rows, plan.row_columns, Part("tile0", "tile0", tile_count, part_tiles))
    lines, at = decode(parts)
    n, group, z, h0, h1, w0, w1, tile0 = (at[name] for name in ("n", "group", "z", "h0", "h1", "w0", "w1", "tile0"))
    if tile0 != "0":
        lines.append(f"const ptrdiff_t tile1 = {_end('tile0', part_tiles, tile_count)};")
    j1 = affine([(z, plane), (h1, width), (w1, 1)])
    j2 = affine([(z, plane), (h0, width), (w0, 1)], (plan.rows - 1) * width + plan.row_columns)
    lines += [] if shape.target_block or spread else [f"const ptrdiff_t j1 = {j1};", f"const ptrdiff_t j2 = {j2};"]
    fresh = [(h1, h0, plan.row_columns)] if h1 != h0 else []
    fresh += [(w1, w0, 1)] if w1 != w0 else []

    apart = spread if not shape.target_block else None  # sums are, in memory
    masked = apart or (not shape.target_block and not fills_vectors(shape, plan.rows, plan.row_columns, lanes))
    form, tail = "_bf16" if shape.target_bf16 else "_n" if masked else "", ", m" if masked else ""
    view_f = finish(spec, load=f"{types.vec}_load{form}(o{tail})", store=f"{types.vec}_store{form}(o, %s{tail})")
    if n == "0" and view_f.mentions("n"):
        lines.append("const ptrdiff_t n = 0;")

    down, across = (Axis.of(shape, axis, plan.strip) for axis in (-2, -1))
    axes = outer_axes(shape, z, taps=plan.strip)
    planes = [(f"z{a}", prod(shape.in_shape[a + 1 :])) for a in range(len(axes))]
    image_terms = [(n, shape.source_strides[0]), (group, shape.ic * shape.source_strides[1])]
    if plan.strip:
        x_block = "strip"
    else:
        first = [(h0, source.row), (w0, source.column)]
        corner = (-shape.pad[-2] * source.width - shape.pad[-1]) * source.unit
        x_block = affine([*image_terms, *planes, *first], corner, head=shape.source)

    levels = levels_of(shape, source, plan.strip)
    places = [r * source.row + c * source.column for r in range(plan.tile_rows) for c in range(plan.tile_columns)]
    x_real, x_size = ("uint16_t", 2) if source.half else (types.real, types.size)
    tile_view: dict[str, Any] = {
        "x_real": x_real,
        "mr": plan.mr,
        "nr": nr,
        "out_row": sums_row(plan, nr, apart),
        "multiply": "dot2" if shape.bf16 else "fma",
        "ahead": [],
        "broadcasts": [f"{types.vec}_set1_pair(x + {at})" if source.half else f"{types.vec}_set1(x[{at}])"
                       for at in places],
        "levels": [{"count": level.count, "jump": _jump(levels, index)} for index, level in enumerate(levels)],
    }  # fmt: skip
    if not plan.strip and _large(x_size, shape.n, shape.groups * shape.ic, prod(shape.in_shape)):
        ahead = plan.row_columns * source.column if plan.row_columns < width else plan.rows * source.row
        next_block = ahead if plan.row_columns < width or plan.rows < height else shape.source_strides[0]
        tile_view["ahead"] = _ahead(
            next_block, places[-1], f"d{len(levels) - 1}", shape.source_block, levels[-1].step, CACHE_LINE // x_size
        )
    micros = [{"name": f"{spec.name}_tile", "nv": plan.nv}] if panels else []
    micros += [{"name": f"{spec.name}_rest" if panels else f"{spec.name}_tile", "nv": rest}] if rest else []
    inside, taps_text = channels_inside(shape), "pairs of taps" if shape.tap_pairs else "taps"
    channel = "ci" if taps > 1 and shape.steps > 1 else "0"
    by_channels = shape.bf16 and not shape.tap_pairs
    each, odd, element = (2, shape.ic % 2 == 1, "pair") if by_channels else (1, False, "ci")
    channels_x, each_x = (shape.ic, 1) if source.half else (shape.steps, each)
    first_exists, second_exists = _pair_exists(shape, "p" if taps == 1 else channel, lanes)

    step, row_step = (apart.stride[1], apart.width) if apart else (1, plan.row_columns)  # of neighbouring sums
    block = block_view(shape, plan, types, at, fresh, view_f, spread)
    between = spread_view(spec, shape, plan, nr, at, spread)
    positions = plan.mr if block else plan.rows * row_step
    sums_size = types.aligned(positions * nr) if block else types.aligned((positions + lanes) * nr + COLUMNS)
    sums_size = 0 if block and block["straight"] else sums_size
    strip_at = f"local + {sums_size}" if sums_size else "local"
    if source.half:
        strip_at = f"(uint16_t *){f'({strip_at})' if sums_size else strip_at}"
    strip_size = types.aligned(ceil(channels_x * source.channel * x_size / types.size))
    local = sums_size + (strip_size if plan.strip else 0)
    packed = types.aligned(shape.groups * vectors * lanes * depth)
    shared = 0 if shape.frozen else packed
    far_target = _large(types.size, shape.n, shape.groups * shape.oc, prod(shape.out_shape))
    params = parameters(
        spec, types, (shape.source, "packed" if shape.frozen else spec.w), shape.target, halves=spec.halves
    )
    g = {
        "name": spec.name,
        "comment": comment(spec.comment),
        "signature": signature(spec.name, params, types, shared, local),
        "micros": micros,
        "source": shape.source,
        "target": shape.target,
        "w": spec.w,
        "w_row": shape.w_row,
        "w_from": shape.weights_at(spec.w, "group" if shape.groups > 1 else "0", channel),
        "w_step": each * shape.w_channel if taps == 1 else 1,
        "w_pair": _pair_at(shape),
        "w_second": 1 if shape.tap_pairs else shape.w_channel,
        "second_columns": COLUMNS if taps == 1 else shape.w_channel,
        "pair_first": "2 * i" if taps == 1 else "i",
        "pair_second": "2 * i + 1" if taps == 1 else f"{COLUMNS} + i",
        "first_exists": first_exists,
        "second_exists": second_exists,
        "packing": packing(shape, types),
        "pack_channels": 1 if taps == 1 else shape.steps,
        "pack_terms": shape.steps if taps == 1 else taps,
        "pack_decode": ", ".join(_pack_decode(shape, vectors, 1 if taps == 1 else shape.steps)),
        "pack_here": not shape.frozen,
        "flip": shape.flipped and taps > 1,
        "groups": shape.groups,
        "ic": channels_x,
        "pairs": shape.bf16,
        "channel_pairs": shape.channel_pairs,
        "tap_pairs": shape.tap_pairs,
        "source_real": "uint16_t" if shape.source_bf16 else types.real,
        "y_real": "uint16_t" if shape.target_bf16 else types.real,
        "channel": shape.source_strides[1],
        "both": f"2 * ci + 1 < {shape.ic}" if odd else "",
        "oc": shape.oc,
        "kz": prod(shape.kernel[:-2]),
        "nv": plan.nv,
        "rest": rest,
        "panels": panels,
        "vectors": vectors,
        "group_size": vectors * lanes * depth,
        "panel_size": nr * depth,
        "order": f"{taps_text}][{element}" if inside else f"{element}][{taps_text} by columns",
        "term": _term(shape, channel, inside),
        "row_tail": shape.oc % lanes != 0,
        "tile0": tile0,
        "tile1": str(tile_count) if tile0 == "0" else "tile1",
        "strip": plan.strip,
        "sums_size": sums_size,
        "strip_at": strip_at,
        "strip_channel": source.channel,
        "strip_lines": source.lines,
        "strip_width": source.width,
        "strip_used": across.count(shape, -1, plan.row_columns),
        "x_unit": source.unit,
        "strip_line": source.width * source.unit,
        "across": across.source,
        "down": down.source,
        "line": shape.in_shape[-1] * max(shape.source_block, 1),
        "x_channels": shape.source_block,
        "first_y": affine([(h0, shape.stride[-2])], -shape.pad[-2]),
        "first_x": affine([(w0, shape.stride[-1])], -shape.pad[-1]),
        "ih": shape.in_shape[-2],
        "iw": shape.in_shape[-1],
        "outer": axes,
        "inside": "".join(f"z{a} >= 0 && z{a} < {shape.in_shape[a]} && " for a in range(len(axes))),
        "image": affine([*image_terms, ("ci", each_x * shape.source_strides[1]), *planes], head=shape.source),
        "x_block": x_block,
        "packed": affine([(group, vectors * lanes * depth), ("tile", nr * depth)], head="packed"),
        "rows": plan.rows,
        "row_columns": plan.row_columns,
        "tile_rows": plan.tile_rows,
        "tile_columns": plan.tile_columns,
        "sums_positions": positions if sums_size else 0,
        "sums_row": "" if shape.target_block else f" + r * {row_step * nr}",
        "sums_column": "" if shape.target_block else f" + p * {step * nr}",
        "x_row": source.row,
        "x_column": source.column,
        "fetch": range(0, plan.mr, CACHE_LINE // types.size)
        if not block and not spread and far_target else (),
        "fetch_sums": block and block["straight"] and view_f.accumulate and far_target,
        "fetch_at": affine(
            [(n, shape.target_strides[0]), (group, shape.oc * shape.target_strides[1]),
             ("tile", nr * shape.target_strides[1]), ("i", shape.target_strides[1]),
             (z, plane), (h0, width), (w0, 1)],
            head=shape.target,
        ),
        "fresh": "".join(f" + ({new} - {old}) * {by * nr}" for new, old, by in fresh),
        "column_step": COLUMNS,
        "channel_tail": shape.oc % nr != 0 or nr % COLUMNS != 0,
        "channels": f"({shape.oc} - tile * {nr} < {nr} ? {shape.oc} - tile * {nr} : {nr})"
        if shape.oc % nr else str(nr),
        "c": affine([(group, shape.oc), ("tile", nr), ("r", 1), ("i", 1)]),
        "out_at": affine([(n, shape.target_strides[0]), ("c", shape.target_strides[1])], head=shape.target),
        "masked_store": masked,
        "needs_m": view_f.mentions("m"),
        "block": block,
        "spread": between,
        "needs_channels": not block or not block["straight"] or (between and between["fills"]),
        "decode": lines,
        "tasks": prod(part.count for part in parts),
    }  # fmt: skip
    text = render("conv_direct.c.j2", {}, t=types, k=tile_view, f=view_f, g=g)
    before = prepared(spec, types, packed, "lib/direct_packing.j2", tile_view, g) if shape.frozen else None
    return Code(text, tuple(params), shared, local, choice, before)


def _ahead(first: int, span: int, channel: str, block: int, step: int, line: int) -> list[str]:
    """C for the distances from x, in a step of a tile's sums, of what another tile reads: from `first`, over `span`,
    in cache lines of `line` elements. Where it is a block of channels at each position, every `channel` of it, or pair
    of them, `step` elements apart, fetches its part of the lines."""
    if not block:
        return [str(first + place) for place in range(0, span + 1, line)]
    places = range(0, span + block, block // step * line)
    return [f"{first + place} + {channel} * {line - step}" for place in places]


def _jump(levels: Sequence[Level], index: int) -> str:
    """C for what is added to x at the end of an iteration of a level, before its counter has moved on in the last."""
    level, last = levels[index], index == len(levels) - 1
    jump = level.step - (0 if last else levels[index + 1].span)
    if not level.early:
        return f"x {'+' if jump >= 0 else '-'}= {abs(jump)}"
    return f"x += d{index} == {level.count - (2 if last else 1)} ? {jump - level.early} : {jump}"


def _large(size: int, images: int, channels: int, plane: int) -> bool:
    """Whether a blob of such elements comes from beyond the L2 cache."""
    return images * channels * plane * size > L2_BYTES


def _end(first: str, step: int, size: int) -> str:
    """C for the end of a part that begins at `first`."""
    return f"{first} + {step}" if size % step == 0 else f"{first} + {step} < {size} ? {first} + {step} : {size}"


def _pack_decode(shape: Window, vectors: int, channels: int) -> list[str]:
    """C for the group, vector of output channels and channel of a part of the weights."""
    below = "" if channels == 1 else f" / {channels}"
    parts = [f"group = u / {vectors * channels}"] if shape.groups > 1 else []
    parts.append(f"v = u{below}{f' % {vectors}' if shape.groups > 1 else ''}")
    return [*parts, f"ci = u % {channels}"] if channels > 1 else parts


def _pair_at(shape: Window) -> str:
    """C for the place of pair `p` of weights, behind the first ones of an output channel, or of one of its channels."""
    if not shape.tap_pairs or shape.taps == 1:
        return affine([("p", (1 if shape.tap_pairs else 2) * shape.w_channel if shape.taps == 1 else 1)])
    return f"2 * p - (p + 1) / {shape.row_taps}" if shape.kernel[-1] % 2 else "2 * p"


def _pair_exists(shape: Window, channel: str, lanes: int) -> tuple[str, str]:
    """C for whether the first, and the second, of a pair of weights are to be multiplied; nothing where all are."""
    tail = ["r < rows"] if shape.oc % lanes else []
    first = [f"(p + 1) % {shape.row_taps} != 0"] if shape.tap_pairs and shape.kernel[-1] % 2 else []
    second = [f"2 * {channel} + 1 < {shape.ic}"] if not shape.tap_pairs and shape.ic % 2 else []
    return " && ".join([*first, *tail]), " && ".join([*second, *tail])


def _term(shape: Window, channel: str, inside: bool) -> str:
    """C for the place of tap `p` of a channel among a sum's terms, or of channel `p` where there is one tap."""
    if shape.taps == 1:
        return "p"
    if inside:
        return affine([("p", shape.steps), (channel, 1)])
    height, width = shape.kernel[-2], shape.row_taps
    outer = prod(shape.kernel[:-2]) > 1
    plane = f"p / {height * width}" if outer else "0"
    row = f"p / {width} % {height}" if outer else f"p / {width}"
    return affine([(channel, shape.taps), (plane, height * width), (f"p % {width}", height), (row, 1)])
