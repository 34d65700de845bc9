"""Winograd's minimal filtering for 3 x 3 convolutions of stride 1 (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", 2015): F(4x4, 3x3) and F(2x2, 3x3).

A task computes all output channels of a block of consecutive tiles, across rows and images, so that small planes fill
vectors too. Lines of the input are combined vertically, dealt out by column, and combined horizontally with vectors
along tiles; one matrix product for each element of a transformed tile follows, and the same steps backwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, prod
from typing import Any

from lossc.codegen.contraction import (
    L2_BYTES,
    Choice,
    Code,
    Isa,
    Micro,
    Types,
    choose,
    finish,
    parameters,
    round_up,
    signature,
    tile_cycles,
    tiles,
)
from lossc.codegen.conv_window import Window, affine
from lossc.codegen.environment import render
from lossc.codegen.names import comment

LONGEST_BLOCK = 256  # tiles
BALANCE = 4  # tasks come in multiples of this where they are few, for that many threads
STREAM_BYTES = 8.0  # of transformed weights that come from beyond the L2 cache, in a cycle

Matrix = tuple[tuple[Fraction, ...], ...]


def _matrix(text: str) -> Matrix:
    return tuple(tuple(Fraction(entry) for entry in row.split()) for row in text.split(","))


#: By the outputs m of a tile's edge: transforms of the input (B^T), the weights (G) and the result (A^T), for the
#: points 0, 1, -1, (2, -2) and infinity.
INPUT = {
    2: _matrix("1 0 -1 0, 0 1 1 0, 0 -1 1 0, 0 1 0 -1"),
    4: _matrix(
        "4 0 -5 0 1 0, 0 -4 -4 1 1 0, 0 4 -4 -1 1 0, 0 -2 -1 2 1 0, 0 2 -1 -2 1 0, 0 4 0 -5 0 1"
    ),
}
WEIGHTS = {
    2: _matrix("1 0 0, 1/2 1/2 1/2, 1/2 -1/2 1/2, 0 0 1"),
    4: _matrix("1/4 0 0, -1/6 -1/6 -1/6, -1/6 1/6 -1/6, 1/24 1/12 1/6, 1/24 -1/12 1/6, 0 0 1"),
}
OUTPUT = {
    2: _matrix("1 1 1 0, 0 1 -1 -1"),
    4: _matrix("1 1 1 1 1 0, 0 1 -1 2 -2 0, 0 1 1 4 4 0, 0 1 -1 8 -8 1"),
}


@dataclass(frozen=True)
class _Block:
    m: int  # outputs along a tile's edge
    mr: int
    nv: int
    panels: int

    def __str__(self) -> str:
        return f"F({self.m}x{self.m},3x3) {self.mr}x{self.nv} panels {self.panels}"


def applies(shape: Window) -> bool:
    """Whether a convolution has the form that the transforms are for."""
    unit = all(s == 1 for s in (*shape.stride, *shape.dilation))
    return shape.kernel == (3, 3) and unit and all(pad >= 0 for pad in shape.pad)


def _tiles_of(shape: Window, m: int) -> tuple[int, int]:
    return ceil(shape.out_shape[0] / m), ceil(shape.out_shape[1] / m)


def _cost(shape: Window, types: Types, block: _Block) -> float:
    """Cycles of the whole convolution, for one thread."""
    edge, lanes = block.m + 2, types.lanes
    vectors = block.panels * block.nv
    row_tiles = ceil(shape.oc / block.mr)
    count = shape.n * prod(_tiles_of(shape, block.m))
    blocks = ceil(count / (vectors * lanes)) * shape.groups
    step = tile_cycles(block.mr, block.nv)
    tile = shape.ic * step + 4 * block.mr * block.nv + 20
    compute = edge**2 * row_tiles * block.panels * tile
    weights = edge**2 * row_tiles * block.mr * shape.ic * types.size
    reading = weights / STREAM_BYTES if weights > L2_BYTES else 0.0
    transform = vectors * (8.0 * edge**2 * shape.ic + 8.0 * edge**2 * shape.oc)
    once = shape.groups * shape.ic * row_tiles * block.mr * (10.0 + edge**2 / 2)
    resident = edge**2 * (shape.ic + shape.oc) * vectors * lanes * types.size
    penalty = 1.0 if resident <= L2_BYTES else 1.1 if resident <= 4 * L2_BYTES else 1.25
    per_task = max(compute, reading) + transform
    return round_up(blocks, BALANCE) * per_task * penalty + once


def winograd_block(
    shape: Window, isa: Isa, types: Types, sizes: Sequence[int], prefer: str = ""
) -> tuple[_Block, Choice]:
    """The best tile size of `sizes`, register tile and block, and how it was chosen."""

    def blocks() -> Iterator[_Block]:
        for m in sizes:
            count = shape.n * prod(_tiles_of(shape, m))
            for mr, nv in tiles(isa, types, shape.oc):
                nr = nv * types.lanes
                for panels in range(1, min(ceil(count / nr), max(1, LONGEST_BLOCK // nr)) + 1):
                    yield _Block(m, mr, nv, panels)

    return choose(blocks(), lambda block: _cost(shape, types, block), lambda block: f"conv winograd {block}", prefer)


def _constant(value: Fraction, types: Types) -> str:
    text = repr(float(value))
    return text if types.size == 8 else text + "f"


def _vector_sum(row: Sequence[Fraction], inputs: Sequence[str], types: Types) -> str:
    """C for the sum of the inputs times the row's entries, on vectors."""
    v = types.vec
    used = [(c, name) for c, name in zip(row, inputs, strict=True) if c]
    terms = sorted(used, key=lambda term: (term[0] != 1, abs(term[0]) != 1))
    first, name = terms[0]
    text = name if first == 1 else f"{v}_mul({v}_set1({_constant(first, types)}), {name})"
    for c, name in terms[1:]:
        if abs(c) == 1:
            text = f"{v}_{'add' if c > 0 else 'sub'}({text}, {name})"
        else:
            text = f"{v}_{'fma' if c > 0 else 'fnma'}({v}_set1({_constant(abs(c), types)}), {name}, {text})"
    return text


