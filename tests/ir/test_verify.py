"""Each thing that the verifier refuses, once."""

from __future__ import annotations

import pytest

from lossc.errors import InternalError
from lossc.ir import (
    Access,
    Blob,
    Builder,
    Conv,
    Dim,
    Gemm,
    Geometry,
    Graph,
    Kernel,
    Map,
    Pool,
    Ref,
    Scalar,
    Store,
    View,
    make_map,
)
from lossc.ir.expr import Const, Load, Op, expr, gather, greatest, total
from lossc.ir.verify import verify

ROWS, COLUMNS, HALF = Dim("i", 4), Dim("j", 6), Dim("k", 3)
LINE = Geometry((3, 3), (1, 1), (0, 0), (1, 1))


def graph() -> Graph:
    g = Graph("g")
    for name, shape, role in (
        ("x", (4, 6), "input"), ("pick", (4,), "input"), ("t", (4, 6), "activation"), ("row", (4,), "activation"),
        ("w", (6, 5), "param"), ("y", (4, 5), "activation"), ("image", (2, 4, 8, 8), "input"),
        ("filters", (6, 2, 3, 3), "param"), ("features", (2, 6, 6, 6), "activation"), ("s", (), "state"),
    ):  # fmt: skip
        g.add_blob(Blob(name, shape, role))  # type: ignore[arg-type]
    g.add_blob(Blob("left", (4, 3), "activation", view=View("t", 0, (6, 1))))
    g.add_blob(Blob("right", (4, 3), "activation", view=View("t", 3, (6, 1))))
    return g


def ref(name: str) -> Ref:
    return graph().whole(name)


X, T, ROW, PICK = ref("x")["ij"], ref("t")["ij"], ref("row")["i"], ref("pick")["i"]
LEFT, RIGHT = ref("left")["ik"], ref("right")["ik"]


def good_map() -> Map:
    return make_map([Store(T, expr(X) * 2.0), Store(ROW, total(X, "j"))])


def conv(**changes: object) -> Conv:
    given: dict[str, object] = {
        "direction": "forward", "x": ref("image"), "w": ref("filters"), "y": ref("features"), "geometry": LINE,
        "groups": 2,
    }  # fmt: skip
    return Conv(**{**given, **changes})  # type: ignore[arg-type]


