"""block-channels: the layout of images between convolutions, poolings and element-wise work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import networkx as nx

from lossc.ir import Access, Blob, Conv, Graph, Kernel, Map, Node, Pool, Ref, View
from lossc.ir.blob import BLOCK, contiguous
from lossc.ir.expr import accesses
from lossc.passes.blockmap import epilogue_in_blocks, full, in_blocks, splittable


@dataclass(frozen=True)
class BlockChannels:
    """Images that only convolutions, poolings and element-wise maps use -> their channels in blocks of 16.

    [n, c, h, w] becomes [n, c / 16, h, w, 16], so that vectors run along channels wherever they are made or taken.
    Convolutions read and write either layout, so that no copy ever changes one into the other: what somebody observes,
    or what another kernel uses, stays in planes, and so do the operands of maps, poolings and depthwise convolutions
    that touch it.
    """

    name: str = "block-channels"

    def run(self, graph: Graph) -> bool:
        if not graph.options.get("blocks"):
            return False
        chosen = _chosen(graph)
        if not chosen:
            return False
        for node in graph.nodes:
            kernel = _rewritten(graph, node.kernel, chosen)
            if kernel is not node.kernel:
                graph.replace(node, kernel)
        for root in [name for name in graph.blobs if name in chosen]:
            family = graph.family(root)
            writer = next(w for b in family for w in graph.writers(b))
            why = "only convolutions, poolings and element-wise maps use it"
            graph.remark(self.name, writer, f"the channels of {root} in blocks of {BLOCK}", why)
            for name in family:
                graph.blobs[name] = _stored_in_blocks(graph.blobs[name])
        return True


def _chosen(graph: Graph) -> set[str]:
    """Owners of the memory of images that can be in blocks, together with all that must be if they are, where a
    convolution uses one of them."""
    images = {root for root in {graph.root(b) for b in graph.blobs} if _is_image(graph, root)}
    together: nx.Graph = nx.Graph()  # of owners; "planes" stands for all that stays as it is
    together.add_nodes_from([*sorted(images), "planes"])
    convolved: set[str] = set()
    for node in graph.nodes:
        for group in _groups(graph, node, images):
            nx.add_path(together, group)
        if isinstance(node.kernel, Conv):
            convolved |= {graph.root(r.blob) for r in (node.kernel.x, node.kernel.y)}
    parts = (part for part in nx.connected_components(together) if "planes" not in part and part & convolved)
    return set().union(*parts)


def _is_image(graph: Graph, root: str) -> bool:
    """Whether a blob and all that lies in it are temporaries made of whole blocks of channels."""
    owner = graph.blobs[root]
    if owner.persistent or len(owner.shape) != 4 or owner.shape[2] * owner.shape[3] < 2:
        return False
    family = graph.family(root)
    return graph.observable.isdisjoint(family) and all(_in_whole_blocks(graph, graph.blobs[b]) for b in family)


def _in_whole_blocks(graph: Graph, blob: Blob) -> bool:
    if len(blob.shape) != 4 or blob.shape[1] % BLOCK:
        return False
    pairs = list(zip(blob.shape, contiguous(blob.shape), strict=True))
    root, offset, strides = graph.resolve(blob.name, 0, pairs)
    owner = graph.blobs[root].shape
    same = owner[2:] == blob.shape[2:] and owner[1] % BLOCK == 0
    expected = zip(blob.shape, strides, contiguous(owner), strict=True)
    return same and all(e == 1 or s == t for e, s, t in expected) and offset % (BLOCK * owner[2] * owner[3]) == 0


def _groups(graph: Graph, node: Node, images: set[str]) -> Iterable[list[str]]:
    """Images that a kernel needs in one layout, which with "planes" among them cannot be blocks."""
    kernel = node.kernel
    touched = {graph.root(b) for b in (*kernel.reads(), *kernel.writes())} & images
    if not touched:
        return []
    if isinstance(kernel, Map):
        return [[*sorted(touched), *([] if splittable(graph, kernel, images) else ["planes"])]]
    if isinstance(kernel, Pool):
        if kernel.sums_lines:
            return [[*sorted(touched), "planes"]]
        operands = [r for r in (kernel.x, kernel.y, kernel.mask) if r is not None and not _point(r)]
        return [[*sorted(touched), *("planes" for r in operands if _image_of(graph, r, images) is None)]]
    if isinstance(kernel, Conv):
        return _groups_of_conv(graph, kernel, images)
    return [[*sorted(touched), "planes"]]


def _groups_of_conv(graph: Graph, kernel: Conv, images: set[str]) -> list[list[str]]:
    g = kernel.geometry
    pointwise = set(g.kernel) == {1} and not any(g.pad)
    able = kernel.direction != "bwd_data" or pointwise or set(g.stride) == {1} or kernel.depthwise
    groups: list[list[str]] = []
    for ref in (kernel.x, kernel.y):
        root, channels = graph.root(ref.blob), ref.shape[1] // (1 if kernel.depthwise else kernel.groups)
        fits = able and channels % BLOCK == 0 and _image_of(graph, ref, images) == root
        groups.append([root if root in images else "planes"] + ([] if fits else ["planes"]))
    if kernel.depthwise:  # it goes along the channels of both sides, or of none
        groups = [[owner for group in groups for owner in group]]
    if graph.root(kernel.w.blob) in images:
        groups.append([graph.root(kernel.w.blob), "planes"])
    if kernel.epilogue is not None:
        out = _image_of(graph, kernel.out, images) or "planes"
        groups.append([out, *(_operand(graph, a, kernel, images) for a in accesses(kernel.epilogue)
                              if full(a, "c", "hw") or graph.root(a.blob) in images)])  # fmt: skip
    return groups


def _operand(graph: Graph, a: Access, kernel: Conv, images: set[str]) -> str:
    """The image that an epilogue reads, if it does so element by element."""
    root, shape = graph.root(a.blob), graph.blobs[a.blob].shape
    own = {d.name: s for d, s in a.strides}
    steps = dict(zip(kernel.labels, contiguous(shape), strict=False)) if len(shape) == 4 else {}
    whole = a.offset % (BLOCK * shape[-2] * shape[-1]) == 0 if steps else False
    same = shape[2:] == kernel.out.shape[2:] and all(own[name] == steps.get(name) for name in own)
    return root if root in images and same and whole else "planes"


def _image_of(graph: Graph, ref: Ref, images: set[str]) -> str | None:
    """The image that a kernel's operand is whole blocks of."""
    root, shape = graph.root(ref.blob), graph.blobs[ref.blob].shape
    if root not in images or ref.ndim != 4 or ref.shape[1] % BLOCK or ref.shape[2:] != shape[2:]:
        return None
    same = all(e == 1 or s == t for e, s, t in zip(ref.shape, ref.strides, contiguous(shape), strict=True))
    return root if same and ref.offset % (BLOCK * shape[2] * shape[3]) == 0 else None


