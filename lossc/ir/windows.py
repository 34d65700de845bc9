"""Whether two parts of the memory may share an element."""

from __future__ import annotations

from lossc.ir.blob import Access, Ref
from lossc.ir.graph import Graph


def pairs(operand: Ref | Access) -> list[tuple[int, int]]:
    """(extent, stride) of each axis of an operand."""
    if isinstance(operand, Access):
        return [(d.extent, s) for d, s in operand.strides]
    return list(zip(operand.shape, operand.strides, strict=True))


def overlap(graph: Graph, a: Ref | Access, b: Ref | Access) -> bool:
    """Whether two windows may share an element. Never wrong where it says no; exact for parts of one axis.

    Both lie in blocks that repeat at some stride. They are apart if within a block one ends before the other begins,
    and no two blocks come closer to each other than that stride.
    """
    (first, ao, ast), (second, bo, bst) = (graph.resolve(x.blob, x.offset, pairs(x)) for x in (a, b))
    if first != second:
        return False
    ap, bp = (
        [(s, e) for (e, _), s in zip(pairs(x), strides, strict=True) if e > 1] for x, strides in ((a, ast), (b, bst))
    )
    low, high, apart = (ap, bp, bo - ao) if ao < bo else (bp, ap, ao - bo)
    extent: dict[int, int] = {}
    for s, e in (*ap, *bp):
        extent[s] = max(extent.get(s, 1), e)
    strides = [0, *sorted(extent)]
    for k, stride in enumerate(strides):
        reach, other = (sum((e - 1) * s for s, e in part if s <= stride) + 1 for part in (low, high))
        block = strides[k + 1] if k + 1 < len(strides) else apart + other
        if reach <= apart and apart + other <= block and _nested(strides[k + 1 :], extent):
            return False
    return True


def once(operand: Ref | Access) -> bool:
    """Whether no two index tuples name the same element: each stride is beyond all that the smaller ones reach."""
    reach = 0
    for stride, extent in sorted((s, e) for e, s in pairs(operand) if e > 1):
        if stride <= reach:
            return False
        reach += (extent - 1) * stride
    return True


def _nested(strides: list[int], extent: dict[int, int]) -> bool:
    """Whether sums of such steps differ by the smallest one at least, or not at all."""
    reach = 0
    for stride in strides:
        if stride < reach + strides[0]:
            return False
        reach += (extent[stride] - 1) * stride
    return True
