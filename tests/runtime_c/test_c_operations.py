"""Every operation of simd.h, on each instruction set that runs here, against NumPy: values, tails and stray writes."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from c_drivers import Drivers

from lossc.targets import SCALAR, Isa

SIZE, GUARD = 64, 40
Array = np.ndarray[Any, np.dtype[Any]]
Records = dict[tuple[str, int], Array]
TYPES = {"f32": np.float32, "f64": np.float64, "i32": np.int32, "i64": np.int64, "u8_": np.uint8}


def inputs(real: type[np.floating[Any]]) -> dict[str, Array]:
    """Five arrays of SIZE: a, b with special values in all pairs, c without, and two of integers."""
    rng = np.random.default_rng(7)
    info = np.finfo(real)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, 1.5, 2.5, -2.5, info.tiny / 4, info.max])
    integers = np.int32 if real is np.float32 else np.int64
    a = np.concatenate([special, special, rng.normal(0, 30, SIZE - 2 * special.size)])
    b = np.concatenate([special, np.roll(special, 5), rng.normal(0, 30, SIZE - 2 * special.size)])
    ranges = np.iinfo(integers)
    ia, ib = rng.integers(ranges.min, ranges.max, (2, SIZE), integers)
    ib[::5] = ia[::5]
    ia[:4] = 0, 1, -1, ranges.min
    return {"a": a.astype(real), "b": b.astype(real), "c": rng.normal(0, 5, SIZE).astype(real), "ia": ia, "ib": ib}


@pytest.fixture(scope="module")
def data() -> dict[str, dict[str, Array]]:
    return {"f32": inputs(np.float32), "f64": inputs(np.float64)}


@pytest.fixture
def records(drivers: Drivers, isa: Isa, data: dict[str, dict[str, Array]]) -> Records:
    """What operations.c wrote: (name, n) to the elements."""
    stdin = b"".join(array.tobytes() for arrays in data.values() for array in arrays.values())
    output = drivers("operations.c", isa)(stdin=stdin)
    found: Records = {}
    position = 0
    while position < len(output):
        line = output.index(b"\n", position)
        name, n, count = output[position:line].decode().split()
        array = np.frombuffer(output, TYPES[name[:3]], int(count), line + 1)
        found[name, int(n)] = array
        position = line + 1 + array.nbytes
    return found


def same_bits(x: Array, y: Array) -> bool:
    """The same bits, except that any NaN equals any NaN."""
    assert x.dtype == y.dtype and x.shape == y.shape
    bits = f"u{x.itemsize}"
    equal = np.ascontiguousarray(x).view(bits) == np.ascontiguousarray(y).view(bits)
    return bool(np.all(equal | (np.isnan(x) & np.isnan(y))))


def fused(dtype: str, isa: Isa) -> Callable[[Array, Array, Array], Array]:
    """a * b + c: rounded once by libm; plain C has no FMA instruction and goes through double, or rounds twice."""
    if isa is SCALAR:
        if dtype == "f64":
            return lambda a, b, c: a * b + c
        return lambda a, b, c: (a.astype(np.float64) * b + c).astype(np.float32)
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    function, real = (libm.fmaf, ctypes.c_float) if dtype == "f32" else (libm.fma, ctypes.c_double)
    function.restype, function.argtypes = real, [real] * 3
    return lambda a, b, c: np.array([function(*map(float, abc)) for abc in zip(a, b, c, strict=True)], a.dtype)


def to_int(x: Array, integer: type[np.signedinteger[Any]]) -> Array:
    """C's cast, and the smallest integer for what does not fit."""
    limit = 2.0 ** (np.iinfo(integer).bits - 1)
    fits = (x >= -limit) & (x < limit)
    return np.where(fits, np.where(fits, x, 0).astype(integer), np.iinfo(integer).min)


