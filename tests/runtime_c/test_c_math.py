"""vmath.h: at most 2 ulp, C99's special values, and the same bits on every ISA with an FMA that rounds once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from c_drivers import Drivers

from lossc.targets import AVX2, AVX512, NEON, SCALAR, Isa

Array = np.ndarray[Any, np.dtype[Any]]
FUNCTIONS = ["exp", "expm1", "log", "log1p", "tanh", "sigmoid", "softplus", "erf"]
LIMIT_ULP = 2.0
INF, NAN = np.inf, np.nan
ONE_BITS = 0x3F800000  # of 1.0f
TINY, MOST = float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max)

SPECIAL = {
    "exp": [(0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (TINY, 1), (MOST, INF), (-MOST, 0), (89, INF), (-104, 0)],
    "expm1": [(0, 0), (-0.0, -0.0), (INF, INF), (-INF, -1), (TINY, TINY), (-TINY, -TINY), (MOST, INF), (-MOST, -1)],
    "log": [(1, 0), (0, -INF), (-0.0, -INF), (INF, INF), (-INF, NAN), (-1, NAN), (-TINY, NAN)],
    "log1p": [(0, 0), (-0.0, -0.0), (-1, -INF), (INF, INF), (-INF, NAN), (-2, NAN), (TINY, TINY), (-TINY, -TINY)],
    "tanh": [(0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (TINY, TINY), (-TINY, -TINY), (MOST, 1), (-10, -1)],
    "sigmoid": [(0, 0.5), (-0.0, 0.5), (INF, 1), (-INF, 0), (MOST, 1), (-MOST, 0), (20, 1)],
    "softplus": [(INF, INF), (-INF, 0), (MOST, MOST), (-MOST, 0), (30, 30)],
    "erf": [(0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (MOST, 1), (-MOST, -1), (4, 1)],
}
"""Arguments and results beside NaN, which all functions pass on; exact, with their signs."""


def chunks(lanes: int, *arrays: Array) -> tuple[bytes, int]:
    """Whole vectors of each array in turn, the last filled up with ones."""
    count = -(-arrays[0].size // lanes)
    padded = [np.concatenate([array, np.ones(count * lanes - array.size, array.dtype)]) for array in arrays]
    return np.stack([array.reshape(count, lanes) for array in padded], axis=1).tobytes(), arrays[0].size


def apply(drivers: Drivers, isa: Isa, name: str, *arrays: Array) -> Array:
    """The function ``name`` of the arrays, in their dtype."""
    dtype = arrays[0].dtype
    suffix = "64" if dtype == np.float64 else ""
    stdin, size = chunks(isa.lanes(str(dtype)), *arrays)
    command = ("pow" + suffix,) if name == "pow" else ("values" + suffix, name)
    return np.frombuffer(drivers("math.c", isa)(*command, stdin=stdin), dtype)[:size]


def pow_arguments(count: int, seed: int) -> tuple[Array, Array]:
    """Bases and exponents: any bits; results over the whole range, with bases near 1 and far from it; as in nets."""
    rng = np.random.default_rng(seed)
    any_a, any_b = rng.integers(0, 2**32, (2, count), np.uint32).view(np.float32)
    logs = np.concatenate([rng.uniform(-1, 1, count), rng.uniform(-149, 128, count)])
    bases = np.exp2(logs).astype(np.float32)
    exponents = rng.uniform(-151, 129, 2 * count) / np.log2(bases.astype(np.float64))
    net_a, net_b = rng.uniform(-100, 100, count), rng.choice([-3, -2, -1, -0.75, -0.5, 0.5, 0.75, 1, 2, 3, 4, 7], count)
    a = np.concatenate([any_a, bases, net_a.astype(np.float32)])
    b = np.concatenate([any_b, exponents.astype(np.float32), net_b.astype(np.float32)])
    return a, b


@np.errstate(all="ignore")
def ulp_errors(found: Array, expected: Array) -> Array:
    """|found - expected| in units of the float's last place at the double ``expected``; infinite if of another kind."""
    rounded = expected.astype(np.float32)
    exponents = np.maximum(np.frexp(expected)[1], -125) - 24
    errors = np.abs(found - expected) / np.ldexp(1.0, exponents)
    beyond = np.isinf(rounded) | np.isinf(found)
    errors = np.where(beyond, np.where(found == rounded, 0, np.inf), errors)
    zero_of_other_sign = ((found == 0) | (rounded == 0)) & (np.signbit(found) != np.signbit(rounded))
    errors = np.where(zero_of_other_sign, np.inf, errors)
    nans = np.isnan(found).astype(int) + np.isnan(rounded)
    return np.where(nans == 2, 0, np.where(nans == 1, np.inf, errors))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error(drivers: Drivers, isa: Isa, name: str) -> None:
    stride = 40009 if isa is NEON else 4001  # primes; the emulated processor is slow
    error, worst = drivers("math.c", isa)("error", name, 12345, stride, 2**32 // stride).split()
    assert float(error) <= LIMIT_ULP, f"{name}({np.uint32(int(worst)).view(np.float32)!r})"


def test_error_of_log1p_between_0_and_1(drivers: Drivers, isa: Isa) -> None:
    stride, count = (4001, ONE_BITS // 4001) if isa is NEON else (101, ONE_BITS // 101)
    error, worst = drivers("math.c", isa)("error", "log1p_unit", 0, stride, count + 1).split()
    assert float(error) <= LIMIT_ULP, np.uint32(int(worst)).view(np.float32)
    ends = np.array([0, TINY, 1, NAN], np.float32)
    np.testing.assert_array_equal(apply(drivers, isa, "log1p_unit", ends), np.log1p(ends))


@pytest.mark.slow
def test_error_of_log1p_between_0_and_1_of_all_floats(drivers: Drivers) -> None:
    error, worst = drivers("math.c", AVX2)("error", "log1p_unit", 0, 1, ONE_BITS + 1).split()
    assert float(error) <= LIMIT_ULP, np.uint32(int(worst)).view(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("part", range(8))
def test_error_of_all_floats(drivers: Drivers, name: str, part: int) -> None:
    error, worst = drivers("math.c", AVX2)("error", name, part * 2**29, 1, 2**29).split()
    assert float(error) <= LIMIT_ULP, f"{name}({np.uint32(int(worst)).view(np.float32)!r})"


def check_pow(drivers: Drivers, isa: Isa, a: Array, b: Array) -> None:
    with np.errstate(all="ignore"):
        expected = np.power(a.astype(np.float64), b.astype(np.float64))
    errors = ulp_errors(apply(drivers, isa, "pow", a, b), expected)
    worst = int(np.argmax(errors))
    assert errors[worst] <= LIMIT_ULP, (a[worst], b[worst], expected[worst])


def test_pow_error(drivers: Drivers, isa: Isa) -> None:
    check_pow(drivers, isa, *pow_arguments(4000 if isa is NEON else 40_000, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_pow_error_of_many(drivers: Drivers, seed: int) -> None:
    check_pow(drivers, AVX2, *pow_arguments(2_000_000, seed))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@np.errstate(all="ignore")
def test_special_values(drivers: Drivers, isa: Isa, name: str, dtype: type[np.floating[Any]]) -> None:
    x, y = np.array([*SPECIAL[name], (NAN, NAN)], dtype).T
    if dtype is np.float64:  # the others are special for float alone
        x, y = x[kept := ~np.isfinite(x) | np.isin(x, (-1, 0, 1))], y[kept]
    found = apply(drivers, isa, name, x)
    np.testing.assert_array_equal(found, y)
    np.testing.assert_array_equal(np.signbit(found) & ~np.isnan(y), np.signbit(y) & ~np.isnan(y))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@np.errstate(all="ignore")
def test_pow_of_special_values(drivers: Drivers, isa: Isa, dtype: type[np.floating[Any]]) -> None:
    """C99's table, through the double pow of libm, which NumPy calls."""
    values = [0, -0.0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 1.5, -1.5, INF, -INF, NAN, TINY, -TINY, MOST, -MOST]
    values += [2.0**24 - 1, 2.0**24, 1 - 2.0**-24, -1 - 2.0**-23, 2.0**-24, 33, -34]
    pairs = np.array(np.meshgrid(values, values)).reshape(2, -1)
    a, b = pairs.astype(dtype)
    found = apply(drivers, isa, "pow", a, b)
    expected = np.power(a.astype(np.float64), b.astype(np.float64))
    kind = np.isnan(expected) | np.isinf(expected) | (expected == 0) | (np.abs(expected) == 1)
    np.testing.assert_array_equal(found[kind], expected[kind].astype(dtype))
    signs = np.signbit(found) == np.signbit(expected)
    assert np.all(signs | np.isnan(expected))


def test_pow_is_exact_where_the_result_is_a_float(drivers: Drivers, isa: Isa) -> None:
    bases: list[float] = []
    exponents: list[float] = []
    for power in range(-8, 9):
        for base in (*range(-300, 301), *(n / 64 for n in range(1, 300))):
            if base and float(np.float32(exact := float(base) ** power)) == exact:
                bases.append(base)
                exponents.append(power)
    for root in range(1, 4000):  # squares and their roots
        bases.append(root * root)
        exponents.append(0.5)
    a, b = np.array(bases, np.float32), np.array(exponents, np.float32)
    expected = np.power(a.astype(np.float64), b).astype(np.float32)
    np.testing.assert_array_equal(apply(drivers, isa, "pow", a, b), expected)


def test_sigmoid_and_exp_keep_denormal_results(drivers: Drivers, isa: Isa) -> None:
    x = np.arange(-103, -87, 1 / 64, dtype=np.float32)
    for name in ("exp", "sigmoid", "softplus"):
        found = apply(drivers, isa, name, x)
        assert np.all(found > 0)
        assert np.max(ulp_errors(found, np.exp(x.astype(np.float64)))) <= LIMIT_ULP


@pytest.mark.parametrize("other", [AVX2, NEON, SCALAR], ids=lambda isa: isa.name)
def test_the_same_bits_on_every_isa(drivers: Drivers, other: Isa) -> None:
    """Plain C has its FMA through double: it differs where that is rounded twice, so seldom that no bound is tested."""
    x = np.random.default_rng(3).integers(0, 2**32, 100_000, np.uint32).view(np.float32)
    x = np.concatenate([x, np.linspace(-20, 20, 50_000, dtype=np.float32)])
    b = np.roll(x, 1)
    for name in [*FUNCTIONS, "pow"]:
        arguments = (x, b) if name == "pow" else (x,)
        here, there = (apply(drivers, isa, name, *arguments) for isa in (AVX512, other))
        equal = (here.view(np.uint32) == there.view(np.uint32)) | (np.isnan(here) & np.isnan(there))
        if other is SCALAR:
            np.testing.assert_array_max_ulp(here[~np.isnan(here)], there[~np.isnan(here)], 2)
        else:
            assert np.all(equal), (name, x[~equal])


@pytest.mark.parametrize("name", [*FUNCTIONS, "pow"])
def test_double_goes_through_libm(drivers: Drivers, isa: Isa, name: str) -> None:
    reference: dict[str, Callable[[float], float]] = {
        "exp": math.exp,
        "expm1": math.expm1,
        "log": math.log,
        "log1p": math.log1p,
        "tanh": math.tanh,
        "erf": math.erf,
        "sigmoid": lambda x: math.exp(x) / (1 + math.exp(x)),
        "softplus": lambda x: math.log1p(math.exp(x)),
        "pow": lambda x: x**2.5,
    }
    x = np.random.default_rng(5).uniform(0.01, 20, 200)
    arguments = (x, np.full_like(x, 2.5)) if name == "pow" else (x,)
    expected = np.array([reference[name](v) for v in x])
    np.testing.assert_array_max_ulp(apply(drivers, isa, name, *arguments), expected, 4)
