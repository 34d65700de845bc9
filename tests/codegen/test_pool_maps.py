"""Poolings along lines with maps in them: generated C against the interpreter, on every ISA that runs here."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from map_harness import build, program, run

from lossc.errors import InternalError
from lossc.ir import Blob, Geometry, Graph, Pool, Scalar, Store
from lossc.ir.expr import Acc, expr, sqrt, where
from lossc.ir.interpret import Interpreter
from lossc.ir.verify import verify
from lossc.targets import Target, runnable_targets

#: Images, channels, lines, columns, lines of a window, pad.
SHAPES = (
    (2, 1, 6, 37, 3, 1),
    (1, 3, 5, 17, 5, 2),
    (2, 2, 4, 50, 3, 2),
    (3, 1, 4, 16, 2, 0),
    (1, 1, 2, 5, 5, 4),
    (17, 1, 7, 1500, 5, 2),
)
TARGETS = pytest.mark.parametrize("target", runnable_targets(), ids=lambda t: t.isa.name)


def blob(graph: Graph, name: str, *shape: int) -> str:
    graph.declared[name] = graph.add_blob(Blob(name, shape, "state", label=name))
    graph.data_of[name] = name
    graph.observe(name)
    return name


def pooling(graph: Graph, number: int, shape: tuple[int, ...], direction: str) -> Pool:
    """With operands of the source's shape, in another order of axes and for each channel; ``number`` chooses the maps:
    both, none, and each alone."""
    n, c, h, w, window, pad = shape
    wide, low = (n, c, h, w), (n, c, h + 2 * pad - window + 1, w)
    source, out = (wide, low) if direction == "forward" else (low, wide)
    name = f"{direction}{number}"
    shapes = {"x": source, "y": out, "z": out, "s": source, "t": out}
    given, made, second, like_x, like_y = (graph.whole(blob(graph, f"{name}_{k}", *s)) for k, s in shapes.items())
    turned = graph.whole(blob(graph, f"{name}_u", n, c, source[3], source[2])).transpose(0, 1, 3, 2)
    each = graph.whole(blob(graph, f"{name}_c", c))
    seen, acc = Acc(given["nchw"].dims), Acc(made["nchw"].dims)
    prologue = seen * like_x["nchw"] - expr(turned["nchw"]) * each["c"]
    epilogue = where(expr(like_y["nchw"]) > 0.0, like_y["nchw"] / sqrt(1.0 + acc * acc), acc)
    more = (Store(second["nchw"], 2.0 * acc + each["c"]),)
    x, y = (given, made) if direction == "forward" else (made, given)
    geometry = Geometry((window, 1), (1, 1), (pad, 0), (1, 1))
    maps = ({"prologue": prologue, "epilogue": epilogue, "more": more}, {}, {"prologue": prologue}, {"more": more})
    return Pool(direction, "AVE", x, y, geometry, alpha=Scalar(0.375), accumulate=number % 3 == 1, **maps[number % 4])


def graph_of_poolings() -> Graph:
    graph = Graph("poolings")
    graph.add_blob(Blob("loss_total", (), "state"))
    for number, shape in enumerate(SHAPES):
        for direction in ("forward", "backward"):
            graph.add(pooling(graph, number, shape, direction), f"p{number}{direction}", "forward")
    verify(graph)
    return graph


def values(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    return {name: rng.standard_normal(b.shape).astype(np.float32).astype(np.float64) for name, b in graph.blobs.items()}


@TARGETS
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_the_same_as_the_interpreter(target: Target, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any number of threads, with results written past the caches or not, to the same bits."""
    graph = graph_of_poolings()
    memory = values(graph)
    want = Interpreter(graph, "f64")
    for name, value in memory.items():
        want[name][...] = value
    want.run(["forward"])
    built = build(program(graph, target, dtype), target, dtype)
    found = run(built, memory, 1)
    bound = {"rtol": 2e-5, "atol": 2e-6} if dtype == "f32" else {"rtol": 1e-13, "atol": 1e-14}
    for name, value in found.items():
        np.testing.assert_allclose(value, want[name], **bound, err_msg=name)
    monkeypatch.setattr("lossc.codegen.pool.STREAM_BYTES", 0)
    made = program(graph, target, dtype)
    assert f"v{dtype}_stream(" in made.source
    for other in (run(built, memory, 3), run(build(made, target, dtype), memory, 2)):
        assert all(other[name].tobytes() == value.tobytes() for name, value in found.items())


@pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed")
@TARGETS
def test_no_warnings_from_clang(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSC_CC", "clang")
    build(program(graph_of_poolings(), target, "f32"), target, "f32")


def test_lines_and_what_maps_read_stay_apart_from_results() -> None:
    graph = Graph("g")
    x, y = (graph.whole(blob(graph, name, 1, 1, 6, 8)) for name in "xy")
    lines = Geometry((3, 1), (1, 1), (1, 0), (1, 1))
    graph.add(Pool("forward", "AVE", x, y, lines, epilogue=Acc(y["nchw"].dims) * y["nchw"]), "p", "forward")
    with pytest.raises(InternalError, match="reads y where it writes y"):
        verify(graph)
    graph = Graph("g")
    x, y = (graph.whole(blob(graph, name, 1, 1, 6, 8)) for name in "xy")
    graph.add(Pool("forward", "MAX", x, y, lines, prologue=-Acc(x["nchw"].dims)), "p", "forward")
    with pytest.raises(InternalError, match="does not sum up lines"):
        verify(graph)
