"""The kernels: all that passes and templates know.

Each is a frozen dataclass that names what it reads and writes and defines its meaning in NumPy (``numpy``), which the
interpreter runs. Operands are :class:`Ref` (strided parts of blobs) or, in a map, :class:`Access`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from lossc.ir.blob import BLOCK, Access, Dim, Ref
from lossc.ir.expr import Expr, Load, accesses, map_accesses, walk
from lossc.ir.scalar import ONE, Scalar


class Memory(Protocol):
    """What a kernel's ``numpy`` gets: arrays on the blobs' memory, and evaluation of expressions."""

    dtype: Any

    def array(self, ref: Ref) -> np.ndarray: ...
    def scalar(self, value: Scalar) -> Any: ...
    def evaluate(self, expr: Expr, dims: tuple[Dim, ...], acc: np.ndarray | None = None) -> np.ndarray: ...
    def store(self, access: Access, dims: tuple[Dim, ...], value: np.ndarray, accumulate: bool) -> None: ...
    def refuse_label(self, blob: str, index: int, value: float) -> None: ...
    def refuse_value(self, label: str, what: str, index: tuple[int, ...], value: float) -> None: ...
    def counter(self) -> int: ...


@dataclass(frozen=True)
class Store:
    """One output of a map: where, what, and whether it is added to what is there."""

    access: Access
    value: Expr
    accumulate: bool = False

    def renamed(self, old: str, new: str) -> Store:
        """The store with one blob in another's place."""
        return Store(_renamed(self.access, old, new), _with_blob(self.value, old, new), self.accumulate)


class Kernel:
    """Base of all kernels."""

    kind: ClassVar[str]

    def inputs(self) -> tuple[Ref | Access, ...]:
        raise NotImplementedError

    def outputs(self) -> tuple[Ref | Access, ...]:
        raise NotImplementedError

    @property
    def expressions(self) -> tuple[Expr, ...]:
        """What it computes point by point: a map's values, a prologue, an epilogue."""
        return ()

    @property
    def accumulates(self) -> frozenset[str]:
        """The blobs to which it adds, so that it reads them too."""
        return frozenset()

    def reads(self) -> tuple[str, ...]:
        names = dict.fromkeys(x.blob for x in self.inputs())
        names.update(dict.fromkeys(sorted(self.accumulates)))
        return tuple(names)

    def writes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(x.blob for x in self.outputs()))

    def numpy(self, memory: Memory) -> None:
        raise NotImplementedError

    def renamed(self, old: str, new: str) -> Kernel:
        """The kernel with one blob in another's place (same shape)."""
        changes: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, (Ref, Access)) and value.blob == old:
                changes[name] = replace(value, blob=new)
            elif isinstance(value, Expr):
                changes[name] = _with_blob(value, old, new)
            elif isinstance(value, tuple) and value and isinstance(value[0], Store):
                changes[name] = tuple(s.renamed(old, new) for s in value)
        return replace(self, **changes) if changes else self  # type: ignore[type-var]


def _renamed(access: Access, old: str, new: str) -> Access:
    return replace(access, blob=new) if access.blob == old else access


def _with_blob(expr: Expr, old: str, new: str) -> Expr:
    return map_accesses(expr, lambda a: _renamed(a, old, new))


@dataclass(frozen=True)
class Map(Kernel):
    """``out[...] = expression`` over an iteration space, for one or more outputs; reductions included."""

    kind: ClassVar[str] = "map"
    stores: tuple[Store, ...]
    dims: tuple[Dim, ...]

    def inputs(self) -> tuple[Access, ...]:
        return tuple(dict.fromkeys(a for e in self.expressions for a in accesses(e)))

    def outputs(self) -> tuple[Access, ...]:
        return tuple(s.access for s in self.stores)

    @property
    def expressions(self) -> tuple[Expr, ...]:
        return tuple(s.value for s in self.stores)

    @property
    def accumulates(self) -> frozenset[str]:
        return frozenset(s.access.blob for s in self.stores if s.accumulate)

    def numpy(self, memory: Memory) -> None:
        values = [memory.evaluate(s.value, self.dims) for s in self.stores]  # all reads before any write
        for s, v in zip(self.stores, values, strict=True):
            memory.store(s.access, self.dims, v, s.accumulate)


def make_map(stores: Iterable[Store]) -> Map:
    """A map with its dimensions in the order in which the widest accesses name them."""
    stores = tuple(stores)
    seen: list[Access] = []
    for s in stores:
        seen.append(s.access)
        seen += accesses(s.value)
    order: dict[Dim, None] = {}
    widest = sorted(seen, key=lambda a: -len(a.dims))
    for access in widest:
        order.update(dict.fromkeys(access.dims))
    for s in stores:
        for e in walk(s.value):
            order.update(dict.fromkeys(sorted(e.varies - set(order))))
    return Map(stores, tuple(order))


