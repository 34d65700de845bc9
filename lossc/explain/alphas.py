"""Where the weights of losses stand in the C."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lossc.codegen.names import comment, identifier, literal
from lossc.explain.report import Alpha
from lossc.ir import Conv, Gemm, Map, Node, Pool, Scalar
from lossc.ir.expr import Const, Expr, Load, Op, walk
from lossc.ir.printer import show_expr
from lossc.pipeline import Compiled

FILE = "net.c"


def find_alphas(compiled: Compiled) -> list[Alpha]:
    """Every number in the kernels that a loss_weight went into, and every read of one that can change."""
    graph, program = compiled.graph, compiled.program
    dtype = program.manifest["dtype"]
    held = {t.held: t for t in graph.losses if t.held}
    labels = {t.held: graph.declared[t.blob].label for t in graph.losses if t.held}
    seeds = {f"{t.blob}.diff" for t in graph.losses}
    places = {place.node: place for place in program.functions}
    lines = program.source.split("\n")
    found: list[Alpha] = []
    for node in graph.nodes:
        if node.section not in ("forward", "backward"):
            continue
        place = places[node.id]
        search = _Search(lines, place.first, place.last)
        derivations = dict(_numbers(node))
        for e in derivations:
            written = set(node.kernel.writes())
            role = "total" if "loss_total" in written else "seed" if written <= seeds and _is_fill(node) else "gradient"
            if isinstance(e, Scalar):
                losses = tuple(dict.fromkeys(leaf.source for leaf in e.leaves() if leaf.why == "loss_weight"))
                value, derivation = e.value(dtype), derivations[e]
                text = literal(value, dtype)
                line = search.number(text, derivation)
            elif e.access.blob in held:
                term, losses = held[e.access.blob], (labels[e.access.blob],)
                derivation, value = derivations[e], term.weight.value(dtype)
                line, text = search.read(identifier(e.access.blob))
            else:
                continue
            if losses and line:
                kind = (losses, role, node.layer, node.section, node.kernel.kind)
                found.append(Alpha(*kind, derivation, value, text, place.name, FILE, line))
    return found


def _numbers(node: Node) -> Iterator[tuple[Scalar | Load, str]]:
    """Constants with a loss_weight in them, and loads of single numbers; each with the number that it is part of."""
    kernel = node.kernel
    if isinstance(kernel, (Gemm, Conv, Pool)) and _weighted(kernel.alpha):
        yield kernel.alpha, kernel.alpha.history
    for root in kernel.expressions:
        whole: dict[Expr, Expr] = {}
        for e in reversed(list(walk(root))):
            if isinstance(e, Op) and _is_number(e):
                whole.update(dict.fromkeys(e.args, whole.get(e, e)))
        for e in walk(root):
            if isinstance(e, Const) and _weighted(e.scalar):
                yield e.scalar, e.scalar.history
            elif isinstance(e, Load) and not e.access.dims:
                yield e, show_expr(whole.get(e, e))


def _is_number(e: Expr) -> bool:
    """Made of constants and one load of a single number, by multiplication and division alone."""
    parts = list(walk(e))
    loads = [p for p in parts if isinstance(p, Load)]
    plain = all(isinstance(p, (Const, Load)) or (isinstance(p, Op) and p.name in ("mul", "div")) for p in parts)
    return plain and len(loads) == 1 and not loads[0].access.dims


def _is_fill(node: Node) -> bool:
    """Whether a kernel stores one number everywhere, as Caffe does in a loss's diff."""
    stores = node.kernel.stores if isinstance(node.kernel, Map) else ()
    values = [s.value for s in stores]
    return bool(values) and all(isinstance(v, Const) or (isinstance(v, Load) and not v.access.dims) for v in values)


def _weighted(scalar: Scalar) -> bool:
    return any(leaf.why == "loss_weight" for leaf in scalar.leaves())


class _Search:
    """Finds numbers among the lines first..last of net.c, comments apart; the same one twice on two lines if it can."""

    def __init__(self, lines: list[str], first: int, last: int) -> None:
        self._first = first
        self._text = lines[first - 1 : last]
        self._code = _without_comments("\n".join(self._text)).split("\n")
        self._taken: set[int] = set()

    def number(self, text: str, history: str) -> int | None:
        """The line of a literal: one that gives its history too, if there is one."""
        pattern = re.compile(rf"(?<![\w.-]){re.escape(text)}(?![\w.])")
        hits = [k for k, line in enumerate(self._code) if pattern.search(line)]
        told = [k for k in hits if f"/* {comment(history)} */" in self._text[k]]
        return self._choose(told or hits)

    def read(self, name: str) -> tuple[int | None, str]:
        """The line where the number that a pointer of that name points to is read, and how."""
        pattern = re.compile(rf"(?<!\w){re.escape(name)}(?:_\d+)?(?:\[0\]| \+ 0(?!\w))")
        hits = {k: m[0] for k, line in enumerate(self._code) if (m := pattern.search(line))}
        line = self._choose(list(hits))
        return line, hits[line - self._first] if line else ""

    def _choose(self, hits: list[int]) -> int | None:
        fresh = [k for k in hits if k not in self._taken] or hits
        if not fresh:
            return None
        self._taken.add(fresh[0])
        return self._first + fresh[0]


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL)
