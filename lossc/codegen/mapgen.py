"""C text of maps: how a map is shared out among threads, its totals, and the function, laid out by ``map.c.j2``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from lossc.codegen.cexpr import Style
from lossc.codegen.environment import render
from lossc.codegen.maploops import NEUTRAL, REDUCER
from lossc.codegen.mapparts import PartWriter
from lossc.codegen.mapplan import SHARES, TASK_POINTS, Plan, points
from lossc.codegen.mapvalues import Block, Scope
from lossc.codegen.names import literal
from lossc.ir.blob import BLOCK
from lossc.ir.expr import Reduce


@dataclass(frozen=True)
class Code:
    """One static function: its text, its parameters as C declarations, and the reals of scratch that it needs."""

    text: str
    params: tuple[str, ...]
    shared_scratch: int = 0
    thread_scratch: int = 0


class MapWriter(PartWriter):
    """Writes one planned map: its tasks, the rows of each, then what is written once for the whole map."""

    def write(self) -> tuple[list[str | Block], int]:
        """(statements of the function, reals of shared scratch)."""
        out: list[str | Block] = self.top.lines
        if not self.plan.rows and not self.plan.inner:
            block = Block("", pragma="LOSSC_SINGLE")
            self.top.lines = block.body
            for s in self.plan.stores:
                self._store(s, block.body)
            return [block], 0
        if self.plan.parts:
            return self._write_parts()
        tasks, body_for = self._tasks()
        main = Block("" if tasks == 1 else f"for (ptrdiff_t t = 0; t < {tasks}; t++)")
        main.pragma = "LOSSC_SINGLE" if tasks == 1 else "LOSSC_FOR_NOWAIT" if self.plan.streamed else "LOSSC_FOR"
        for r in self.plan.totals:
            self.total_acc[r] = name = self.names.fresh("total")
            kind = self.style.v if self._form_vector(r.arg) else self.style.real
            start = literal(NEUTRAL[r.kind], self.style.dtype)
            main.body.append(f"{kind} {name} = {f'{kind}_set1({start})' if kind == self.style.v else start};")
        body_for(main.body)
        out.append(main)
        if tasks == 1:
            main.body += ["lossc_stream_fence();"] if self.plan.streamed else []
            self._final(main.body, self._in_registers())
            return out, 0
        for k, r in enumerate(self.plan.totals):
            main.body.append(f"shared[{k * tasks} + t] = {self._register_total(r)};")
        if self.plan.streamed:
            out += ["lossc_stream_fence();", "LOSSC_BARRIER"]
        block = Block("", pragma="LOSSC_SINGLE")
        self._final(block.body, self._in_memory(tasks))
        return [*out, block] if block.body else out, tasks * len(self.plan.totals)

    def _register_total(self, r: Reduce) -> str:
        acc = self.total_acc[r]
        return f"{self.style.v}_{REDUCER[r.kind]}({acc})" if self._form_vector(r.arg) else acc

    def _in_registers(self) -> Callable[[list[str | Block], Reduce, int], str]:
        def total(body: list[str | Block], r: Reduce, k: int) -> str:
            name = self.names.fresh("all")
            body.append(f"const {self.style.real} {name} = {self._register_total(r)};")
            return name

        return total

    def _in_memory(self, tasks: int) -> Callable[[list[str | Block], Reduce, int], str]:
        """Partial results summed in a fixed order, whatever the number of threads."""

        def total(body: list[str | Block], r: Reduce, k: int) -> str:
            name = self.names.fresh("all")
            part = f"shared[{k * tasks} + t]"
            if r.kind == "sum":
                body.append(f"double {name} = 0.0;")
                step = f"{name} += (double){part};"
            else:
                body.append(f"{self.style.real} {name} = shared[{k * tasks}];")
                step = f"{name} = {part} {'>' if r.kind == 'max' else '<'} {name} ? {part} : {name};"
            body.append(Block(f"for (ptrdiff_t t = 0; t < {tasks}; t++)", [step]))
            return f"({self.style.real}){name}" if r.kind == "sum" else name

        return total

    def _final(self, body: list[str | Block], total: Callable[[list[str | Block], Reduce, int], str]) -> None:
        """What is written once for the whole map."""
        stores = [
            s for s in self.plan.stores if self._depends[s.value] or not (s.access.dims or self._of_row[s.value])
        ]
        if not stores:
            return
        saved, self.top = self.top, Scope(body, dict(self.top.known), dict(self.top.broadcast))
        for k, r in enumerate(self.plan.totals):
            self.top.known[r] = total(body, r, k)
        for s in stores:
            self._store(s, body)
        self.top = saved

    def _tasks(self) -> tuple[int, Callable[[list[str | Block]], None]]:
        outer = prod(d.extent for d in self.outer)
        inner = points(self.plan.inner)
        extent = self.v.extent if self.v is not None and self.plan.vector_in_rows else 1
        work = extent * inner
        if self.plan.walk is not None and work > TASK_POINTS:
            piece = TASK_POINTS // extent
            pieces = -(-inner // piece)
            return outer * pieces, lambda body: self._walk(body, pieces, piece)
        whole = self.lanes * self._strip()
        if self.plan.vector_in_rows and outer < SHARES and work > TASK_POINTS and extent > whole:
            chunk = max(whole, -(-(TASK_POINTS // inner) // whole) * whole)
            chunks = -(-extent // chunk)
            return outer * chunks, lambda body: self._chunked(body, chunks, chunk, extent)
        per_task = max(1, TASK_POINTS // work)
        tasks = -(-outer // per_task)
        return tasks, lambda body: self._rows(body, tasks, per_task, outer)

    def _chunked(self, body: list[str | Block], chunks: int, chunk: int, extent: int) -> None:
        lines = body
        if self.outer:
            self._decode(lines, "t" if chunks == 1 else f"(t / {chunks})")
        part = "t" if not self.outer else f"t % {chunks}"
        if chunks == 1:
            part = "0"
        lines.append(f"const ptrdiff_t begin = ({part}) * {chunk};" if part != "0" else "const ptrdiff_t begin = 0;")
        lines.append(f"const ptrdiff_t end = begin + {chunk} < {extent} ? begin + {chunk} : {extent};")
        self._one_row(lines, "begin", "end", None if extent % self.lanes else -1)

    def _walk(self, body: list[str | Block], pieces: int, piece: int) -> None:
        """Blocks of channels, a piece of their positions in each task."""
        assert self.plan.walk is not None
        if self.outer:
            self._decode(body, f"(t / {pieces})")
        body.append(f"const ptrdiff_t begin = {f't % {pieces}' if self.outer else 't'} * {piece};")
        end, limit = f"begin + {piece}", self.plan.walk.extent
        body.append(f"const ptrdiff_t end = {f'{end} < {limit} ? {end} : {limit}' if limit % piece else end};")
        self.piece = ("begin", "end")
        self._one_row(body, "0", str(BLOCK), BLOCK)

    def _rows(self, body: list[str | Block], tasks: int, per_task: int, outer: int) -> None:
        lines = body
        if outer > 1:
            if per_task > 1:
                limit = f"{outer}" if tasks == 1 else f"(t + 1) * {per_task} < {outer} ? (t + 1) * {per_task} : {outer}"
                if tasks > 1 and outer % per_task == 0:
                    limit = f"(t + 1) * {per_task}"
                if tasks == 1:
                    loop = Block(f"for (ptrdiff_t row = 0; row < {limit}; row++)")
                else:
                    lines.append(f"const ptrdiff_t stop = {limit};")
                    loop = Block(f"for (ptrdiff_t row = t * {per_task}; row < stop; row++)")
                body.append(loop)
                lines = loop.body
                self._decode(lines, "row")
            else:
                self._decode(lines, "t")
        extent = self.v.extent if self.v is not None and self.plan.vector_in_rows else 1
        self._one_row(lines, "0", str(extent), extent)


@dataclass(frozen=True)
class Body:
    """A map's function without a name: its statements, its parameters as C declarations, its reals of scratch."""

    statements: list[str | Block]
    params: tuple[str, ...]
    scratch: int


def map_body(
    plan: Plan,
    style: Style,
    lanes: int,
    params: dict[str, str],
    label: Callable[[str], str],
    written: frozenset[str],
) -> Body:
    """What one map computes. ``params``: memory owner -> parameter name, in order of appearance."""
    writer = MapWriter(plan, style, lanes, params.__getitem__, label, frozenset(params.values()))
    body, scratch = writer.write()
    decls = [
        f"{'' if blob in written else 'const '}{style.real} *restrict {params[blob]}" for blob in params
    ]
    if scratch:
        decls.append(f"{style.real} *restrict shared")
    return Body(body, tuple(decls), scratch)


def map_code(name: str, heading: str, body: Body) -> Code:
    """The function of one map."""
    view = {"name": name, "heading": heading, "params": body.params, "body": body.statements}
    return Code(render("map.c.j2", view), body.params, body.scratch, 0)