def _scalar_sum(row: Sequence[Fraction], inputs: Sequence[str], types: Types) -> str:
    terms = [name if c == 1 else f"{_quotient(c, types)} * {name}" for c, name in zip(row, inputs, strict=True) if c]
    return " + ".join(terms).replace("+ -", "- ")


def _quotient(value: Fraction, types: Types) -> str:
    """C for a constant that has no short decimal form: -1.0f / 6.0f."""
    return f"{_constant(Fraction(value.numerator), types)} / {_constant(Fraction(value.denominator), types)}"


def winograd_code(
    spec: Any, shape: Window, isa: Isa, types: Types, sizes: Sequence[int], prefer: str = ""
) -> Code:
    """The C function for a spec whose output is the window's target, with the best of the tile sizes."""
    block, choice = winograd_block(shape, isa, types, sizes, prefer)
    m, mr, lanes = block.m, block.mr, types.lanes
    edge, nr = m + 2, block.nv * lanes
    width = nr * block.panels
    rows, columns = _tiles_of(shape, m)
    count = shape.n * rows * columns
    blocks = ceil(count / width)
    row_tiles = ceil(shape.oc / mr)
    micro = Micro(
        f"{spec.name}_tile", f"a: transformed {spec.w}, b: transformed {shape.source}.", mr, block.nv, nr, 1, mr, nr, nr
    )
    run = min(columns, width)
    line = round_up(run * m + 2, lanes) + (m + 1) * lanes
    dealt_line = width + 2 * lanes
    at, offsets = 0, {}
    for name, size in (
        ("from", edge**2 * shape.ic * width),
        ("sums", edge**2 * shape.oc * width),
        ("strip", edge * line),
        ("phases", m * (line // m + 2 * lanes)),
        ("dealt", edge**2 * dealt_line),
        ("lines", m * (m * width + lanes)),
    ):
        offsets[name] = at
        at += types.aligned(size)
    shared = types.aligned(shape.groups * edge**2 * row_tiles * shape.ic * mr)
    params = parameters(spec, types, (shape.source, spec.w), shape.target)
    view_f = finish(spec, load=f"{types.vec}_load_n(o, m)", store=f"{types.vec}_store_n(o, %s, m)")
    group = "group" if shape.groups > 1 else "0"
    height_in, width_in = shape.in_shape
    d = [f"d{i}" for i in range(edge)]
    text = render(
        "conv_winograd.c.j2",
        {},
        t=types,
        k=micro,
        f=view_f,
        g={
            "name": spec.name,
            "comment": comment(spec.comment),
            "signature": signature(spec.name, params, types, shared, at),
            "at": offsets,
            "m": m,
            "edge": edge,
            "groups": shape.groups,
            "ic": shape.ic,
            "oc": shape.oc,
            "tiles": row_tiles,
            "row_tail": shape.oc % mr != 0,
            "w": spec.w,
            "w_row": shape.w_row,
            "w_from": shape.weights_at(spec.w, group),
            "flip": shape.flipped,
            "panels": block.panels,
            "width": width,
            "rows": rows,
            "columns": columns,
            "count": count,
            "blocks": blocks,
            "tasks": blocks * shape.groups,
            "line": line,
            "phase": line // m + 2 * lanes,
            "dealt_line": dealt_line,
            "lines_line": m * width + lanes,
            "in_height": height_in,
            "in_width": width_in,
            "height": shape.out_shape[0],
            "row": shape.out_shape[1],
            "pad_h": shape.pad[0],
            "pad_w": shape.pad[1],
            "image": affine(
                [("n", shape.source_strides[0]), (group, shape.ic * shape.source_strides[1]),
                 ("ci", shape.source_strides[1])],
                head=shape.source,
            ),
            "c": affine([(group, shape.oc), ("co", 1)]),
            "out_at": affine([("n", shape.target_strides[0]), ("c", shape.target_strides[1])], head=shape.target),
            "to_input": [_vector_sum(row, d, types) for row in INPUT[m]],
            "to_output": [_vector_sum(row, d, types) for row in OUTPUT[m]],
            "down": [_scalar_sum(row, d[:3], types) for row in WEIGHTS[m]],
            "across": [_scalar_sum(row, d[:3], types) for row in WEIGHTS[m]],
        },
    )  # fmt: skip
    return Code(text, tuple(params), shared, at, choice)