def _point(ref: Ref) -> bool:
    """Whether an operand is the same in blocks and in planes: these have one position."""
    return ref.ndim == 4 and ref.shape[2:] == (1, 1) and ref.shape[1] % BLOCK == 0 and ref.strides[1] == 1


def _rewritten(graph: Graph, kernel: Kernel, chosen: set[str]) -> Kernel:
    def inside(operand: Ref | Access | None) -> bool:
        return operand is not None and graph.root(operand.blob) in chosen

    if isinstance(kernel, Map):
        return in_blocks(graph, kernel, chosen)
    if isinstance(kernel, Pool) and (inside(kernel.x) or inside(kernel.y)):
        mask = kernel.mask.blocked() if kernel.mask is not None else None
        return replace(kernel, x=kernel.x.blocked(), y=kernel.y.blocked(), mask=mask)
    if isinstance(kernel, Conv):
        epilogue = kernel.epilogue
        if epilogue is not None and inside(kernel.out):
            epilogue = epilogue_in_blocks(graph, epilogue, kernel.out, chosen)
        x, y = (r.blocked() if inside(r) else r for r in (kernel.x, kernel.y))
        if x is not kernel.x or y is not kernel.y:
            return replace(kernel, x=x, y=y, epilogue=epilogue)
    return kernel


def _stored_in_blocks(blob: Blob) -> Blob:
    n, c, h, w = blob.shape
    view = blob.view
    if view is not None:
        image, channel, row, column = view.strides
        view = View(view.parent, view.offset, (image, channel * BLOCK, row * BLOCK, column * BLOCK, 1))
    return replace(blob, shape=(n, c // BLOCK, h, w, BLOCK), view=view)
