"""The NumPy interpreter: runs a graph's kernels one after the other. The oracle for passes and generated code."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.lib.stride_tricks import as_strided

from lossc.errors import DataError, InternalError, NumericError
from lossc.ir.blob import Access, Dim, Ref
from lossc.ir.expr import Acc, Const, Expr, Gather, Iota, Load, Op, Reduce, walk
from lossc.ir.graph import Graph
from lossc.ir.operations import OPS, REDUCE
from lossc.ir.scalar import Scalar


class Interpreter:
    """Memory for every blob of a graph, and the means to run its sections.

    ``dtype`` is "f32" or "f64"; arrays are reached by ``interpreter[name]`` (views on the memory, settable in place).
    Raises DataError where a label is out of range, NumericError where the graph looks for numbers that are not finite.
    """

    def __init__(self, graph: Graph, dtype: str = "f32") -> None:
        self.graph = graph
        self.dtype = np.float32 if dtype == "f32" else np.float64
        self._name = dtype
        self._calls = 0
        self._flat = {
            b.name: np.zeros(max(b.size, 1), self.dtype) for b in graph.blobs.values() if b.view is None
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self.array(Ref.whole(self.graph.blobs[name]))

    def run(self, sections: Iterable[str] = ("forward", "backward")) -> None:
        for section in sections:
            self._calls += section == "forward"
            for node in self.graph.section(section):
                node.kernel.numpy(self)
                for root in {self.graph.root(b) for b in node.kernel.writes()}:
                    if self.graph.blobs[root].dtype == "bf16":
                        self._flat[root][...] = _rounded_to_bf16(self._flat[root])

    def counter(self) -> int:
        return self._calls

    def refuse_label(self, blob: str, index: int, value: float) -> None:
        raise DataError(f'blob "{blob}" holds the label {value:g} at index {index}', fix="labels count from 0")

    def refuse_value(self, label: str, what: str, index: tuple[int, ...], value: float) -> None:
        raise NumericError(f'the {what} of "{label}" is {value:g} at {list(index)}')

    def _strided(self, blob: str, offset: int, dims: list[tuple[int, int]]) -> np.ndarray:
        root, offset, strides = self.graph.resolve(blob, offset, dims)
        flat = self._flat[root]
        shape = [e for e, _ in dims]
        reach = offset + sum((e - 1) * s for (e, _), s in zip(dims, strides, strict=True))
        if all(shape) and (offset < 0 or reach >= flat.size):
            raise InternalError(f"access past the end of {blob}")
        return as_strided(flat[offset:], shape, [s * flat.itemsize for s in strides])

    def scalar(self, value: Scalar) -> np.floating:
        return self.dtype(value.value(self._name))

    def array(self, ref: Ref) -> np.ndarray:
        return self._strided(ref.blob, ref.offset, list(zip(ref.shape, ref.strides, strict=True)))

    def _load(self, access: Access, dims: tuple[Dim, ...]) -> np.ndarray:
        mine = [(d.extent, access.stride(d)) if d in access.dims else (1, 0) for d in dims]
        return self._strided(access.blob, access.offset, mine)

    def store(self, access: Access, dims: tuple[Dim, ...], value: np.ndarray, accumulate: bool) -> None:
        target = self._load(access, dims)
        value = np.asarray(value, self.dtype)
        target[...] = target + value if accumulate else value

    def evaluate(self, expr: Expr, dims: tuple[Dim, ...], acc: np.ndarray | None = None) -> np.ndarray:
        """The expression as an array with one axis per dimension (extent 1 where it does not vary)."""
        done: dict[int, np.ndarray] = {}
        with np.errstate(all="ignore"):
            for e in walk(expr):
                args = [done[id(c)] for c in e.children()]
                if isinstance(e, Const):
                    value = np.full((1,) * len(dims), self.scalar(e.scalar), self.dtype)
                elif isinstance(e, Load):
                    value = self._load(e.access, dims).copy()
                elif isinstance(e, Gather):
                    value = self._gather(e, args[0], dims)
                elif isinstance(e, Iota):
                    shape = [d.extent if d == e.dim else 1 for d in dims]
                    value = np.arange(e.dim.extent, dtype=self.dtype).reshape(shape)
                elif isinstance(e, Acc):
                    assert acc is not None
                    value = acc
                elif isinstance(e, Op):
                    value = OPS[e.name](*args)
                    if value.dtype != bool:
                        value = value.astype(self.dtype)
                elif isinstance(e, Reduce):
                    axes = tuple(dims.index(d) for d in e.dims)
                    value = REDUCE[e.kind](args[0], axis=axes, keepdims=True)
                else:
                    raise InternalError(f"cannot interpret {type(e).__name__}")
                done[id(e)] = value
        return done[id(expr)]

    def _gather(self, e: Gather, index: np.ndarray, dims: tuple[Dim, ...]) -> np.ndarray:
        pick = np.trunc(index).astype(np.int64)
        if ((pick < 0) | (pick >= e.extent)).any():
            pick = np.clip(pick, 0, e.extent - 1)
        extra = Dim("@pick", e.extent)
        wide = Access(e.access.blob, e.access.offset, (*e.access.strides, (extra, e.stride)))
        table = self._load(wide, (*dims, extra)) if e.extent > 1 else self._load(e.access, dims)[..., None]
        shape = np.broadcast_shapes(table.shape[:-1], pick.shape)
        table = np.broadcast_to(table, (*shape, e.extent))
        return np.take_along_axis(table, np.broadcast_to(pick, shape)[..., None], -1)[..., 0]


def _rounded_to_bf16(values: np.ndarray) -> np.ndarray:
    """To the nearest number of eight binary digits, ties to even."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(mantissa, 8)), exponent - 8)
