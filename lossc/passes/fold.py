"""fold-loss-weight, fold-accumulate and sink-alpha: constants and additions that need no kernel of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lossc.ir import Access, Blob, Conv, Gemm, Graph, Map, Node, Pool, Ref, Scalar, Store, make_map
from lossc.ir.expr import Const, Expr, Load, Op, gather_constants, op, rewrite, tighten, total
from lossc.ir.printer import show_expr
from lossc.ir.windows import overlap, pairs
from lossc.passes.analysis import covers, is_private, writes_between

LABELS = "nchwabdefgijklmopqrstuvxyz"


@dataclass(frozen=True)
class FoldLossWeight:
    """A blob that is one number everywhere (the seed of a loss) -> that number in every kernel that reads it.

    The number is a constant, or a load of a loss_weight that can change between steps.
    """

    name: str = "fold-loss-weight"

    def run(self, graph: Graph) -> bool:
        changed = False
        for name in list(graph.blobs):
            value = _uniform(graph, name)
            if value is None:
                continue
            for node in graph.readers(name):
                if name not in node.kernel.accumulates and self._fold(graph, node, name, value):
                    changed = True
        return changed

    def _fold(self, graph: Graph, node: Node, name: str, value: Expr) -> bool:
        kernel = node.kernel
        if isinstance(kernel, Gemm):
            folded = _gemm_of_uniform(kernel, name, value)
            if folded is None:
                return False
            kernel = folded
        elif isinstance(kernel, (Conv, Pool)) and isinstance(value, Const) and name not in graph.observable:
            ones = _ones(graph, name)
            graph.replace(node, replace(kernel, y=replace(kernel.y, blob=ones), alpha=value.scalar * kernel.alpha))
            what = f"{value.scalar.history} became the alpha of the {node.note or kernel.kind}, which reads ones"
            why = "the top's diff is that number everywhere; the ones are filled once for all"
            graph.remark(self.name, node, what, why)
            return True
        if not isinstance(kernel, Map):
            return False

        def one(e: Expr) -> Expr:
            return value if isinstance(e, Load) and e.access.blob == name else gather_constants(tighten(e))

        stores = tuple(Store(s.access, rewrite(s.value, one), s.accumulate) for s in kernel.stores)
        graph.replace(node, make_map(stores))
        what = value.scalar.history if isinstance(value, Const) else show_expr(value)
        why = "the top's diff is that number everywhere, and nothing else is ever written there"
        graph.remark(self.name, node, f"{what} folded into the {node.note or kernel.kind}", why)
        return True


def _uniform(graph: Graph, name: str) -> Expr | None:
    """The value of a diff that only one number each time is ever stored to, whole; None otherwise."""
    family = graph.family(name)
    if graph.blobs[name].role != "diff" or any(graph.blobs[b].size != graph.blobs[name].size for b in family):
        return None  # a window on a part of something
    position = graph.position()
    writers = sorted((n for b in family for n in graph.writers(b)), key=lambda n: position[n.id])
    value: Expr | None = None
    for node in writers:
        kernel = node.kernel
        if not isinstance(kernel, Map) or len(kernel.stores) != 1:
            return None
        store = kernel.stores[0]
        if not _is_number(graph, store.value) or not covers(graph, store.access):
            return None
        if value is None or not store.accumulate or (isinstance(value, Const) and value.scalar.is_plain(0.0)):
            value = store.value
        else:
            value = op("add", value, store.value)
    last = writers[-1] if writers else None
    if last is None or any(
        position[r.id] < position[last.id] for r in graph.readers(name) if name not in r.kernel.accumulates
    ):
        return None
    return value


def _ones(graph: Graph, name: str) -> str:
    """A blob of ones of the shape of ``name``, filled when the net is made: it takes the place of a uniform diff."""
    ones = name + ".ones"
    if ones not in graph.blobs:
        shape = graph.blobs[name].shape
        access = graph.whole(graph.add_blob(Blob(ones, shape, "state")).name)[LABELS[: len(shape)]]
        first = next(n for n in graph.nodes if n.section != "init")
        graph.add(make_map([Store(access, Const(Scalar(1.0)))]), first.layer, "init", "ones", before=first.id)
    return ones


def _is_number(graph: Graph, value: Expr) -> bool:
    """A constant, or a loss_weight that no step changes; or a sum of such."""
    if isinstance(value, Load):
        a = value.access
        writers = {n.section for n in graph.writers(a.blob)}
        return graph.blobs[a.blob].role == "state" and not a.dims and writers <= {"init"}
    return isinstance(value, Const) or (
        isinstance(value, Op) and value.name == "add" and all(_is_number(graph, v) for v in value.args)
    )


def _gemm_of_uniform(kernel: Gemm, name: str, value: Expr) -> Map | None:
    """A product with a matrix of one number is a sum over the other one: c[i,j] = alpha * w * sum_k b[k,j]."""
    if kernel.epilogue is not None or name not in (kernel.a.blob, kernel.b.blob) or kernel.a.blob == kernel.b.blob:
        return None
    c = kernel.c["ij"]
    alpha = value * kernel.alpha
    other = kernel.b["kj"] if name == kernel.a.blob else kernel.a["ik"]
    return make_map([Store(c, alpha * total(Load(other), "k"), kernel.accumulate)])


@dataclass(frozen=True)
class FoldAccumulate:
    """The first addition into a filled diff -> a plain store; the fill dies where that covers the blob."""

    name: str = "fold-accumulate"

    def run(self, graph: Graph) -> bool:
        changed = False
        for node in graph.nodes:
            fill = _zero_fill(graph, node)
            if fill is not None:
                changed |= self._fold(graph, node, fill)
        for ident in [n.id for n in graph.section("backward")]:
            changed |= self._join_number(graph, graph.node(ident))
        return changed

    def _join_number(self, graph: Graph, fill: Node) -> bool:
        """A number everywhere, to which the next kernel adds (the seed of a hidden top) -> a term of that kernel."""
        kernel = fill.kernel
        if not isinstance(kernel, Map) or len(kernel.stores) != 1 or kernel.accumulates:
            return False
        access, number = kernel.stores[0].access, kernel.stores[0].value
        family = set(graph.family(access.blob))
        if not _is_number(graph, number) or not covers(graph, access):
            return False
        if isinstance(number, Const) and number.scalar.is_plain(0.0):
            return False
        first = next(iter(_touching(graph, family, after=fill)), None)
        target = _sole_addition(graph, first, family) if first is not None else None
        if first is None or target is None or target.blob != access.blob or first.section != fill.section:
            return False
        if isinstance(first.kernel, Map):
            if not isinstance(target, Access) or not covers(graph, target):
                return False
            stores = (Store(s.access, s.value + number) if s.access == target else s for s in first.kernel.stores)
            graph.replace(first, make_map(stores))
        elif isinstance(first.kernel, (Gemm, Conv)) and isinstance(target, Ref) and _is_whole(graph, target):
            graph.replace(first, replace(first.kernel, accumulate=False))
            addition = make_map([Store(access, number, accumulate=True)])  # fuse-epilogues takes it into the registers
            after = graph.nodes[graph.position()[first.id] + 1 :]
            graph.add(addition, fill.layer, fill.section, fill.note, before=after[0].id if after else None)
        else:
            return False
        why = "that kernel is the next to touch the diff, and adds to all of it"
        what = f"{show_expr(number)} became a term of {first.layer} ({first.note or first.kernel.kind})"
        graph.remark(self.name, fill, what, why)
        graph.remove(fill)
        return True

    def _fold(self, graph: Graph, fill: Node, name: str) -> bool:
        family = set(graph.family(name))
        touching = _touching(graph, family, after=fill)
        done: list[tuple[Node, Ref | Access]] = []
        claimed = 0
        size = graph.blobs[name].size
        for node in touching:
            target = _sole_addition(graph, node, family)
            if target is None or any(overlap(graph, target, other) for _, other in done):
                break
            done.append((node, target))
            claimed += _count(target)
            if claimed == size:
                break
        for node, _ in done:
            graph.replace(node, _plain(graph.node(node.id).kernel, family))
        if claimed == size:
            why = "each element is stored once before anything is added to it or reads it"
            graph.remark(self.name, fill, f"zeros of {name} not written: the first additions became stores", why)
            graph.remove(fill)
        return bool(done)


def _touching(graph: Graph, family: set[str], after: Node) -> list[Node]:
    """The kernels behind ``after`` that read or write one of the blobs, in program order."""
    at = graph.position()
    nodes = {n.id: n for name in family for n in (*graph.readers(name), *graph.writers(name))}
    return [nodes[i] for i in sorted(nodes, key=at.__getitem__) if at[i] > at[after.id]]


def _is_whole(graph: Graph, ref: Ref) -> bool:
    return ref.is_contiguous and ref.size == graph.blobs[ref.blob].size


def _zero_fill(graph: Graph, node: Node) -> str | None:
    kernel = node.kernel
    if isinstance(kernel, Map) and len(kernel.stores) == 1 and node.section == "backward":
        store = kernel.stores[0]
        if isinstance(store.value, Const) and store.value.scalar.is_plain(0.0) and not store.accumulate:
            return store.access.blob if covers(graph, store.access) else None
    return None


def _sole_addition(graph: Graph, node: Node, family: set[str]) -> Ref | Access | None:
    """Where the kernel adds to the family, if it touches it in that one place only."""
    kernel = node.kernel
    outs = [o for o in kernel.outputs() if o.blob in family]
    if len(outs) != 1 or outs[0].blob not in kernel.accumulates:
        return None
    reads = [i for i in kernel.inputs() if i.blob in family]
    return None if reads else outs[0]


def _count(operand: Ref | Access) -> int:
    n = 1
    for extent, _ in pairs(operand):
        n *= extent
    return n


def _plain(kernel: Any, family: set[str]) -> Any:
    if isinstance(kernel, Map):
        return replace(
            kernel,
            stores=tuple(replace(s, accumulate=s.accumulate and s.access.blob not in family) for s in kernel.stores),
        )
    return replace(kernel, accumulate=False)


@dataclass(frozen=True)
class SinkAlpha:
    """A scaled copy that only contractions and pools read -> their alpha; the copy is never stored."""

    name: str = "sink-alpha"

    def run(self, graph: Graph) -> bool:
        changed = False
        for node in graph.nodes:
            found = _scaled_copy(graph, node)
            if found is None:
                continue
            name, source, alpha = found
            readers = graph.readers(name)
            last = readers[-1] if readers else None
            fits = all(
                isinstance(r.kernel, (Gemm, Conv)) and r.kernel.reads().count(name) == 1 and _slots(r.kernel, name) == 1
                and name not in r.kernel.writes()
                for r in readers
            )  # fmt: skip
            if last is None or not fits or writes_between(graph, [source], node, last):
                continue
            for r in readers:
                kernel = r.kernel
                assert isinstance(kernel, (Gemm, Conv))
                fresh = kernel.renamed(name, source)
                assert isinstance(fresh, (Gemm, Conv))
                scaled = alpha if kernel.alpha.is_plain(1.0) else alpha * kernel.alpha
                graph.replace(r, replace(fresh, alpha=scaled))
            why = "products are linear, only they read the scaled copy, and its source does not change before them"
            layers = ", ".join(f"{r.layer} ({r.note or r.kernel.kind})" for r in readers)
            graph.remark(self.name, node, f"alpha {alpha.history} sunk into {layers}", why)
            graph.remove(node)
            graph.remove_blob(name)
            changed = True
        return changed


def _slots(kernel: Gemm | Conv, name: str) -> int:
    return sum(x.blob == name for x in kernel.inputs())


def _scaled_copy(graph: Graph, node: Node) -> tuple[str, str, Scalar] | None:
    kernel = node.kernel
    if not isinstance(kernel, Map) or len(kernel.stores) != 1 or kernel.stores[0].accumulate:
        return None
    store = kernel.stores[0]
    value = store.value
    if not (isinstance(value, Op) and value.name == "mul" and isinstance(value.args[0], Const)):
        return None
    load = value.args[1]
    if not isinstance(load, Load):
        return None
    a, b = store.access, load.access
    if not (covers(graph, a) and covers(graph, b) and a.strides == b.strides and is_private(graph, a.blob)):
        return None
    if len(graph.writers(a.blob)) != 1:
        return None
    return a.blob, b.blob, value.args[0].scalar