@dataclass(frozen=True)
class Gemm(Kernel):
    """``c[i,j] = epilogue(alpha * sum_k a[i,k] * b[k,j])``, added to c where ``accumulate``. Transposes are strides."""

    kind: ClassVar[str] = "gemm"
    a: Ref
    b: Ref
    c: Ref
    alpha: Scalar = ONE
    accumulate: bool = False
    epilogue: Expr | None = None

    def inputs(self) -> tuple[Ref | Access, ...]:
        return (self.a, self.b, *(a for e in self.expressions for a in accesses(e)))

    def outputs(self) -> tuple[Ref, ...]:
        return (self.c,)

    @property
    def expressions(self) -> tuple[Expr, ...]:
        return () if self.epilogue is None else (self.epilogue,)

    @property
    def accumulates(self) -> frozenset[str]:
        return frozenset({self.c.blob}) if self.accumulate else frozenset()

    @property
    def out(self) -> Ref:
        return self.c

    @property
    def flops(self) -> int:
        return 2 * self.a.shape[0] * self.a.shape[1] * self.b.shape[1]

    def numpy(self, memory: Memory) -> None:
        value = memory.array(self.a) @ memory.array(self.b) * memory.scalar(self.alpha)
        finish(memory, self, value)

    @property
    def labels(self) -> str:
        """The dimension names of the epilogue, one an axis of the result."""
        return epilogue_labels(self.c)


class Finished(Protocol):
    """A kernel whose results an epilogue may change before they are stored."""

    @property
    def out(self) -> Ref: ...
    @property
    def labels(self) -> str: ...
    @property
    def epilogue(self) -> Expr | None: ...
    @property
    def accumulate(self) -> bool: ...


def finish(memory: Memory, kernel: Finished, value: np.ndarray) -> None:
    """The end of ``numpy``: stores ``value``, as the kernel's epilogue makes it."""
    out = kernel.out
    value = value.reshape(out.shape)
    if kernel.epilogue is not None:
        dims = tuple(Dim(n, e) for n, e in zip(kernel.labels, out.shape, strict=True))
        value = memory.evaluate(kernel.epilogue, dims, value).reshape(out.shape)
    target = memory.array(out)
    target[...] = target + value if kernel.accumulate else value


def epilogue_labels(out: Ref) -> str:
    """The dimension names of an epilogue: i, j for a matrix; n, c, then h, w ... for an image batch in whole planes."""
    return "ij" if out.ndim == 2 else "nc" + "hwdefgk"[: out.ndim - 2]


