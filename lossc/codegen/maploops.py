"""C text of one row of a map: the loops over its inner dimensions, stage by stage, and what a row yields."""

from __future__ import annotations

import math
from collections.abc import Callable

from lossc.codegen.cexpr import EXPENSIVE
from lossc.codegen.mapplan import points
from lossc.codegen.mapvalues import Block, Scope, ValueWriter
from lossc.codegen.names import literal
from lossc.ir import Dim, Scalar, Store
from lossc.ir.blob import BLOCK
from lossc.ir.expr import Const, Expr, Load, Op, Reduce, walk

#: Vectors of rows that are worked on together, so that one's latencies pass while the others go on.
STRIP = 4
#: Reals of a row that may be kept on the stack between two loops over it.
SPILL_REALS = 4096
#: Bytes between neighbours in a row from which on each is in a page of its own: the hardware's prefetchers see no row.
PAGE_BYTES = 4096
#: What each reduction starts from, and the operation that it repeats.
NEUTRAL = {"sum": 0.0, "max": float("-inf"), "min": float("inf")}
COMBINE = {"sum": "add", "max": "max", "min": "min"}
#: The functions of simd.h that reduce a vector to one number.
REDUCER = {"sum": "sum", "max": "reduce_max", "min": "reduce_min"}


class LoopWriter(ValueWriter):
    """Writes a row: a reduction within it takes one loop, and what depends on its result comes in a later one."""

    def _loops(self, body: list[str | Block]) -> None:
        """All stages of one row (or one vector of rows): loops over the inner dimensions, then what a row yields."""
        last = max((self._stages[s.value] for s in self.plan.stores), default=0)
        self.spill_ready, self.spill_stored = set(), set()
        self._plan_spills(body, last)
        for stage in range(last + 1):
            reduces = [e for e in self._row_reduces() if self._stages[e] == stage + 1]
            stores = [s for s in self.plan.stores if self._fills_row(s) and self._stages[s.value] == stage]
            stores = [s for s in stores if not self._depends[s.value]]
            totals = [r for r in self.plan.totals if self._in_loop(r.arg) and self._stages[r.arg] == stage]
            if reduces or stores or totals:
                self._stage(body, stage, reduces, stores, totals)
        yields = [s for s in self.plan.stores if not self._fills_row(s) and not self._depends[s.value]]
        yields = [s for s in yields if s.access.dims or self._of_row[s.value]]
        totals = [r for r in self.plan.totals if not self._in_loop(r.arg)]
        if not yields and not totals:
            return
        each = self.block.each()
        self.loop = self.block = Scope(each, dict(self.block.known), dict(self.block.broadcast))
        for s in yields:
            self._store(s, each)
        for r in totals:
            self._accumulate(each, self.total_acc[r], r, masked=True)

    def _strip(self) -> int:
        """How many vectors of rows to work on together: 1 where rows have no loops of their own, else a block."""
        if self.v is None or not self.plan.inner:
            return 1
        size = points(self.plan.inner) * self.lanes
        strip = max(STRIP, BLOCK // self.lanes) if self.plan.of_blocks else STRIP
        while strip > 1 and (strip * self.lanes > self.v.extent or size <= SPILL_REALS < size * strip):
            strip //= 2
        return strip

    def _fills_row(self, s: Store) -> bool:
        """Whether it writes each point of a row, be the value the same for all of them."""
        return bool(set(s.access.dims) & {*self.plan.inner, *self.plan.parts})

    def _in_loop(self, e: Expr) -> bool:
        return bool(e.varies & set(self.plan.inner))

    def _row_reduces(self) -> list[Reduce]:
        found: dict[Reduce, None] = {}
        for s in self.plan.stores:
            for e in walk(s.value):
                if isinstance(e, Reduce) and e not in self.plan.totals:
                    found.setdefault(e)
        return list(found)

    def _plan_spills(self, body: list[str | Block], last: int) -> None:
        self.spilled = {}
        vectors = self.lanes * self.block.strip if self.plan.vector_in_rows else 1
        size = math.prod(room for _, room in self._spill_rooms()) * vectors
        if last == 0 or size > SPILL_REALS:
            return
        for e in self._worth_keeping(last):
            name = self.names.fresh("kept")
            length = f"{size} + {self.style.lanes}"
            if self.plan.vector_in_rows:
                length = f"{points(self.plan.inner) * self.block.strip} * {self.style.lanes}"
            body.append(f"{self.style.real} {name}[{length}];")
            self.spilled[e] = name

    def _worth_keeping(self, last: int) -> list[Expr]:
        """Expensive values that one loop over the row computes and a later one needs, outside of another kept value."""
        roots = [r.arg for r in (*self._row_reduces(), *self.plan.totals)]
        roots += [s.value for s in self.plan.stores if not self._depends[s.value]]
        nodes = dict.fromkeys(e for root in roots for e in walk(root))
        kept = [e for e in nodes if self._expensive(e) and self._form_vector(e)]
        while True:
            ready: set[Expr] = set()
            loaded: set[Expr] = set()
            for stage in range(last + 1):
                seen = self._evaluated([r for r in roots if self._stages[r] == stage], ready)
                loaded |= seen & ready
                ready |= seen & set(kept)
            if len(loaded) == len(kept):
                return [e for e in kept if self._in_loop(e)]
            kept = [e for e in kept if e in loaded]

    def _expensive(self, e: Expr) -> bool:
        """Whether it is worth a copy: functions, and what strips of rows load from far apart, page by page."""
        if isinstance(e, Load) and self.v is not None:
            width = 4 if self.style.dtype == "f32" else 8
            apart = max((abs(e.access.stride(d)) for d in self.plan.inner), default=0) * width
            return self.block.strip > 1 and e.access.stride(self.v) == 1 and apart >= PAGE_BYTES
        return isinstance(e, Op) and e.name in EXPENSIVE

    def _evaluated(self, roots: list[Expr], ready: set[Expr]) -> set[Expr]:
        """What a loop over the row touches: from the roots down to what is ready, or known for the whole row."""
        out: set[Expr] = set()
        stack = list(roots)
        while stack:
            e = stack.pop()
            if self._in_loop(e) and e not in out:
                out.add(e)
                stack.extend(() if e in ready else e.children())
        return out

    def _stage(
        self,
        body: list[str | Block],
        stage: int,
        reduces: list[Reduce],
        stores: list[Store],
        totals: list[Reduce],
    ) -> None:
        accs: dict[Reduce, str] = {}
        for r in reduces:
            name = self.names.fresh(f"{r.kind}")
            start = literal(NEUTRAL[r.kind], self.style.dtype)
            if self._form_vector(r.arg):
                accs[r] = self.block.declare(self.style.v, name, f"{self.style.v}_set1({start})", const="")
            else:
                accs[r] = self.block.declare(self.style.real, name, start, const="")
        nest: list[str | Block] = []
        self._nest(nest, list(self.plan.inner), lambda lines: self._point(lines, reduces, accs, stores, totals))
        body += nest
        self.spill_ready |= self.spill_stored
        for r in reduces:
            name = accs[r]
            if self._form_vector(r.arg) and not self._form_vector(r):
                scalar = self.names.fresh(f"{r.kind}_all")
                body.append(f"const {self.style.real} {scalar} = {self.style.v}_{REDUCER[r.kind]}({name});")
                name = scalar
            self.block.known[r] = name

    def _nest(self, out: list[str | Block], dims: list[Dim], leaf: Callable[[list[str | Block]], None]) -> None:
        if not dims:
            saved, self.loop = self.loop, Scope(out)
            if self.block.strip > 1:
                self.loop = Scope(Scope(out, strip=self.block.strip).each())
            elif not self.plan.inner:
                self.loop = self.block
            leaf(self.loop.lines)
            self.loop = saved
            return
        d, rest = dims[0], dims[1:]
        i = self.index[d]
        if d == self.v:
            self._vector_loop(out, d, "0", str(d.extent), d.extent, lambda lines: self._nest(lines, rest, leaf))
        else:
            begin, end = self.piece if d == self.plan.walk else ("0", str(d.extent))
            block = Block(f"for (ptrdiff_t {i} = {begin}; {i} < {end}; {i}++)")
            self._nest(block.body, rest, leaf)
            out.append(block)

    def _vector_loop(
        self, out: list[str | Block], d: Dim, begin: str, end: str, count: int | None, leaf: Callable[[list], None]
    ) -> None:
        """Full vectors, then the tail by masks. ``count``: how many points, where that is known."""
        i, step = self.index[d], self.style.lanes
        lanes = self.lanes
        if count is None or count - (int(begin) if begin.isdigit() else 0) >= lanes:
            block = Block(f"for (ptrdiff_t {i} = {begin}; {i} + {step} <= {end}; {i} += {step})")
            leaf(block.body)
            out.append(block)
        if count is None:
            rest = self.names.fresh("rest")
            block = Block(f"for (ptrdiff_t {i} = {end} - ({end} - {begin}) % {step}; {i} < {end}; {i} = {end})")
            block.body.append(f"const int {rest} = (int)({end} - {i});")
            self._with_tail(rest, block.body, leaf)
            out.append(block)
        elif count % lanes:
            block = Block("")
            block.body.append(f"const ptrdiff_t {i} = {count - count % lanes};    /* the last {count % lanes} */")
            self._with_tail(str(count % lanes), block.body, leaf)
            out.append(block)

    def _with_tail(self, tail: str, lines: list[str | Block], leaf: Callable[[list], None]) -> None:
        saved, self.tail = self.tail, tail
        leaf(lines)
        self.tail = saved

    def _point(
        self,
        lines: list[str | Block],
        reduces: list[Reduce],
        accs: dict[Reduce, str],
        stores: list[Store],
        totals: list[Reduce],
    ) -> None:
        for r in reduces:
            self._accumulate(lines, accs[r], r, masked=self.v in self.plan.inner)
        for r in totals:
            self._accumulate(lines, self.total_acc[r], r, masked=True)
        for s in stores:
            self._store(s, lines)

    def _accumulate(self, lines: list[str | Block], acc: str, r: Reduce, masked: bool) -> None:
        v = self.style.v
        if not self._form_vector(r.arg):
            value = self.value(r.arg)
            text = f"{acc} + {value}" if r.kind == "sum" else self.style.scalar(COMBINE[r.kind], [acc, value])
            lines.append(f"{acc} = {text};")
            return
        if self.tail and masked:
            neutral = self.vector(Const(Scalar(NEUTRAL[r.kind])))
            value = f"{v}_select({v}_tail({self.tail}), {self.vector(r.arg)}, {neutral})"
            lines.append(f"{acc} = {v}_{COMBINE[r.kind]}({acc}, {value});")
            return
        a = r.arg
        if r.kind == "sum" and isinstance(a, Op) and a.name == "mul" and a not in self.spilled:
            x, y = (self.vector(c) for c in a.args)
            lines.append(f"{acc} = {v}_fma({x}, {y}, {acc});")
        else:
            lines.append(f"{acc} = {v}_{COMBINE[r.kind]}({acc}, {self.vector(a)});")
