"""Expressions: simplification that changes no bit, rewriting that keeps sharing, what an expression reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lossc.errors import InternalError
from lossc.ir import Access, Blob, Dim, Graph, Scalar
from lossc.ir.expr import (
    Acc,
    Const,
    Expr,
    Gather,
    Iota,
    Load,
    Op,
    Reduce,
    accesses,
    check_truth,
    expr,
    gather,
    gather_constants,
    greatest,
    iota,
    map_accesses,
    op,
    rewrite,
    tighten,
    total,
    walk,
    where,
)
from lossc.ir.interpret import Interpreter
from lossc.ir.operations import OPS, TRUTH

N, C = Dim("n", 3), Dim("c", 5)
#: What the loads find: zeros of both signs, tiny, huge, and numbers that round.
VALUES = np.array([0.0, -0.0, 1.0, -1.0, 0.1, -0.3, 3.0, 1e-30, -1e30, 7.7e-5, 123.456, -2.5, 1e38, 0.5, -0.125])
X = Access("x", 0, ((N, 5), (C, 1)))
ROW = Access("row", 0, ((N, 1),))
CONSTANTS = st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.1, 0.3, 3.0, 1e-20, 1e30])
ARITY = {name: 1 for name in ("neg", "abs", "sqrt", "exp", "log", "tanh", "floor", "trunc", "sigmoid")}
ARITY |= {name: 2 for name in ("add", "sub", "mul", "div", "min", "max", "pow")}
#: A tree before it is built: a leaf, or (operation, parts).
Plan = Expr | tuple[str, tuple["Plan", ...]]

LEAVES = st.one_of(
    st.sampled_from([Load(X), Load(ROW), Iota(C)]),
    CONSTANTS.map(lambda v: Const(Scalar(v))),
    CONSTANTS.map(lambda v: Const(Scalar(v, "named"))),
)


def _operations(parts: st.SearchStrategy[Plan]) -> st.SearchStrategy[Plan]:
    def make(name: str) -> st.SearchStrategy[Plan]:
        return st.tuples(st.just(name), st.tuples(*[parts] * ARITY[name]))

    chosen = st.sampled_from([*ARITY, *["add", "sub", "mul", "div"] * 3]).flatmap(make)
    truth = st.tuples(st.sampled_from(["lt", "le", "gt", "ge", "eq", "ne"]), st.tuples(parts, parts))
    return st.one_of(chosen, chosen, st.tuples(st.just("where"), st.tuples(truth, parts, parts)))


PLANS: st.SearchStrategy[Plan] = st.recursive(LEAVES, _operations, max_leaves=12)


def built(plan: Plan, make: Callable[..., Expr]) -> Expr:
    return plan if isinstance(plan, Expr) else make(plan[0], *(built(p, make) for p in plan[1]))


def plainly(name: str, *args: Expr) -> Expr:
    """The operation as it stands, nothing simplified."""
    return Op(name, args)


def memory(dtype: str = "f32") -> Interpreter:
    graph = Graph("g")
    graph.add_blob(Blob("x", (3, 5), "input"))
    graph.add_blob(Blob("row", (3,), "input"))
    graph.add_blob(Blob("pick", (3,), "input"))
    interpreter = Interpreter(graph, dtype)
    interpreter["x"][...] = VALUES.reshape(3, 5)
    interpreter["row"][...] = [-0.0, 0.7, -4.0]
    interpreter["pick"][...] = [4, 0, 2]
    return interpreter


def evaluated(e: Expr, dtype: str = "f32") -> np.ndarray:
    value = memory(dtype).evaluate(e, (N, C))
    return np.broadcast_to(value, (3, 5))


def bits(values: np.ndarray) -> np.ndarray:
    """The numbers' bits; all NaNs are one, and so are the two zeros (x + 0 is x, where -0 + 0 would be 0)."""
    values = np.where(np.isnan(values), np.float32(np.nan), values + np.float32(0))
    return values.astype(np.float32).view(np.uint32)


