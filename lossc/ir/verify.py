"""Checks that a graph means something. Run after every pass."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lossc.errors import InternalError
from lossc.ir.blob import Access, Dim, Ref, View
from lossc.ir.expr import Gather, Load, check_truth, walk
from lossc.ir.graph import SECTIONS, Graph
from lossc.ir.kernels import Conv, Gemm, Kernel, Map
from lossc.ir.pool import Pool
from lossc.ir.sweep import reads_what_is_gone
from lossc.ir.windows import once, overlap, pairs


@dataclass
class Known:
    """Kernels that were found right, and the windows that they were checked with: a pass changes few of either."""

    views: dict[str, View] = field(default_factory=dict)
    kernels: dict[int, Kernel] = field(default_factory=dict)


def verify(graph: Graph, known: Known | None = None) -> None:
    """Raises InternalError where a kernel reads what nobody wrote, leaves a blob's bounds, or breaks its own rules.

    ``known``: what the last call for this graph found right, which is not looked at again.
    """
    known = known or Known()
    views = {b.name: b.view for b in graph.blobs.values() if b.view is not None}
    if views != known.views:
        known.views, known.kernels = views, {}
    written = {graph.root(b.name) for b in graph.blobs.values() if b.persistent}
    last = 0
    for node in graph.nodes:
        kernel = node.kernel
        rank = SECTIONS.index(node.section)
        if rank < last:
            raise InternalError(f"section {node.section} of {node.layer} stands behind a later one")
        last = rank
        for name in (*kernel.reads(), *kernel.writes()):
            if name not in graph.blobs:
                raise InternalError(f"{node.layer}: unknown blob {name}")
        for name in kernel.reads():
            if graph.root(name) not in written:
                raise InternalError(f"{node.layer}: {name} is read before anything writes it")
        written.update(graph.root(name) for name in kernel.writes())
        if known.kernels.get(id(kernel)) is not kernel:
            _check_kernel(graph, kernel, node.layer)
            known.kernels[id(kernel)] = kernel


def _check_kernel(graph: Graph, kernel: Kernel, layer: str) -> None:
    for operand in (*kernel.inputs(), *kernel.outputs()):
        _bounds(graph, operand, layer)
    if isinstance(kernel, Map):
        _check_map(graph, kernel, layer)
        return
    if isinstance(kernel, Gemm):
        (m, k), (k2, n) = kernel.a.shape, kernel.b.shape
        if k != k2 or kernel.c.shape != (m, n):
            raise InternalError(f"{layer}: gemm of {(m, k)} and {(k2, n)} into {kernel.c.shape}")
    elif isinstance(kernel, Conv):
        _check_conv(kernel, layer)
    elif isinstance(kernel, Pool) and kernel.expressions and not kernel.sums_lines:
        raise InternalError(f"{layer}: a pooling that does not sum up lines has expressions of maps")
    whole = (Ref, Access) if isinstance(kernel, Pool) else Ref  # windows see what an expression makes of a source
    for out in kernel.outputs():
        for operand in kernel.inputs():
            if isinstance(operand, whole) and overlap(graph, out, operand):
                raise InternalError(f"{layer}: {kernel.kind} reads {operand.blob} where it writes {out.blob}")


def _bounds(graph: Graph, operand: Ref | Access, layer: str) -> None:
    reach = operand.offset + sum((e - 1) * s for e, s in pairs(operand))
    if reach >= max(graph.blobs[operand.blob].size, 1) or operand.offset < 0:
        raise InternalError(f"{layer}: access to {operand.blob} leaves its bounds")
    graph.resolve(operand.blob, operand.offset, pairs(operand))


def _check_conv(kernel: Conv, layer: str) -> None:
    x, w, y, g = kernel.image(kernel.x), kernel.w.shape, kernel.image(kernel.y), kernel.geometry
    space = tuple(
        (e + 2 * p - d * (k - 1) - 1) // s + 1
        for e, p, d, k, s in zip(x[2:], g.pad, g.dilation, g.kernel, g.stride, strict=True)
    )
    if y != (x[0], w[0], *space) or w[1:] != (x[1] // kernel.groups, *g.kernel) or w[0] % kernel.groups:
        raise InternalError(f"{layer}: convolution of {x} with {w}, {kernel.groups} groups, into {y}")


def _check_map(graph: Graph, kernel: Map, layer: str) -> None:
    names: dict[str, Dim] = {}
    for d in kernel.dims:
        if names.setdefault(d.name, d) != d:
            raise InternalError(f"{layer}: dimension {d.name} has two extents")
    if reads_what_is_gone(kernel):
        raise InternalError(f"{layer}: in a map with reductions one store reads what another one overwrites")
    for at, s in enumerate(kernel.stores):
        check_truth(s.value)
        used = set(s.access.dims) | set().union(*(e.varies for e in walk(s.value)))
        if not used <= set(kernel.dims):
            raise InternalError(f"{layer}: a store uses dimensions that the map does not have")
        twice = not s.value.varies <= set(s.access.dims) or not once(s.access)
        if twice or any(overlap(graph, s.access, other.access) for other in kernel.stores[:at]):
            raise InternalError(f"{layer}: {s.access.blob} would be written more than once")
        for e in walk(s.value):  # what is also an output is read where it is written
            if isinstance(e, (Load, Gather)):
                for store in kernel.stores:
                    _check_in_place(graph, e, store.access, layer)


def _check_in_place(graph: Graph, e: Load | Gather, store: Access, layer: str) -> None:
    access = e.access
    if isinstance(e, Gather):
        access = replace(access, strides=(*access.strides, (Dim("@pick", e.extent), e.stride)))
    elif _place(graph, access) == _place(graph, store):
        return
    if overlap(graph, access, store):
        raise InternalError(f"{layer}: {access.blob} is read elsewhere than written in one map")


def _place(graph: Graph, a: Access) -> tuple[str, int, dict[Dim, int]]:
    root, offset, strides = graph.resolve(a.blob, a.offset, pairs(a))
    return root, offset, dict(zip(a.dims, strides, strict=True))