def elementwise(dtype: str, isa: Isa, d: dict[str, Array]) -> dict[str, Array]:
    """The results of all element-wise operations on SIZE elements."""
    a, b, c, ia, ib = d.values()
    fma, real, unsigned = fused(dtype, isa), a.dtype, np.dtype(f"u{ia.dtype.itemsize}")
    bits = dtype.replace("f", "i")
    reals = {
        "add": a + b, "sub": a - b, "mul": a * b, "div": a / b, "fma": fma(a, b, c), "fnma": fma(-a, b, c), "neg": -a,
        "abs": np.abs(a), "sqrt": np.sqrt(a), "min": np.where(a < b, a, b), "max": np.where(a > b, a, b),
        "floor": np.floor(a), "trunc": np.trunc(a), "round": np.rint(a), "to_float": ia.astype(real),
        "from_bits": ia.view(real), "select": np.where(a < b, a, c), "lt": a < b, "le": a <= b, "gt": a > b,
        "ge": a >= b, "eq": a == b, "ne": a != b, "and": (a < b) & (c > b), "or": (a < b) | (c > b), "not": ~(a < b),
        "int_lt": ia < ib, "int_eq": ia == ib,
    }  # fmt: skip
    integers = {
        "to_int": to_int(a, ia.dtype.type), "bits": a.view(ia.dtype), "add": ia + ib, "sub": ia - ib, "mul": ia * ib,
        "and": ia & ib, "or": ia | ib, "xor": ia ^ ib, "shl": ia << 3, "shr": (ia.view(unsigned) >> 3).view(ia.dtype),
        "select": np.where(ia < ib, ia, 7),
    }  # fmt: skip
    return {f"{dtype}_{name}": array.astype(real) for name, array in reals.items()} | {
        f"{bits}_{name}": array.astype(ia.dtype) for name, array in integers.items()
    }


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_elementwise(records: Records, isa: Isa, data: dict[str, dict[str, Array]], dtype: str) -> None:
    sizes = [*range(2 * isa.lanes(dtype) + 2), SIZE]
    for name, expected in elementwise(dtype, isa, data[dtype]).items():
        untouched = np.frombuffer(b"\xa5" * expected.itemsize * GUARD, expected.dtype)
        for n in sizes:
            found = records[name, n]
            assert same_bits(found[:n], expected[:n]), (name, n, found[:n], expected[:n])
            assert same_bits(found[n:], untouched), (name, n, "wrote past the end")


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_tail_masks(records: Records, isa: Isa, dtype: str) -> None:
    lanes = isa.lanes(dtype)
    for n in range(2 * lanes + 2):
        parts = [min(lanes, n - i) for i in range(0, n, lanes)]
        expected = [float(lane < part // 2) for part in parts for lane in range(part)]
        assert records[f"{dtype}_tail", n][:n].tolist() == expected


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_memory(records: Records, isa: Isa, data: dict[str, dict[str, Array]], dtype: str) -> None:
    lanes, bits = isa.lanes(dtype), dtype.replace("f", "i")
    a, ia = data[dtype]["a"], data[dtype]["ia"]
    lane = np.arange(lanes)
    idx = (lane * 37 + 11) % SIZE
    whole = {
        f"{dtype}_load": a[1 : lanes + 1], f"{dtype}_stream": a[2 : lanes + 2], f"{dtype}_iota": lane.astype(a.dtype),
        f"{bits}_iota": lane.astype(ia.dtype), f"{bits}_load": ia[1 : lanes + 1], f"{dtype}_gather": a[idx],
    }  # fmt: skip
    for name, expected in whole.items():
        assert same_bits(records[name, lanes], expected), name
    for n in range(lanes + 1):
        assert same_bits(records[f"{dtype}_load_n", n], np.where(lane < n, a[1 : lanes + 1], a.dtype.type(0)))
        assert same_bits(records[f"{bits}_load_n", n], np.where(lane < n, ia[1 : lanes + 1], ia.dtype.type(0)))
        assert same_bits(records[f"{dtype}_gather_n", n], np.where(lane < n, a[idx], a.dtype.type(0)))
    for k in range(4):
        assert same_bits(records[f"{dtype}_load_columns", k], a[1 + 3 * lane + k])


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_every_second_lane(records: Records, isa: Isa, data: dict[str, dict[str, Array]], dtype: str) -> None:
    lanes = isa.lanes(dtype)
    both = data[dtype]["a"][: 2 * lanes]
    zipped = np.stack([both[:lanes], both[lanes:]], axis=1).ravel()
    expected = {"even": both[::2], "odd": both[1::2], "zip_low": zipped[:lanes], "zip_high": zipped[lanes:]}
    for name, array in expected.items():
        assert same_bits(records[f"{dtype}_{name}", lanes], array), name


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bytes(records: Records, isa: Isa, data: dict[str, dict[str, Array]], dtype: str) -> None:
    lanes, place = isa.lanes(dtype), np.arange(SIZE)
    a = (place * 37 % 128).astype(np.uint8)
    b = np.where(place % 3, place * 53 % 128, a).astype(np.uint8)
    less = data[dtype]["a"] < data[dtype]["b"]
    expected = {"load": a, "set1": a * 0 + 255, "add": a + b, "select": np.where(less, a, b)}
    for n in [*range(2 * lanes + 2), SIZE]:
        assert records[f"{dtype}_byte_eq", n][:n].tolist() == (a == b)[:n].tolist()
        for name, array in expected.items():
            found = records[f"u8_{dtype}_{name}", n]
            assert found[:n].tolist() == array[:n].tolist(), (name, n)
            assert found[n:].tolist() == [0xA5] * GUARD, (name, n, "wrote past the end")
    stored = [*a[1 : lanes + 1].tolist(), *[0xA5] * (SIZE + GUARD - lanes)]
    assert records[f"u8_{dtype}_store", lanes].tolist() == stored


@pytest.mark.parametrize("stride", [1, 2, 3, -1, -3])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_strided(
    records: Records, isa: Isa, data: dict[str, dict[str, Array]], dtype: str, stride: int
) -> None:
    lanes, a = isa.lanes(dtype), data[dtype]["a"]
    places = (SIZE - 1 if stride < 0 else 0) + stride * np.arange(lanes)
    for n in range(lanes + 1):
        loaded = np.where(np.arange(lanes) < n, a[places], a.dtype.type(0))
        stored = np.frombuffer(b"\xa5" * a.nbytes, a.dtype).copy()
        stored[places[:n]] = a[:n]
        assert same_bits(records[f"{dtype}_load_strided_n{stride}", n], loaded)
        assert same_bits(records[f"{dtype}_store_strided_n{stride}", n], stored)
    assert same_bits(records[f"{dtype}_load_strided{stride}", lanes], a[places])
    assert same_bits(records[f"{dtype}_store_strided{stride}", lanes], stored)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_a_block_is_turned(records: Records, data: dict[str, dict[str, Array]], dtype: str) -> None:
    a = data[dtype]["a"]
    turned = np.frombuffer(b"\xa5" * a.nbytes, a.dtype).copy()
    for p, line in np.ndindex(4, 4):
        turned[2 + p * 13 + line] = a[1 + line * 11 + p]
    assert same_bits(records[f"{dtype}_turn4", 4], turned)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_reductions_go_by_a_tree_of_halves(
    records: Records, isa: Isa, data: dict[str, dict[str, Array]], dtype: str
) -> None:
    def tree(lanes: Array, combine: Callable[[Array, Array], Array]) -> Array:
        while lanes.size > 1:
            half = lanes.size // 2
            lanes = combine(lanes[:half], lanes[half:])
        return lanes[0]

    lanes, a, c = isa.lanes(dtype), data[dtype]["a"], data[dtype]["c"]
    for i in range(SIZE - lanes + 1):
        part = a[i : i + lanes]
        expected = [
            tree(c[i : i + lanes], np.add),
            tree(part, lambda x, y: np.where(x > y, x, y)),
            tree(part, lambda x, y: np.where(x < y, x, y)),
        ]
        assert same_bits(records[f"{dtype}_reduce", i], np.array(expected, a.dtype)), i
        any_negative, any_tail = records[dtype.replace("f", "i") + "_any", i]
        assert (any_negative, any_tail) == (np.any(part < 0), i % lanes > 0)


def test_product_of_low_halves(records: Records) -> None:
    low = (np.arange(SIZE, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) & np.uint64(0xFFFFFFFF)
    assert np.array_equal(records["i64_mul_u32", SIZE].view(np.uint64), low * np.uint64(0xCD9E8D57))


def test_nothing_outside_is_touched(drivers: Drivers, isa: Isa) -> None:
    assert drivers("edges.c", isa)() == b"untouched\n"
