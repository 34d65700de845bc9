"""Windows on windows: strides and offsets against what NumPy does with the same steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from lossc.errors import InternalError
from lossc.ir import Access, Blob, Dim, Graph, Ref, View
from lossc.ir.blob import contiguous, restride
from lossc.ir.interpret import Interpreter
from lossc.ir.windows import once, overlap

EXTENTS = st.sampled_from([1, 1, 2, 3, 4, 6])
SHAPES = st.lists(EXTENTS, min_size=0, max_size=4).map(tuple)


@st.composite
def factors(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    """A shape of that many elements."""
    shape = []
    while size > 1:
        part = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
        shape.append(part)
        size //= part
    return tuple(shape)


@dataclass
class Pair:
    """A part of a blob, and the same part of a NumPy array."""

    ref: Ref
    array: np.ndarray


@st.composite
def narrowed(draw: st.DrawFn, pair: Pair) -> Pair:
    axis = draw(st.integers(0, pair.ref.ndim - 1))
    start = draw(st.integers(0, pair.ref.shape[axis] - 1))
    stop = draw(st.integers(start + 1, pair.ref.shape[axis]))
    inside = (slice(None),) * axis + (slice(start, stop),)
    return Pair(pair.ref.narrow(axis, start, stop), pair.array[inside])


@st.composite
def moved(draw: st.DrawFn, pair: Pair, reshape: bool = True) -> Pair:
    """The pair after one step that takes a part of it or shows it otherwise, where that needs no copy."""
    step = draw(st.sampled_from(["narrow", "transpose", *(["reshape"] if reshape else [])]))
    if step == "narrow" and pair.ref.ndim:
        return draw(narrowed(pair))
    if step == "transpose" and pair.ref.ndim:
        order = draw(st.permutations(range(pair.ref.ndim)))
        return Pair(pair.ref.transpose(*order), pair.array.transpose(order))
    shape = draw(factors(pair.ref.size))
    if step == "reshape" and restride(pair.ref.shape, pair.ref.strides, shape) is not None:
        return Pair(pair.ref.reshape(*shape), pair.array.reshape(shape))
    return pair


@st.composite
def nests(draw: st.DrawFn) -> tuple[Graph, dict[str, np.ndarray]]:
    """A blob, windows on it, windows on those; and for each what NumPy shows there."""
    graph, arrays = Graph("views"), {}
    shape = draw(SHAPES)
    name = graph.add_blob(Blob("b0", shape, "input")).name
    array = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    arrays[name] = array
    for k in range(1, draw(st.integers(1, 4))):
        pair = Pair(graph.whole(name), array)
        for _ in range(draw(st.integers(0, 3))):
            pair = draw(moved(pair))
        pairs = list(zip(pair.ref.shape, pair.ref.strides, strict=True))
        assume(graph.try_resolve(pair.ref.blob, pair.ref.offset, pairs) is not None)
        view = View(pair.ref.blob, pair.ref.offset, pair.ref.strides)
        name = graph.add_blob(Blob(f"b{k}", pair.ref.shape, "activation", view=view)).name
        arrays[name] = array = pair.array
    return graph, arrays


def filled(graph: Graph) -> Interpreter:
    interpreter = Interpreter(graph, "f64")
    interpreter["b0"][...] = np.arange(graph.blobs["b0"].size).reshape(graph.blobs["b0"].shape)
    return interpreter


@given(nests())
def test_a_window_on_windows_shows_what_numpy_shows(nest: tuple[Graph, dict[str, np.ndarray]]) -> None:
    graph, arrays = nest
    interpreter = filled(graph)
    for name, array in arrays.items():
        np.testing.assert_array_equal(interpreter[name], array)
        assert graph.root(name) == "b0" and graph.within(name, "b0")
    assert graph.family(name) == list(arrays)


@given(nests(), st.data())
def test_a_part_without_reshaping_can_always_be_addressed(
    nest: tuple[Graph, dict[str, np.ndarray]], data: st.DataObject
) -> None:
    graph, arrays = nest
    name = data.draw(st.sampled_from(list(arrays)))
    pair = Pair(graph.whole(name), arrays[name])
    for _ in range(3):
        pair = data.draw(moved(pair, reshape=False))
    np.testing.assert_array_equal(filled(graph).array(pair.ref), pair.array)


@given(nests(), st.data())
def test_a_reshaped_part_is_addressed_rightly_or_refused(
    nest: tuple[Graph, dict[str, np.ndarray]], data: st.DataObject
) -> None:
    """A reshaped window is one row-major sequence for its users, wherever the rows of the memory end."""
    graph, arrays = nest
    name = data.draw(st.sampled_from(list(arrays)))
    pair = Pair(graph.whole(name), arrays[name])
    for _ in range(3):
        pair = data.draw(moved(pair))
    ref = pair.ref
    pairs = list(zip(ref.shape, ref.strides, strict=True))
    if graph.try_resolve(ref.blob, ref.offset, pairs) is None:
        with pytest.raises(InternalError, match="cannot be addressed"):
            graph.resolve(ref.blob, ref.offset, pairs)
        return
    np.testing.assert_array_equal(filled(graph).array(ref), pair.array)


@given(SHAPES, st.data())
def test_restride_does_what_numpy_does_without_a_copy(shape: tuple[int, ...], data: st.DataObject) -> None:
    pair = Pair(Ref("b0", shape, contiguous(shape)), np.arange(math.prod(shape)).reshape(shape))
    for _ in range(3):
        pair = data.draw(moved(pair))
    ref, base = pair.ref, np.arange(math.prod(shape))
    new = data.draw(factors(ref.size))
    strides = restride(ref.shape, ref.strides, new)
    mine = as_strided(base[ref.offset :], ref.shape, [s * base.itemsize for s in ref.strides])
    try:
        mine.shape = new  # NumPy refuses where this would need a copy
    except AttributeError:
        assert strides is None
        return
    assert strides is not None
    shown = as_strided(base[ref.offset :], new, [s * base.itemsize for s in strides])
    np.testing.assert_array_equal(shown, pair.array.reshape(new))


def test_restride_of_nothing() -> None:
    assert restride((0, 3), (3, 1), (3, 0)) == (0, 1)
    assert restride((), (), ()) == ()
    assert restride((1, 1), (7, 9), ()) == ()


def windows() -> Graph:
    """w (2, 4): columns 3..6 of a (2, 10)."""
    graph = Graph("g")
    graph.add_blob(Blob("a", (2, 10), "input"))
    graph.add_blob(Blob("w", (2, 4), "activation", view=View("a", 3, (10, 1))))
    return graph


@pytest.mark.parametrize(
    ("offset", "dims", "found"),
    [
        (0, [(2, 4), (4, 1)], ("a", 3, (10, 1))),
        (5, [(3, 1)], ("a", 14, (1,))),
        (1, [(2, 4)], ("a", 4, (10,))),
        (0, [(2, 2)], ("a", 3, (2,))),
        (0, [(8, 1)], None),  # runs over the end of the first row
        (2, [(4, 1)], None),  # so does this, for where it starts
        (0, [(4, 2)], None),
        (0, [(3, 1), (3, 1)], None),  # each fits, both together do not
        (0, [(1, 77), (2, 0)], ("a", 3, (0, 0))),
    ],
)
def test_rows_end_where_they_end(
    offset: int, dims: list[tuple[int, int]], found: tuple[str, int, tuple[int, ...]] | None
) -> None:
    assert windows().try_resolve("w", offset, dims) == found


def test_labels_make_accesses() -> None:
    ref = Ref("x", (2, 1, 5), (5, 5, 1), offset=3)
    n, c = Dim("n", 2), Dim("c", 5)
    assert ref["nkc"] == Access("x", 3, ((n, 5), (c, 1))), "an axis of one element takes no part"
    assert ref["nkc"].points == 10 and ref["nkc"].stride(c) == 1 and ref["nkc"].stride(Dim("z", 2)) == 0
    with pytest.raises(InternalError, match="3 axes"):
        ref["nc"]


def test_with_dims_splits_an_index() -> None:
    i, o, r = Dim("i", 12), Dim("o", 3), Dim("r", 4)
    split = Access("x", 0, ((i, 2),)).with_dims({i: ((o, 4), (r, 1))})
    assert split.strides == ((o, 8), (r, 2))


def test_collapse_narrow_and_what_is_refused() -> None:
    whole = Ref.whole(Blob("x", (2, 3, 4, 5), "input"))
    assert whole.collapse(1).shape == (2, 3, 20) and whole.collapse(1, 3).shape == (2, 12, 5)
    assert whole.is_contiguous and not whole.narrow(1, 0, 2).is_contiguous and whole.narrow(0, 1, 2).is_contiguous
    with pytest.raises(InternalError, match="cannot reshape"):
        whole.reshape(7)
    with pytest.raises(InternalError, match="has no view"):
        whole.narrow(1, 0, 2).reshape(80)


@st.composite
def accesses_of(draw: st.DrawFn) -> Access:
    dims = draw(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([1, 1, 2, 3, 4, 5, 8, 12, 20])), max_size=3))
    strides = tuple((Dim("ijk"[k], e), s) for k, (e, s) in enumerate(dims))
    return Access("a", draw(st.integers(0, 30)), strides)


def elements(a: Access) -> list[int]:
    return [
        a.offset + sum(i * s for i, (_, s) in zip(at, a.strides, strict=True))
        for at in np.ndindex(*(d.extent for d in a.dims))
    ]


@given(accesses_of(), accesses_of())
@example(Access("a", 0, ((Dim("i", 3), 10), (Dim("j", 2), 25))), Access("a", 5, ((Dim("i", 3), 10), (Dim("j", 2), 25))))
def test_windows_said_to_be_apart_are_apart(a: Access, b: Access) -> None:
    graph = Graph("g")
    graph.add_blob(Blob("a", (1000,), "input"))
    if not overlap(graph, a, b):
        assert not set(elements(a)) & set(elements(b))
    if once(a):
        assert len(elements(a)) == len(set(elements(a)))


@given(SHAPES.filter(len), st.data())
def test_parts_of_one_axis_are_told_apart(shape: tuple[int, ...], data: st.DataObject) -> None:
    graph = Graph("g")
    blob = graph.add_blob(Blob("a", shape, "input"))
    axis = data.draw(st.integers(0, len(shape) - 1))
    cut = data.draw(st.integers(0, shape[axis]))
    whole = graph.whole(blob.name)
    left, right = whole.narrow(axis, 0, cut), whole.narrow(axis, cut, shape[axis])
    if left.size and right.size:
        assert not overlap(graph, left, right) and not overlap(graph, right, left)
        assert overlap(graph, left, whole) and overlap(graph, whole, right)
    assert once(left)


def test_other_memory_is_apart() -> None:
    graph = windows()
    graph.add_blob(Blob("b", (4,), "input"))
    graph.add_blob(Blob("v", (2, 3), "activation", view=View("a", 7, (10, 1))))
    assert not overlap(graph, graph.whole("a"), graph.whole("b"))
    assert not overlap(graph, graph.whole("w"), graph.whole("v"))
    assert overlap(graph, graph.whole("w"), graph.whole("a"))
