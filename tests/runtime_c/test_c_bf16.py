"""Pairs of bfloat16 on each instruction set that runs here, with and without the CPU's instructions, against NumPy."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from c_drivers import Drivers
from test_c_headers import compile_text, compiler_for

from lossc.targets import AVX512_BF16, ISAS, Isa

COUNT, GUARD, LINES, TERMS, STEP, WIDTH = 1024, 32, 19, 7, 23, 37
TINY = np.float32(np.finfo(np.float32).tiny)


@pytest.fixture(params=(*ISAS, AVX512_BF16), ids=lambda isa: isa.name)
def isa(request: pytest.FixtureRequest) -> Isa:
    return request.param


def rounded(values: np.ndarray) -> np.ndarray:
    """To the nearest bfloat16 by arithmetic on numbers, not on bits: eight digits, ties to even; NaN stays NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        wide = values.astype(np.float64)
        _, exponent = np.frexp(wide)
        unit = np.ldexp(1.0, np.maximum(exponent, -125) - 8)
        result = np.where(np.isfinite(wide), np.rint(wide / unit) * unit, wide)
        largest = np.float64(np.float32(3.3895314e38))  # bfloat16's; half a unit above it begins infinity
        return np.where(np.abs(result) > largest, np.copysign(np.inf, result), result).astype(np.float32)


def numbers() -> np.ndarray:
    """Five lines of COUNT: special numbers and ties, then any bits that are no denormals, then ordinary numbers."""
    rng = np.random.default_rng(1)
    info = np.finfo(np.float32)
    special = [0, -0.0, np.inf, -np.inf, np.nan, -np.nan, info.max, -info.max, TINY, -TINY, 1, 3.3895314e38, 3.39e38]
    ties = (0x3F800000 + np.arange(64, dtype=np.uint32) * 0x8000).view(np.float32)
    near = np.concatenate([np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(9))])
    nans = (0x7F800001 + np.arange(16, dtype=np.uint32)).view(np.float32)  # signalling, in the low bits alone
    chosen = np.concatenate([np.array(special, np.float32), ties, -ties, near, nans])
    with np.errstate(invalid="ignore"):
        bits = rng.integers(0, 2**32, 400, np.uint32).view(np.float32)
        bits = bits[~(np.abs(bits) < TINY)]
    rest = rng.standard_normal(COUNT - chosen.size - bits.size).astype(np.float32)
    first = np.concatenate([chosen, bits, rest])
    return np.stack([first, np.roll(first, 7), *rng.standard_normal((3, COUNT)).astype(np.float32)])


