"""random.h: Philox's known answers, distributions, and the same bits on every ISA and however the work is shared."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from c_drivers import Drivers

from lossc.targets import SCALAR, Isa

Array = np.ndarray[Any, np.dtype[Any]]
FILLS = {"uniform": (-0.3, 0.7), "gaussian": (0.5, 2.0), "bernoulli": (0.4, 2.5)}
Make = Callable[..., Array]


def philox(counters: Array, key: int) -> Array:
    """Salmon et al. 2011, Philox4x32-10 by the paper: counters (n, 4) of 32-bit words to as many numbers."""
    low = np.uint64(0xFFFFFFFF)
    x0, x1, x2, x3 = counters.astype(np.uint64).T
    key0, key1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * x0, np.uint64(0xCD9E8D57) * x2
        x0, x1 = (product1 >> np.uint64(32)) ^ x1 ^ np.uint64(key0), product1 & low
        x2, x3 = (product0 >> np.uint64(32)) ^ x3 ^ np.uint64(key1), product0 & low
        key0, key1 = (key0 + 0x9E3779B9) % 2**32, (key1 + 0xBB67AE85) % 2**32
    return np.stack([x0, x1, x2, x3], axis=1).astype(np.uint32)


def numbers(begin: int, end: int, seed: int, stream: int) -> Array:
    """What random.h's first comment says of numbers begin ... end - 1."""
    index = np.arange(begin, end, dtype=np.uint64)
    counter = index // np.uint64(64) * np.uint64(16) + index % np.uint64(16)
    word = (index // np.uint64(16) % np.uint64(4)).astype(int)
    ones = np.ones_like(counter)
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    halves = [counter & low, counter >> shift, ones * np.uint64(stream % 2**32), ones * np.uint64(stream >> 32)]
    return philox(np.stack(halves, axis=1), seed)[np.arange(index.size), word]


@pytest.fixture
def make(drivers: Drivers, isa: Isa) -> Make:
    """make(name, begin, end, seed, stream, a, b, parts) runs random.c."""
    return maker(drivers, isa)


def maker(drivers: Drivers, isa: Isa) -> Make:
    driver = drivers("random.c", isa)
    types = {"u32": np.uint32, "f32": np.float32, "f64": np.float64}

    def run(
        name: str, begin: int, end: int, seed: int = 1, stream: int = 2, a: float = 0, b: float = 0, parts: int = 1
    ) -> Array:
        return np.frombuffer(driver(name, begin, end, seed, stream, a, b, parts), types[name[-3:]])

    return run


def test_known_answers() -> None:
    """The vectors of the authors' Random123: zeros, ones and the digits of pi."""
    vectors = [
        ([0] * 4, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0_A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ]
    for counter, key, expected in vectors:
        assert philox(np.array([counter]), key)[0].tolist() == expected


def test_first_numbers_are_the_known_answer(make: Make) -> None:
    block = make("u32", 0, 64, seed=0, stream=0)
    assert block[::16].tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("seed", [0, 1, 0xA4093822_299F31D0])
@pytest.mark.parametrize("stream", [0, 7, 2**64 - 1])
@pytest.mark.parametrize("begin", [0, 50, 2**36 - 5])
def test_numbers(make: Make, begin: int, seed: int, stream: int) -> None:
    found = make("u32", begin, begin + 150, seed, stream)
    np.testing.assert_array_equal(found, numbers(begin, begin + 150, seed, stream))


def test_uniform(make: Make) -> None:
    low, high = map(np.float32, FILLS["uniform"])
    found = make("uniform_f32", 0, 5000, a=low, b=high)
    unit = (numbers(0, 5000, 1, 2) >> 8).astype(np.float32) * np.float32(2**-24)
    np.testing.assert_array_equal(found, low + unit * (high - low))


def test_bernoulli(make: Make) -> None:
    found = make("bernoulli_f32", 0, 5000, a=0.4, b=2.5)
    np.testing.assert_array_equal(found, np.where((numbers(0, 5000, 1, 2) >> 8) < np.float32(0.4) * 2.0**24, 2.5, 0))


def test_bernoulli_never_and_always(make: Make) -> None:
    assert not np.any(make("bernoulli_f32", 0, 20_000, a=0, b=3))
    assert np.all(make("bernoulli_f32", 0, 20_000, a=1, b=3) == 3)


def test_gaussian(make: Make) -> None:
    """Box and Muller 1958 in double, with NumPy's functions."""
    found = make("gaussian_f32", 0, 6400, a=0.5, b=2)
    pairs = numbers(0, 6400, 1, 2).reshape(-1, 2, 32).astype(np.float64)
    radius = np.sqrt(-2 * np.log((pairs[:, 0] + 1) / 2**32))
    angle = 2 * math.pi * pairs[:, 1] / 2**32
    expected = 0.5 + 2 * np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()
    np.testing.assert_allclose(found, expected, rtol=2**-23.9, atol=1e-11)


@pytest.mark.parametrize("name", FILLS)
def test_any_part_by_any_thread(make: Make, name: str) -> None:
    a, b = FILLS[name]
    whole = make(f"{name}_f32", 0, 1000, a=a, b=b)
    np.testing.assert_array_equal(make(f"{name}_f32", 0, 1000, a=a, b=b, parts=7), whole)
    for begin, end in [(1, 2), (3, 64), (64, 128), (63, 129), (130, 130), (200, 777)]:
        np.testing.assert_array_equal(make(f"{name}_f32", begin, end, a=a, b=b), whole[begin:end])


@pytest.mark.parametrize("name", FILLS)
def test_double_gives_the_float_numbers(make: Make, name: str) -> None:
    a, b = FILLS[name]
    assert np.array_equal(make(f"{name}_f64", 5, 3000, a=a, b=b), make(f"{name}_f32", 5, 3000, a=a, b=b))


@pytest.mark.parametrize("name", FILLS)
def test_the_same_bits_on_every_isa(drivers: Drivers, isa: Isa, name: str) -> None:
    a, b = FILLS[name]
    found, plain = (maker(drivers, other)(f"{name}_f32", 3, 100_000, a=a, b=b) for other in (isa, SCALAR))
    assert found.tobytes() == plain.tobytes()


def test_statistics(drivers: Drivers) -> None:
    """Moments within 4 standard errors, the normal law's tails, no correlation between neighbours or streams."""
    make, n = maker(drivers, SCALAR), 400_000
    uniform = make("uniform_f32", 0, n, a=0, b=1).astype(np.float64)
    normal = make("gaussian_f32", 0, n, a=0, b=1).astype(np.float64)
    dropped = make("bernoulli_f32", 0, n, a=0.3, b=1).astype(np.float64)
    limit = 4 / math.sqrt(n)
    assert abs(uniform.mean() - 0.5) < limit * math.sqrt(1 / 12)
    assert abs(uniform.var() - 1 / 12) < limit * math.sqrt(1 / 180)
    assert abs(dropped.mean() - 0.3) < limit * math.sqrt(0.21)
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((normal**power).mean() - moment) < limit * math.sqrt(variance)
    for bound in (1, 2, 3):
        share = math.erfc(bound / math.sqrt(2))
        assert abs((np.abs(normal) > bound).mean() - share) < limit * math.sqrt(share * (1 - share))
    bins = np.histogram(uniform, 256, (0, 1))[0]
    assert abs(np.sum((bins - n / 256) ** 2) / (n / 256) - 255) < 4 * math.sqrt(2 * 255)
    other = make("gaussian_f32", 0, n, stream=3, a=0, b=1).astype(np.float64)
    for shift in (1, 16, 32, 64):
        assert abs(np.mean(normal[shift:] * normal[:-shift])) < limit
    assert abs(np.mean(normal * other)) < limit
