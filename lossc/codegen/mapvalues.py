"""C text of a map's values: expressions as statements, loads and stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lossc.codegen.cexpr import Style
from lossc.codegen.mapplan import Plan, centred
from lossc.codegen.names import Names, comment, literal
from lossc.errors import InternalError
from lossc.ir import Access, Dim, Scalar, Store
from lossc.ir.expr import Const, Expr, Gather, Iota, Load, Op, Reduce, walk
from lossc.ir.operations import TRUTH


@dataclass
class Block:
    """A C block: a header line, then statements and blocks inside braces."""

    header: str
    body: list[str | Block] = field(default_factory=list)
    pragma: str = ""


@dataclass
class Scope:
    """Where values live: the statements of one block and the names of what was computed there.

    ``strip``: how many vectors the block works on. Each statement then stands in a loop over them, over ``u``, and each
    value is an array of as many, ``name[u]``.
    """

    lines: list[str | Block]
    known: dict[Expr, str] = field(default_factory=dict)
    broadcast: dict[str, str] = field(default_factory=dict)
    strip: int = 1

    def declare(self, kind: str, name: str, text: str, note: str = "", const: str = "const ") -> str:
        """A statement that gives a new value its name; returns how to refer to it."""
        if self.strip == 1:
            self.lines.append(f"{const}{kind} {name} = {text};{note}")
            return name
        loop = self.each()
        self.lines.insert(len(self.lines) - 1, f"{kind} {name}[{self.strip}];{note}")
        loop.append(f"{name}[u] = {text};")
        return f"{name}[u]"

    def each(self) -> list[str | Block]:
        """Where statements for each vector go."""
        if self.strip == 1:
            return self.lines
        header = f"for (int u = 0; u < {self.strip}; u++)"
        if not self.lines or not isinstance(self.lines[-1], Block) or self.lines[-1].header != header:
            self.lines.append(Block(header, pragma=f"#pragma GCC unroll {self.strip}"))
        last = self.lines[-1]
        assert isinstance(last, Block)
        return last.body


class ValueWriter:
    """Writes values of one planned map into open scopes. ``pointer`` names the parameter of a memory owner's blob."""

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
        self.names = Names(frozenset({"t", "u", "end", "begin", "row", "stop", "shared", *style.functions, *reserved}))
        dims = (*plan.rows, *plan.inner, *plan.parts)
        self.index = {d: self.names.fresh(d.name if len(d.name) == 1 else d.name[0]) for d in dims}
        self.v = plan.vector
        self.outer = tuple(d for d in plan.rows if d != self.v)
        self.piece = ("0", str(plan.walk.extent if plan.walk else 0))
        self.top = Scope([])
        self.row = self.top
        self.block: Scope = self.top
        self.loop: Scope = self.top
        self.tail = ""
        self.total_acc: dict[Reduce, str] = {}
        self.final: dict[Expr, str] = {}
        self.spilled: dict[Expr, str] = {}
        self.spill_ready: set[Expr] = set()
        self.spill_stored: set[Expr] = set()
        self.stage = 0
        self._stages: dict[Expr, int] = {}
        self._depends: dict[Expr, bool] = {}
        self._of_row: dict[Expr, bool] = {}
        for s in plan.stores:
            for e in walk(s.value):
                below = [self._stages[c] for c in e.children()]
                inner_reduce = isinstance(e, Reduce) and e not in plan.totals
                self._stages[e] = max(below, default=0) + (1 if inner_reduce else 0)
                if plan.of_blocks and (pair := centred(e)):  # both sums are made in one loop
                    self._stages[e] = self._stages[pair[1]]
                self._depends[e] = e in plan.totals or any(self._depends[c] for c in e.children())
                self._of_row[e] = inner_reduce or any(self._of_row[c] for c in e.children())
                self._check_reduce(e)

    def _check_reduce(self, e: Expr) -> None:
        if not isinstance(e, Reduce):
            return
        inner, rows = {*self.plan.inner, *self.plan.parts}, set(self.plan.rows)
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
            kind = self.style.v
            if isinstance(e, Op) and e.name in TRUTH:
                kind, text = self.style.mask, f"{v}_gt({v}_set1(({self.style.real}){name}), {v}_zero())"
            elif isinstance(e, Const) and e.scalar.is_plain(0.0):
                text = f"{v}_zero()"
            else:
                text = f"{v}_set1({name})"
            scope.broadcast[name] = scope.declare(kind, const, text, note)
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
            if isinstance(e, Load):  # a copy of what lies far apart: time to fetch what the next strip will copy
                ahead = f"{self._address(e.access)} + {self.block.strip} * {self.style.lanes}"
                scope.lines.append(f"LOSSC_PREFETCH({self.pointer(e.access.blob)} + {ahead});")
        elif isinstance(e, Reduce):
            raise InternalError("a reduction was not computed before its use")
        elif self._form_vector(e):
            name = self._declare(scope, e, self._vector_text(e), _wish(e, self.label))
            if e in self.spilled:
                scope.lines.append(f"{self.style.v}_store({self._spill_address(e)}, {name});")
                self.spill_stored.add(e)
        else:
            name = self._declare(scope, e, self._scalar_text(e), _wish(e, self.label))
        scope.known[e] = name
        return name

    def _declare(self, scope: Scope, e: Expr, text: str, wish: str) -> str:
        name = self.names.fresh(wish)
        kind = self.style.vector_type(e) if self._form_vector(e) else self.style.scalar_type(e)
        return scope.declare(kind, name, text)

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
        return self.style.vector(_function(e), [self.vector(a) for a in e.args])

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
        top = self.vector(Const(Scalar(float(e.extent - 1))))
        zero = self.vector(Const(Scalar(0.0)))
        pick = f"{v}_to_int({v}_min({v}_max({self.vector(e.index)}, {zero}), {top}))"
        lane = e.access.stride(self.v) if self.v is not None else 0
        steps = f"{i}_mul({pick}, {i}_set1({e.stride}))" if e.stride != 1 else pick
        if lane:
            lanes = f"{v}_to_int({v}_iota())"
            apart = lanes if lane == 1 else f"{i}_mul({lanes}, {i}_set1({lane}))"
            steps = f"{i}_add({steps}, {apart})"
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
            kind = "stream" if a.blob in self.plan.streamed and not self.tail else "store"
            lines.append(self._call(kind, [p, value]) + ";")
        else:
            lines.append(self._call("store_strided", [p, value, str(stride)]) + ";")

    def _spill_rooms(self) -> list[tuple[Dim, int]]:
        """How kept values lie: (dimension, room along it), those of a vector side by side."""
        inner, v = self.plan.inner, self.v
        if v not in inner or v == inner[-1]:
            return [(d, d.extent) for d in inner]
        whole = -(-v.extent // self.lanes) * self.lanes  # a vector at the end must not run into the next row
        return [*((d, d.extent) for d in inner if d != v), (v, whole)]

    def _spill_address(self, e: Expr) -> str:
        flat, step = [], 1
        for d, room in reversed(self._spill_rooms()):
            flat.append(f"{self.index[d]} * {step}" if step != 1 else self.index[d])
            step *= room
        text = " + ".join(reversed(flat))
        if self.block.strip > 1:
            text = text if len(flat) == 1 else f"({text})"
            return f"{self.spilled[e]} + ({text} * {self.block.strip} + u) * {self.style.lanes}"
        return f"{self.spilled[e]} + " + (f"({text}) * {self.style.lanes}" if self.plan.vector_in_rows else text)


def _constant_wish(e: Expr, name: str) -> str:
    if isinstance(e, Const):
        return "alpha" if "loss_weight" in e.scalar.history else "zero" if e.scalar.is_plain(0.0) else "k"
    return "all_" + name.removesuffix("[u]") if name.removesuffix("[u]").isidentifier() else "k"


def _told(e: Const) -> bool:
    return bool(e.scalar.op or e.scalar.why)


def _wish(e: Expr, label: Callable[[str], str]) -> str:
    if isinstance(e, Load):
        return label(e.access.blob) + "_v"
    if isinstance(e, Gather):
        return label(e.access.blob) + "_at"
    return e.name + "_" if isinstance(e, Op) and e.name not in ("add", "sub", "mul") else "x"


def _function(e: Op) -> str:
    """The vector function of an operation: log1p(exp(-|x|)) has one of its own, which need not take bits apart."""
    names: list[str] = []
    at: Expr = e
    while isinstance(at, Op) and len(at.args) == 1:
        names.append(at.name)
        at = at.args[0]
    return "log1p_unit" if names[:4] == ["log1p", "exp", "neg", "abs"] else e.name
