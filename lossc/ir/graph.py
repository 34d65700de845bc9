"""The graph: blobs and kernels as a bipartite networkx multigraph, in program order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx

from lossc.errors import InternalError
from lossc.ir.blob import Blob, Ref, View, contiguous
from lossc.ir.kernels import Kernel
from lossc.ir.remark import Remark
from lossc.ir.scalar import Scalar
from lossc.loss_weight import LossWeight, Schedule

#: Program sections in the order in which a training step runs them.
SECTIONS = ("init", "forward", "backward", "update")


@dataclass(frozen=True)
class Node:
    """A kernel in the graph: where it came from (layer, source line) and in which section it runs."""

    id: int
    kernel: Kernel
    layer: str
    section: str
    note: str = ""


@dataclass
class LayerCall:
    """A layer of the net before lowering: the layer object and the names of its blobs."""

    name: str
    layer: Any
    bottoms: list[str]
    tops: list[str]
    params: list[str] = field(default_factory=list)
    loss_weights: list[LossWeight] = field(default_factory=list)
    line: int | None = None


@dataclass(frozen=True)
class LossTerm:
    """One weighted top: ``total += weight * sum(blob)``.

    A weight that can change lies in the blob ``held``; ``weight`` is then what it starts with.
    """

    layer: str
    blob: str
    weight: Scalar
    held: str = ""
    schedule: Schedule | None = None


@dataclass(frozen=True)
class Param:
    """A learnable array of the net, as files and solvers see it."""

    blob: str
    layer: str
    index: int
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    name: str = ""


class Graph:
    """Blobs and kernels. Passes change it through the methods here, never the networkx graph itself."""

    def __init__(self, name: str, file: str = "") -> None:
        self.name = name
        self.file = file
        self.blobs: dict[str, Blob] = {}
        #: Every top as the layers declared it; passes may remove the blob itself.
        self.declared: dict[str, Blob] = {}
        self.calls: list[LayerCall] = []
        self.lines: dict[str, int | None] = {}
        self.layer_types: dict[str, str] = {}
        self.params: list[Param] = []
        self.param_of: dict[tuple[str, int], str] = {}
        self.losses: list[LossTerm] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.data_of: dict[str, str] = {}
        #: The user's name of every version of a blob.
        self.label_of: dict[str, str] = {}
        self.diff_of: dict[str, str] = {}
        self.observable: set[str] = set()
        self.options: dict[str, Any] = {}
        self.remarks: list[Remark] = []
        self._graph: nx.MultiDiGraph = nx.MultiDiGraph()
        self._nodes: dict[int, Node] = {}
        self._order: list[int] = []
        self._next = 0
        # Looked up far more often than changed: None where they must be worked out again.
        self._families: dict[str, list[str]] | None = None
        self._position: dict[int, int] | None = None

    # ---- blobs

    def add_blob(self, blob: Blob) -> Blob:
        if blob.name in self.blobs:
            raise InternalError(f"blob {blob.name} exists already")
        self.blobs[blob.name] = blob
        self._families = None
        self._graph.add_node(("blob", blob.name))
        return blob

    def fresh_name(self, name: str) -> str:
        if name not in self.blobs:
            return name
        k = 2
        while f"{name}@{k}" in self.blobs:
            k += 1
        return f"{name}@{k}"

    def set_view(self, name: str, view: View | None) -> None:
        """Let a blob lie inside another one, or own its memory."""
        self.blobs[name] = replace(self.blobs[name], view=view)
        self._families = None

    def remove_blob(self, name: str) -> None:
        del self.blobs[name]
        self._families = None
        self._graph.remove_node(("blob", name))
        self.observable.discard(name)

    def root(self, name: str) -> str:
        """The blob that owns the memory."""
        while True:
            view = self.blobs[name].view
            if view is None:
                return name
            name = view.parent

    def within(self, name: str, owner: str) -> bool:
        """Whether a blob is ``owner`` or a window on it, directly or through others."""
        while name != owner and (view := self.blobs[name].view) is not None:
            name = view.parent
        return name == owner

    def family(self, name: str) -> list[str]:
        """All blobs that share memory with this one."""
        if self._families is None:
            self._families = {}
            for blob in self.blobs:
                self._families.setdefault(self.root(blob), []).append(blob)
        return list(self._families[self.root(name)])

    def resolve(self, blob: str, offset: int, dims: Sequence[tuple[int, int]]) -> tuple[str, int, tuple[int, ...]]:
        """An access to a blob as one to the memory's owner: (root, offset, stride of each (extent, stride) pair).

        Raises InternalError where the blob's layout does not admit it.
        """
        found = self.try_resolve(blob, offset, dims)
        if found is None:
            raise InternalError(f"blob {blob} cannot be addressed as {list(dims)}")
        return found

    def try_resolve(
        self, blob: str, offset: int, dims: Sequence[tuple[int, int]]
    ) -> tuple[str, int, tuple[int, ...]] | None:
        while (view := self.blobs[blob].view) is not None:
            found = _through(view, self.blobs[blob].shape, offset, dims)
            if found is None:
                return None
            blob, (offset, strides) = view.parent, found
            dims = [(e, s) for (e, _), s in zip(dims, strides, strict=True)]
        return blob, offset, tuple(s for _, s in dims)

    # ---- kernels

    def add(self, kernel: Kernel, layer: str, section: str, note: str = "", before: int | None = None) -> Node:
        node = Node(self._next, kernel, layer, section, note)
        self._next += 1
        self._nodes[node.id] = node
        at = len(self._order) if before is None else self._order.index(before)
        if section == "init" and before is None:  # a constant that a later section turns out to need
            at = next((k for k, i in enumerate(self._order) if self._nodes[i].section != "init"), at)
        self._order.insert(at, node.id)
        self._position = None
        self._connect(node)
        return node

    def _connect(self, node: Node) -> None:
        self._graph.add_node(("kernel", node.id))
        for slot, name in enumerate(node.kernel.reads()):
            self._graph.add_edge(("blob", name), ("kernel", node.id), key=f"in{slot}")
        for slot, name in enumerate(node.kernel.writes()):
            self._graph.add_edge(("kernel", node.id), ("blob", name), key=f"out{slot}")

    def remove(self, node: Node | int) -> None:
        ident = node if isinstance(node, int) else node.id
        del self._nodes[ident]
        self._order.remove(ident)
        self._position = None
        self._graph.remove_node(("kernel", ident))

    def replace(self, node: Node, kernel: Kernel, note: str | None = None) -> Node:
        """Another kernel in this one's place."""
        fresh = replace(node, kernel=kernel, note=node.note if note is None else note)
        self._nodes[node.id] = fresh
        self._graph.remove_node(("kernel", node.id))
        self._connect(fresh)
        return fresh

    def reorder(self, order: Iterable[int]) -> None:
        order = list(order)
        if sorted(order) != sorted(self._order):
            raise InternalError("an order must hold every kernel once")
        self._order = order
        self._position = None

    @property
    def nodes(self) -> list[Node]:
        """Every kernel in program order."""
        return [self._nodes[i] for i in self._order]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def section(self, name: str) -> list[Node]:
        return [n for n in self.nodes if n.section == name]

    def node(self, ident: int) -> Node:
        return self._nodes[ident]

    def position(self) -> dict[int, int]:
        """Where each kernel stands in program order."""
        if self._position is None:
            self._position = {ident: k for k, ident in enumerate(self._order)}
        return self._position

    def writers(self, blob: str) -> list[Node]:
        """Kernels that write this very blob (not its views), in program order."""
        ids = {key[1] for key in self._graph.predecessors(("blob", blob))}
        return [self._nodes[i] for i in sorted(ids, key=self.position().__getitem__)]

    def readers(self, blob: str) -> list[Node]:
        ids = {key[1] for key in self._graph.successors(("blob", blob))}
        return [self._nodes[i] for i in sorted(ids, key=self.position().__getitem__)]

    def networkx(self) -> nx.MultiDiGraph:
        """A copy of the bipartite graph; blob nodes carry shape and role, kernel nodes kind, layer and section."""
        copy: nx.MultiDiGraph = nx.MultiDiGraph(name=self.name)
        for key in self._graph.nodes:
            if key[0] == "blob":
                blob = self.blobs[key[1]]
                copy.add_node(key, shape=blob.shape, role=blob.role, label=blob.label)
            else:
                node = self._nodes[key[1]]
                copy.add_node(key, kernel=node.kernel.kind, layer=node.layer, section=node.section, note=node.note)
        copy.add_edges_from((u, v, k, {}) for u, v, k in self._graph.edges(keys=True))
        return copy

    def whole(self, name: str) -> Ref:
        return Ref.whole(self.blobs[name])

    def remark(self, by: str, node: Node, what: str, why: str) -> None:
        """Notes what the pass ``by`` does to a kernel, and why that is safe."""
        self.remarks.append(Remark(by, node.layer, node.section, what, why))

    def observe(self, *names: str) -> None:
        self.observable.update(names)


def _through(
    view: View, shape: tuple[int, ...], offset: int, dims: Sequence[tuple[int, int]]
) -> tuple[int, tuple[int, ...]] | None:
    """(offset, strides) in the parent of an access to a window of this shape; None where it runs over a row's end."""
    axes: list[tuple[int, int, int]] = []  # (extent, stride in the window, stride in the parent), merged where they can
    for extent, step, stride in zip(shape, contiguous(shape), view.strides, strict=True):
        if extent != 1 and axes and axes[-1][2] == extent * stride:
            extent *= axes.pop()[0]
        if extent != 1:
            axes.append((extent, step, stride))
    at, room = view.offset, []
    for extent, step, stride in axes:
        at += offset // step * stride
        room.append(extent - 1 - offset // step)
        offset %= step
    out = []
    for extent, along in dims:
        if extent == 1 or along == 0:
            out.append(0)
            continue
        k = next((k for k, (_, step, _) in enumerate(axes) if step <= along and along % step == 0), None)
        if k is None:
            return None
        factor = along // axes[k][1]
        room[k] -= (extent - 1) * factor
        out.append(factor * axes[k][2])
    return (at, tuple(out)) if min(room, default=0) >= 0 else None