@given(PLANS)
@example(("min", (("sqrt", (Const(Scalar(-1.0)),)), Const(Scalar(0.0)))))
@example(("max", (Const(Scalar(0.0)), ("log", (Const(Scalar(-1.0)),)))))
@example(("mul", (Const(Scalar(0.3)), ("mul", (Const(Scalar(0.1)), Load(X))))))
def test_simplification_is_exact(plan: Plan) -> None:
    raw, simplified = built(plan, plainly), built(plan, op)
    np.testing.assert_array_equal(bits(evaluated(simplified)), bits(evaluated(raw)))


@given(PLANS)
def test_simplified_trees_are_not_larger_and_stay_as_they_are(plan: Plan) -> None:
    raw, simplified = built(plan, plainly), built(plan, op)
    assert len(list(walk(simplified))) <= len(list(walk(raw)))
    again = rewrite(simplified, lambda e: e.rebuild(e.children()))
    assert again == simplified and hash(again) == hash(simplified)


X_, ONE_, ZERO_ = Load(X), Const(Scalar(1.0)), Const(Scalar(0.0))


@pytest.mark.parametrize(
    ("made", "is_now"),
    [
        (X_ * 1.0, X_),
        (1.0 * X_, X_),
        (X_ / 1.0, X_),
        (X_ + 0.0, X_),
        (0.0 + X_, X_),
        (X_ - 0.0, X_),
        (0.0 - X_, Op("sub", (ZERO_, X_))),
        (1.0 / X_, Op("div", (ONE_, X_))),
        (X_ * 0.5, Op("mul", (Const(Scalar(0.5)), X_))),
        (X_ * Scalar(1.0, "scale"), Op("mul", (Const(Scalar(1.0, "scale")), X_))),
        (X_ * 0.0, Op("mul", (ZERO_, X_))),
        (expr(2.0) * 3.0, Const(Scalar(2.0) * Scalar(3.0))),
    ],
)
def test_what_op_makes(made: Expr, is_now: Expr) -> None:
    assert made == is_now


def test_constants_gather_in_front_in_the_order_given() -> None:
    weight, by_n = Scalar(0.3, "loss_weight"), Scalar(1.0) / Scalar(3.0, "N")
    product = expr(weight) * (by_n * X_)
    assert evaluated(product)[0, 4] == np.float32(0.3) * (np.float32(np.float32(1) / 3) * np.float32(0.1))
    gathered = rewrite(product, gather_constants)
    assert gathered == Op("mul", (Const(weight * by_n), X_))
    assert gathered.args[0].scalar.history == "loss_weight 0.3 * (1 / N 3)"  # type: ignore[attr-defined]
    assert rewrite(gathered, gather_constants) is gathered


@given(PLANS)
def test_rewrite_without_a_change_gives_the_very_tree(plan: Plan) -> None:
    tree = built(plan, plainly)
    assert rewrite(tree, lambda e: e) is tree


@given(PLANS)
def test_rewrite_substitutes_everywhere(plan: Plan) -> None:
    tree = built(plan, plainly)
    swapped = rewrite(tree, lambda e: Load(ROW) if e == Load(X) else e)
    assert X not in accesses(swapped)
    interpreter = memory()
    plain = interpreter.evaluate(swapped, (N, C))
    interpreter["x"][...] = interpreter["row"][:, None]
    want = interpreter.evaluate(tree, (N, C))
    np.testing.assert_array_equal(*(bits(np.broadcast_to(v, (3, 5))) for v in (plain, want)))


def test_rewrite_keeps_shared_parts_shared() -> None:
    shared = op("tanh", X)
    tree = shared * shared + shared
    visits: list[Expr] = []

    def change(e: Expr) -> Expr:
        visits.append(e)
        return Load(ROW) if isinstance(e, Load) else e

    done = rewrite(tree, change)
    assert [v for v in visits if isinstance(v, Load)] == [X_], "each node is visited once"
    product, last = done.children()
    assert product.children()[0] is product.children()[1] is last


def test_walk_gives_children_first_and_each_once() -> None:
    shared = op("exp", X)
    tree = (shared + 2.0) * shared
    order = list(walk(tree))
    assert len(order) == len({id(e) for e in order}) == 5
    for at, e in enumerate(order):
        assert all(any(c is d for d in order[:at]) for c in e.children())


