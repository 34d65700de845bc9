"""Random maps in one graph, and generated C for a graph run in this process from given memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import cycle

import numpy as np

from lossc.build import Compiler, compile_library
from lossc.codegen.program import Program, generate
from lossc.ir import Access, Blob, Dim, Graph, Map, Scalar, Store, View, make_map
from lossc.ir.blob import contiguous
from lossc.ir.expr import Const, Expr, Gather, Iota, Load, Op, Reduce, walk
from lossc.ir.memory import plan_memory
from lossc.ir.sweep import is_one_sweep
from lossc.pipeline import Built
from lossc.runtime.native import Native
from lossc.targets import Target

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")
EXTENTS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33)
#: Reals of each blob that maps read; of "picks" every element is a whole number from 0 to PICKS - 1.
SOURCE, PICKS = 50_000, 7
_SMOOTH = ("neg", "abs", "tanh", "erf", "sigmoid", "softplus")


class Maker:
    """Draws maps. Operations are kept within their domains, and those that jump are applied to stored values only."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.comparisons = cycle(["lt", "le", "gt", "ge", "eq", "ne"])
        self.graph = Graph(f"maps{seed}")
        self.graph.add_blob(Blob("loss_total", (), "state"))
        for name in ("x", "a-b", "picks"):
            self._blob(name, SOURCE, "input")

    def _blob(self, name: str, size: int, role: str) -> None:
        blob = self.graph.add_blob(Blob(name, (size,), role, label=name))  # type: ignore[arg-type]
        self.graph.declared[name] = blob
        self.graph.data_of[name] = name
        self.graph.observe(name)

    def _window(self, parent: str, shape: tuple[int, ...], offset: int, strides: tuple[int, ...]) -> str:
        name = f"window{len(self.graph.blobs)}"
        self.graph.add_blob(Blob(name, shape, "activation", label=name, view=View(parent, offset, strides)))
        return name

    def _layout(self, dims: list[Dim]) -> tuple[int, tuple[tuple[Dim, int], ...], int]:
        """(offset, strides in the order of ``dims``, elements spanned): no two points fall together."""
        order = [dims[i] for i in self.rng.permutation(len(dims))] if self.rng.random() < 0.3 else list(dims)
        step = int(self.rng.choice([1, 1, 1, 2, 3]))
        strides = {}
        for d in reversed(order):
            strides[d] = step
            step = step * d.extent + int(self.rng.choice([0, 0, 0, 1, 5]))
        offset = int(self.rng.integers(0, 9))
        reach = offset + sum((d.extent - 1) * s for d, s in strides.items()) + 1
        return offset, tuple((d, strides[d]) for d in dims), reach

    def _access(self, dims: list[Dim], owner: Callable[[int], str]) -> Access:
        """A part of ``owner(elements spanned)``, sometimes through a window on it, or a window on a window."""
        if not dims or self.rng.random() < 0.7:
            offset, strides, reach = self._layout(dims)
            return Access(owner(reach), offset, strides)
        axes: list[list[Dim]] = []  # of the window: neighbouring dimensions may share one
        for d in dims:
            if axes and self.rng.random() < 0.3:
                axes[-1].append(d)
            else:
                axes.append([d])
        before, after = self.rng.integers(0, 3, (2, len(axes)))
        shape = tuple(int(b + math.prod(d.extent for d in a) + z) for b, a, z in zip(before, axes, after, strict=True))
        offset, strides, reach = self._layout([Dim(str(k), e) for k, e in enumerate(shape)])
        parent = owner(reach)
        if self.rng.random() < 0.4:
            cut = int(self.rng.integers(0, offset + 1))
            parent, offset = self._window(parent, (reach - cut,), cut, (1,)), offset - cut
        window = self._window(parent, shape, offset, tuple(s for _, s in strides))
        start, steps = 0, {}
        for first, axis, step in zip(before, axes, contiguous(shape), strict=True):
            start += int(first) * step
            for d in reversed(axis):
                steps[d] = step
                step *= d.extent
        return Access(window, start, tuple((d, steps[d]) for d in dims))

    def _source(self, blob: str) -> Callable[[int], str]:
        def owner(reach: int) -> str:
            if reach >= SOURCE:
                raise OverflowError
            return blob or str(self.rng.choice(["x", "a-b"]))

        return owner

    def _sink(self, reach: int) -> str:
        name = f"out{len(self.graph.blobs)}"
        self._blob(name, reach + int(self.rng.integers(0, 5)), "state")
        return name

    def _subset(self, dims: list[Dim]) -> list[Dim]:
        return [d for d in dims if self.rng.random() < 0.7]

    def _load(self, dims: list[Dim], blob: str = "") -> Load:
        while True:
            try:
                return Load(self._access(dims, self._source(blob)))
            except OverflowError:
                continue

    def _leaf(self, dims: list[Dim]) -> Expr:
        kind = self.rng.random()
        if kind < 0.1:
            return Const(Scalar(round(float(self.rng.normal()), 3), "weight"))
        if kind < 0.2 and dims:
            return Op("mul", (Const(Scalar(0.125)), Iota(dims[int(self.rng.integers(len(dims)))])))
        if kind < 0.35:
            picked, rest = Dim("pick", PICKS), self._subset(dims)[:2]
            if 4 * PICKS * math.prod(d.extent for d in rest) > SOURCE:
                rest = []
            where = int(self.rng.integers(len(rest) + 1))
            table = self._load([*rest[:where], picked, *rest[where:]]).access
            others = tuple(p for p in table.strides if p[0] != picked)
            index = self._load(self._subset(dims), "picks")
            return Gather(Access(table.blob, table.offset, others), index, table.stride(picked), PICKS)
        return self._load(self._subset(dims) if self.rng.random() < 0.4 else dims)

    def _truth(self, dims: list[Dim], depth: int) -> Expr:
        if depth and self.rng.random() < 0.4:
            name = str(self.rng.choice(["and", "or", "not"]))
            return Op(name, tuple(self._truth(dims, depth - 1) for _ in range(1 if name == "not" else 2)))
        return Op(next(self.comparisons), (self._load(dims, "picks"), self._load(self._subset(dims), "picks")))

    def tree(self, dims: list[Dim], depth: int) -> Expr:
        if depth == 0 or self.rng.random() < 0.1:
            return self._leaf(dims)

        def sub() -> Expr:
            return self.tree(dims, depth - 1)

        def positive() -> Expr:
            return Op("add", (Op("abs", (sub(),)), Const(Scalar(0.25))))

        def bounded() -> Expr:
            return Op("tanh", (sub(),))

        made = {
            "div": lambda: Op("div", (sub(), positive())),
            "sqrt": lambda: Op("sqrt", (positive(),)),
            "log": lambda: Op("log", (positive(),)),
            "log1p": lambda: Op("log1p", (positive(),)),
            "exp": lambda: Op("exp", (bounded(),)),
            "expm1": lambda: Op("expm1", (bounded(),)),
            "pow": lambda: Op("pow", (positive(), bounded())),
            "floor": lambda: Op("floor", (self._load(dims),)),
            "trunc": lambda: Op("trunc", (self._load(dims),)),
            "where": lambda: Op("where", (self._truth(dims, 2), sub(), sub())),
            **{n: lambda n=n: Op(n, (sub(), sub())) for n in ("add", "sub", "mul", "min", "max")},
            **{n: lambda n=n: Op(n, (sub(),)) for n in _SMOOTH},
        }
        return made[str(self.rng.choice(list(made)))]()

    def _reduce(self, arg: Expr, dims: list[Dim]) -> Expr:
        over = tuple(sorted(d for d in dims if d in arg.varies))
        return Reduce(str(self.rng.choice(["sum", "max", "min"])), arg, over) if over else arg

    def _store(self, value: Expr, dims: list[Dim], accumulate: bool) -> Store:
        return Store(self._access(dims, self._sink), value, accumulate)

    def _in_place(self, stores: list[Store]) -> list[Store]:
        """One output is an input too, element for element, perhaps under another name.

        Others read what it was where all is stored in one loop: a map with reductions stores in several, one after
        the other, and no pass makes such a map of stores that read each other's results.
        """
        staged = any(isinstance(e, Reduce) for s in stores for e in walk(s.value))
        at = int(self.rng.integers(len(stores)))
        access = stores[at].access
        pairs = [(d.extent, s) for d, s in access.strides]
        root, offset, strides = self.graph.resolve(access.blob, access.offset, pairs)
        plain = Access(root, offset, tuple(zip(access.dims, strides, strict=True)))
        old = Load(access if self.rng.random() < 0.5 else plain)
        out = []
        for k, s in enumerate(stores):
            if k == at or (not staged and self.rng.random() < 0.5 and old.varies <= set(s.access.dims)):
                value = Op(str(self.rng.choice(["add", "mul", "sub", "max"])), (s.value, old))
                s = Store(s.access, value, s.accumulate)
            out.append(s)
        return out

    def _draw(self) -> Map:
        names = iter("nchw")
        dims = [Dim(next(names), int(self.rng.choice(EXTENTS))) for _ in range(int(self.rng.integers(0, 4)))]
        if dims and self.rng.random() < 0.15:
            rows, columns = ((3, 4100), (67, 181))[int(self.rng.integers(2))]
            dims = [Dim("n", rows), Dim("c", columns)]
        if np.prod([d.extent for d in dims]) > 13_000:
            dims = dims[:2]
        dims = [d for d in dims if d.extent > 1]
        inner = dims[int(self.rng.integers(0, len(dims))) :] if dims and self.rng.random() < 0.5 else []
        rows = [d for d in dims if d not in inner]
        stores = []
        for _ in range(int(self.rng.integers(1, 4))):
            value, space = self.tree(dims, int(self.rng.integers(1, 4))), dims
            form = self.rng.random()
            if inner and form < 0.7:
                value = self._reduce(value, inner)
                if form < 0.2:
                    space = rows
                elif form < 0.45:
                    value = Op("sub", (self.tree(dims, 2), value))
                else:
                    value = Op("tanh", (Op("sub", (self.tree(dims, 2), value)),))
                    value = Op("mul", (value, self._reduce(Op("exp", (value,)), inner)))
            elif form > 0.85:
                value, space = self._reduce(value, dims), []
            if value.varies <= set(space):
                stores.append(self._store(value, space, bool(self.rng.random() < 0.3)))
        if dims and not any(set(s.access.dims) == set(dims) for s in stores):
            stores.append(self._store(self.tree(dims, 1), dims, False))
        stores = stores or [self._store(self._leaf([]), [], False)]
        return make_map(self._in_place(stores) if self.rng.random() < 0.3 else stores)

    def add(self) -> Map:
        """One more map that one nest of loops can compute."""
        while True:
            before = set(self.graph.blobs)
            kernel = self._draw()
            if is_one_sweep(kernel):
                self.graph.add(kernel, f"m{len(self.graph.nodes)}", "forward")
                return kernel
            for name in set(self.graph.blobs) - before:
                self.graph.remove_blob(name)
                for known in (self.graph.declared, self.graph.data_of):
                    known.pop(name, None)

    def memory(self) -> dict[str, np.ndarray]:
        """What every blob holds before the maps run: numbers that float32 holds exactly."""
        out = {}
        for name, blob in self.graph.blobs.items():
            if blob.view is not None:
                continue
            values = self.rng.integers(0, PICKS, blob.shape) if name == "picks" else self.rng.normal(size=blob.shape)
            out[name] = values.astype(np.float32).astype(np.float64)
        return out


