"""What a layer's ``forward`` and ``backward`` emit kernels with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lossc.ir.blob import Access, Blob, Ref, Role, View
from lossc.ir.checks import CheckLabel
from lossc.ir.expr import Const, Load, Value, check_truth, expr
from lossc.ir.graph import Graph, Node
from lossc.ir.kernels import Constant, Conv, Gemm, Geometry, Kernel, Random, Store, make_map
from lossc.ir.pool import Pool
from lossc.ir.scalar import ONE, Scalar


@dataclass
class IO:
    """The blobs of one layer. Diffs are None where no gradient is wanted; ``saved`` carries blobs to the backward."""

    bottoms: list[Ref]
    tops: list[Ref]
    params: list[Ref]
    top_diffs: list[Ref] = field(default_factory=list)
    bottom_diffs: list[Ref | None] = field(default_factory=list)
    param_diffs: list[Ref | None] = field(default_factory=list)
    saved: dict[str, Any] = field(default_factory=dict)

    @property
    def bottom(self) -> Ref:
        return self.bottoms[0]

    @property
    def top(self) -> Ref:
        return self.tops[0]

    @property
    def top_diff(self) -> Ref:
        return self.top_diffs[0]

    @property
    def bottom_diff(self) -> Ref | None:
        return self.bottom_diffs[0]


class Builder:
    """Appends kernels to a graph on behalf of one layer and section."""

    def __init__(self, graph: Graph, layer: str, section: str) -> None:
        self.graph, self.layer, self.section = graph, layer, section

    def emit(self, kernel: Kernel, note: str = "") -> Node:
        for operand in (*kernel.inputs(), *kernel.outputs()):
            pairs = (
                [(d.extent, s) for d, s in operand.strides]
                if isinstance(operand, Access)
                else list(zip(operand.shape, operand.strides, strict=True))
            )
            if self.graph.try_resolve(operand.blob, operand.offset, pairs) is None:
                self._own_memory(operand.blob)
        return self.graph.add(kernel, self.layer, self.section, note)

    def temp(self, name: str, shape: tuple[int, ...], role: Role = "activation") -> Ref:
        """A blob of the layer's own, ``LAYER.name``."""
        unique = self.graph.fresh_name(f"{self.layer}.{name}")
        return Ref.whole(self.graph.add_blob(Blob(unique, shape, role, label=unique)))

    def view(self, blob: str, ref: Ref) -> None:
        """Let a blob be a window on ``ref`` instead of having memory of its own."""
        self.graph.set_view(blob, View(ref.blob, ref.offset, ref.strides))

    def _own_memory(self, name: str) -> None:
        """A window that a kernel cannot address as it wants to -> memory of its own, filled before its first use.

        Data is copied. A diff starts as zeros, and the layer whose top it belongs to adds it to the bottom's diff.
        """
        graph, blob = self.graph, self.graph.blobs[name]
        assert blob.view is not None
        window = Ref(blob.view.parent, blob.shape, blob.view.strides, blob.view.offset)
        users = [n for n in graph.nodes if any(graph.within(b, name) for b in (*n.kernel.reads(), *n.kernel.writes()))]
        graph.set_view(name, None)
        labels = "nchwabdefgijklmopqrstuvxyz"[: window.ndim]
        value = Const(Scalar(0.0)) if blob.role == "diff" else Load(window[labels])
        kernel = make_map([Store(Ref.whole(blob)[labels], value)])
        section, before = (users[0].section, users[0].id) if users else (self.section, None)
        graph.add(kernel, self.layer, section, "a window with memory of its own", before=before)

    def map(self, *stores: tuple[Access, Value] | Store, note: str = "") -> None:
        """``out = expression`` for each (access, expression), in one sweep."""
        built = [s if isinstance(s, Store) else Store(s[0], expr(s[1])) for s in stores]
        for s in built:
            check_truth(s.value)
        self.emit(make_map(built), note)

    def add(self, out: Access, value: Value, note: str = "") -> None:
        """``out += expression``."""
        self.map(Store(out, expr(value), accumulate=True), note=note)

    def fill(self, out: Access, value: Scalar | float, note: str = "") -> None:
        self.map((out, Const(Scalar.of(value))), note=note)

    def gemm(
        self, a: Ref, b: Ref, c: Ref, *, alpha: Scalar = ONE, accumulate: bool = False, note: str = ""
    ) -> None:
        """c (+)= alpha * a b, for matrices a (m, k), b (k, n), c (m, n)."""
        self.emit(Gemm(a, b, c, alpha, accumulate), note)

    def conv(
        self,
        direction: str,
        x: Ref,
        w: Ref,
        y: Ref,
        geometry: Geometry,
        *,
        groups: int = 1,
        accumulate: bool = False,
    ) -> None:
        self.emit(Conv(direction, x, w, y, geometry, groups, ONE, accumulate))

    def pool(
        self,
        direction: str,
        method: str,
        x: Ref,
        y: Ref,
        geometry: Geometry,
        *,
        mask: Ref | None = None,
        alpha: Scalar = ONE,
        accumulate: bool = False,
    ) -> None:
        self.emit(Pool(direction, method, x, y, geometry, mask, alpha, accumulate))

    def random(self, out: Ref, distribution: str, a: float, b: float) -> None:
        stream = self.graph.options["streams"] = self.graph.options.get("streams", 0) + 1
        self.emit(Random(out, distribution, a, b, stream))

    def constant(self, name: str, values: np.ndarray) -> Ref:
        """A blob of the layer's own, ``LAYER.name``, that holds these numbers from the start."""
        ref = self.temp(name, values.shape, "state")
        Builder(self.graph, self.layer, "init").emit(Constant(ref, values.astype("<f8").tobytes()), name)
        return ref

    def check_label(self, label: Ref, classes: int, ignore: int | None = None) -> None:
        """Bad labels stop the pass, unless the graph is told not to look (option "check_labels")."""
        if self.graph.options.get("check_labels", True):
            self.emit(CheckLabel(label, classes, ignore))
