"""Constants with a history: each step rounds in the net's dtype, in the order in which it was written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossc.ir import Scalar
from lossc.ir.scalar import ONE

REAL = {"f32": np.float32, "f64": np.float64}
BINARY = {"mul": np.multiply, "div": np.divide, "add": np.add, "sub": np.subtract, "max": np.maximum, "min": np.minimum}
UNARY = {"neg": np.negative, "sqrt": np.sqrt, "exp": np.exp}
NUMBERS = st.floats(0.01, 100.0)


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[str, float]]:
    """Steps (operation, operand) that are applied one after the other."""
    binary = st.tuples(st.sampled_from(sorted(BINARY)), NUMBERS)
    unary = st.tuples(st.sampled_from(["neg"]), st.just(0.0))
    return draw(st.lists(st.one_of(binary, unary), max_size=8))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@given(start=NUMBERS, steps=chains())
def test_each_step_rounds_in_the_dtype(dtype: str, start: float, steps: list[tuple[str, float]]) -> None:
    real = REAL[dtype]
    scalar, want = Scalar(start, "start"), real(start)
    with np.errstate(all="ignore"):
        for name, number in steps:
            if name in UNARY:
                folded, want = Scalar.fold(name, scalar), real(UNARY[name](want))
            else:
                folded, want = Scalar.fold(name, scalar, Scalar(number, "x")), real(BINARY[name](want, real(number)))
            assert folded is not None
            scalar = folded
    np.testing.assert_array_equal(scalar.value(dtype), float(want))


def test_a_weight_by_a_count_is_rounded_twice() -> None:
    """f32(f32(0.3) / f32(N)), as Caffe computes it, is another number than f32(0.3 / N) for many N."""
    differs = 0
    for n in range(1, 1025):
        alpha = Scalar(0.3, "loss_weight") / Scalar(n, "N")
        assert alpha.value("f32") == np.float32(0.3) / np.float32(n)
        assert alpha.value("f64") == 0.3 / n
        differs += alpha.value("f32") != np.float32(0.3 / n)
    assert 0.4 < differs / 1024 < 0.5


def test_order_counts() -> None:
    w, a, b = Scalar(0.3), Scalar(3.0, "a"), Scalar(7.0, "b")
    assert (w / a / b).value() == np.float32(np.float32(0.3) / np.float32(3)) / np.float32(7)
    assert (w / (a * b)).value() == np.float32(0.3) / np.float32(21)
    assert (w / a / b).value() != (w / (a * b)).value()


@pytest.mark.parametrize(
    ("scalar", "text"),
    [
        (Scalar(0.3, "loss_weight") / Scalar(32, "N"), "loss_weight 0.3 / N 32"),
        (Scalar(1.0) / (Scalar(2.0) * Scalar(32, "N")), "1 / (2 * N 32)"),
        (Scalar(1.0) / Scalar(2.0) * Scalar(32, "N"), "1 / 2 * N 32"),
        (Scalar.fold("sub", Scalar(1.0), Scalar.fold("sub", Scalar(2.0), Scalar(3.0))), "1 - (2 - 3)"),
        (Scalar.fold("sub", Scalar.fold("sub", Scalar(1.0), Scalar(2.0)), Scalar(3.0)), "1 - 2 - 3"),
        (Scalar.fold("add", Scalar(1.0), Scalar(2.0)) * Scalar(0.5, "half"), "(1 + 2) * half 0.5"),
        (-Scalar(0.5, "weight"), "-weight 0.5"),
        (-(Scalar(0.5) * Scalar(3.0)), "-(0.5 * 3)"),
        (Scalar.fold("max", Scalar(1.0, "a"), Scalar(2.0, "b")), "max(a 1, b 2)"),
        (Scalar.fold("sqrt", Scalar(2.0) * Scalar(3.0)), "sqrt(2 * 3)"),
        (Scalar(10_000_000), "10000000"),
        (Scalar(float(np.float32(0.1))), "0.1"),
        (Scalar(0.1), "0.1"),
        (Scalar(1 / 3), "0.3333333333333333"),
        (Scalar(-2.0, "loss_weight"), "loss_weight -2"),
    ],
)
def test_history(scalar: Scalar, text: str) -> None:
    assert scalar.history == text


@given(start=NUMBERS, steps=chains())
def test_the_history_evaluates_to_the_value(start: float, steps: list[tuple[str, float]]) -> None:
    """Read as Python, the text has the value: brackets stand where they must."""
    scalar = Scalar(start)
    for name, number in steps:
        args = (scalar,) if name in UNARY else (scalar, Scalar(number))
        folded = Scalar.fold(name, *args)
        assert folded is not None
        scalar = folded
    with np.errstate(all="ignore"):
        try:
            got = eval(scalar.history, {"max": max, "min": min})
        except ZeroDivisionError:
            assert not np.isfinite(scalar.value("f64"))
            return
    np.testing.assert_allclose(got, scalar.value("f64"), rtol=1e-6)


def test_folding() -> None:
    x = Scalar(0.3, "loss_weight")
    assert Scalar.fold("mul", ONE, x) is x
    assert Scalar.fold("mul", x, ONE) is x
    assert Scalar.fold("div", x, ONE) is x
    assert Scalar.fold("tanh", x) is None
    inverse = Scalar.fold("div", ONE, x)
    assert inverse is not None and inverse.value() == np.float32(1) / np.float32(0.3)
    named_one = Scalar(1.0, "N")
    assert (x / named_one).history == "loss_weight 0.3 / N 1", "a 1 that has a name is worth telling"


def test_numbers_join_in() -> None:
    assert (Scalar(0.5, "a") * 3).history == "a 0.5 * 3"
    assert Scalar.of(Scalar(2.0, "b")).why == "b"
    assert Scalar.of(2) == Scalar(2.0)
    with pytest.raises(TypeError):
        Scalar(1.0) * "two"


def test_is_plain() -> None:
    assert Scalar(1.0).is_plain(1)
    assert not Scalar(1.0, "N").is_plain(1)
    assert not Scalar(1.0).is_plain(2)
    assert not (Scalar(2.0) / Scalar(2.0)).is_plain(1), "computed constants have a history"


def test_overflow_and_invalid_values_are_values() -> None:
    assert (Scalar(1e30) * Scalar(1e30)).value("f32") == np.inf
    assert (Scalar(1e30) * Scalar(1e30)).value("f64") == 1e30 * 1e30
    root = Scalar.fold("sqrt", Scalar(-1.0))
    assert root is not None and np.isnan(root.value())
    nan = Scalar.fold("log", Scalar(-1.0))
    assert nan is not None
    for name in ("max", "min"):  # as C's a > b ? a : b
        second, first = Scalar.fold(name, nan, Scalar(2.0)), Scalar.fold(name, Scalar(2.0), nan)
        assert second is not None and first is not None
        assert second.value() == 2 and np.isnan(first.value())
