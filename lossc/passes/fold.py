"""fold-loss-weight, fold-accumulate and sink-alpha: constants and additions that need no kernel of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lossc.ir import Access, Conv, Gemm, Graph, Map, Node, Ref, Scalar, Store, make_map
from lossc.ir.expr import Const, Expr, Load, Op, rewrite, tighten, total
from lossc.passes.analysis import covers, is_private, overlap, pairs, writes_between


@dataclass(frozen=True)
class FoldLossWeight:
    """A blob that is one constant everywhere (the seed of a loss) -> that constant in every kernel that reads it."""

    name: str = "fold-loss-weight"

    def run(self, graph: Graph) -> bool:
        changed = False
        for name in list(graph.blobs):
            constant = _constant(graph, name)
            if constant is None:
                continue
            for node in graph.readers(name):
                if name not in node.kernel.accumulates and self._fold(graph, node, name, constant):
                    changed = True
        return changed

    def _fold(self, graph: Graph, node: Node, name: str, constant: Scalar) -> bool:
        kernel = node.kernel
        if isinstance(kernel, Gemm):
            folded = _gemm_of_constant(kernel, name, constant)
            if folded is None:
                return False
            kernel = folded
        if not isinstance(kernel, Map):
            return False

        def one(e: Expr) -> Expr:
            return Const(constant) if isinstance(e, Load) and e.access.blob == name else tighten(e)

        stores = tuple(Store(s.access, rewrite(s.value, one), s.accumulate) for s in kernel.stores)
        graph.replace(node, make_map(stores))
        graph.remarks.append(f"{node.layer}: {constant.history} folded into {node.section}")
        return True


def _constant(graph: Graph, name: str) -> Scalar | None:
    """The value of a diff that only constants are ever stored to, whole; None otherwise."""
    if graph.blobs[name].role != "diff" or graph.family(name) != [name]:
        return None
    writers = graph.writers(name)
    value: Scalar | None = None
    for node in writers:
        kernel = node.kernel
        if not isinstance(kernel, Map) or len(kernel.stores) != 1:
            return None
        store = kernel.stores[0]
        if not isinstance(store.value, Const) or not covers(graph, store.access):
            return None
        scalar = store.value.scalar
        if store.accumulate and value is not None and not value.is_plain(0.0):
            value = Scalar.fold("add", value, scalar)
        else:
            value = scalar
    last = writers[-1] if writers else None
    position = graph.position()
    if last is None or any(
        position[r.id] < position[last.id] for r in graph.readers(name) if name not in r.kernel.accumulates
    ):
        return None
    return value


def _gemm_of_constant(kernel: Gemm, name: str, constant: Scalar) -> Map | None:
    """A product with a constant matrix is a sum over the other one: c[i,j] = alpha * w * sum_k b[k,j]."""
    if kernel.epilogue is not None or name not in (kernel.a.blob, kernel.b.blob) or kernel.a.blob == kernel.b.blob:
        return None
    c = kernel.c["ij"]
    alpha = Const(constant * kernel.alpha if not kernel.alpha.is_plain(1.0) else constant)
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
        for node in graph.section("backward"):
            changed |= self._join_constant(graph, node)
        return changed

    def _join_constant(self, graph: Graph, fill: Node) -> bool:
        """A constant to which a map then adds everywhere (the seed of a hidden top) -> a term of that map."""
        kernel = fill.kernel
        if not isinstance(kernel, Map) or len(kernel.stores) != 1 or kernel.accumulates:
            return False
        access, constant = kernel.stores[0].access, kernel.stores[0].value
        family = set(graph.family(access.blob))
        if not isinstance(constant, Const) or not covers(graph, access) or len(family) > 1:
            return False
        later = graph.nodes[graph.position()[fill.id] + 1 :]
        first = next((n for n in later if family & {*n.kernel.reads(), *n.kernel.writes()}), None)
        target = _sole_addition(graph, first, family) if first is not None else None
        if first is None or not isinstance(first.kernel, Map) or not isinstance(target, Access):
            return False
        if first.section != fill.section or not covers(graph, target):
            return False
        stores = (
            Store(s.access, s.value + constant) if s.access == target else s for s in first.kernel.stores
        )
        graph.replace(first, make_map(stores))
        graph.remove(fill)
        return True

    def _fold(self, graph: Graph, fill: Node, name: str) -> bool:
        family = set(graph.family(name))
        at = graph.position()
        touching = [
            n
            for n in graph.nodes
            if at[n.id] > at[fill.id] and family & {*n.kernel.reads(), *n.kernel.writes()}
        ]
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
            graph.remove(fill)
        return bool(done)


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
            graph.remarks.append(f"{node.layer}: alpha {alpha.history} sunk into {', '.join(r.layer for r in readers)}")
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
