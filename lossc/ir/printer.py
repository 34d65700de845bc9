"""Graphs as text (one line a kernel) and as Graphviz dot."""

from __future__ import annotations

from lossc.ir.blob import Access, Ref
from lossc.ir.checks import CheckFinite, CheckLabel
from lossc.ir.expr import Acc, Const, Expr, Gather, Iota, Load, Op, Reduce, accesses, walk
from lossc.ir.graph import SECTIONS, Graph, LayerCall, Node
from lossc.ir.kernels import Constant, Conv, Gemm, Kernel, Map, Random, Store, is_copy
from lossc.ir.pool import Pool

_INFIX = {
    "add": ("+", 4), "sub": ("-", 4), "mul": ("*", 5), "div": ("/", 5),
    "lt": ("<", 3), "le": ("<=", 3), "gt": (">", 3), "ge": (">=", 3), "eq": ("==", 3), "ne": ("!=", 3),
    "and": ("&&", 2), "or": ("||", 1),
}  # fmt: skip


#: Expressions of more nodes than this, written out, are summed up.
MOST_SHOWN = 1000


def show_access(a: Access) -> str:
    inner = ",".join(d.name for d in a.dims)
    return f"{a.blob}[{inner}]" if not a.offset else f"{a.blob}[{inner}; +{a.offset}]"


def show_ref(r: Ref) -> str:
    return f"{r.blob}{list(r.shape)}".replace(" ", "")


def show_expr(e: Expr, level: int = 0) -> str:
    """Infix text, e.g. ``0.3 * (pred[n,c] - label[n,c])``."""
    if isinstance(e, Const):
        return e.scalar.history if not e.scalar.op else f"({e.scalar.history})"
    if isinstance(e, Load):
        return show_access(e.access)
    if isinstance(e, Gather):
        return f"{show_access(e.access)}@{e.stride}*[{show_expr(e.index)}]"
    if isinstance(e, Iota):
        return e.dim.name
    if isinstance(e, Acc):
        return "acc"
    if isinstance(e, Reduce):
        return f"{e.kind}_{''.join(d.name for d in e.dims)}({show_expr(e.arg)})"
    assert isinstance(e, Op)
    if e.written_size > MOST_SHOWN:
        reads = ", ".join(show_access(a) for a in accesses(e))
        return f"...({sum(isinstance(x, Op) for x in walk(e))} operations on {reads})"
    if e.name in _INFIX:
        sign, mine = _INFIX[e.name]
        text = f"{show_expr(e.args[0], mine)} {sign} {show_expr(e.args[1], mine + 1)}"
        return f"({text})" if mine < level else text
    if e.name == "neg":
        return f"-{show_expr(e.args[0], 6)}"
    if e.name == "not":
        return f"!{show_expr(e.args[0], 6)}"
    return f"{e.name}({', '.join(show_expr(a) for a in e.args)})"


def show_store(s: Store) -> str:
    return f"{show_access(s.access)} {'+=' if s.accumulate else '='} {show_expr(s.value)}"