def operations(kernel: Map) -> set[str]:
    """The names of the operations in a map."""
    return {e.name for s in kernel.stores for e in walk(s.value) if isinstance(e, Op)}


def program(graph: Graph, target: Target, dtype: str) -> Program:
    graph.options["memory"] = plan_memory(graph)
    return generate(graph, target.isa, dtype)


def build(made: Program, target: Target, dtype: str, compiler: Compiler | None = None) -> Built:
    """Compiled with every warning an error; lightly optimised, since the text is what is tested."""
    whole = replace(target, dtype="float32" if dtype == "f32" else "float64")
    flags = (*WARNINGS, "-Og")
    files = {"net.h": made.header}
    library = compile_library(made.source, target=whole, compiler=compiler, extra_flags=flags, extra_files=files)
    return Built(library, json.loads(json.dumps(made.manifest)))


def run(built: Built, memory: Mapping[str, np.ndarray], threads: int) -> dict[str, np.ndarray]:
    """What the kept blobs hold after one forward pass that began with ``memory``."""
    net = Native(built, threads, seed=1)
    views = {n: net.view(e["data"]) for n, e in built.manifest["blobs"].items() if e["data"]}
    for name, view in views.items():
        view[...] = memory[name]
    net.forward()
    return {name: view.copy() for name, view in views.items()}
