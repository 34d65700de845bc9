"""Maps over much memory: strips of rows, and stores past the caches."""

from __future__ import annotations

import re
from itertools import product

import map_harness
import numpy as np
import pytest

from lossc.codegen import maploops, mapplan
from lossc.codegen.program import Program
from lossc.frontend.net import read_net_text
from lossc.ir import Access, Dim, Store, make_map
from lossc.ir.expr import Const, Expr, Load, Op, Reduce
from lossc.ir.interpret import Interpreter
from lossc.ir.scalar import Scalar
from lossc.layers.net import import_net
from lossc.passes.pipeline import run_passes
from lossc.targets import AVX512, Target, runnable_targets

#: Rows side by side: more and fewer than a strip of any instruction set, whole ones and with a rest.
SIDE = (5, 31, 64, 67, 128, 197)


def _softmax(x: Access, along: Dim) -> Expr:
    e = Op("exp", (Op("sub", (Load(x), Reduce("max", Load(x), (along,)))),))
    return Op("div", (e, Reduce("sum", e, (along,))))


def _maker() -> map_harness.Maker:
    """Softmaxes along the middle of three dimensions, with a total and a number for each row."""
    maker = map_harness.Maker(5)
    for side, (outer, classes) in product(SIDE, ((2, 3), (3, 7), (5, 21))):
        o, a, i = Dim("o", outer), Dim("a", classes), Dim("i", side)
        full = Access("x", 0, ((o, classes * side), (a, side), (i, 1)))
        row = Access("picks", 64, ((o, side), (i, 1)))
        p = _softmax(full, a)
        row_sum = Reduce("sum", Op("mul", (p, Load(row))), (a,))
        names = []
        for size in (outer * classes * side, outer * side, 1):
            names.append(f"out{len(maker.graph.blobs)}")
            maker._blob(names[-1], size, "state")
        stores = (
            Store(Access(names[0], 0, full.strides), Op("mul", (Const(Scalar(0.5)), p))),
            Store(Access(names[1], 0, row.strides), row_sum),
            Store(Access(names[2], 0, ()), Reduce("sum", Op("log", (Op("add", (row_sum, Load(row))),)), (i, o))),
        )
        maker.graph.add(make_map(stores), f"m{len(maker.graph.nodes)}", "forward")
    return maker


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("past_caches", [False, True])
@pytest.mark.parametrize("target", runnable_targets(), ids=lambda t: t.name)
def test_strips(
    target: Target, past_caches: bool, copies: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapplan, "STREAM_BYTES", 1 if past_caches else 2**40)
    monkeypatch.setattr(maploops, "PAGE_BYTES", 1 if copies else 2**40)
    maker = _maker()
    memory = maker.memory()
    memory["picks"] += 1.0
    interpreter = Interpreter(maker.graph, "f64")
    for name, values in memory.items():
        interpreter[name][...] = values
    interpreter.run(["forward"])
    program = map_harness.program(maker.graph, target, dtype)
    assert ("_stream(" in program.source) == past_caches
    assert ("lossc_stream_fence();" in program.source) == past_caches
    assert ("LOSSC_PREFETCH(" in program.source) == copies
    built = map_harness.build(program, target, dtype)
    got = map_harness.run(built, memory, 1)
    for name in got:
        tolerance = 1e-12 if dtype == "f64" else 1e-5
        np.testing.assert_allclose(got[name], interpreter[name], rtol=tolerance, atol=tolerance, err_msg=name)
    for threads in (2, 3):
        again = map_harness.run(built, memory, threads)
        for name, values in got.items():
            np.testing.assert_array_equal(values, again[name], err_msg=f"{name} with {threads} threads")


def _loss(layer: str, shape: tuple[int, ...], label: tuple[int, ...]) -> Program:
    inputs = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" '
        f"input_param {{ shape {{ {' '.join(f'dim: {d}' for d in dims)} }} }} }}"
        for name, dims in (("x", shape), ("y", label))
    )
    text = f'force_backward: true {inputs} layer {{ name: "loss" type: "{layer}" bottom: "x" bottom: "y" top: "loss" }}'
    source = read_net_text(f'name: "net" {text}', "net.prototxt")
    graph = import_net(source.param, "TRAIN", file="net.prototxt", line_of=source.line)
    run_passes(graph)
    return map_harness.program(graph, Target(AVX512, "x86_64", "linux"), "f32")


@pytest.mark.parametrize(
    ("layer", "shape", "label", "past_caches"),
    [
        ("EuclideanLoss", (256, 4096), (256, 4096), False),
        ("EuclideanLoss", (1024, 16384), (1024, 16384), True),
        ("SoftmaxWithLoss", (8, 21, 256, 256), (8, 256, 256), True),
        ("SoftmaxWithLoss", (4096, 1001), (4096,), False),  # rows that do not begin on whole vectors
        ("SigmoidCrossEntropyLoss", (256, 4096), (256, 4096), False),
    ],
)
def test_only_what_no_cache_holds_goes_past_them(
    layer: str, shape: tuple[int, ...], label: tuple[int, ...], past_caches: bool
) -> None:
    source = _loss(layer, shape, label).source
    assert ("vf32_stream(" in source) == past_caches
    assert bool(re.search(r"lossc_stream_fence\(\);\n    LOSSC_BARRIER", source)) == past_caches
