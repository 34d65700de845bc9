"""Depthwise convolutions of channels in blocks: each channel has one kernel of its own, vectors run along a block.

Every tap of a position is one product of a vector of the source with a vector of weights, wherever it lies. The forward
pass and the gradient of the data are the same work: a line of results sums up lines of the source, a few neighbouring
results at a time, whose sums stay in registers while each vector of the source that they need is read once. Which taps
meet which neighbours is known when the code is made, at the borders and between strides, too: nothing is padded, no
zeros are multiplied, and gradients are collected by their elements instead of being added to them.

The gradient of the weights keeps the sums of a row of taps in registers, over a few lines that stay in the cache.
Images and lines are split into a number of chunks that depends on the shape alone, each with its own sums, which are
added up in order at the end.

Where a kernel's rows are too long to be written out, positions and taps are gone through one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from math import ceil, prod
from typing import Any

from lossc.codegen.contraction import Choice, Code, Isa, Types, choose, finish, parameters, prepared, signature
from lossc.codegen.conv_weights_blocks_plan import tap_range
from lossc.codegen.conv_window import Part, Window, affine, decode
from lossc.codegen.environment import render
from lossc.codegen.mapplan import STREAM_BYTES
from lossc.codegen.names import comment
from lossc.errors import InternalError

FEWEST_RESULTS, MOST_RESULTS = 4, 12  # neighbours whose sums are in registers
MOST_PRODUCTS = 400  # that are written out
TASKS = 64  # as many as this where the shape allows
FEWEST_POSITIONS = 1024  # of a chunk of the weights' gradient, which are worth sums of its own
LINES_BYTES = 24 << 10  # of lines that stay in the L1 cache while their taps are gone through
CHAINS = 4  # sums side by side, of rows of taps or of neighbours

Pairs = tuple[tuple[int, int], ...]  # of results and taps


def is_depthwise(spec: Any) -> bool:
    """Whether this module computes a spec: as many groups as channels, in blocks on both sides."""
    blocks = spec.x_block == spec.y_block > 0 and spec.groups % spec.x_block == 0
    return blocks and spec.groups == spec.ci == spec.co and len(spec.kernel) <= 2


def depthwise_code(spec: Any, shape: Window, isa: Isa, types: Types, prefer: str = "") -> Code:
    """The C function for a spec that ``is_depthwise``."""
    if spec.bf16 or (spec.y_bf16 and spec.accumulate):
        raise InternalError(
            f"convolution {spec.name}: depthwise ones multiply whole numbers, and add to none of bfloat16"
        )
    if spec.direction == "bwd_weights":
        return _weights_code(spec, shape, isa, types, prefer)
    return _images_code(spec, shape, isa, types, prefer)


@dataclass(frozen=True)
class Axis:
    """How results on an axis sum up the source: of result ``p`` and tap ``k`` this is position p * ahead + shift +
    k * step, divided by ``apart``, if it exists."""

    size: int  # results
    source: int
    taps: int
    ahead: int
    apart: int
    shift: int
    step: int

    def at(self, result: int, tap: int) -> int | None:
        place = result * self.ahead + self.shift + tap * self.step
        exists = place >= 0 and place % self.apart == 0 and place // self.apart < self.source
        return place // self.apart if exists else None

    def inside(self, result: int) -> bool:
        """Whether no tap lies beside the source."""
        ends = [result * self.ahead + self.shift + tap * self.step for tap in (0, self.taps - 1)]
        return min(ends) >= 0 and max(ends) < self.source * self.apart

    def view(self, result: str, tap: str, place: str) -> dict[str, Any]:
        """C for the place, before it is divided, whether it exists, and the position."""
        divides = f" && {place} % {self.apart} == 0" if self.apart > 1 else ""
        return {
            "taps": self.taps,
            "place": affine([(result, self.ahead), (tap, self.step)], self.shift),
            "exists": f"{place} >= 0 && {place} < {self.source * self.apart}{divides}",
            "at": f"({place} / {self.apart})" if self.apart > 1 else place,
        }


def axis_of(shape: Window, axis: int, back: bool) -> Axis:
    """``back``: results are the gradient of the data, the source is dy."""
    inner, outer, taps = shape.in_shape[axis], shape.out_shape[axis], shape.kernel[axis]
    stride, pad, dilation = shape.stride[axis], shape.pad[axis], shape.dilation[axis]
    if back:
        return Axis(inner, outer, taps, 1, stride, pad, -dilation)
    return Axis(outer, inner, taps, stride, 1, -pad, dilation)


@dataclass(frozen=True)
class Tile:
    """``count`` neighbouring results of a line; ``steps``: the positions that they need, from the one on that lies as
    far in the source as the first result, each with the results and taps that it meets."""

    count: int
    steps: tuple[tuple[int, Pairs], ...]

    @property
    def products(self) -> int:
        return sum(len(pairs) for _, pairs in self.steps)

    @property
    def chain(self) -> int:
        """The most products of a result."""
        results = [result for _, pairs in self.steps for result, _ in pairs]
        return max((results.count(r) for r in set(results)), default=0)


@dataclass(frozen=True)
class Run:
    """Equal tiles one behind the other, the first one's first result at ``column``."""

    column: int
    tiles: int
    tile: Tile