GOOD: dict[str, list[Kernel]] = {
    "map": [good_map()],
    "in place": [good_map(), make_map([Store(T, expr(T) + X)])],
    "in place through a window": [good_map(), make_map([Store(LEFT, expr(Ref("t", (4, 3), (6, 1))["ik"]) * 2.0)])],
    "from one half into the other": [good_map(), make_map([Store(LEFT, expr(RIGHT))])],
    "both halves": [make_map([Store(LEFT, expr(0.0)), Store(RIGHT, expr(1.0))])],
    "gemm": [Gemm(ref("x"), ref("w"), ref("y"))],
    "conv": [conv()],
    "conv to its data": [conv(), conv(direction="bwd_weights", accumulate=True)],
    "pool": [Pool("forward", "MAX", ref("features"), Ref("row", (1, 1, 2, 2), (4, 4, 2, 1)), LINE)],
}
GOOD["pool"].insert(0, conv())
BAD: dict[str, tuple[list[Kernel], str]] = {
    "unknown blob": ([make_map([Store(T, expr(Access("nobody", 0, X.strides)))])], "unknown blob nobody"),
    "unknown output": ([make_map([Store(Access("nobody", 0, ()), expr(1.0))])], "unknown blob nobody"),
    "read before write": ([make_map([Store(ROW, total(T, "j"))])], "t is read before anything writes it"),
    "added before write": ([make_map([Store(T, expr(X), accumulate=True)])], "t is read before anything writes it"),
    "read before write, a window": ([make_map([Store(ROW, total(RIGHT, "k"))])], "right is read before"),
    "past the end": ([make_map([Store(T, expr(Access("x", 1, X.strides)))])], "access to x leaves its bounds"),
    "before the start": ([make_map([Store(T, expr(Access("x", -1, X.strides)))])], "access to x leaves its bounds"),
    "a part past the end": ([Gemm(Ref("x", (4, 6), (7, 1)), ref("w"), ref("y"))], "access to x leaves its bounds"),
    "over the end of a window's row": (
        [good_map(), make_map([Store(ROW, expr(Access("left", 2, ((ROWS, 1),))))])],
        "left cannot be addressed",
    ),
    "shapes of a gemm": ([Gemm(ref("x"), ref("w"), ref("t"))], r"gemm of \(4, 6\) and \(6, 5\) into \(4, 6\)"),
    "inner extents of a gemm": ([Gemm(ref("w"), ref("x"), ref("y"))], r"gemm of \(6, 5\) and \(4, 6\)"),
    "groups of a convolution": ([conv(groups=1)], "convolution of"),
    "space of a convolution": ([conv(geometry=Geometry((3, 3), (2, 2), (0, 0), (1, 1)))], "convolution of"),
    "one name, two extents": (
        [Map((Store(ROW, Const(Scalar(0.0))), Store(T, expr(X))), (ROWS, COLUMNS, Dim("i", 5)))],
        "dimension i has two extents",
    ),
    "truth as a number": ([make_map([Store(T, Op("add", (expr(X) > 0.0, Load(X))))])], "wrong kind"),
    "a dimension too few": ([Map((Store(T, expr(X)),), (ROWS,))], "dimensions that the map does not have"),
    "no place for each value": ([make_map([Store(ROW, expr(X))])], "row would be written more than once"),
    "one place for all": (
        [make_map([Store(Access("row", 0, ((ROWS, 0),)), expr(1.0))])],
        "row would be written more than once",
    ),
    "overlapping steps": (
        [make_map([Store(Access("t", 0, ((ROWS, 1), (COLUMNS, 2))), expr(X))])],
        "t would be written more than once",
    ),
    "twice in one map": (
        [make_map([Store(T, expr(X)), Store(Access("t", 6, ((HALF, 6),)), expr(1.0))])],
        "t would be written more than once",
    ),
    "twice through a window": (
        [make_map([Store(T, expr(X)), Store(RIGHT, expr(1.0))])],
        "right would be written more than once",
    ),
    "read elsewhere than written": (
        [good_map(), make_map([Store(T, expr(T) - greatest(Access("t", 0, ((ROWS, 1),)), "i"))])],
        "t is read elsewhere than written",
    ),
    "read after it was overwritten": (
        [good_map(), make_map([Store(T, expr(T) * 2.0), Store(ROW, total(T, "j"))])],
        "one store reads what another one overwrites",
    ),
    "shifted by one": (
        [good_map(), make_map([Store(Access("row", 1, ((HALF, 1),)), expr(Access("row", 0, ((HALF, 1),))))])],
        "row is read elsewhere than written",
    ),
    "picked from where it writes": (
        [good_map(), make_map([Store(T, expr(T) * gather(T, "j", PICK))])],
        "t is read elsewhere than written",
    ),
    "read through a window": (
        [good_map(), make_map([Store(T, expr(T) + total(LEFT, "k"))])],
        "left is read elsewhere than written",
    ),
    "a gemm onto its operand": (
        [good_map(), Gemm(Ref("t", (4, 4), (6, 1)), Ref("x", (4, 4), (6, 1)), Ref("t", (4, 4), (6, 1), 2))],
        "gemm reads t where it writes t",
    ),
}


def built(kernels: list[Kernel]) -> Graph:
    g = graph()
    for kernel in kernels:
        g.add(kernel, "layer", "forward")
    return g


@pytest.mark.parametrize("kernels", GOOD.values(), ids=GOOD.keys())
def test_accepts(kernels: list[Kernel]) -> None:
    verify(built(kernels))


@pytest.mark.parametrize(("kernels", "message"), BAD.values(), ids=BAD.keys())
def test_refuses(kernels: list[Kernel], message: str) -> None:
    with pytest.raises(InternalError, match=message):
        verify(built(kernels))


def test_refuses_sections_out_of_order() -> None:
    g = graph()
    g.add(good_map(), "a", "backward")
    g.add(make_map([Store(ROW, expr(0.0))]), "b", "forward")
    with pytest.raises(InternalError, match="section forward of b stands behind a later one"):
        verify(g)


def test_the_graph_refuses_what_would_not_be_one() -> None:
    g = graph()
    with pytest.raises(InternalError, match="exists already"):
        g.add_blob(Blob("x", (1,), "input"))
    node = g.add(good_map(), "a", "forward")
    with pytest.raises(InternalError, match="every kernel once"):
        g.reorder([])
    with pytest.raises(InternalError, match="every kernel once"):
        g.reorder([node.id, node.id])


def test_a_window_that_a_kernel_cannot_address_gets_memory_of_its_own() -> None:
    g = graph()
    g.add(good_map(), "a", "forward")
    Builder(g, "b", "forward").map((Access("row", 0, ((ROWS, 1),)), Access("left", 2, ((ROWS, 1),))))
    verify(g)
    assert g.blobs["left"].view is None
    assert [n.note for n in g.nodes] == ["", "a window with memory of its own", ""]
