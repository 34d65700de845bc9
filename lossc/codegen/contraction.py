"""What gemm and the convolutions share: their results, the register tile and its cost, names of vector functions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol, TypeVar

from lossc.codegen.environment import render
from lossc.codegen.names import comment

T = TypeVar("T")

LINE = 120
CACHE_LINE = 64
PAGE = 4096
L2_BYTES = 512 << 10  # what any CPU of the last ten years has, or nearly
RANKED = 16  # candidates that a choice remembers, for those who measure them
PANEL_BYTES = 32 << 10  # of b, which stay in the L1 cache while all rows of a pass by: bounds the depth of a block

#: Names inside the generated functions: parameters must be called otherwise, or they would be shadowed.
_LOCALS = """
    acc add adds alpha at_group at_tile block broadcast c c0 c1 channels chunk ci co co0 col column column0
    column_end column_image column_plane columns count cv d0 d1 d2 d3 d4 d5 d6 dealt depth each end exists first
    from group group0 group1 h h0 h1 h_first h_last half height i i0 image images j j1 j2 kh kw kz l l0 last limit
    line lines local m more n n0 n1 n2 next next_column o out p p0 p1 p2 packed packed_a packed_b panel panels part
    phase phases plane planes q r rest result row row0 row_end row_image row_plane row_tile rows rows_of s shared
    skip span spread stored strip sum sums sums_of t t0 t1 tap tap0 taps term terms tg tile tile0 tile1 tiles to
    total turned two u v v0 v1 v2 vectors w w0 w1 w_first w_last width x_block y z z0 z1 z2 z3
"""
LOCALS = frozenset(_LOCALS.split())


class Isa(Protocol):
    """What the contractions need to know of an instruction set."""

    @property
    def name(self) -> str: ...

    @property
    def registers(self) -> int: ...

    def lanes(self, dtype: str) -> int:
        """Elements of "float32" or "float64" in a vector."""


@dataclass(frozen=True)
class Epilogue:
    """C statements applied to each finished vector before it is stored: they read ``acc`` and define ``out``.

    gemm: ``i`` is the row and ``j`` the column of C (ptrdiff_t) of the vector's first lane; it runs along j, or along
    i where ``gemm.along_rows``. Convolutions: ``n`` image, ``c`` channel, ``j`` first position (flattened); for
    bwd_weights ``c`` is the output channel and ``j`` the first tap. ``m`` (int) lanes are valid. Where the output's
    channels lie in blocks, the vector runs along them: ``c`` is its first channel, ``j`` the position, and all lanes
    are valid.
    """

    lines: tuple[str, ...]
    args: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """What was chosen, and what came second: their names, and the cycles of one thread the cost model expects of each.

    Without a second candidate ``second`` is empty. ``ranked``: (name, cycles) of the cheapest candidates that differ in
    name, the model's choice first, at most ``RANKED`` of an algorithm.
    """

    name: str
    cycles: float
    second: str = ""
    second_cycles: float = 0.0
    ranked: tuple[tuple[str, float], ...] = ()

    @property
    def tuned(self) -> bool:
        """Whether a preference took the place of the model's choice, which is the second then."""
        return self.name != self.ranked[0][0]


def choose(
    candidates: Iterable[T], cost: Callable[[T], float], name: Callable[[T], str], prefer: str = ""
) -> tuple[T, Choice]:
    """The candidate called ``prefer``, else the one that costs least; the first of equals. And how it was chosen.

    ``name`` must tell candidates apart, but for those that come to the same: measurements are kept by it.
    """
    priced = sorted(((cost(c), k, c) for k, c in enumerate(candidates)), key=lambda entry: entry[:2])
    ranked: dict[str, float] = {}
    for price, _, candidate in priced:
        ranked.setdefault(name(candidate), price)
        if len(ranked) == RANKED:
            break
    cycles, _, best = priced[0]
    if prefer and prefer != name(best):
        cycles, _, best = next((entry for entry in priced if name(entry[2]) == prefer), priced[0])
    return best, _choice(name(best), cycles, tuple(ranked.items()))


def rivals(first: Choice, other: Choice, handicap: float, prefer: str = "") -> Choice:
    """The choice between two algorithms, the candidates of ``other`` costing ``handicap`` times as much; the best
    candidate of the one that loses ranks second."""
    wins = first.ranked[0][1] <= other.ranked[0][1] * handicap
    won, lost = (first, other) if wins else (other, first)
    best = next((choice for choice in (first, other) if choice.name == prefer), won)
    return _choice(best.name, best.cycles, (won.ranked[0], lost.ranked[0], *won.ranked[1:], *lost.ranked[1:]))