@dataclass(frozen=True)
class Plan:
    """``count``: neighbouring results at a time, none where positions and taps are gone through singly."""

    count: int
    runs: tuple[Run, ...] = ()

    @property
    def products(self) -> int:
        return sum(run.tile.products for run in self.runs)

    def __str__(self) -> str:
        return f"tile {self.count}" if self.count else "singly"


def _plan(across: Axis, count: int) -> Plan:
    def tile(column: int) -> Tile:
        steps: dict[int, list[tuple[int, int]]] = {}
        results = range(min(count, across.size - column))
        first = column * across.ahead // across.apart
        for result in results:
            for tap in range(across.taps):
                if (place := across.at(column + result, tap)) is not None:
                    steps.setdefault(place - first, []).append((result, tap))
        return Tile(len(results), tuple((place, tuple(steps[place])) for place in sorted(steps)))

    columns, whole = [], None
    for column in range(0, across.size, count):
        inside = across.inside(column) and across.inside(column + count - 1) and column + count <= across.size
        this = whole if inside and whole else tile(column)
        whole = this if inside else whole
        columns.append((column, this))
    groups = [list(group) for _, group in groupby(columns, key=lambda each: each[1])]
    return Plan(count, tuple(Run(group[0][0], len(group), group[0][1]) for group in groups))


def _plans(across: Axis, isa: Isa) -> Iterator[Plan]:
    """Plans whose sums, a row of weights and a vector of the source fit into registers."""
    most = min(max(isa.registers - 1 - across.taps, FEWEST_RESULTS), MOST_RESULTS, max(across.size, across.apart))
    for count in range(across.apart, most + 1, across.apart):
        if count >= min(FEWEST_RESULTS, most) and (plan := _plan(across, count)).products <= MOST_PRODUCTS:
            yield plan


def _choose(
    shape: Window, down: Axis, across: Axis, isa: Isa, types: Types, what: str, prefer: str
) -> tuple[Plan, Choice]:
    form = f"conv depthwise {what}{'x'.join(map(str, shape.kernel))}"

    def cost(plan: Plan) -> float:
        """Two products and two loads a cycle; what a result's next product needs comes after four."""
        rows = down.taps / down.apart
        line, beside = 6.0 * across.size * across.taps, 10.0 * across.size
        if plan.count:
            tiles = [(run.tiles, run.tile) for run in plan.runs]
            busy = [max(t.products, len(t.steps) + across.taps, 8 * t.chain) / 2 + 3 for _, t in tiles]
            line = sum(many * cycles for (many, _), cycles in zip(tiles, busy, strict=True))
            beside = sum(many * (8.0 + 2 * t.count) for many, t in tiles)
        return shape.n * shape.groups / types.lanes * down.size * (rows * line + beside)

    plans = [*_plans(across, isa), Plan(0)]
    return choose(plans, cost, lambda plan: f"{form} {plan}", prefer)


