"""Winograd's minimal filtering (Winograd, "Arithmetic Complexity of Computations", 1980): m sums of r neighbouring inputs
with fewer than m r products, as three matrices.

y = A^T ((G w) * (B^T x)); for planes each matrix acts down and across, so that one tile of m x m outputs takes
products^2 products. The gradient of the weights takes as many, from the same matrices: G^T ((A dy) * (B^T x)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from lossc.codegen.contraction import Types

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
