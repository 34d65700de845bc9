"""Maps over blobs whose channels lie in blocks: per-channel operands, reductions over positions, statistics."""

from __future__ import annotations

import re

import map_harness
import numpy as np
import pytest

from lossc.codegen.mapparts import in_parts
from lossc.codegen.mapplan import plan_map, points
from lossc.ir import Access, Map, Ref, Scalar, Store, make_map
from lossc.ir.blob import BLOCK
from lossc.ir.expr import Expr, expr, greatest, sqrt, total, where
from lossc.ir.interpret import Interpreter
from lossc.targets import AVX2, AVX512, NEON, Isa, Target, runnable_targets

#: (images, channels, positions): of several pieces and less than one, with a rest and without; one block, one image.
SHAPES = ((2, 32, 35), (3, 16, 300), (1, 48, 261), (1, 16, 700), (4, 32, 1), (2, 48, 64))
#: Rows so long that they are reduced in parts: images and pieces of them, several images, pieces of all images.
LONG = ((2, 32, 520), (4, 32, 160), (1, 16, 774))


class Blocks:
    """Maps of one shape in a graph: each result in a blob of its own, operands from ``x``."""

    def __init__(self, maker: map_harness.Maker, shape: tuple[int, int, int]) -> None:
        self.maker, self.shape = maker, shape
        self.count = Scalar(float(shape[0] * shape[2]), "m")

    def full(self, blob: str, offset: int = 0, channels: int = 0) -> Access:
        """A blob in blocks, or these of a blob of more ``channels``."""
        n, c, positions = self.shape
        image = (channels or c) * positions
        return Ref(blob, (n, c, positions), (image, positions, 1), offset).blocked().transpose(0, 1, 3, 2)["nbpl"]

    def plain(self, blob: str, offset: int = 0) -> Access:
        n, c, positions = self.shape
        strides = (c * positions, BLOCK * positions, 1, positions)
        return Ref(blob, (n, c // BLOCK, positions, BLOCK), strides, offset)["nbpl"]

    def channel(self, blob: str, offset: int = 0) -> Access:
        return Ref(blob, (self.shape[1] // BLOCK, BLOCK), (BLOCK, 1), offset)["bl"]

    def out(self, size: int = 0) -> str:
        name = f"out{len(self.maker.graph.blobs)}"
        self.maker._blob(name, size or int(np.prod(self.shape)), "state")
        return name

    def add(self, *stores: Store | tuple[Access, Expr]) -> None:
        kernel = make_map([s if isinstance(s, Store) else Store(s[0], expr(s[1])) for s in stores])
        self.maker.graph.add(kernel, f"m{len(self.maker.graph.nodes)}", "forward")

    def pointwise(self) -> None:
        x, more, factor, bias = self.full("x"), self.full("a-b", 32), self.channel("x", 80), self.channel("a-b")
        z = expr(x) * factor + bias
        self.add((self.full(self.out()), where(z > 0.0, z, 0.0)))
        self.add(Store(self.full(self.out()), z + more, accumulate=True), (self.full(self.out()), expr(x) - bias))

    def part_of_more_channels(self) -> None:
        n, c, positions = self.shape
        part = self.full("x", 16 * positions, c + 32)
        self.add((self.full(self.out(n * (c + 16) * positions), 0, c + 16), expr(part) * self.channel("a-b")))

    def mixed_with_planes(self) -> None:
        self.add((self.plain(self.out()), expr(self.full("x")) + self.channel("a-b")))
        self.add((self.full(self.out()), expr(self.plain("x")) + self.channel("a-b")))

    def sums(self) -> None:
        x, dy = self.full("x"), expr(self.full("a-b", 16))
        names = [self.out(self.shape[1]) for _ in range(2)]
        self.add(
            Store(self.channel(names[0]), total(dy, "np"), accumulate=True),
            Store(self.channel(names[1]), total(dy * x, "np"), accumulate=True),
        )
        self.add((self.channel(self.out(self.shape[1])), greatest(expr(x) * self.channel("a-b"), "np")))

    def statistics(self) -> None:
        x = self.full("x")
        mean = total(expr(x), "np") / self.count
        centred = expr(x) - mean
        variance = total(centred * centred, "np") / self.count
        factor = 1.0 / sqrt(variance + 0.5)
        names = [self.out(self.shape[1]) for _ in range(2)]
        self.add(
            (self.channel(names[0]), mean),
            (self.channel(names[1]), variance),
            (self.full(self.out()), centred * factor * self.channel("a-b")),
        )

    def gradient(self) -> None:
        y, dy = expr(self.full("x")), expr(self.full("a-b", 16)) * self.channel("x")
        value = dy - total(dy, "np") / self.count - total(dy * y, "np") / self.count * y
        self.add(Store(self.full(self.out()), value * self.channel("a-b"), accumulate=True))

    def sums_and_points(self) -> None:
        """What needs no sum is written in the loop that makes them; the greatest and least of products."""
        x, dy = expr(self.full("x")), expr(self.full("a-b", 16))
        self.add(
            (self.full(self.out()), x - self.channel("a-b")),
            (self.channel(self.out(self.shape[1])), total(x * dy, "np") + self.channel("x")),
            Store(self.channel(self.out(self.shape[1])), greatest(dy * self.channel("x"), "np"), accumulate=True),
        )

    def totals(self) -> None:
        x = expr(self.full("x"))
        self.add(
            (self.full(self.out()), x * self.channel("a-b")),
            (Access(self.out(1), 0, ()), total(x * self.channel("a-b"), "nbpl")),
        )


def _maker() -> map_harness.Maker:
    """Every kind of map in every shape."""
    maker = map_harness.Maker(7)
    for shape in SHAPES:
        maps = Blocks(maker, shape)
        maps.pointwise()
        maps.part_of_more_channels()
        maps.mixed_with_planes()
        maps.sums()
        maps.statistics()
        maps.gradient()
        maps.totals()
    for shape in LONG:
        maps = Blocks(maker, shape)
        maps.sums()
        maps.sums_and_points()
        maps.statistics()
        maps.gradient()
    return maker


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("target", runnable_targets(), ids=lambda t: t.name)
def test_blocks(target: Target, dtype: str) -> None:
    maker = _maker()
    memory = maker.memory()
    interpreter = Interpreter(maker.graph, "f64")
    for name, values in memory.items():
        interpreter[name][...] = values
    interpreter.run(["forward"])
    built = map_harness.build(map_harness.program(maker.graph, target, dtype), target, dtype)
    got = map_harness.run(built, memory, 1)
    for name in got:
        tolerance = 1e-13 if dtype == "f64" else 1e-5
        np.testing.assert_allclose(got[name], interpreter[name], rtol=tolerance, atol=tolerance, err_msg=name)
    for threads in (2, 3):
        again = map_harness.run(built, memory, threads)
        for name, values in got.items():
            np.testing.assert_array_equal(values, again[name], err_msg=f"{name} with {threads} threads")


def test_long_rows_are_in_parts() -> None:
    """As many in each case as give a large team tasks of a few thousand points; none of a short row's."""
    maker = map_harness.Maker(3)
    for shape in (*LONG, (8, 64, 3136), (2, 1024, 300), (2, 32, 200)):
        Blocks(maker, shape).statistics()
    found = []
    for node in maker.graph.nodes:
        assert isinstance(node.kernel, Map)
        plan = in_parts(plan_map(maker.graph, node.kernel, 16, 4))
        found.append(tuple(d.extent for d in plan.parts))
        assert points((*plan.inner, *plan.parts)) * BLOCK == points(node.kernel.dims) // (points(plan.rows) // BLOCK)
    assert found == [(2, 2), (2,), (3,), (8, 2), (), ()]


@pytest.mark.parametrize("target", runnable_targets(), ids=lambda t: t.name)
def test_statistics_of_values_far_from_zero(target: Target) -> None:
    """Single precision: a deviation of one thousandth of the mean, and images that differ more than their pixels."""
    shape = (4, 16, 700)
    maker = map_harness.Maker(3)
    maps = Blocks(maker, shape)
    maps.statistics()
    memory = maker.memory()
    x = memory["x"]
    x += 1000.0
    image = shape[1] * shape[2]
    x[image : 2 * image] += 50.0
    memory = {name: values.astype(np.float32).astype(np.float64) for name, values in memory.items()}
    values = memory["x"][: shape[0] * image].reshape(4, 700, 16)
    built = map_harness.build(map_harness.program(maker.graph, target, "f32"), target, "f32")
    mean, variance, _ = (v for name, v in map_harness.run(built, memory, 1).items() if name.startswith("out"))
    np.testing.assert_allclose(mean, values.mean((0, 1)), rtol=3e-7)
    np.testing.assert_allclose(variance, values.var((0, 1)), rtol=1e-5)


@pytest.mark.parametrize("isa", [AVX512, AVX2, NEON], ids=lambda i: i.name)
def test_blocks_are_whole_vectors_and_what_is_of_a_channel_is_loaded_once(isa: Isa) -> None:
    maker = map_harness.Maker(3)
    maps = Blocks(maker, (2, 32, 300))
    maps.pointwise()
    maps.sums()
    maps.statistics()
    maps.gradient()
    source = map_harness.program(maker.graph, Target(isa, "x86_64", "linux"), "f32").source
    functions = re.findall(r"static void m\d+_forward\(.*?\n}\n", source, re.DOTALL)
    assert len(functions) == len(maker.graph.nodes)
    loops = [loop for f in functions for loop in re.findall(r"\n( +)(for \(ptrdiff_t p = .*?\n)\1}", f, re.DOTALL)]
    assert len(loops) >= len(functions)
    for _, loop in loops:
        assert not any(text in loop for text in ("_n(", "_strided(", "_tail(", " % ")), loop
        addresses = re.findall(r"_(?:load|store)\((.*)", loop)
        assert addresses and all(re.search(r"\bp\b", a) for a in addresses)
