"""Element-wise work on images whose channels are in blocks: its dimensions and where its operands lie."""

from __future__ import annotations

from dataclasses import replace

from lossc.ir import Access, Dim, Graph, Map, Ref, Store
from lossc.ir.blob import BLOCK
from lossc.ir.expr import Acc, Expr, Gather, Reduce, accesses, map_accesses, rewrite, walk
from lossc.passes.analysis import split_dim


def splittable(graph: Graph, kernel: Map, images: set[str]) -> bool:
    """Whether a map can have its images in blocks: all that it reads or writes point by point are among them, and no
    reduction is along channels alone."""
    split = _split(graph, kernel, images)
    if split is None:
        return False
    lanes, places = _lanes_and_places(graph, split, images)
    if lanes & places:
        return False
    for a in _accesses(split):
        if graph.root(a.blob) not in images and set(a.dims) & lanes and set(a.dims) & places:
            return False
    for store in split.stores:
        for e in walk(store.value):
            if isinstance(e, Reduce) and lanes & set(e.dims) and not places <= set(e.dims):
                return False
            if isinstance(e, Gather):
                return False
    return True


def in_blocks(graph: Graph, kernel: Map, images: set[str]) -> Map:
    """The map after its images were put into blocks; dimensions within a block come last."""
    if not any(graph.root(a.blob) in images for a in _accesses(kernel)):
        return kernel
    split = _split(graph, kernel, images)
    assert split is not None
    lanes, _ = _lanes_and_places(graph, split, images)

    def move(a: Access) -> Access:
        return _moved(graph, a) if graph.root(a.blob) in images else a

    stores = tuple(Store(move(s.access), map_accesses(s.value, move), s.accumulate) for s in split.stores)
    return Map(stores, tuple(sorted(split.dims, key=lanes.__contains__)))


def epilogue_in_blocks(graph: Graph, epilogue: Expr, out: Ref, images: set[str]) -> Expr:
    """An epilogue after the result ``out`` (still in planes) and such operands were put into blocks."""
    c = Dim("c", out.shape[1])
    halves = (Dim("b", c.extent // BLOCK), Dim("l", BLOCK))
    parts = tuple((d, f) for d, f in zip(halves, (BLOCK, 1), strict=True) if d.extent > 1)

    def access(a: Access) -> Access:
        a = a.with_dims({c: parts})
        return _moved(graph, a) if graph.root(a.blob) in images else a

    def change(e: Expr) -> Expr:
        if isinstance(e, Acc):
            return Acc(tuple(d for old in e.dims for d in ((d for d, _ in parts) if old == c else (old,))))
        return e

    return rewrite(map_accesses(epilogue, access), change)


def full(a: Access, channel: str, space: str) -> bool:
    """Whether an access of an epilogue changes along channels and along positions."""
    names = {d.name for d in a.dims}
    return channel in names and bool(names & set(space))


def _accesses(kernel: Map) -> list[Access]:
    return [a for s in kernel.stores for a in (s.access, *accesses(s.value))]


def _split(graph: Graph, kernel: Map, images: set[str]) -> Map | None:
    """The same map; none of its dimensions crosses the end of a plane, block or picture of an image. None where that
    cannot be."""
    done = False
    while not done:
        done = True
        for a in _accesses(kernel):
            if graph.root(a.blob) not in images:
                continue
            ends = _ends(graph, a)
            if a.offset % ends[1]:
                return None
            for dim, stride in a.strides:
                end = next((end for end in ends if stride < end < stride * dim.extent), None)
                if end is None:
                    continue
                inner = end // stride
                if end % stride or dim.extent % inner:
                    return None
                kernel, done = split_dim(kernel, dim, inner)[0], False
                break
            if not done:
                break
    return kernel


def _ends(graph: Graph, a: Access) -> tuple[int, int, int]:
    """How many elements a plane, a block of planes and a picture of the image have."""
    _, channels, height, width = graph.blobs[a.blob].shape
    return height * width, BLOCK * height * width, channels * height * width


def _lanes_and_places(graph: Graph, split: Map, images: set[str]) -> tuple[set[Dim], set[Dim]]:
    """The dimensions that run over the channels of a block, and those that run over positions."""
    lanes, places = set(), set()
    for a in _accesses(split):
        if graph.root(a.blob) in images:
            plane, block, _ = _ends(graph, a)
            places |= {d for d, s in a.strides if s < plane}
            lanes |= {d for d, s in a.strides if plane <= s < block}
    return lanes, places


def _moved(graph: Graph, a: Access) -> Access:
    """An access in steps of planes as one in steps of blocks."""
    plane, block, _ = _ends(graph, a)
    strides = ((d, s * BLOCK if s < plane else s // plane if s < block else s) for d, s in a.strides)
    return replace(a, strides=tuple(strides))
