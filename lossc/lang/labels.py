"""Names of axes: axes that are walked together get one name, so that maps over the same arrays have the same loops."""

from __future__ import annotations

from collections.abc import Iterable

from lossc.ir import Dim
from lossc.lang.node import Array
from lossc.lang.shaping import ELEMENTWISE

_NAMES = "nchwabdefgijklmopqrstuvxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

#: One axis of one array.
Axis = tuple[int, int]


class Labels:
    """A dimension for every axis of every array of a graph; the axes of one array always differ."""

    def __init__(self) -> None:
        self._parent: dict[Axis, Axis] = {}
        self._members: dict[Axis, set[int]] = {}
        self._dims: dict[Axis, Dim] = {}
        self._spare: dict[tuple[int, int], Dim] = {}
        self._count = 0
        self._known: set[int] = set()

    def learn(self, nodes: Iterable[Array]) -> None:
        """Takes in a graph, operands before what uses them. Nodes must stay alive as long as this object."""
        for node in nodes:
            if id(node) not in self._known:
                self._known.add(id(node))
                for arg, pairs in _relations(node):
                    for a, b in pairs:
                        if arg.shape[a] == node.shape[b] != 1:
                            self._unite((id(arg), a), (id(node), b))

    def of(self, node: Array, axis: int) -> Dim | None:
        """The dimension of an axis; None where its extent is 1."""
        extent = node.shape[axis]
        if extent == 1:
            return None
        root = self._find((id(node), axis))
        if root not in self._dims:
            self._dims[root] = self._fresh(extent)
        return self._dims[root]

    def spare(self, extent: int, taken: set[Dim]) -> Dim:
        """Another dimension of that extent, none of ``taken``."""
        k = 0
        while True:
            dim = self._spare.get((extent, k))
            if dim is None:
                dim = self._spare[extent, k] = self._fresh(extent)
            if dim not in taken:
                return dim
            k += 1

    def _fresh(self, extent: int) -> Dim:
        k = self._count
        self._count += 1
        return Dim(_NAMES[k] if k < len(_NAMES) else f"d{k}", extent)

    def _find(self, axis: Axis) -> Axis:
        self._members.setdefault(axis, {axis[0]})
        root = self._parent.setdefault(axis, axis)
        while root != self._parent[root]:
            root = self._parent[root]
        self._parent[axis] = root
        return root

    def _unite(self, a: Axis, b: Axis) -> None:
        a, b = self._find(a), self._find(b)
        if a != b and not self._members[a] & self._members[b]:  # two axes of one array stay apart
            self._parent[b] = a
            self._members[a] |= self._members.pop(b)


def _relations(node: Array) -> Iterable[tuple[Array, list[tuple[int, int]]]]:
    """(operand, pairs of its axis and the node's axis that are walked together)."""
    n = len(node.shape)
    if node.op == "axes":
        yield node.args[0], [(k, i) for i, k in enumerate(node.attrs[0]) if k is not None]
    elif node.op == "matmul":
        a, b = node.args
        for x, column in ((a, n - 2), (b, n - 1)):
            off = n - len(x.shape)
            yield x, [(k, k + off) for k in range(len(x.shape) - 2)]
            yield x, [(column - off, column)]
    elif node.op == "reshape":
        (x,) = node.args
        front = 0
        while front < min(n, len(x.shape)) and x.shape[front] == node.shape[front]:
            front += 1
        yield x, [(k, k) for k in range(front)]
    elif node.op in ELEMENTWISE or node.op in (
        "expand", "window", "reduce", "softmax", "log_softmax", "logsumexp", "pick", "place", "concat", "pad",
    ):  # fmt: skip
        for x in node.args:
            off = n - len(x.shape)
            yield x, [(k, k + off) for k in range(len(x.shape))]