def test_accesses_in_order_of_first_use() -> None:
    pick = Access("pick", 0, ((N, 1),))
    tree = expr(ROW) * gather(X, "c", pick) + X + ROW
    row_of_x = Access("x", 0, ((N, 5),))
    assert accesses(tree) == [ROW, pick, row_of_x, X]
    assert accesses(expr(3.0)) == []


def test_map_accesses_reaches_loads_and_gathers() -> None:
    pick = Access("pick", 0, ((N, 1),))
    tree = gather(X, "c", pick) + X
    moved = map_accesses(tree, lambda a: Access(a.blob + "'", a.offset + 1, a.strides))
    assert [(a.blob, a.offset) for a in accesses(moved)] == [("pick'", 1), ("x'", 1), ("x'", 1)]


@pytest.mark.parametrize("kind", ["sum", "max", "min"])
def test_tighten_drops_dimensions_over_which_nothing_varies(kind: str) -> None:
    interpreter = memory("f64")
    arg = op("tanh", ROW)
    wide = Reduce(kind, arg, (C, N))
    tight = tighten(wide)
    assert [e.dims for e in walk(tight) if isinstance(e, Reduce)] == [(N,)]
    want = getattr(np, kind)(np.broadcast_to(np.tanh(interpreter["row"])[:, None], (3, 5)))
    np.testing.assert_allclose(interpreter.evaluate(tight, (N, C)).item(), want, rtol=1e-15)


def test_tighten_of_a_sum_over_nothing_that_varies_is_a_product() -> None:
    tight = tighten(Reduce("sum", Const(Scalar(0.5, "w")), (N, C)))
    assert isinstance(tight, Const) and tight.scalar.history == "w 0.5 * count 15"
    assert tighten(Reduce("max", expr(ROW), (C,))) == expr(ROW)
    full = Reduce("sum", X_, (N, C))
    assert tighten(full) == full and tighten(X_) is X_


def test_varies() -> None:
    assert (X_ + ROW).varies == {N, C}
    assert total(X, "c").varies == {N}
    assert greatest(X, "nc").varies == frozenset()
    assert Acc((N,)).varies == {N}
    assert gather(X, "c", Access("pick", 0, ((N, 1),))).varies == {N}
    assert total(ROW, "c") == Load(ROW), "nothing varies along c"


def test_gather_picks_by_truncated_index() -> None:
    interpreter = memory()
    interpreter["pick"][...] = [4.9, 0.0, 2.5]
    picked = interpreter.evaluate(gather(X, "c", Access("pick", 0, ((N, 1),))), (N,))
    np.testing.assert_array_equal(picked, VALUES.reshape(3, 5).astype(np.float32)[[0, 1, 2], [4, 0, 2]])


def test_gather_and_iota_along_an_axis_of_one_element() -> None:
    assert gather(ROW, "c", Access("pick", 0, ((N, 1),))) == Load(ROW)
    assert iota(ROW, "c") == Const(Scalar(0.0))
    assert iota(X, "c") == Iota(C)


@pytest.mark.parametrize(
    "wrong", [op("add", X_ > 0.0, 1.0), where(X_, 1.0, 2.0), op("and", X_, X_ > 0.0), op("not", X_)]
)
def test_truth_values_are_no_numbers(wrong: Expr) -> None:
    with pytest.raises(InternalError, match="wrong kind"):
        check_truth(wrong)


def test_truth_where_it_belongs() -> None:
    check_truth(where(op("or", X_ > 0.0, op("not", op("eq", X_, ROW))), X_, ROW))


def test_every_operation_has_a_meaning() -> None:
    assert set(OPS) >= TRUTH
    one = np.full(2, 0.5, np.float32)
    for name, meaning in OPS.items():
        arity = 3 if name == "where" else ARITY.get(name, 2 if name in TRUTH - {"not"} else 1)
        result = meaning(*(one > 0 if name in ("and", "or", "not") else one for _ in range(arity)))
        assert result.shape == one.shape and (result.dtype == bool) == (name in TRUTH), name


def test_equal_trees_are_one_key() -> None:
    one, two = op("tanh", X) + ROW, op("tanh", X) + ROW
    assert one is not two and one == two and len({one, two}) == 1
    assert isinstance(gather(X, "c", 1.0), Gather) and gather(X, "c", 1.0) != gather(X, "c", 2.0)