@dataclass(frozen=True)
class Geometry:
    """Spatial parameters of a convolution or pooling, one number per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True)
class Conv(Kernel):
    """Convolution in one of its three directions (cross-correlation, as in Caffe).

    forward: y (+)= epilogue(alpha * conv(x, w)); bwd_data: x (+)= alpha * conv^T(y, w); bwd_weights: w (+)= alpha * sum
    over images. x is (N, C, spatial...), y (N, O, spatial...), w (O, C / groups, kernel...). x and y may each have
    their channels in blocks (``Ref.blocked``): the epilogue's dimensions are then n, b (block), l (channel in it), h,
    w ...
    """

    kind: ClassVar[str] = "conv"
    direction: str
    x: Ref
    w: Ref
    y: Ref
    geometry: Geometry
    groups: int = 1
    alpha: Scalar = ONE
    accumulate: bool = False
    epilogue: Expr | None = None

    @property
    def out(self) -> Ref:
        return {"forward": self.y, "bwd_data": self.x, "bwd_weights": self.w}[self.direction]

    def inputs(self) -> tuple[Ref | Access, ...]:
        operands = tuple(r for r in (self.x, self.w, self.y) if r is not self.out)
        return (*operands, *(a for e in self.expressions for a in accesses(e)))

    def outputs(self) -> tuple[Ref, ...]:
        return (self.out,)

    @property
    def expressions(self) -> tuple[Expr, ...]:
        return () if self.epilogue is None else (self.epilogue,)

    @property
    def accumulates(self) -> frozenset[str]:
        return frozenset({self.out.blob}) if self.accumulate else frozenset()

    @property
    def flops(self) -> int:
        return 2 * self.y.size * int(np.prod(self.w.shape[1:]))

    @property
    def pairs(self) -> bool:
        """Whether it sums over several channels, two of which can be multiplied at a time."""
        return self.image(self.x)[1] > self.groups

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved with a kernel of its own, into one."""
        return self.groups == self.image(self.x)[1] == self.image(self.y)[1]

    def block(self, ref: Ref) -> int:
        """How many channels of x or y lie in a block; 0 for whole planes."""
        return BLOCK if ref.ndim == len(self.geometry.kernel) + 3 else 0

    def image(self, ref: Ref) -> tuple[int, ...]:
        """(N, C, space...) of x or y, in either layout."""
        n, c, *space = ref.shape
        return (n, c * BLOCK, *space[1:]) if self.block(ref) else ref.shape

    @property
    def labels(self) -> str:
        """The dimension names of the epilogue, one an axis of the result."""
        return "nbl" + "hwdefgk"[: self.out.ndim - 3] if self.block(self.out) else epilogue_labels(self.out)

    def numpy(self, memory: Memory) -> None:
        g = self.geometry
        w = memory.array(self.w)
        x, y = (planes(memory.array(r), len(g.kernel)) for r in (self.x, self.y))
        n, groups, space = x.shape[0], self.groups, x.shape[2:]
        padded = np.zeros((*x.shape[:2], *(s + 2 * p + k * d for s, p, k, d in _zip(space, g))), memory.dtype)
        inside = (slice(None), slice(None), *(slice(p, p + s) for s, p in zip(space, g.pad, strict=True)))
        if self.direction != "bwd_data":
            padded[inside] = x
        yg = y.reshape(n, groups, -1, *y.shape[2:])
        wg = w.reshape(groups, -1, *w.shape[1:])
        result = np.zeros({"forward": y, "bwd_data": x, "bwd_weights": w}[self.direction].shape, memory.dtype)
        rg = result.reshape(yg.shape if self.direction == "forward" else wg.shape) if self.out is not self.x else None
        for tap in np.ndindex(*g.kernel):
            window = (slice(None), slice(None)) + tuple(
                slice(t * d, t * d + s * (o - 1) + 1, s)
                for t, d, s, o in zip(tap, g.dilation, g.stride, y.shape[2:], strict=True)
            )
            at = (slice(None),) * 3 + tap
            if self.direction == "bwd_data":
                part = np.einsum("goc,ngo...->ngc...", wg[at], yg)
                padded[window] += part.reshape(n, -1, *y.shape[2:])
                continue
            xg = padded[window].reshape(n, groups, -1, *y.shape[2:])
            assert rg is not None
            if self.direction == "forward":
                rg += np.einsum("goc,ngc...->ngo...", wg[at], xg)
            else:
                rg[at] = np.einsum("ngop,ngcp->goc", yg.reshape(*yg.shape[:3], -1), xg.reshape(*xg.shape[:3], -1))
        if self.direction == "bwd_data":
            result = padded[inside]
        finish(memory, self, result * memory.scalar(self.alpha))


def planes(array: np.ndarray, axes: int) -> np.ndarray:
    """(N, C, space...), copied out of blocks of channels where it lies in those."""
    return array if array.ndim == axes + 2 else array.reshape(len(array), -1, *array.shape[3:])


def _zip(space: tuple[int, ...], g: Geometry) -> Iterable[tuple[int, int, int, int]]:
    return zip(space, g.pad, g.kernel, g.dilation, strict=True)


@dataclass(frozen=True)
class Random(Kernel):
    """Random numbers from a counter-based generator: element i depends on (seed, stream, call counter, i) alone.

    uniform(a, b), gaussian(mean a, std b), bernoulli (b with probability a, else 0).
    """

    kind: ClassVar[str] = "random"
    out: Ref
    distribution: str
    a: float
    b: float
    stream: int

    def inputs(self) -> tuple[Ref, ...]:
        return ()

    def outputs(self) -> tuple[Ref, ...]:
        return (self.out,)

    def numpy(self, memory: Memory) -> None:
        rng = np.random.default_rng((self.stream, memory.counter()))
        draw = {
            "uniform": lambda: rng.uniform(self.a, self.b, self.out.shape),
            "gaussian": lambda: rng.normal(self.a, self.b, self.out.shape),
            "bernoulli": lambda: (rng.uniform(size=self.out.shape) < self.a) * self.b,
        }
        memory.array(self.out)[...] = draw[self.distribution]()


@dataclass(frozen=True)
class Constant(Kernel):
    """``out`` = numbers that are known when the net is compiled (a matrix from a file, weights of classes).

    ``values``: as many little-endian float64 numbers as ``out`` has elements; they are rounded to the net's dtype.
    """

    kind: ClassVar[str] = "constant"
    out: Ref
    values: bytes

    def inputs(self) -> tuple[Ref, ...]:
        return ()

    def outputs(self) -> tuple[Ref, ...]:
        return (self.out,)

    @property
    def array(self) -> np.ndarray:
        return np.frombuffer(self.values, "<f8").reshape(self.out.shape)

    def numpy(self, memory: Memory) -> None:
        memory.array(self.out)[...] = self.array


def is_copy(kernel: Kernel) -> tuple[Access, Access] | None:
    """(destination, source) of a map that only copies."""
    if isinstance(kernel, Map) and len(kernel.stores) == 1:
        store = kernel.stores[0]
        if isinstance(store.value, Load) and not store.accumulate:
            return store.access, store.value.access
    return None