def halves(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bits = pairs.view(np.uint32)
    return (bits << np.uint32(16)).view(np.float32), (bits & np.uint32(0xFFFF0000)).view(np.float32)


def run(drivers: Drivers, isa: Isa, values: np.ndarray) -> np.ndarray:
    found = np.frombuffer(drivers("bf16.c", isa)(stdin=values.tobytes()), np.float32).reshape(-1, COUNT + GUARD)
    assert (found[:, COUNT:].view(np.uint32) == 0xA5A5A5A5).all()
    return found[:, :COUNT]


def equal(found: np.ndarray, expected: np.ndarray) -> bool:
    """The same bits, except that any NaN equals any NaN."""
    same = np.ascontiguousarray(found).view(np.uint32) == expected.view(np.uint32)
    return bool((same | (np.isnan(found) & np.isnan(expected))).all())


def test_rounding(drivers: Drivers, isa: Isa) -> None:
    values = numbers()
    low, high = halves(run(drivers, isa, values)[0])
    assert equal(low, rounded(values[0])) and equal(high, rounded(values[1]))


def test_in_memory(drivers: Drivers, isa: Isa) -> None:
    values = numbers()
    stored, pairs = run(drivers, isa, values)[-2:]
    assert equal(stored, rounded(values[0]))
    low, high = halves(pairs)
    assert equal(low, stored) and equal(high, np.append(stored[1:], np.float32(0)))


def test_pairs_of_neighbours(drivers: Drivers, isa: Isa) -> None:
    values, lanes = numbers(), isa.lanes("float32")
    low, high = halves(run(drivers, isa, values)[2])
    first, second = (rounded(line).reshape(-1, lanes) for line in values[:2])
    vectors = np.concatenate([first, second], 1)  # a vector of lo, then one of hi
    assert equal(low, np.ascontiguousarray(vectors[:, ::2]).ravel())
    assert equal(high, np.ascontiguousarray(vectors[:, 1::2]).ravel())


def test_denormals_are_rounded_or_count_as_zero(drivers: Drivers, isa: Isa) -> None:
    values = numbers()
    values[0] = np.linspace(-0.99, 0.99, COUNT, dtype=np.float32) * TINY
    low, _ = halves(run(drivers, isa, values)[0])
    assert equal(low, np.copysign(np.float32(0), values[0]) if isa is AVX512_BF16 else rounded(values[0]))


def test_products_are_exact_and_sums_float32(drivers: Drivers, isa: Isa) -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_normal((5, COUNT)).astype(np.float32)
    a, b, a2, b2 = (rounded(line).astype(np.float64) for line in values[:4])
    found, parts = run(drivers, isa, values)[1], np.stack([a * a2, b * b2, values[4].astype(np.float64)])
    assert (np.abs(found - parts.sum(0)) <= 2 * np.finfo(np.float32).eps * np.abs(parts).sum(0)).all()
    values[4] = 0
    values[1] = 0
    assert equal(run(drivers, isa, values)[1], (a * a2).astype(np.float32))


def test_nan_and_infinity_go_through(drivers: Drivers, isa: Isa) -> None:
    values = np.ones((5, COUNT), np.float32)
    values[0, :4] = np.nan, np.inf, -np.inf, np.inf
    values[1, 3] = -np.inf
    assert equal(run(drivers, isa, values)[1][:5], np.array([np.nan, np.inf, -np.inf, np.nan, 3], np.float32))


def test_packing(drivers: Drivers, isa: Isa) -> None:
    """Lines and terms that are not there count as 0, and nothing else is written."""
    values = np.random.default_rng(3).standard_normal((5, COUNT)).astype(np.float32)
    results, lanes, exact = run(drivers, isa, values)[3:-2], isa.lanes("float32"), rounded(values[0])
    for terms, found in zip(range(1, TERMS + 1), results, strict=False):
        lines = np.zeros((TERMS + 1, WIDTH), np.float32)
        lines[:terms, :LINES] = exact[: TERMS * STEP].reshape(TERMS, STEP)[:terms, :LINES]
        pairs = (terms + 1) // 2
        low, high = halves(found[: pairs * WIDTH].reshape(pairs, WIDTH))
        assert equal(low, lines[: 2 * pairs : 2]) and equal(high, lines[1 : 2 * pairs : 2]), terms
        assert (found[pairs * WIDTH :].view(np.uint32) == 0xA5A5A5A5).all()
    assert len(results) == TERMS + 2 * lanes + 1
    for terms, found in zip(range(1, 2 * lanes + 2), results[TERMS:], strict=True):
        line = np.zeros(4 * lanes, np.float32)
        line[:terms] = exact[:terms]
        size = -(-terms // (2 * lanes)) * lanes
        low, high = halves(found[:size].reshape(-1, lanes))
        parts = line.reshape(-1, 2, lanes)[: size // lanes]
        assert equal(low, np.ascontiguousarray(parts[:, 0])) and equal(high, np.ascontiguousarray(parts[:, 1])), terms
        assert (found[size:].view(np.uint32) == 0xA5A5A5A5).all()


@pytest.mark.parametrize("kind", ["gcc", "clang"])
def test_no_warnings_with_the_instructions(kind: str) -> None:
    if not shutil.which(kind):
        pytest.skip(f"no {kind}")
    done = compile_text('#include "simd.h"\n', compiler_for(kind, AVX512_BF16), kind, AVX512_BF16)
    assert (done.returncode, done.stderr) == (0, "")
