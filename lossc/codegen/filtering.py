"""Winograd's minimal filtering ("Arithmetic Complexity of Computations", 1980): m sums of r neighbouring inputs with
fewer than m r products, as three matrices.

y = A^T ((G w) * (B^T x)); for planes each matrix acts down and across, so that one tile of m x m outputs takes
products^2 products. The gradient of the weights takes as many, from the same matrices: G^T ((A dy) * (B^T x)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import ClassVar

from lossc.codegen.contraction import Stored, Types

Matrix = tuple[tuple[Fraction, ...], ...]


def _matrix(text: str) -> Matrix:
    return tuple(tuple(Fraction(entry) for entry in row.split()) for row in text.split(","))


@dataclass(frozen=True)
class Filtering:
    """F(m, r): ``input`` is B^T (products, m + r - 1), ``weights`` G (products, r), ``output`` A^T (m, products)."""

    m: int
    r: int
    input: Matrix
    weights: Matrix
    output: Matrix

    @property
    def window(self) -> int:
        """Inputs along a tile's edge."""
        return self.m + self.r - 1

    @property
    def products(self) -> int:
        return len(self.input)

    def __str__(self) -> str:
        return f"F({self.m}x{self.m},{self.r}x{self.r})"


#: The points are 0, 1, -1, (2, -2) and infinity. Five taps are three and two: F(2, 3) beside F(2, 2), 7 products where
#: one algorithm of their length takes 6, but with points that round as badly as those of F(4, 3).
FILTERINGS = (
    Filtering(
        2, 3,
        input=_matrix("1 0 -1 0, 0 1 1 0, 0 -1 1 0, 0 1 0 -1"),
        weights=_matrix("1 0 0, 1/2 1/2 1/2, 1/2 -1/2 1/2, 0 0 1"),
        output=_matrix("1 1 1 0, 0 1 -1 -1"),
    ),
    Filtering(
        4, 3,
        input=_matrix("4 0 -5 0 1 0, 0 -4 -4 1 1 0, 0 4 -4 -1 1 0, 0 -2 -1 2 1 0, 0 2 -1 -2 1 0, 0 4 0 -5 0 1"),
        weights=_matrix("1/4 0 0, -1/6 -1/6 -1/6, -1/6 1/6 -1/6, 1/24 1/12 1/6, 1/24 -1/12 1/6, 0 0 1"),
        output=_matrix("1 1 1 1 1 0, 0 1 -1 2 -2 0, 0 1 1 4 4 0, 0 1 -1 8 -8 1"),
    ),
    Filtering(
        2, 5,
        input=_matrix(
            "1 0 -1 0 0 0, 0 1 1 0 0 0, 0 -1 1 0 0 0, 0 1 0 -1 0 0, 0 0 0 1 -1 0, 0 0 0 0 1 0, 0 0 0 0 -1 1"
        ),
        weights=_matrix("1 0 0 0 0, 1/2 1/2 1/2 0 0, 1/2 -1/2 1/2 0 0, 0 0 1 0 0, 0 0 0 1 0, 0 0 0 1 1, 0 0 0 0 1"),
        output=_matrix("1 1 1 0 1 1 0, 0 1 -1 -1 0 1 1"),
    ),
)  # fmt: skip


def transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _constant(value: Fraction, types: Types) -> str:
    text = repr(float(value))
    return text if types.size == 8 else text + "f"


def vector_sum(row: Sequence[Fraction], inputs: Sequence[str], types: Types) -> str:
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


def scalar_sum(row: Sequence[Fraction], inputs: Sequence[str], types: Types) -> str:
    """The same on scalars."""
    terms = [name if c == 1 else f"{_quotient(c, types)} * {name}" for c, name in zip(row, inputs, strict=True) if c]
    return " + ".join(terms).replace("+ -", "- ")


def _quotient(value: Fraction, types: Types) -> str:
    """C for a constant that has no short decimal form: -1.0f / 6.0f."""
    return f"{_constant(Fraction(value.numerator), types)} / {_constant(Fraction(value.denominator), types)}"


@dataclass(frozen=True)
class Sandwich:
    """The view of a C function for M D M^T of one tile, ``lanes`` channels at once.

    D's element (i, j) lies at from + i * from_line + j * from_step, stored as ``source``; the result's likewise, as
    ``target``. A ``from_line`` of 0 stands for the parameter ``row``.
    """

    name: str
    what: str
    ins: int
    outs: int
    sums: tuple[str, ...]
    from_line: int
    from_step: int
    to_line: int
    to_step: int
    source: Stored
    target: Stored