def _choice(name: str, cycles: float, ranked: tuple[tuple[str, float], ...]) -> Choice:
    second = next((entry for entry in ranked if entry[0] != name), ("", 0.0))
    return Choice(name, cycles, *second, ranked)


@dataclass(frozen=True)
class Prepared:
    """The C function ``name`` that brings a frozen operand into the order in which a product reads it; every thread of
    the team calls it. It takes the ``operand`` and ``packed``, ``size`` reals, which is a parameter of the product in
    the operand's place.
    """

    name: str
    text: str
    operand: str
    packed: str
    size: int


@dataclass(frozen=True)
class Code:
    """One C function, with its static helpers in front of it.

    ``params`` are its parameter declarations in call order, without ``shared`` and ``local``; the function has
    ``real *restrict shared`` (one buffer for the team) if ``shared_scratch`` is not 0, then ``real *restrict local``
    (one for each thread) if ``thread_scratch`` is not 0. Both are counted in reals; for speed they begin on a
    cache line of 64 bytes, and nothing in them outlives the call.
    """

    text: str
    params: tuple[str, ...]
    shared_scratch: int
    thread_scratch: int
    choice: Choice | None = None
    prepared: Prepared | None = None


@dataclass(frozen=True)
class Stored:
    """How numbers lie in memory: their C type, and the functions that load and store a vector of them."""

    real: str
    load: str
    store: str


