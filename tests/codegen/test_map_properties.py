"""Generated code for random maps against the interpreter, on every instruction set of this machine."""

from __future__ import annotations

import shutil

import map_harness
import numpy as np
import pytest

from lossc.build import Compiler, find_compiler
from lossc.ir.interpret import Interpreter
from lossc.ir.operations import OPS
from lossc.ir.verify import verify
from lossc.targets import Target, runnable_targets

MAPS = 60
#: Of the largest number in a blob: rounding of sums of a few thousand terms, in another order and with fused
#: multiply-adds.
TOLERANCE = {"f64": 1e-12, "f32": 1e-4}


def expected(maker: map_harness.Maker, memory: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    interpreter = Interpreter(maker.graph, "f64")
    for name, values in memory.items():
        interpreter[name][...] = values
    interpreter.run(["forward"])
    return {name: interpreter[name].copy() for name in memory}


def check(seed: int, target: Target, dtype: str, compiler: Compiler | None = None) -> None:
    maker = map_harness.Maker(seed)
    kernels = [maker.add() for _ in range(MAPS)]
    verify(maker.graph)
    memory = maker.memory()
    want = expected(maker, memory)
    built = map_harness.build(map_harness.program(maker.graph, target, dtype), target, dtype, compiler)
    got = map_harness.run(built, memory, 1)
    for node, kernel in zip(maker.graph.nodes, kernels, strict=True):
        for store in kernel.stores:
            name = maker.graph.root(store.access.blob)
            bound = TOLERANCE[dtype] * (1 + np.abs(want[name]).max())
            error = np.abs(got[name] - want[name]).max()
            assert error <= bound, (node.layer, name, error, bound)
    for name in maker.graph.data_of:  # what no map writes stays as it was
        if not any(maker.graph.writers(b) for b in maker.graph.family(name)):
            np.testing.assert_array_equal(got[name], memory[name])
    for threads in (2, 4):
        again = map_harness.run(built, memory, threads)
        for name, values in got.items():
            np.testing.assert_array_equal(values, again[name], err_msg=f"{name} with {threads} threads")


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("target", runnable_targets(), ids=lambda t: t.name)
def test_random_maps(target: Target, dtype: str) -> None:
    check(1, target, dtype)


@pytest.mark.parametrize("target", runnable_targets(), ids=lambda t: t.name)
def test_random_maps_with_clang(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    monkeypatch.setenv("LOSSC_CC", "clang")
    check(20, target, "f32", find_compiler())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
@pytest.mark.parametrize("target", runnable_targets(), ids=lambda t: t.name)
def test_more_random_maps(target: Target, seed: int) -> None:
    check(seed, target, "f64" if seed % 2 else "f32")


def test_the_random_maps_use_every_operation_windows_and_their_own_results() -> None:
    maker = map_harness.Maker(1)
    kernels, graph = [maker.add() for _ in range(MAPS)], maker.graph
    assert set().union(*(map_harness.operations(k) for k in kernels)) == set(OPS)
    windows = {b.name for b in graph.blobs.values() if b.view is not None}
    assert sum(bool(windows & {*k.reads(), *k.writes()}) for k in kernels) >= 10
    inputs = [{graph.root(a.blob) for a in k.inputs()} for k in kernels]
    assert sum(any(graph.root(w) in i for w in k.writes()) for i, k in zip(inputs, kernels, strict=True)) >= 5
