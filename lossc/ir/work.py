"""How much a kernel computes and moves: what rooflines are drawn from."""

from __future__ import annotations

from math import prod

from lossc.errors import InternalError
from lossc.ir.blob import WIDTHS, Access, Ref
from lossc.ir.expr import Expr, walk
from lossc.ir.graph import Graph
from lossc.ir.kernels import Conv, Gemm, Kernel, Map
from lossc.ir.pool import Pool


def flops(kernel: Kernel) -> int:
    """Floating-point operations of one run. A function such as exp counts as one; a pool's comparison too."""
    if isinstance(kernel, (Conv, Gemm)):
        return kernel.flops + _operations(kernel.out.size, kernel.epilogue)
    if isinstance(kernel, Map):
        seen: dict[Expr, None] = {}
        for store in kernel.stores:
            seen.update(dict.fromkeys(walk(store.value)))
        return sum(_own(e) for e in seen) + sum(s.access.points for s in kernel.stores if s.accumulate)
    if isinstance(kernel, Pool):
        maps = _operations(kernel.source.size, kernel.prologue)
        maps += _operations(kernel.out.size, kernel.epilogue, *(s.value for s in kernel.more))
        return kernel.y.size * prod(kernel.geometry.kernel) + maps
    return 0


def _operations(points: int, *expressions: Expr | None) -> int:
    nodes = dict.fromkeys(e for root in expressions if root is not None for e in walk(root))
    return points * sum(1 for e in nodes if e.children())


def _own(expr: Expr) -> int:
    """Operations of one node over its own dimensions: those of its operands, which a reduction sums over."""
    if not expr.children():
        return 0
    dims = frozenset().union(*(child.varies for child in expr.children()))
    return prod(d.extent for d in dims)


def bytes_moved(graph: Graph, kernel: Kernel, width: int) -> int:
    """Bytes read and written at least: each operand once, those that are added to twice. ``width``: of a real."""
    read: dict[Ref | Access, None] = dict.fromkeys(kernel.inputs())
    written: dict[Ref | Access, None] = dict.fromkeys(kernel.outputs())
    again = [x for x in written if x.blob in kernel.accumulates and x not in read]
    return sum(_size(graph, x, width) for x in (*read, *written, *again))


def _size(graph: Graph, operand: Ref | Access, width: int) -> int:
    if not isinstance(operand, (Ref, Access)):
        raise InternalError(f"{operand!r} is no operand")
    points = operand.size if isinstance(operand, Ref) else operand.points
    blob = graph.blobs[operand.blob]
    # Windows meet elements more than once; no more than the whole blob is moved.
    return min(points, blob.size) * WIDTHS.get(blob.dtype, width)