@dataclass(frozen=True)
class Types:
    """Names of the element and vector type."""

    real: str
    vec: str
    lanes: int
    size: int

    def stored(self, half: bool = False) -> Stored:
        """As reals, or as bfloat16."""
        kind = "_bf16" if half else ""
        return Stored("uint16_t" if half else self.real, f"{self.vec}_load{kind}", f"{self.vec}_store{kind}")

    def aligned(self, count: int) -> int:
        """`count` reals rounded up to whole cache lines."""
        return round_up(count, CACHE_LINE // self.size)

    def head(self, name: str, params: Sequence[str]) -> str:
        """The head of a static function; ``real`` in a declaration stands for the element type."""
        return signature(name, [re.sub(r"\breal\b", self.real, param) for param in params], self, 0, 0)


def types_of(isa: Isa, dtype: str) -> Types:
    """The names for "f32" or "f64"."""
    real, size, long_name = {"f32": ("float", 4, "float32"), "f64": ("double", 8, "float64")}[dtype]
    return Types(real, f"v{dtype}", isa.lanes(long_name), size)


@dataclass(frozen=True)
class Micro:
    """A register tile's function: mr rows of a (broadcast) times nv vectors of b; strides in elements."""

    name: str
    what: str
    mr: int
    nv: int
    nr: int
    a_row: int
    a_k: int
    b_k: int
    out_row: int
    add: bool = False
    masked: bool = False
    b_column: int = 0  # of a dot tile, like depth
    depth: int = 0
    pairs: bool = False  # the elements of a and b are pairs of bfloat16
    halves: bool = False  # a lies as bfloat16: its strides count these, not pairs
    fetched: tuple[int, ...] = ()  # places beside `next`, which goes on by `next_step`, that each step prefetches
    next_step: int = 0
    direct: bool = False  # the function is given the distance of out's rows, which may be the result's own
    adds: bool = False  # and whether what a direct tile finds there is added in the end

    @property
    def multiply(self) -> str:
        """The vector function that adds products to a sum, without its type."""
        return "dot2" if self.pairs else "fma"

    @property
    def next(self) -> list[str]:
        """The parameter that says where what the step prefetches begins."""
        return ["const real *restrict next"] if self.fetched else []

    @property
    def out_line(self) -> str:
        """The distance of out's rows, as C."""
        return "out_row" if self.direct else str(self.out_row)

    def head(self, types: Types) -> str:
        """The function's head; out gets `depth` terms a sum, of `columns` valid columns where that can vary."""
        a = "uint16_t" if self.halves else "real"
        params = ["const ptrdiff_t depth", f"const {a} *restrict a", "const real *restrict b", "real *restrict out"]
        params += ["const int add"] if self.add else []
        params += ["const int columns"] if self.masked else []
        params += ["const ptrdiff_t out_row"] if self.direct else []
        params += ["const int adds"] if self.adds else []
        params += self.next
        return types.head(self.name, params)


@dataclass(frozen=True)
class Finish:
    """How one vector of sums is stored: alpha, what was there before, the epilogue."""

    alpha: str
    alpha_comment: str
    accumulate: bool | str  # a name: the parameter that says so when it is called
    lines: tuple[str, ...]
    load: str
    store: str

    def mentions(self, name: str) -> bool:
        return any(re.search(rf"\b{name}\b", line) for line in self.lines)

    def reads(self, name: str) -> list[tuple[str, bool]]:
        """C for the addresses that mention a name from which the lines load vectors, and whether those are bfloat16."""
        found = re.findall(r"_load(_bf16)?\(([^()]+)\)", " ".join(self.lines))
        return [(address, half != "") for half, address in found if re.search(rf"\b{name}\b", address)]


def is_one(alpha: str) -> bool:
    """Whether a C literal is 1."""
    return re.fullmatch(r"1(\.0*)?f?", alpha) is not None


def finish(spec: Any, load: str, store: str) -> Finish:
    """The view of a spec's alpha, accumulate and epilogue."""
    lines = spec.epilogue.lines if spec.epilogue else ()
    alpha = "" if is_one(spec.alpha) else spec.alpha
    return Finish(alpha, comment(spec.alpha_comment), spec.accumulate, lines, load, store)


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def tile_cycles(mr: int, nv: int) -> float:
    """Cycles for one step of depth: two FMAs a cycle, about one load, and a sum can be used again after four.

    Up to three rows gcc does not keep the vectors of b in registers but loads them again for every row.
    """
    loads = mr + (nv if mr > 3 else mr * nv)
    return max(mr * nv / 2, 0.93 * loads, 4.0)


def tiles(isa: Isa, types: Types, rows: int) -> Iterator[tuple[int, int]]:
    """(mr, nv) whose sums, one row of b and one broadcast fit into the registers.

    One lane means plain C, which compilers turn into vectors of four where they can.
    """
    registers = isa.registers if types.lanes > 1 else 4 * isa.registers
    for nv in (1, 2, 3, 4, 6, 8):
        for mr in range(1, min(rows, 24 if types.lanes > 1 else 4) + 1):
            if mr * nv + nv + 1 <= registers:
                yield mr, nv


def tiling_cost(rows: int, vectors: int, depth: int, mr: int, nv: int) -> float:
    """Cycles of all tiles of a product: their sums, storing them, and the call."""
    return ceil(rows / mr) * ceil(vectors / nv) * (depth * tile_cycles(mr, nv) + 4 * mr * nv + 20)


def crowded(rows: int, stride: int, size: int, lines: int = 1) -> bool:
    """Whether `rows` rows of some cache lines, `stride` elements apart, fall on so few sets of the L1 cache that they
    evict each other."""
    starts = [row * stride * size // CACHE_LINE for row in range(rows)]
    sets = Counter((start + line) % (PAGE // CACHE_LINE) for start in starts for line in range(lines))
    return max(sets.values()) > 6


def signature(name: str, params: Sequence[str], types: Types, shared: int, local: int) -> str:
    """The head of a static function, its parameters wrapped at the line length."""
    scratch = [f"{types.real} *restrict {what}" for what, size in (("shared", shared), ("local", local)) if size]
    head = f"static void {name}("
    lines, line = [], head
    for index, part in enumerate([*params, *scratch]):
        text = part + (")" if index == len(params) + len(scratch) - 1 else ",")
        if line not in (head, "") and len(line) + 1 + len(text) > LINE:
            lines.append(line)
            line = " " * len(head) + text
        else:
            line += ("" if line == head else " ") + text
    return "\n".join([*lines, line])


def prepared(
    spec: Any, types: Types, size: int, packing: str, k: Any, g: dict[str, Any], *, packed: str = "packed",
    transposes: bool = False,
) -> Prepared:  # fmt: skip
    """The function that packs the spec's frozen operand: ``packing`` is the template whose macro ``pack`` does so."""
    name = f"{spec.name}_pack"
    head = types.head(name, [f"const real *restrict {spec.frozen}", f"real *restrict {packed}"])
    what = comment(f"{spec.frozen} in the order in which {spec.name} reads it")
    own = {**g, "transpose": f"{name}_transpose", "transposes": transposes}
    text = render("pack.c.j2", {}, t=types, k=k, g=own, head=head, what=what, packed=packed, packing=packing)
    return Prepared(name, text, spec.frozen, packed, size)


def parameters(
    spec: Any, types: Types, sources: Sequence[str], target: str, halves: Collection[str] = ()
) -> list[str]:
    """Declarations of the inputs, the output, and what the epilogue and alpha need, each once; ``halves``: those that
    lie in memory as bfloat16."""
    reals = {name: "uint16_t" if name in halves else types.real for name in (*sources, target)}
    params = [f"const {reals[name]} *restrict {name}" for name in sources] + [f"{reals[target]} *restrict {target}"]
    more = (*(spec.epilogue.args if spec.epilogue else ()), *spec.alpha_args)
    if isinstance(spec.accumulate, str):
        more = (*more, f"const int {spec.accumulate}")
    return list(dict.fromkeys([*params, *more]))
