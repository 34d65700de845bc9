"""C text of reductions of blocks of channels whose rows are too few for a team: each row in parts, in two loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from lossc.codegen.mapblocks import Lines
from lossc.codegen.maploops import COMBINE
from lossc.codegen.mapplan import SHARES, TASK_POINTS, Plan, centred, points
from lossc.codegen.maprows import RowWriter
from lossc.codegen.mapvalues import Block, Scope
from lossc.ir import Access, Dim, Store
from lossc.ir.blob import BLOCK
from lossc.ir.expr import Expr, Iota, Reduce, map_accesses, rewrite, walk


def in_parts(plan: Plan) -> Plan:
    """The plan with its rows in parts, where there are few of them and each is long.

    How many parts is a matter of shapes alone: their sums are added in one order, whatever the number of threads.
    """
    if not plan.of_blocks or plan.walk is not None or plan.totals or not _one_loop(plan):
        return plan
    rows = prod(d.extent for d in plan.rows) // BLOCK
    wanted, most = -(-SHARES // rows), points(plan.inner) * BLOCK // TASK_POINTS
    for d in plan.inner:
        if (count := _divisor(d.extent, wanted, most)) > 1:
            plan = _divide(plan, d, count)
            wanted, most = -(-wanted // count), most // count
    return plan


def _one_loop(plan: Plan) -> bool:
    """Whether all reductions are made in one loop over a row, in vectors of channels, and none counts positions."""
    nodes = dict.fromkeys(e for s in plan.stores for e in walk(s.value))
    for e in nodes:
        if isinstance(e, Iota) and e.dim in plan.inner:
            return False
        if isinstance(e, Reduce) and not (plan.vector in e.varies and (centred(e) or _leaf(e))):
            return False
    return bool(plan.inner)


def _leaf(e: Reduce) -> bool:
    return not any(isinstance(below, Reduce) for below in walk(e.arg))


def _divisor(extent: int, wanted: int, most: int) -> int:
    """The least divisor from ``wanted`` on, unless it is far more; else the greatest below. None exceeds ``most``."""
    divisors = [k for k in range(1, extent + 1) if extent % k == 0 and k <= min(most, 2 * wanted)]
    return next((k for k in divisors if k >= wanted), divisors[-1] if divisors else 1)


def _divide(plan: Plan, d: Dim, count: int) -> Plan:
    """The plan with a dimension as ``count`` parts, and what is left of it within each."""
    part, within = Dim(f"{d.name}@part", count), Dim(d.name, d.extent // count)
    rest = [within] if within.extent > 1 else []

    def access(a: Access) -> Access:
        strides: list[tuple[Dim, int]] = []
        for e, step in a.strides:
            strides += [(part, step * within.extent), *((x, step) for x in rest)] if e == d else [(e, step)]
        return replace(a, strides=tuple(strides))

    def change(e: Expr) -> Expr:
        if isinstance(e, Reduce) and d in e.dims:
            return replace(e, dims=tuple(sorted([part, *rest, *(x for x in e.dims if x != d)])))
        return e

    stores = [
        Store(access(s.access), rewrite(map_accesses(s.value, access), change), s.accumulate) for s in plan.stores
    ]
    inner = [x for each in plan.inner for x in (rest if each == d else [each])]
    return replace(plan, stores=tuple(stores), inner=tuple(inner), parts=(*plan.parts, part))


@dataclass(frozen=True)
class _Work:
    """What the loops over rows do: the reductions, points that need none of them, points that do, and the rest."""

    reduces: list[Reduce]
    before: list[Store]
    after: list[Store]
    yields: list[Store]


class PartWriter(RowWriter):
    """Writes rows in parts: a loop over all parts of some rows for their sums, which go to ``shared``, then one that
    adds these up, in their order, and writes what depends on them.

    The second loop reads the points again. So rows are taken by as many as the team needs to have work for all: few
    threads find them in their caches then, as they do where a row is one task.
    """

    _leaf: Callable[[Lines], None] | None = None

    def _write_parts(self) -> tuple[Lines, int]:
        """(statements of the function, reals of shared scratch)."""
        fills = [s for s in self.plan.stores if self._fills_row(s)]
        work = _Work(
            self._row_reduces(),
            [s for s in fills if not self._stages[s.value]],
            [s for s in fills if self._stages[s.value]],
            [s for s in self.plan.stores if not self._fills_row(s)],
        )
        rows, parts = prod(d.extent for d in self.outer), points(self.plan.parts)
        out, whole = self.top.lines, self.outer
        each = (*whole, *self.plan.parts)
        if work.after:
            wide, first, past = (self.names.fresh(name) for name in ("wide", "first", "past"))
            out.append(f"const ptrdiff_t {wide} = lossc_rows_at_once({parts});")
            groups = Block(f"for (ptrdiff_t {first} = 0; {first} < {rows}; {first} += {wide})")
            groups.body.append(f"const ptrdiff_t {past} = {first} + {wide} < {rows} ? {first} + {wide} : {rows};")
            span = (f"{first} * {parts}", f"{past} * {parts}")
            groups.body.append(self._loop(each, span, "LOSSC_FOR", lambda body: self._partial(body, work)))
            groups.body.append(self._loop(each, span, "LOSSC_FOR_NOWAIT", lambda body: self._rest(body, work, parts)))
            out.append(groups)
        else:
            span = ("0", str(rows * parts))
            out.append(self._loop(each, span, "LOSSC_FOR", lambda body: self._partial(body, work)))
            span = ("0", str(rows))
            out.append(self._loop(whole, span, "LOSSC_FOR_NOWAIT", lambda body: self._rest(body, work, 1)))
        out += ["lossc_stream_fence();"] if self.plan.streamed else []
        return [*out, "LOSSC_BARRIER"], rows * parts * len(work.reduces) * BLOCK

    def _loop(
        self, outer: tuple[Dim, ...], span: tuple[str, str], pragma: str, leaf: Callable[[Lines], None]
    ) -> Block:
        """A loop over tasks, which are the points of the ``outer`` dimensions."""
        self.outer, self._leaf = outer, leaf
        loop = Block(f"for (ptrdiff_t t = {span[0]}; t < {span[1]}; t++)", pragma=pragma)
        self._decode(loop.body, "t")
        self._one_row(loop.body, "0", str(BLOCK), BLOCK)
        return loop

    def _loops(self, body: Lines) -> None:
        if self._leaf is None:
            super()._loops(body)
        else:
            self._leaf(body)

    def _at_part(self, task: str, work: _Work, r: Reduce) -> str:
        """Where a task keeps the sum of its part."""
        assert self.v is not None
        first = work.reduces.index(r) * BLOCK
        return f"shared + {task} * {len(work.reduces) * BLOCK} + {f'{first} + ' if first else ''}{self.index[self.v]}"

    def _partial(self, body: Lines, work: _Work) -> None:
        """The sums of one part."""
        self._stage(body, 0, work.reduces, work.before, [])
        for r in work.reduces:
            self.block.each().append(f"{self.style.v}_store({self._at_part('t', work, r)}, {self.block.known[r]});")

    def _rest(self, body: Lines, work: _Work, tasks: int) -> None:
        """The sums of a row, the points of one of ``tasks`` parts, and, in the first of them, what the row yields."""
        v, part, parts = self.style.v, self.names.fresh("part"), points(self.plan.parts)
        whole = {r: self._sum(self.block, r.kind, r) for r in work.reduces}
        loop = Block(f"for (ptrdiff_t {part} = 0; {part} < {parts}; {part}++)")
        each = Scope(loop.body, strip=self.block.strip)
        task = f"(t * {parts} + {part})" if tasks == 1 else f"(t - t % {parts} + {part})"
        sums = {
            r: each.declare(v, self.names.fresh("piece"), f"{v}_load({self._at_part(task, work, r)})")
            for r in work.reduces
        }
        if squares := {r: pair for r in work.reduces if (pair := centred(r)) is not None}:
            count = str(points(self.plan.inner))
            share = self._broadcast(loop.body, "share", f"1 / ({self.style.real}){count}")
            of = dict.fromkeys(total for _, total in squares.values())
            means = {s: each.declare(v, self.names.fresh("mean"), f"{v}_mul({sums[s]}, {share})") for s in of}
            sums |= self._moved(each, squares, means, sums, whole, f"{part} * {count}", count)
        for r, text in sums.items():
            each.each().append(f"{whole[r]} = {v}_{COMBINE[r.kind]}({whole[r]}, {text});")
        body.append(loop)
        for r, name in whole.items():
            self.block.known[r] = name
        if work.after:
            self._stage(body, 1, [], work.after, [])
        if work.yields:
            once = Block(f"if (t % {parts} == 0)" if tasks > 1 else "")
            body.append(once)
            lines = Scope(once.body, strip=self.block.strip).each()
            self.loop = self.block = Scope(lines, dict(self.block.known), dict(self.block.broadcast))
            for s in work.yields:
                self._store(s, lines)