def show_kernel(k: Kernel) -> str:
    """One line in the words of BLAS and the field."""
    if isinstance(k, Map):
        space = "x".join(f"{d.name}={d.extent}" for d in k.dims)
        if len(k.stores) == 1 and isinstance(k.stores[0].value, Const) and not k.stores[0].accumulate:
            return f"fill {show_access(k.stores[0].access)} = {show_expr(k.stores[0].value)}"
        if (copy := is_copy(k)) is not None:
            return f"copy {show_access(copy[0])} = {show_access(copy[1])}"
        return f"map<{space}> " + "; ".join(show_store(s) for s in k.stores)
    if isinstance(k, Gemm):
        sign = "+=" if k.accumulate else "="
        alpha = "" if k.alpha.is_plain(1) else f"({k.alpha.history}) * "
        tail = "" if k.epilogue is None else f" |> {show_expr(k.epilogue)}"
        return f"gemm {show_ref(k.c)} {sign} {alpha}{show_ref(k.a)} x {show_ref(k.b)}{tail}"
    if isinstance(k, Conv):
        sign = "+=" if k.accumulate else "="
        a, b = (show_ref(r) for r in (k.x, k.w, k.y) if r is not k.out)
        g = k.geometry
        tail = "" if k.epilogue is None else f" |> {show_expr(k.epilogue)}"
        alpha = "" if k.alpha.is_plain(1) else f"({k.alpha.history}) * "
        where = f"kernel {list(g.kernel)} stride {list(g.stride)} pad {list(g.pad)} dilation {list(g.dilation)}"
        return f"conv_{k.direction} {show_ref(k.out)} {sign} {alpha}{a}, {b} {where} groups {k.groups}{tail}"
    if isinstance(k, Pool):
        g = k.geometry
        sign = "+=" if k.accumulate else "="
        source = show_ref(k.source)
        source = source if k.prologue is None else f"({source} |> {show_expr(k.prologue)})"
        tail = "" if k.epilogue is None else f" |> {show_expr(k.epilogue)}"
        tail += "".join(f"; {show_store(s)}" for s in k.more)
        mask = f" mask {k.mask.blob}" if k.mask is not None else ""
        alpha = "" if k.alpha.is_plain(1) else f"({k.alpha.history}) * "
        return (
            f"pool_{k.direction} {k.method} {show_ref(k.out)} {sign} {alpha}{source} kernel {list(g.kernel)} "
            f"stride {list(g.stride)} pad {list(g.pad)}{mask}{tail}"
        )
    if isinstance(k, Random):
        return f"random {show_ref(k.out)} = {k.distribution}({k.a:g}, {k.b:g}) stream {k.stream}"
    if isinstance(k, CheckLabel):
        ignore = "" if k.ignore is None else f" or {k.ignore}"
        return f"check_label {show_ref(k.label)} in 0..{k.classes - 1}{ignore}"
    if isinstance(k, CheckFinite):
        return f"check_finite {show_ref(k.values)}"
    if isinstance(k, Constant):
        return f"constant {show_ref(k.out)}"
    return k.kind


def _show_call(c: LayerCall) -> str:
    weights = f" loss_weight {c.loss_weights}" if any(c.loss_weights) else ""
    return f"{c.layer.type} {c.name}({', '.join(c.bottoms)}) -> {', '.join(c.tops)}{weights}"


def to_text(graph: Graph) -> str:
    """The whole graph: blobs, then the kernels of each section in program order."""
    out = [f"graph {graph.name}"]
    for b in graph.blobs.values():
        flags = {"real": "", "bf16": " bf16", "u8": " bytes"}[b.dtype] + " observable" * (b.name in graph.observable)
        where = f" in {b.view.parent}+{b.view.offset} strides {list(b.view.strides)}" if b.view else ""
        out.append(f"  blob {b.name} {list(b.shape)} {b.role}{where}{flags}")
    if not graph.nodes:
        out += ["layers:", *(f"  {_show_call(c)}" for c in graph.calls)]
    for section in SECTIONS:
        nodes = graph.section(section)
        if nodes:
            out.append(f"{section}:")
            out += [_show_node(n) for n in nodes]
    return "\n".join(out) + "\n"


def _show_node(n: Node) -> str:
    note = f"   # {n.layer}: {n.note}" if n.note else f"   # {n.layer}"
    return f"  {show_kernel(n.kernel)}{note}"


def to_dot(graph: Graph) -> str:
    """Graphviz: blobs as ellipses, kernels as boxes, the backward pass in grey."""
    out = [f'digraph "{_quote(graph.name)}" {{', "  rankdir=TB; node [fontname=Helvetica, fontsize=10];"]
    for b in graph.blobs.values():
        out.append(f'  "b:{_quote(b.name)}" [label="{_quote(b.name)}\\n{list(b.shape)}", shape=ellipse];')
    colour = {"init": "khaki", "forward": "white", "backward": "lightgrey", "update": "lightblue"}
    for n in graph.nodes:
        label = f"{n.layer}\\n{_quote(show_kernel(n.kernel))[:80]}"
        out.append(f'  "k:{n.id}" [label="{label}", shape=box, style=filled, fillcolor={colour[n.section]}];')
        out += [f'  "b:{_quote(r)}" -> "k:{n.id}";' for r in n.kernel.reads()]
        out += [f'  "k:{n.id}" -> "b:{_quote(w)}";' for w in n.kernel.writes()]
    return "\n".join([*out, "}"]) + "\n"


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
