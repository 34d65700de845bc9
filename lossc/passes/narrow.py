"""narrow-masks and narrow-images: what need not lie in memory as whole reals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from lossc.ir import Access, Conv, Graph, Kernel, Pool, Ref
from lossc.ir.blob import Dtype
from lossc.ir.expr import accesses
from lossc.passes.analysis import is_private


@dataclass(frozen=True)
class NarrowMasks:
    """A mask that only poolings use -> bytes that hold the position within the window, a quarter of the memory."""

    name: str = "narrow-masks"

    def run(self, graph: Graph) -> bool:
        changed = False
        for name, blob in list(graph.blobs.items()):
            users = [n.kernel for n in (*graph.readers(name), *graph.writers(name))]
            fits = users and all(
                isinstance(k, Pool) and k.mask is not None and k.mask.blob == name and _window(k) < 255 for k in users
            )
            if fits and blob.dtype == "real" and is_private(graph, name):
                why = "only poolings read it, and a position within their window fits into a byte"
                _store_as(graph, name, "u8")
                graph.remark(self.name, graph.writers(name)[0], f"{name} stored as bytes", why)
                changed = True
        return changed


def _window(kernel: Pool) -> int:
    return math.prod(kernel.geometry.kernel)


@dataclass(frozen=True)
class NarrowImages:
    """Where convolutions multiply numbers rounded to bfloat16: images in blocks of channels that only those and
    poolings use -> bfloat16, half the memory.

    What those convolutions multiply is the same, since rounding twice is rounding once and the largest number stays the
    largest; depthwise convolutions, means of poolings, and what epilogues add up, begin from rounded numbers.
    """

    name: str = "narrow-images"

    def run(self, graph: Graph) -> bool:
        if not graph.options.get("bf16"):
            return False
        images = {root for root in {graph.root(b) for b in graph.blobs} if _in_blocks(graph, root)}
        images -= {root for node in graph.nodes for root in _needed(graph, node.kernel)}
        for root in [name for name in graph.blobs if name in images]:
            writer = next(w for b in graph.family(root) for w in graph.writers(b))
            why = "only convolutions of rounded numbers, and poolings, use it"
            graph.remark(self.name, writer, f"{root} stored as bfloat16", why)
            for name in graph.family(root):
                _store_as(graph, name, "bf16")
        return bool(images)


def _in_blocks(graph: Graph, root: str) -> bool:
    blob = graph.blobs[root]
    return len(blob.shape) == 5 and blob.dtype == "real" and not blob.persistent


def _needed(graph: Graph, kernel: Kernel) -> Iterable[str]:
    """The memory owners that a kernel needs as reals."""
    if isinstance(kernel, Conv) and kernel.direction == "forward" and not kernel.accumulate and _convolves(kernel):
        able: set[Ref | Access] = {kernel.x, kernel.y}
        able |= {a for a in accesses(kernel.epilogue) if _along_lanes(a)} if kernel.epilogue is not None else set()
    elif isinstance(kernel, Pool) and kernel.direction == "forward" and not kernel.accumulate:
        able = {kernel.x, kernel.y}
    else:
        able = set()
    unable = [operand for operand in (*kernel.inputs(), *kernel.outputs()) if operand not in able]
    return {graph.root(operand.blob) for operand in unable}


def _convolves(kernel: Conv) -> bool:
    """Whether a convolution can have images of bfloat16: it rounds what it multiplies, or is depthwise in blocks."""
    return kernel.pairs or kernel.depthwise


def _along_lanes(a: Access) -> bool:
    """Whether an epilogue's access runs along the channels of a block, which lie side by side."""
    return any(d.name == "l" and s == 1 for d, s in a.strides)


def _store_as(graph: Graph, name: str, dtype: Dtype) -> None:
    graph.blobs[name] = replace(graph.blobs[name], dtype=dtype)
