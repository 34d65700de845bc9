"""narrow-masks: the positions of maxima in one byte each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lossc.ir import Graph, Pool
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
                graph.blobs[name] = replace(blob, dtype="u8")
                why = "only poolings read it, and a position within their window fits into a byte"
                graph.remark(self.name, graph.writers(name)[0], f"{name} stored as bytes", why)
                changed = True
        return changed


def _window(kernel: Pool) -> int:
    return math.prod(kernel.geometry.kernel)