def _images_code(spec: Any, shape: Window, isa: Isa, types: Types, prefer: str) -> Code:
    """The forward pass, or the gradient of the data."""
    back = spec.direction == "bwd_data"
    down, across = (axis_of(shape, axis, back) for axis in (0, 1))
    plan, choice = _choose(shape, down, across, isa, types, "data " if back else "", prefer)
    block, taps, lanes = spec.x_block, shape.taps, types.lanes
    blocks = shape.groups // block
    source, target = (spec.y, spec.x) if back else (spec.x, spec.y)
    strides = (spec.y_strides, spec.x_strides) if back else (spec.x_strides, spec.y_strides)
    source_type, target_type = ("uint16_t" if name in spec.halves else types.real for name in (source, target))

    parts = max(1, min(down.size, ceil(TASKS / (shape.n * blocks))))
    rows = ceil(down.size / parts)
    task = [Part("n", "n", shape.n, 1), Part("block", "block", blocks, 1), Part("h0", "h0", down.size, rows)]
    lines, at = decode(task)
    n, c0, h0 = at["n"], at["block"], at["h0"]
    lane = "l" if lanes < block else "0"
    # Where results are most of what goes through memory, they go past the caches.
    results, positions = down.size * across.size, down.source * across.source
    streams = results > positions and shape.n * shape.groups * results * types.size >= STREAM_BYTES
    streams = streams and not spec.accumulate and target not in spec.halves and strides[1][0] % lanes == 0
    store = f"{types.vec}_store{'_bf16' if target in spec.halves else ''}(o, %s)"
    view_f = finish(spec, load=f"{types.vec}_load(o)", store=f"{spec.name}_store(aligned, o, %s)" if streams else store)
    if n == "0" and view_f.mentions("n"):
        lines.append("const ptrdiff_t n = 0;")
    packed = types.aligned(shape.groups * taps)
    shared = 0 if shape.frozen else packed
    params = parameters(spec, types, (source, "packed" if shape.frozen else spec.w), target, spec.halves)
    g = {
        "name": spec.name,
        "comment": comment(spec.comment),
        "signature": signature(spec.name, params, types, shared, 0),
        "source": source,
        "target": target,
        "source_type": source_type,
        "target_type": target_type,
        "load": f"{types.vec}_load{'_bf16' if source in spec.halves else ''}",
        "w": spec.w,
        "pack_here": not shape.frozen,
        "channels": shape.groups,
        "block": block,
        "taps": taps,
        "row_taps": across.taps,
        "row_size": across.taps * block,
        "streams": streams,
        "decode": lines,
        "tasks": prod(part.count for part in task),
        "h0": h0,
        "h1": str(down.size) if h0 == "0" else _end("h0", rows, down.size),
        "image": affine([(n, strides[0][0]), (c0, block * strides[0][1])], head=source),
        "to": affine([(n, strides[1][0]), (c0, block * strides[1][1])], head=target),
        "panel": affine([(c0, block * taps)], head="packed"),
        "down": down.view("h", "kh", "y"),
        "across": across.view("column", "kw", "z"),
        "line": across.source * block,
        "to_width": across.size,
        "passes": lane == "l",
        "lane": f" + {lane}" if lane == "l" else "",
        "c": affine([(c0, block), (lane, 1)]) if view_f.mentions("c") else "",
        "chains": min(CHAINS, down.taps),
        "runs": [_run(run, plan, across, block, lane) for run in plan.runs],
        "single": {"j": affine([("h", across.size), ("column", 1)]), "o": affine([("j", block), (lane, 1)], head="to")},
        "needs_m": view_f.mentions("m"),
    }  # fmt: skip
    text = render("conv_depthwise.c.j2", {}, t=types, f=view_f, g=g)
    before = prepared(spec, types, packed, "lib/depthwise_packing.j2", {}, g) if shape.frozen else None
    return Code(text, tuple(params), shared, 0, choice, before)


