"""Checks that a graph means something. Run after every pass."""

from __future__ import annotations

import math

from lossc.errors import InternalError
from lossc.ir.blob import Access, Dim, Ref
from lossc.ir.expr import Gather, Load, check_truth, walk
from lossc.ir.graph import SECTIONS, Graph
from lossc.ir.kernels import Conv, Gemm, Map


def verify(graph: Graph) -> None:
    """Raises InternalError where a kernel reads what nobody wrote, leaves a blob's bounds, or breaks its own rules."""
    known = {b.name for b in graph.blobs.values()}
    written = {graph.root(b.name) for b in graph.blobs.values() if b.persistent}
    last = 0
    for node in graph.nodes:
        kernel = node.kernel
        rank = SECTIONS.index(node.section)
        if rank < last:
            raise InternalError(f"section {node.section} of {node.layer} stands behind a later one")
        last = rank
        for name in (*kernel.reads(), *kernel.writes()):
            if name not in known:
                raise InternalError(f"{node.layer}: unknown blob {name}")
        for name in kernel.reads():
            if graph.root(name) not in written:
                raise InternalError(f"{node.layer}: {name} is read before anything writes it")
        written.update(graph.root(name) for name in kernel.writes())
        for operand in (*kernel.inputs(), *kernel.outputs()):
            _bounds(graph, operand, node.layer)
        if isinstance(kernel, Map):
            _check_map(kernel, node.layer)
        elif isinstance(kernel, Gemm):
            (m, k), (k2, n) = kernel.a.shape, kernel.b.shape
            if k != k2 or kernel.c.shape != (m, n):
                raise InternalError(f"{node.layer}: gemm of {(m, k)} and {(k2, n)} into {kernel.c.shape}")
        elif isinstance(kernel, Conv) and kernel.direction not in ("forward", "bwd_data", "bwd_weights"):
            raise InternalError(f"{node.layer}: convolution direction {kernel.direction}")


def _bounds(graph: Graph, operand: Ref | Access, layer: str) -> None:
    pairs = (
        [(d.extent, s) for d, s in operand.strides]
        if isinstance(operand, Access)
        else list(zip(operand.shape, operand.strides, strict=True))
    )
    reach = operand.offset + sum((e - 1) * s for e, s in pairs)
    if reach >= max(graph.blobs[operand.blob].size, 1) or operand.offset < 0:
        raise InternalError(f"{layer}: access to {operand.blob} leaves its bounds")
    graph.resolve(operand.blob, operand.offset, pairs)


def _check_map(kernel: Map, layer: str) -> None:
    names: dict[str, Dim] = {}
    for d in kernel.dims:
        if names.setdefault(d.name, d) != d:
            raise InternalError(f"{layer}: dimension {d.name} has two extents")
    for s in kernel.stores:
        check_truth(s.value)
        used = set(s.access.dims) | set().union(*(e.varies for e in walk(s.value)))
        if not used <= set(kernel.dims):
            raise InternalError(f"{layer}: a store uses dimensions that the map does not have")
        if not s.value.varies <= set(s.access.dims):
            raise InternalError(f"{layer}: {s.access.blob} would be written more than once")
        if math.prod(d.extent for d in s.access.dims) > 1 and any(t == 0 for _, t in s.access.strides):
            raise InternalError(f"{layer}: store to {s.access.blob} with a zero stride")
        for e in walk(s.value):  # an input that is also an output is read where it is written
            if isinstance(e, (Load, Gather)) and e.access.blob in kernel.writes() and (
                isinstance(e, Gather) or all(e.access != t.access for t in kernel.stores)
            ):
                raise InternalError(f"{layer}: {e.access.blob} is read elsewhere than written in one map")
