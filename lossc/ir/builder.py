"""What a layer's ``forward`` and ``backward`` emit kernels with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lossc.ir.blob import Access, Blob, Ref, Role, View
from lossc.ir.expr import Const, Value, check_truth, expr
from lossc.ir.graph import Graph, Node
from lossc.ir.kernels import CheckLabel, Conv, Gemm, Geometry, Kernel, Pool, Random, Store, make_map
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
        return self.graph.add(kernel, self.layer, self.section, note)

    def temp(self, name: str, shape: tuple[int, ...], role: Role = "activation") -> Ref:
        """A blob of the layer's own, ``LAYER.name``."""
        unique = self.graph.fresh_name(f"{self.layer}.{name}")
        return Ref.whole(self.graph.add_blob(Blob(unique, shape, role, label=unique)))

    def view(self, blob: str, ref: Ref) -> None:
        """Let a blob be a window on ``ref`` instead of having memory of its own."""
        self.graph.set_view(blob, View(ref.blob, ref.offset, ref.strides))

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
        accumulate: bool = False,
    ) -> None:
        self.emit(Pool(direction, method, x, y, geometry, mask, ONE, accumulate))

    def random(self, out: Ref, distribution: str, a: float, b: float) -> None:
        stream = self.graph.options["streams"] = self.graph.options.get("streams", 0) + 1
        self.emit(Random(out, distribution, a, b, stream))

    def check_label(self, label: Ref, classes: int, ignore: int | None = None) -> None:
        self.emit(CheckLabel(label, classes, ignore))
