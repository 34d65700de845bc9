"""C text of reductions of blocks of channels over their positions: piece by piece, in several sums at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lossc.codegen.maploops import COMBINE, NEUTRAL, STRIP, LoopWriter
from lossc.codegen.mapplan import centred
from lossc.codegen.mapvalues import Block, Scope
from lossc.codegen.names import literal
from lossc.ir import Store
from lossc.ir.expr import Expr, Reduce

#: How many numbers are added to one sum before that is added to another: rounding grows with them.
TERMS = 64

Lines = list[str | Block]


@dataclass(frozen=True)
class _Work:
    """What one loop over a row computes. ``squares``: sums of squared differences -> (of what, the sum of that)."""

    plain: list[Reduce]
    squares: dict[Reduce, tuple[Expr, Reduce]]
    stores: list[Store]
    totals: list[Reduce]


@dataclass(frozen=True)
class _Piece:
    """The positions ``first`` to ``past`` of a row, ``ways`` of them worked on together; ``seen`` came before them."""

    first: str
    past: str
    seen: str
    ways: int

    @property
    def count(self) -> str:
        return self.past if self.first == "0" else f"({self.past} - {self.first})"


class BlockWriter(LoopWriter):
    """Writes a row that is a block of channels. Each channel has a lane of its own, whose sum would be a long one.

    So positions are taken in pieces: a piece has sums of its own, some of them side by side since each waits for its
    last addition, and these are added to the row's. A piece stays in the cache: sums of squared differences from the
    mean, which need the sum first, read it again there, so that memory is read once for both. They are about the
    piece's mean; Chan, Golub and LeVeque (1983) tell how the sums of two pieces become those of both.
    """

    def _stage(
        self, body: Lines, stage: int, reduces: list[Reduce], stores: list[Store], totals: list[Reduce]
    ) -> None:
        if not self.plan.of_blocks or not reduces or not all(self._form_vector(r.arg) for r in reduces):
            super()._stage(body, stage, reduces, stores, totals)
            return
        squares = {r: pair for r in reduces if (pair := centred(r)) is not None}
        work = _Work([r for r in reduces if r not in squares], squares, stores, totals)
        whole = {r: self._sum(self.block, r.kind, r) for r in reduces}
        nest: Lines = []  # goes behind what the block needs for all of its positions
        lines = nest
        for d in self.plan.inner[:-1]:
            i = self.index[d]
            loop = Block(f"for (ptrdiff_t {i} = 0; {i} < {d.extent}; {i}++)")
            lines.append(loop)
            lines = loop.body
        along = self.plan.inner[-1]
        ways = max(1, min(STRIP // self.block.strip, along.extent))
        length = ways * TERMS
        if along.extent <= length:
            self._piece(lines, work, whole, _Piece("0", str(along.extent), self._seen("0"), ways))
        else:
            first, past = self.names.fresh("first"), self.names.fresh("past")
            loop = Block(f"for (ptrdiff_t {first} = 0; {first} < {along.extent}; {first} += {length})")
            loop.body.append(f"const ptrdiff_t {past} = {_least(f'{first} + {length}', along.extent, length)};")
            lines.append(loop)
            self._piece(loop.body, work, whole, _Piece(first, past, self._seen(first), ways))
        body += nest
        self.spill_ready |= self.spill_stored
        for r, name in whole.items():
            self.block.known[r] = name

    def _seen(self, first: str) -> str:
        """How many positions of the row come before ``first`` in the innermost loop; "0" where it is the only one."""
        text, step = ("" if first == "0" else first), self.plan.inner[-1].extent
        for d in reversed(self.plan.inner[:-1]):
            term = f"{self.index[d]} * {step}"
            text, step = (f"{term} + {text}" if text else term), step * d.extent
        return text or "0"

    def _sum(self, scope: Scope, wish: str, r: Reduce) -> str:
        """A new sum, or greatest or least; returns how to refer to it."""
        start = f"{self.style.v}_set1({literal(NEUTRAL[r.kind], self.style.dtype)})"
        return scope.declare(self.style.v, self.names.fresh(wish), start, const="")

    def _piece(self, lines: Lines, work: _Work, whole: dict[Reduce, str], piece: _Piece) -> None:
        """The sums of one piece, added to those of the row."""
        v, ways, each = self.style.v, piece.ways, Scope(lines, strip=self.block.strip)
        wide = Scope(lines, strip=self.block.strip * ways)
        parts = {r: self._sum(wide, "part", r).removesuffix("[u]") for r in (*work.plain, *work.squares)}

        def accumulate(out: Lines, way: str | int) -> None:
            accs = {r: self._at(parts[r], ways, way) for r in work.plain}
            self._point(out, work.plain, accs, work.stores, work.totals)

        self._ways(lines, piece, accumulate)
        sums = {r: self._together(each, r, parts[r], ways) for r in work.plain}
        if work.squares:
            sums |= self._squares(lines, work, parts, sums, whole, piece)
        for r, text in sums.items():
            each.each().append(f"{whole[r]} = {v}_{COMBINE[r.kind]}({whole[r]}, {text});")

    def _squares(
        self,
        lines: Lines,
        work: _Work,
        parts: dict[Reduce, str],
        sums: dict[Reduce, str],
        whole: dict[Reduce, str],
        piece: _Piece,
    ) -> dict[Reduce, str]:
        """Squared differences from the piece's mean, and what they become about the mean of all up to its end."""
        v, each = self.style.v, Scope(lines, strip=self.block.strip)
        share = self._broadcast(lines, "share", f"1 / ({self.style.real}){piece.count}")
        of = dict.fromkeys(total for _, total in work.squares.values())
        means = {s: each.declare(v, self.names.fresh("mean"), f"{v}_mul({sums[s]}, {share})") for s in of}

        def accumulate(out: Lines, way: str | int) -> None:
            for r, (x, total) in work.squares.items():
                apart, acc = self.names.fresh("apart"), self._at(parts[r], piece.ways, way)
                out.append(f"const {v} {apart} = {v}_sub({self.vector(x)}, {means[total]});")
                out.append(f"{acc} = {v}_fma({apart}, {apart}, {acc});")

        self._ways(lines, piece, accumulate)
        found = {r: self._together(each, r, parts[r], piece.ways) for r in work.squares}
        if piece.seen == "0":
            return found
        return self._moved(each, work.squares, means, found, whole, piece.seen, piece.count)

    def _moved(
        self,
        each: Scope,
        squares: dict[Reduce, tuple[Expr, Reduce]],
        means: dict[Reduce, str],
        found: dict[Reduce, str],
        whole: dict[Reduce, str],
        position: str,
        count: str,
    ) -> dict[Reduce, str]:
        """Squared differences of ``count`` positions from their mean, as they add to those of all positions before."""
        v, real = self.style.v, self.style.real
        seen, lines, out = self.names.fresh("seen"), each.lines, {}
        lines.append(f"const {real} {seen} = ({real})({position});")
        before = self._broadcast(lines, "before", f"1 / ({seen} > 0 ? {seen} : 1)")
        weight = self._broadcast(lines, "weight", f"{seen} * ({real}){count} / ({seen} + ({real}){count})")
        for r, (_, total) in squares.items():
            apart = each.declare(v, self.names.fresh("apart"), f"{v}_fnma({whole[total]}, {before}, {means[total]})")
            moved = f"{v}_fma({v}_mul({apart}, {apart}), {weight}, {found[r]})"
            out[r] = each.declare(v, self.names.fresh("moved"), moved)
        return out

    def _broadcast(self, lines: Lines, wish: str, text: str) -> str:
        name = self.names.fresh(wish)
        lines.append(f"const {self.style.v} {name} = {self.style.v}_set1({text});")
        return name

    def _ways(self, lines: Lines, piece: _Piece, leaf: Callable[[Lines, str | int], None]) -> None:
        """A loop over a piece, so many positions at once, then one over the rest."""
        along, ways = self.plan.inner[-1], piece.ways
        p = self.index[along]
        if ways > 1:
            way = self.names.fresh("way")
            inner = Block(f"for (int {way} = 0; {way} < {ways}; {way}++)", pragma=f"#pragma GCC unroll {ways}")
            header = f"for (ptrdiff_t {p} = {piece.first}; {p} + {ways} <= {piece.past}; {p} += {ways})"
            lines.append(Block(header, [inner]))
            self.index[along] = f"({p} + {way})"
            self._nest(inner.body, [], lambda out: leaf(out, way))
            self.index[along] = p
        if ways == 1 or along.extent % ways:
            first = piece.first if ways == 1 else f"{piece.past} - {piece.count} % {ways}"
            rest = Block(f"for (ptrdiff_t {p} = {first}; {p} < {piece.past}; {p}++)")
            self._nest(rest.body, [], lambda out: leaf(out, 0))
            lines.append(rest)

    def _at(self, name: str, ways: int, way: str | int) -> str:
        """One of the sums side by side, which belong to a way and a vector of the block."""
        strip = self.block.strip
        if ways * strip == 1:
            return name
        if strip == 1:
            return f"{name}[{way}]"
        first = way * strip if isinstance(way, int) else f"{way} * {strip}"
        return f"{name}[{first} + u]" if first else f"{name}[u]"

    def _together(self, scope: Scope, r: Reduce, name: str, ways: int) -> str:
        """Sums side by side as one: neighbours meet, then these, and so on."""
        v, texts = self.style.v, [self._at(name, ways, k) for k in range(ways)]
        if ways == 1:
            return texts[0]
        while len(texts) > 1:
            pairs = zip(texts[::2], texts[1::2], strict=False)
            texts = [f"{v}_{COMBINE[r.kind]}({a}, {b})" for a, b in pairs] + texts[len(texts) // 2 * 2 :]
        return scope.declare(v, self.names.fresh("piece"), texts[0])


def _least(end: str, limit: int, step: int) -> str:
    return f"{end} < {limit} ? {end} : {limit}" if limit % step else end
