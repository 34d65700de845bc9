"""C text of maps: loops, stages and statements, laid out by ``templates/map.c.j2``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

from lossc.codegen.cexpr import EXPENSIVE, Style
from lossc.codegen.environment import render
from lossc.codegen.mapplan import Plan, points
from lossc.codegen.names import Names, comment, literal
from lossc.errors import InternalError
from lossc.ir import Access, Dim, Scalar, Store
from lossc.ir.expr import TRUTH, Const, Expr, Gather, Iota, Load, Op, Reduce, walk

#: Points that one task should have at least, so that sharing out costs little.
TASK_POINTS = 4096
#: Reals of a row that may be kept on the stack between two loops over it.
SPILL_REALS = 4096
_NEUTRAL = {"sum": 0.0, "max": float("-inf"), "min": float("inf")}
_COMBINE = {"sum": "add", "max": "max", "min": "min"}


@dataclass
class Block:
    """A C block: a header line, then statements and blocks inside braces."""

    header: str
    body: list[str | Block] = field(default_factory=list)
    pragma: str = ""


@dataclass(frozen=True)
class Code:
    """One static function: its text, its parameters as C declarations, and the reals of scratch that it needs."""

    text: str
    params: tuple[str, ...]
    shared_scratch: int = 0
    thread_scratch: int = 0


@dataclass
class Scope:
    """Where values live: the statements of one block and the names of what was computed there."""

    lines: list[str | Block]
    known: dict[Expr, str] = field(default_factory=dict)
    broadcast: dict[str, str] = field(default_factory=dict)


class MapWriter:
    """Writes one planned map. ``pointer`` names the parameter for a memory owner's blob."""

    def __init__(
        self,
        plan: Plan,
        style: Style,
        lanes: int,
        pointer: Callable[[str], str],
        label: Callable[[str], str],
        reserved: frozenset[str] = frozenset(),
    ) -> None:
        self.plan, self.style, self.lanes = plan, style, lanes
        self.pointer, self.label = pointer, label
        self.names = Names(frozenset({"t", "end", "begin", "row", "stop", "shared", *style.functions, *reserved}))
        self.index = {d: self.names.fresh(d.name if len(d.name) == 1 else d.name[0]) for d in (*plan.rows, *plan.inner)}
        self.v = plan.vector
        self.outer = tuple(d for d in plan.rows if d != self.v)
        self.top = Scope([])
        self.row = self.top
        self.block: Scope = self.top
        self.loop: Scope = self.top
        self.tail = ""
        self.total_acc: dict[Reduce, str] = {}
        self.final: dict[Expr, str] = {}
        self.spilled: dict[Expr, str] = {}
        self.spill_ready: set[Expr] = set()
        self.stage = 0
        self._stages: dict[Expr, int] = {}
        self._depends: dict[Expr, bool] = {}
        self._of_row: dict[Expr, bool] = {}
        for s in plan.stores:
            for e in walk(s.value):
                below = [self._stages[c] for c in e.children()]
                inner_reduce = isinstance(e, Reduce) and e not in plan.totals
                self._stages[e] = max(below, default=0) + (1 if inner_reduce else 0)
                self._depends[e] = e in plan.totals or any(self._depends[c] for c in e.children())
                self._of_row[e] = inner_reduce or any(self._of_row[c] for c in e.children())
                self._check_reduce(e)

    def _check_reduce(self, e: Expr) -> None:
        if not isinstance(e, Reduce):
            return
        inner, rows = set(self.plan.inner), set(self.plan.rows)
        spans = {frozenset(rows), frozenset(rows | inner)} if e in self.plan.totals else {frozenset(inner)}
        if frozenset(e.dims) not in spans:
            raise InternalError("reductions over different dimensions need maps of their own")

    # ---- expressions

    def _form_vector(self, e: Expr) -> bool:
        return self.v is not None and self.v in e.varies

    def _home(self, e: Expr) -> Scope:
        if self._depends.get(e) or not (e.varies or self._of_row.get(e)):
            return self.top
        if e.varies & set(self.plan.inner):
            return self.loop
        return self.block if self._form_vector(e) or self._of_row.get(e) else self.row

    def vector(self, e: Expr) -> str:
        """A name or expression that holds the value as a vector."""
        if self._form_vector(e):
            return self.value(e)
        scope = self._home(e)
        name = self.value(e)
        if name not in scope.broadcast:
            const = self.names.fresh(_constant_wish(e, name))
            note = f"    /* {comment(e.scalar.history)} */" if isinstance(e, Const) and _told(e) else ""
            v = self.style.v
            if isinstance(e, Op) and e.name in TRUTH:
                text = f"const {self.style.mask} {const} = {v}_gt({v}_set1(({self.style.real}){name}), {v}_zero());"
            elif isinstance(e, Const) and e.scalar.is_plain(0.0):
                text = f"const {self.style.v} {const} = {self.style.v}_zero();"
            else:
                text = f"const {self.style.v} {const} = {self.style.v}_set1({name});{note}"
            scope.lines.append(text)
            scope.broadcast[name] = const
        return scope.broadcast[name]

    def value(self, e: Expr) -> str:
        """A name (or literal) that holds the value, vector or scalar by its own kind."""
        scope = self._home(e)
        if e in scope.known:
            return scope.known[e]
        if isinstance(e, Const):
            return literal(e.scalar.value(self.style.dtype), self.style.dtype)
        if e in self.spilled and e in self.spill_ready:
            name = self._declare(scope, e, f"{self.style.v}_load({self._spill_address(e)})", "kept")
        elif isinstance(e, Reduce):
            raise InternalError("a reduction was not computed before its use")
        elif self._form_vector(e):
            name = self._declare(scope, e, self._vector_text(e), _wish(e, self.label))
            if e in self.spilled:
                scope.lines.append(f"{self.style.v}_store({self._spill_address(e)}, {name});")
        else:
            name = self._declare(scope, e, self._scalar_text(e), _wish(e, self.label))
        scope.known[e] = name
        return name

    def _declare(self, scope: Scope, e: Expr, text: str, wish: str) -> str:
        name = self.names.fresh(wish)
        kind = self.style.vector_type(e) if self._form_vector(e) else self.style.scalar_type(e)
        scope.lines.append(f"const {kind} {name} = {text};")
        return name

    def _vector_text(self, e: Expr) -> str:
        v = self.style.v
        if isinstance(e, Load):
            return self._load(e.access)
        if isinstance(e, Iota):
            assert e.dim == self.v
            return f"{v}_add({v}_set1(({self.style.real}){self.index[e.dim]}), {v}_iota())"
        if isinstance(e, Gather):
            return self._gather_vector(e)
        assert isinstance(e, Op)
        if e.name in ("add", "sub"):
            fused = self._fma(e)
            if fused:
                return fused
        return self.style.vector(e.name, [self.vector(a) for a in e.args])

    def _fma(self, e: Op) -> str | None:
        """a * b + c and c - a * b in one rounding."""
        for k in (0, 1) if e.name == "add" else (1,):
            product, other = e.args[k], e.args[1 - k]
            if isinstance(product, Op) and product.name == "mul" and self._form_vector(product):
                a, b = (self.vector(x) for x in product.args)
                return f"{self.style.v}_{'fma' if e.name == 'add' else 'fnma'}({a}, {b}, {self.vector(other)})"
        return None

    def _scalar_text(self, e: Expr) -> str:
        if isinstance(e, Load):
            return self._element(e.access)
        if isinstance(e, Iota):
            return f"({self.style.real}){self.index[e.dim]}"
        if isinstance(e, Gather):
            top = literal(e.extent - 1, self.style.dtype)
            pick = f"lossc_pick_{self.style.dtype}({self.value(e.index)}, {top})"
            return f"{self.pointer(e.access.blob)}[{self._address(e.access)} + {pick} * {e.stride}]"
        assert isinstance(e, Op)
        return self.style.scalar(e.name, [self.value(a) for a in e.args])

    def _gather_vector(self, e: Gather) -> str:
        v, i = self.style.v, self.style.integer
        top = self.vector(Const(_scalar(e.extent - 1)))
        zero = self.vector(Const(_scalar(0)))
        pick = f"{v}_to_int({v}_min({v}_max({self.vector(e.index)}, {zero}), {top}))"
        lane = e.access.stride(self.v) if self.v is not None else 0
        steps = f"{i}_mul({pick}, {i}_set1({e.stride}))" if e.stride != 1 else pick
        if lane:
            lanes = f"{v}_to_int({v}_iota())"
            steps = f"{i}_add({steps}, {i}_mul({lanes}, {i}_set1({lane})))" if lane != 1 else f"{i}_add({steps}, {lanes})"
        base = f"{self.pointer(e.access.blob)} + {self._address(e.access)}"
        if self.tail:
            return f"{v}_gather_n({base}, {steps}, {self.tail})"
        return f"{v}_gather({base}, {steps})"

    # ---- memory

    def _address(self, a: Access) -> str:
        terms = [
            self.index[d] if s == 1 else f"{self.index[d]} * {s}" for d, s in a.strides if s and d.extent > 1
        ]
        if a.offset or not terms:
            terms.append(str(a.offset))
        return " + ".join(terms)

    def _element(self, a: Access) -> str:
        return f"{self.pointer(a.blob)}[{self._address(a)}]"

    def _load(self, a: Access) -> str:
        stride = a.stride(self.v) if self.v is not None else 0
        p = f"{self.pointer(a.blob)} + {self._address(a)}"
        kind = "load" if stride == 1 else "load_strided"
        args = [p] + ([] if stride == 1 else [str(stride)])
        return self._call(kind, args)

    def _call(self, kind: str, args: list[str]) -> str:
        if self.tail:
            return f"{self.style.v}_{kind}_n({', '.join([*args, self.tail])})"
        return f"{self.style.v}_{kind}({', '.join(args)})"

    def _store(self, store: Store, lines: list[str | Block]) -> None:
        a = store.access
        if self.v is None or self.v not in a.dims:
            value = self.value(store.value)
            lines.append(f"{self._element(a)} {'+=' if store.accumulate else '='} {value};")
            return
        value = self.vector(store.value)
        if store.accumulate:
            value = f"{self.style.v}_add({self._load(a)}, {value})"
        stride = a.stride(self.v)
        p = f"{self.pointer(a.blob)} + {self._address(a)}"
        if stride == 1:
            lines.append(self._call("store", [p, value]) + ";")
        else:
            lines.append(self._call("store_strided", [p, value, str(stride)]) + ";")

    def _spill_address(self, e: Expr) -> str:
        flat, step = [], 1
        for d in reversed(self.plan.inner):
            flat.append(f"{self.index[d]} * {step}" if step != 1 else self.index[d])
            step *= d.extent
        text = " + ".join(reversed(flat))
        return f"{self.spilled[e]} + " + (f"({text}) * {self.style.lanes}" if self.plan.vector_in_rows else text)

    # ---- loops over the inner dimensions

    def _loops(self, body: list[str | Block]) -> None:
        """All stages of one row (or one vector of rows): loops over the inner dimensions, then what a row yields."""
        last = max((self._stages[s.value] for s in self.plan.stores), default=0)
        self.spill_ready = set()
        self._plan_spills(body, last)
        for stage in range(last + 1):
            reduces = [e for e in self._row_reduces() if self._stages[e] == stage + 1]
            stores = [s for s in self.plan.stores if self._in_loop(s.value) and self._stages[s.value] == stage]
            stores = [s for s in stores if not self._depends[s.value]]
            totals = [r for r in self.plan.totals if self._in_loop(r.arg) and self._stages[r.arg] == stage]
            if reduces or stores or totals:
                self._stage(body, stage, reduces, stores, totals)
        self.loop = self.block
        for s in self.plan.stores:
            row_value = s.access.dims or self._of_row[s.value]
            if not self._in_loop(s.value) and not self._depends[s.value] and row_value:
                self._store(s, body)
        for r in self.plan.totals:
            if not self._in_loop(r.arg):
                self._accumulate_total(r, body)

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
        size = points(self.plan.inner) * (self.lanes if self.plan.vector_in_rows else 1)
        if last == 0 or size > SPILL_REALS:
            return
        uses: dict[Expr, set[int]] = {}
        roots: list[tuple[Expr, int]] = [(r.arg, self._stages[r.arg]) for r in (*self._row_reduces(), *self.plan.totals)]
        roots += [(s.value, self._stages[s.value]) for s in self.plan.stores]
        for root, stage in roots:
            for e in _point_nodes(root, self._in_loop):
                uses.setdefault(e, set()).add(stage)
        for e, stages in uses.items():
            if len(stages) > 1 and isinstance(e, Op) and e.name in EXPENSIVE and self._form_vector(e):
                name = self.names.fresh("kept")
                length = str(size if not self.plan.vector_in_rows else f"{points(self.plan.inner)} * {self.style.lanes}")
                if not self.plan.vector_in_rows:
                    length = f"{size} + {self.style.lanes}"
                body.append(f"{self.style.real} {name}[{length}];")
                self.spilled[e] = name

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
            accs[r] = name = self.names.fresh(f"{r.kind}")
            start = literal(_NEUTRAL[r.kind], self.style.dtype)
            if self._form_vector(r.arg):
                body.append(f"{self.style.v} {name} = {self.style.v}_set1({start});")
            else:
                body.append(f"{self.style.real} {name} = {start};")
        here = self.block.lines
        self.block.lines = body
        nest: list[str | Block] = []
        self._nest(nest, list(self.plan.inner), lambda lines: self._point(lines, reduces, accs, stores, totals))
        body += nest
        self.block.lines = here
        self.spill_ready |= {e for e in self.spilled if self._stages[e] <= stage}
        for r in reduces:
            name = accs[r]
            if self._form_vector(r.arg) and not self._form_vector(r):
                reducer = {"sum": "sum", "max": "reduce_max", "min": "reduce_min"}[r.kind]
                scalar = self.names.fresh(f"{r.kind}_all")
                body.append(f"const {self.style.real} {scalar} = {self.style.v}_{reducer}({name});")
                name = scalar
            self.block.known[r] = name

    def _nest(self, out: list[str | Block], dims: list[Dim], leaf: Callable[[list[str | Block]], None]) -> None:
        if not dims:
            saved, self.loop = self.loop, Scope(out)
            if not self.plan.inner:
                self.loop = self.block
            leaf(out)
            self.loop = saved
            return
        d, rest = dims[0], dims[1:]
        i = self.index[d]
        if d == self.v:
            self._vector_loop(out, d, "0", str(d.extent), d.extent, lambda lines: self._nest(lines, rest, leaf))
        else:
            block = Block(f"for (ptrdiff_t {i} = 0; {i} < {d.extent}; {i}++)")
            self._nest(block.body, rest, leaf)
            out.append(block)

    def _vector_loop(
        self, out: list[str | Block], d: Dim, begin: str, end: str, count: int | None, leaf: Callable[[list], None]
    ) -> None:
        """Full vectors, then the tail by masks. ``count``: how many points, where that is known."""
        i, step = self.index[d], self.style.lanes
        lanes = self.lanes
        if count is None or count >= lanes:
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

    def _accumulate_total(self, r: Reduce, body: list[str | Block]) -> None:
        self._accumulate(body, self.total_acc[r], r, masked=True)

    def _accumulate(self, lines: list[str | Block], acc: str, r: Reduce, masked: bool) -> None:
        v = self.style.v
        if not self._form_vector(r.arg):
            value = self.value(r.arg)
            text = f"{acc} + {value}" if r.kind == "sum" else self.style.scalar(_COMBINE[r.kind], [acc, value])
            lines.append(f"{acc} = {text};")
            return
        if self.tail and masked:
            neutral = self.vector(Const(_scalar(_NEUTRAL[r.kind])))
            value = f"{v}_select({v}_tail({self.tail}), {self.vector(r.arg)}, {neutral})"
            lines.append(f"{acc} = {v}_{_COMBINE[r.kind]}({acc}, {value});")
            return
        a = r.arg
        if r.kind == "sum" and isinstance(a, Op) and a.name == "mul" and a not in self.spilled:
            x, y = (self.vector(c) for c in a.args)
            lines.append(f"{acc} = {v}_fma({x}, {y}, {acc});")
        else:
            lines.append(f"{acc} = {v}_{_COMBINE[r.kind]}({acc}, {self.vector(a)});")

    # ---- the whole function

    def write(self) -> tuple[list[str | Block], int]:
        """(statements of the function, reals of shared scratch)."""
        out: list[str | Block] = self.top.lines
        if not self.plan.rows and not self.plan.inner:
            block = Block("", pragma="LOSSC_SINGLE")
            self.top.lines = block.body
            for s in self.plan.stores:
                self._store(s, block.body)
            return [block], 0
        tasks, body_for = self._tasks()
        main = Block("" if tasks == 1 else f"for (ptrdiff_t t = 0; t < {tasks}; t++)")
        main.pragma = "LOSSC_SINGLE" if tasks == 1 else "LOSSC_FOR"
        for r in self.plan.totals:
            self.total_acc[r] = name = self.names.fresh("total")
            kind = self.style.v if self._form_vector(r.arg) else self.style.real
            start = literal(_NEUTRAL[r.kind], self.style.dtype)
            main.body.append(f"{kind} {name} = {f'{kind}_set1({start})' if kind == self.style.v else start};")
        body_for(main.body)
        out.append(main)
        if tasks == 1:
            self._final(main.body, self._in_registers())
            return out, 0
        for k, r in enumerate(self.plan.totals):
            main.body.append(f"shared[{k * tasks} + t] = {self._register_total(r)};")
        block = Block("", pragma="LOSSC_SINGLE")
        self._final(block.body, self._in_memory(tasks))
        return [*out, block] if block.body else out, tasks * len(self.plan.totals)

    def _register_total(self, r: Reduce) -> str:
        acc = self.total_acc[r]
        reducer = {"sum": "sum", "max": "reduce_max", "min": "reduce_min"}[r.kind]
        return f"{self.style.v}_{reducer}({acc})" if self._form_vector(r.arg) else acc

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
        if self.plan.vector_in_rows and outer < 64 and work > TASK_POINTS and extent > self.lanes:
            lanes = self.lanes
            chunk = max(lanes, -(-(TASK_POINTS // inner) // lanes) * lanes)
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

    def _decode(self, lines: list[str | Block], row: str) -> None:
        """The indices of the outer dimensions from one row number."""
        step = 1
        out = []
        for d in reversed(self.outer):
            text = row if step == 1 else f"{row} / {step}"
            if d is not self.outer[0]:
                text = f"({text}) % {d.extent}" if step != 1 else f"{text} % {d.extent}"
            out.append(f"const ptrdiff_t {self.index[d]} = {text};")
            step *= d.extent
        lines += reversed(out)

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

    def _one_row(self, lines: list[str | Block], begin: str, end: str, count: int | None) -> None:
        self.row = Scope(lines)
        if self.v is None or not self.plan.vector_in_rows:
            self.block = self.row
            self._loops(lines)
            return

        def leaf(body: list[str | Block]) -> None:
            self.block = Scope(body)
            self.loop = self.block
            self._loops(body)

        if count == -1:  # chunks of whole vectors
            i, step = self.index[self.v], self.style.lanes
            block = Block(f"for (ptrdiff_t {i} = {begin}; {i} < {end}; {i} += {step})")
            leaf(block.body)
            lines.append(block)
        else:
            self._vector_loop(lines, self.v, begin, end, count, leaf)


def _point_nodes(root: Expr, in_loop: Callable[[Expr], bool]) -> list[Expr]:
    """The nodes that a loop over the inner dimensions evaluates for ``root``: down to what is known per row."""
    out: dict[Expr, None] = {}
    stack = [root]
    while stack:
        e = stack.pop()
        if in_loop(e) and e not in out:
            out[e] = None
            stack.extend(e.children())
    return list(out)


def _scalar(value: float) -> Scalar:
    return Scalar(float(value))


def _constant_wish(e: Expr, name: str) -> str:
    if isinstance(e, Const):
        return "alpha" if "loss_weight" in e.scalar.history else "zero" if e.scalar.is_plain(0.0) else "k"
    return "all_" + name if name.isidentifier() else "k"


def _told(e: Const) -> bool:
    return bool(e.scalar.op or e.scalar.why)


def _wish(e: Expr, label: Callable[[str], str]) -> str:
    if isinstance(e, Load):
        return label(e.access.blob) + "_v"
    if isinstance(e, Gather):
        return label(e.access.blob) + "_at"
    return e.name + "_" if isinstance(e, Op) and e.name not in ("add", "sub", "mul") else "x"


def map_code(
    name: str,
    heading: str,
    plan: Plan,
    style: Style,
    lanes: int,
    params: dict[str, str],
    label: Callable[[str], str],
    written: frozenset[str],
) -> Code:
    """The function of one map. ``params``: memory owner -> parameter name, in order of appearance."""
    writer = MapWriter(plan, style, lanes, params.__getitem__, label, frozenset(params.values()))
    body, scratch = writer.write()
    decls = [
        f"{'' if blob in written else 'const '}{style.real} *restrict {params[blob]}" for blob in params
    ]
    if scratch:
        decls.append(f"{style.real} *restrict shared")
    text = render("map.c.j2", {"name": name, "heading": heading, "params": decls, "body": body})
    return Code(text, tuple(decls), scratch, 0)