def _run(run: Run, plan: Plan, across: Axis, block: int, lane: str) -> dict[str, Any]:
    """The view of equal tiles: one is written out, with its place in the line."""
    column, first = ("column", 0) if run.tiles > 1 else ("0", run.column * across.ahead // across.apart)
    ahead = f"column / {across.apart}" if across.apart > 1 and run.tiles > 1 else column
    return {
        "loops": run.tiles > 1,
        "column": run.column,
        "end": run.column + run.tiles * plan.count,
        "step": plan.count,
        "count": run.tile.count,
        "from": affine([(ahead, across.ahead * block), (lane, 1)], first * block),
        "beside": affine([(column, block), (lane, 1)], 0 if run.tiles > 1 else run.column * block),
        "steps": [(_offset(place * block), pairs) for place, pairs in run.tile.steps],
        "products": run.tile.products,
        "j": affine([("h", across.size), (column, 1), ("i", 1)], 0 if run.tiles > 1 else run.column),
        "o": affine([("j", block), (lane, 1)], head="to"),
    }


def _offset(elements: int) -> str:
    """C that adds so many."""
    return f" {'+' if elements > 0 else '-'} {abs(elements)}" if elements else ""


def _end(start: str, step: int, size: int) -> str:
    """C for the end of a part that begins at `start`."""
    return f"{start} + {step}" if size % step == 0 else f"{start} + {step} < {size} ? {start} + {step} : {size}"


def _weights_code(spec: Any, shape: Window, isa: Isa, types: Types, prefer: str) -> Code:
    """The gradient of the weights."""
    down, across = (axis_of(shape, axis, back=False) for axis in (0, 1))
    plan, choice = _choose(shape, down, across, isa, types, "weights ", prefer)
    block, taps, lanes = spec.x_block, shape.taps, types.lanes
    blocks, region = shape.groups // block, block * taps
    (height, width), in_width = shape.out_shape, shape.in_shape[1]

    line = (width + min(shape.stride[0], shape.kernel[0]) * in_width) * block * types.size
    rows = max(1, min(height, LINES_BYTES // line))
    stripes = ceil(height / rows)
    units = shape.n * stripes
    chunks = max(1, min(units, ceil(TASKS / blocks), shape.n * height * width // FEWEST_POSITIONS))
    chunk = ceil(units / chunks)
    task = [Part("q0", "q0", units, chunk), Part("block", "block", blocks, 1)]
    lines, at = decode(task)
    unit_lines, unit = decode([Part("n", "n", shape.n, 1), Part("h0", "h0", height, rows)], "q")
    c0, h0, n = at["block"], unit["h0"], unit["n"]
    lane = "l" if lanes < block else "0"
    # Neighbours have sums of their own, so that no product waits for the one before.
    chains = max(1, min(CHAINS, (isa.registers - 3) // across.taps)) if plan.count else CHAINS
    clips = []
    for axis, name in ((0, "h"), (1, "w")):
        ranges = [tap_range(shape, axis, tap) for tap in range(shape.kernel[axis])]
        clips.append({"name": name, "first": [r[0] for r in ranges], "last": [r[1] for r in ranges]})
    params = parameters(spec, types, (spec.x, spec.y), spec.w)
    shared = types.aligned(task[0].count * blocks * region)
    whole = h0 == "0"
    text = render(
        "conv_depthwise_weights.c.j2",
        {},
        t=types,
        f=(view_f := finish(spec, load=f"{types.vec}_load_n(o, m)", store=f"{types.vec}_store_n(o, %s, m)")),
        g={
            "name": spec.name,
            "comment": comment(spec.comment),
            "signature": signature(spec.name, params, types, shared, 0),
            "block": block,
            "taps": taps,
            "row_taps": across.taps,
            "rows_of_taps": shape.kernel[0],
            "region": region,
            "tasks": prod(part.count for part in task),
            "decode": lines,
            "q0": at["q0"],
            "q1": str(units) if at["q0"] == "0" else _end("q0", chunk, units),
            "unit_lines": unit_lines,
            "chunks": task[0].count,
            "chunk_region": blocks * region,
            "image": affine([(n, spec.x_strides[0]), (c0, block * spec.x_strides[1])], head=spec.x),
            "plane": affine([(n, spec.y_strides[0]), (c0, block * spec.y_strides[1])], head=spec.y),
            "first": "h_first[kh]" if whole else f"{h0} > h_first[kh] ? {h0} : h_first[kh]",
            "h1": "" if whole else _end(h0, rows, height),
            "last": "h_last[kh]" if whole else "h1 < h_last[kh] ? h1 : h_last[kh]",
            "clips": clips if not plan.count else clips[:1],
            "chains": chains,
            "row": affine(
                [("h", shape.stride[0] * in_width * block), ("kh", shape.dilation[0] * in_width * block), (lane, 1)],
                -shape.pad[0] * in_width * block, head="image",
            ),
            "line": affine([("h", width * block), (lane, 1)], head="plane"),
            "single": affine(
                [("w", shape.stride[1] * block), ("kw", shape.dilation[1] * block)], -shape.pad[1] * block, head="row"
            ),
            "next": shape.stride[1] * block,
            "passes": lane == "l",
            "lane": f" + {lane}" if lane == "l" else "",
            "runs": [_run(run, plan, across, block, "0") for run in plan.runs],
            "channels": shape.groups,
            "tail": taps % lanes,
            "c": view_f.mentions("c"),
            "w": spec.w,
        },
    )  # fmt: skip
    return Code(text, tuple(params), shared, 0, choice)