def sandwich(
    name: str, what: str, matrix: Matrix, types: Types, source: tuple[int, int], target: tuple[int, int],
    halves: tuple[bool, bool] = (False, False),
) -> Sandwich:  # fmt: skip
    """``source`` and ``target``: distances of lines and of neighbours in a line, in elements; ``halves``: whether they
    lie as bfloat16."""
    ins = len(matrix[0])
    sums = tuple(vector_sum(row, [f"d{k}" for k in range(ins)], types) for row in matrix)
    stored = (types.stored(half) for half in halves)
    return Sandwich(name, what, ins, len(matrix), sums, *source, *target, *stored)


@dataclass(frozen=True)
class Blocks:
    """Tiles of ``m`` x ``m`` outputs in blocks: ``rows`` of tiles of an image, or ``images`` whole ones."""

    m: int
    n: int
    height: int  # of the outputs
    width: int
    rows: int
    images: int

    @property
    def tile_rows(self) -> int:
        return ceil(self.height / self.m)

    @property
    def columns(self) -> int:
        return ceil(self.width / self.m)

    @property
    def tiles(self) -> int:
        """Of one block."""
        return self.images * self.rows * self.columns

    @property
    def row_blocks(self) -> int:
        return ceil(self.tile_rows / self.rows)

    @property
    def count(self) -> int:
        return ceil(self.n / self.images) * self.row_blocks


def blocks_of(m: int, n: int, out_shape: Sequence[int], most: int) -> Blocks:
    """Blocks of about equal size, of at most ``most`` tiles, but for single rows that have more."""
    height, width = out_shape
    rows, columns = ceil(height / m), ceil(width / m)
    if rows * columns <= most:
        images = ceil(n / ceil(n / (most // (rows * columns))))
        return Blocks(m, n, height, width, rows, images)
    fit = max(1, most // columns)
    return Blocks(m, n, height, width, ceil(rows / ceil(rows / fit)), 1)


@dataclass(frozen=True)
class Strip:
    """What one block of tiles reads of an image, for ``lanes`` channels: [line][column][lane], zeros around it."""

    direct: ClassVar[bool] = False
    lines: int
    width: int
    m: int
    overlap: int  # lines and columns that neighbouring tiles share
    pad_h: int
    pad_w: int
    in_height: int
    in_width: int
    copied: int  # columns that exist
    channel: int  # distance of channels in the image
    lanes: int
    tail: bool  # the last vector has fewer channels
    stored: Stored

    @property
    def size(self) -> int:
        return self.lines * self.width

    @property
    def scratch(self) -> int:
        """Elements."""
        return self.size * self.lanes

    @property
    def steps(self) -> tuple[int, int]:
        """Distances of lines and columns."""
        return self.width * self.lanes, self.lanes


@dataclass(frozen=True)
class Windows:
    """What tiles read of an image whose channels lie in blocks: straight from it, but for windows over its edges, of
    which the function ``name`` makes a copy with zeros around it: [line][column][channel in the block]."""

    direct: ClassVar[bool] = True
    name: str
    m: int
    size: int  # lines and columns of a window
    pad_h: int
    pad_w: int
    in_height: int
    in_width: int
    block: int
    over: str  # C for whether the window at `line` and `column` lies over an edge, or nothing where none does
    stored: Stored
    copy: str  # C for where the copy lies

    @property
    def scratch(self) -> int:
        """Elements of the copy."""
        return self.size**2 * self.block if self.over else 0

    @property
    def steps(self) -> tuple[int, int]:
        """Distances of lines, which is a parameter, and of columns."""
        return 0, self.block


def source_of(
    name: str, blocks: Blocks, overlap: int, pad: Sequence[int], in_shape: Sequence[int], channels: int, channel: int,
    block: int, types: Types, half: bool = False, multiple: int = 1,
) -> Strip | Windows:  # fmt: skip
    """How tiles read an image with its ``channels`` in blocks, or in planes ``channel`` apart; ``half``: as bfloat16.
    They read a ``multiple`` of channels at least, zeros behind the last one."""
    m, lanes = blocks.m, types.lanes
    lines, width = blocks.rows * m + overlap, blocks.columns * m + overlap
    if not block:
        copied = max(0, min(in_shape[1], width - pad[1]))
        tail = channels % max(lanes, multiple) != 0
        return Strip(
            lines, width, m, overlap, pad[0], pad[1], in_shape[0], in_shape[1], copied, channel, lanes, tail,
            types.stored(),
        )  # fmt: skip
    ends = blocks.tile_rows * m + overlap - pad[0], width - pad[1]
    edges = [f"{at} < 0" for at, before in zip(("line", "column"), pad, strict=True) if before]
    for at, end, extent in zip(("line", "column"), ends, in_shape, strict=True):
        edges += [f"{at} > {extent - m - overlap}"] if end > extent else []
    stored = types.stored(half)
    return Windows(
        name, m, m + overlap, pad[0], pad[1], in_shape[0], in_shape[1], block, " || ".join(edges), stored,
        f"({stored.real} *)strip" if half else "strip",
    )  # fmt: skip
