"""Pooling kernels against a NumPy oracle written from Caffe's definition."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from lossc.codegen.pool import pool_code
from lossc.codegen.pool_spec import NO_MAXIMUM, PoolSpec
from lossc.errors import InternalError, ShapeError
from lossc.resources import runtime_dir
from lossc.targets import SCALAR, Isa, runnable_targets

RUNNABLE = [target.isa for target in runnable_targets()]
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
QUICK = ["-Og", "-Wno-stringop-overflow"]  # for results alone: -Og does not see that a number of rows is positive
GUARD = 24  # elements around every array that must stay as they are
FLT_MAX = float(np.finfo(np.float32).max)


def make(direction="forward", method="MAX", size=(9, 7), kernel=(3, 3), stride=(2, 2), pad=(0, 0), **more):
    """A spec with Caffe's output shape (rounded up) and contiguous planes, unless ``more`` says otherwise."""
    n, channels, out = more.pop("n", 2), more.pop("channels", 3), more.pop("out", None)
    if out is None:
        out = tuple(-(-(s + 2 * p - k) // t) + 1 for s, k, t, p in zip(size, kernel, stride, pad, strict=True))
        out = tuple(o - (p > 0 and (o - 1) * t >= s + p) for o, s, t, p in zip(out, size, stride, pad, strict=True))
    gap = more.pop("gap", 0)

    def strides(shape):
        plane = shape[0] * shape[1] + gap
        return channels * plane + 2 * gap, plane

    kind = more.pop("mask_kind", "byte" if method == "MAX" else "none")
    values = {
        "x_strides": strides(size),
        "y_strides": strides(out),
        "alpha": "1.0f",
        "accumulate": False,
        "mask": None if kind == "none" else "mask",
        "mask_kind": kind,
        **more,
    }
    return PoolSpec(
        "pool", "pool1", direction, method, n, channels, size, out, kernel, stride, pad, x="x", y="y", **values
    )


def window(spec, oh, ow):
    """Corner, clipped borders and Caffe's divisor of one output."""
    top, left = oh * spec.stride[0] - spec.pad[0], ow * spec.stride[1] - spec.pad[1]
    (height, width), (kh, kw) = spec.in_shape, spec.kernel
    area = (min(top + kh, height + spec.pad[0]) - top) * (min(left + kw, width + spec.pad[1]) - left)
    return (top, left), (max(top, 0), min(top + kh, height)), (max(left, 0), min(left + kw, width)), area


def oracle_forward(spec, x):
    """y and the mask of x [n, c, h, w] in float64; index masks hold -1, byte masks 255 where nothing wins."""
    y = np.zeros((*x.shape[:2], *spec.out_shape))
    none = NO_MAXIMUM if spec.mask_kind == "byte" else -1
    mask = np.full(y.shape, none, np.int64)
    for oh, ow in np.ndindex(*spec.out_shape):
        (top, left), rows, cols, area = window(spec, oh, ow)
        if rows[0] >= rows[1] or cols[0] >= cols[1]:
            continue
        if spec.method == "AVE":
            y[:, :, oh, ow] = x[:, :, slice(*rows), slice(*cols)].astype(np.float64).sum((2, 3)) / area
            continue
        best = np.full(x.shape[:2], -FLT_MAX)
        for h in range(*rows):
            for w in range(*cols):
                wins = x[:, :, h, w] > best
                best[wins] = x[:, :, h, w][wins]
                inside = (h - top) * spec.kernel[1] + w - left
                mask[:, :, oh, ow][wins] = inside if spec.mask_kind == "byte" else h * spec.in_shape[1] + w
        y[:, :, oh, ow] = best
    return y, mask


def oracle_backward(spec, dy, mask):
    """The gradient of x in float64."""
    dx = np.zeros((*dy.shape[:2], *spec.in_shape))
    for oh, ow in np.ndindex(*spec.out_shape):
        (top, left), rows, cols, area = window(spec, oh, ow)
        if rows[0] >= rows[1] or cols[0] >= cols[1]:
            continue
        g, at = dy[:, :, oh, ow].astype(np.float64), mask[:, :, oh, ow]
        for h in range(*rows):
            for w in range(*cols):
                here = (h - top) * spec.kernel[1] + w - left
                here = here if spec.mask_kind == "byte" else h * spec.in_shape[1] + w
                dx[:, :, h, w] += g / area if spec.method == "AVE" else np.where(at == here, g, 0)
    return dx


class Guarded:
    """An array [n, c, h, w] at the given strides, with guard zones around it and between its planes.

    It begins ``past`` elements behind the begin of a cache line.
    """

    def __init__(self, values, dtype, strides=None, past=0):
        n, c, h, w = values.shape
        image, channel = strides or (c * h * w, h * w)
        item = np.dtype(dtype).itemsize
        self.memory = np.full(2 * GUARD + 64 // item + n * image, 77, dtype)
        start = GUARD + (-(self.memory.ctypes.data + GUARD * item) % 64) // item + past
        self.pointer = self.memory.ctypes.data + start * item
        self.view = np.lib.stride_tricks.as_strided(
            self.memory[start:], values.shape, (image * item, channel * item, w * item, item)
        )
        self.view[...] = values

    def untouched(self):
        """Whether everything outside the planes is as it was."""
        values = self.view.copy()
        self.view[...] = 77
        intact = bool((self.memory == 77).all())
        self.view[...] = values
        return intact


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compiles specs for one ISA; gives calls f(i, threads, arrays...)."""

    def compile_all(specs, isa: Isa, dtype, compiler="gcc", optimise=()):
        folder = tmp_path_factory.mktemp("pool")
        text = '#include <float.h>\n#include "simd.h"\n#include "threads.h"\n'
        for i, spec in enumerate(specs):
            code, params = pool_code(replace(spec, name=f"kernel{i}"), isa, dtype)
            names = ", ".join(p.split()[-1] for p in params)
            text += f"{code}\nvoid run{i}(int threads, {', '.join(params)});\n"
            text += f"void run{i}(int threads, {', '.join(params)})\n{{\n    (void)threads;\n"
            text += f"    LOSSC_PARALLEL(threads)\n    kernel{i}({names});\n}}\n"
        (folder / "net.c").write_text(text)
        library = folder / "net.so"
        flags = [*WARNINGS, "-Wno-unused-function", "-ffp-contract=off"]
        flags += optimise or (QUICK if compiler == "gcc" else ["-O1"])
        flags += [*isa.compiler_flags(compiler), "-fPIC", "-shared", f"-I{runtime_dir()}"]
        flags += ["-fopenmp"] if compiler == "gcc" else []
        done = subprocess.run(
            [compiler, *flags, str(folder / "net.c"), "-o", str(library), "-lm"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        # RTLD_NODELETE: an OpenMP library must stay mapped until the process ends.
        loaded = ctypes.CDLL(str(library), mode=0x1000 | 2)

        def call(i, threads, *arrays):
            loaded[f"run{i}"](ctypes.c_int(threads), *(ctypes.c_void_p(a.pointer) for a in arrays))

        return call

    return compile_all


def stored(spec, values):
    """[n, c, h, w] as it lies in memory: where channels lie in blocks, [n, blocks, h, w * channels]."""
    if not spec.block:
        return values
    n, c, h, w = values.shape
    parts = values.reshape(n, c // spec.block, spec.block, h, w)
    return np.moveaxis(parts, 2, 4).reshape(n, c // spec.block, h, w * spec.block)


def planes(spec, values):
    """The inverse of ``stored``."""
    if not spec.block:
        return values
    n, blocks, h, w = values.shape
    parts = values.reshape(n, blocks, h, w // spec.block, spec.block)
    return np.moveaxis(parts, 4, 2).reshape(n, blocks * spec.block, h, w // spec.block)


def memory(spec, values, dtype, strides, past=0):
    """``values`` [n, c, h, w] guarded, as ``spec`` has them; ``strides`` are the spec's, or None for no gaps."""
    if strides is not None and spec.block:
        strides = (strides[0], strides[1] * spec.block)
    return Guarded(stored(spec, values), dtype, strides, past)


def random_specs():
    """Common layers, borders of every kind, and random geometry; every spec forward and backward."""
    shapes = [
        {"size": (24, 24), "kernel": (2, 2)},
        {"size": (8, 8), "kernel": (2, 2), "mask_kind": "none", "gap": 3},
        {"size": (28, 28)},
        {"size": (7, 7), "stride": (1, 1), "pad": (1, 1), "gap": 5},
        {"size": (7, 7), "kernel": (7, 7), "stride": (1, 1)},
        {"size": (14, 14), "kernel": (5, 5), "stride": (3, 3)},
        {"size": (112, 40), "n": 1},
        {"size": (40, 19), "kernel": (20, 10), "stride": (20, 10)},
        {"size": (23, 17), "kernel": (9, 8), "stride": (4, 5), "pad": (4, 3)},
        {"size": (5, 6), "kernel": (1, 1), "stride": (3, 3)},
        {"size": (5, 6), "kernel": (1, 2), "stride": (3, 4), "out": (3, 3)},
        {"size": (11, 12), "kernel": (2, 3), "stride": (4, 3)},
        {"size": (40, 30), "kernel": (8, 8), "stride": (33, 29), "out": (3, 2)},
        {"size": (3, 700), "kernel": (3, 1), "stride": (1, 1)},
        {"size": (9, 37), "kernel": (5, 1), "stride": (1, 1), "pad": (2, 0), "gap": 3},
        {"size": (4, 50), "kernel": (3, 1), "stride": (1, 1), "pad": (2, 0)},
        {"size": (2, 5), "kernel": (5, 1), "stride": (1, 1), "pad": (4, 0), "gap": 1},
        {"size": (1, 33), "kernel": (1, 4), "stride": (1, 3), "pad": (0, 2)},
    ]
    rng = np.random.default_rng(5)
    for _ in range(12):
        size = tuple(int(v) for v in rng.integers(2, 20, 2))
        kernel = tuple(int(rng.integers(1, min(s, 6) + 1)) for s in size)
        stride = tuple(int(v) for v in rng.integers(1, 5, 2))
        shapes.append(
            {
                "size": size,
                "kernel": kernel,
                "stride": stride,
                "pad": tuple(int(rng.integers(0, k)) for k in kernel),
                "gap": int(rng.integers(0, 4)),
            }
        )
    for i, shape in enumerate(shapes):
        for method in ("MAX", "AVE"):
            for kind in (shape.get("mask_kind", "byte"), "index") if method == "MAX" else ("none",):
                common = {**shape, "method": method, "mask_kind": kind}
                common |= {"alpha": "0.375f", "accumulate": True} if i % 3 == 1 else {}
                yield from directions(**common)
            kind = shape.get("mask_kind", "byte" if math.prod(shape.get("kernel", (3, 3))) <= NO_MAXIMUM else "none")
            common = {**shape, "method": method, "mask_kind": kind if method == "MAX" else "none"}
            common |= {"alpha": "0.375f"} if i % 2 else {}
            yield from directions(**common, accumulate=i % 3 == 1, channels=32, block=16)


def directions(**common):
    yield make("forward", **common)
    if common["method"] == "AVE" or common["mask_kind"] != "none":
        yield make("backward", **common)


def mask_type(spec, real):
    return np.uint8 if spec.mask_kind == "byte" else real


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", RUNNABLE, ids=lambda isa: isa.name)
def test_kernels_agree_with_oracle(build, isa, dtype):
    """Few distinct values, so ties abound and sums are exact; AVE divides and may round once or twice more."""
    specs = list(random_specs())
    call = build(specs, isa, dtype)
    real = np.dtype(dtype).type
    rng = np.random.default_rng(1)
    for i, spec in enumerate(specs):
        x0 = rng.integers(-3, 4, (spec.n, spec.channels, *spec.in_shape)).astype(real)
        y0 = rng.integers(-8, 9, (spec.n, spec.channels, *spec.out_shape)).astype(real)
        alpha, forward = float(spec.alpha.rstrip("f")), spec.direction == "forward"
        want_y, want_mask = oracle_forward(spec, x0)
        masks = [] if spec.mask is None else [want_mask * 0 + 9 if forward else want_mask]
        results = []
        for threads in (1, 2, 4):
            x, y = memory(spec, x0, dtype, spec.x_strides), memory(spec, y0, dtype, spec.y_strides)
            mask = [memory(spec, m, mask_type(spec, real), None) for m in masks]
            call(i, threads, x, y, *mask)
            assert all(a.untouched() for a in (x, y, *mask)), spec
            results.append([planes(spec, a.view.copy()) for a in (x, y, *mask)])
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                assert a.tobytes() == b.tobytes(), spec
        got_x, got_y = results[0][:2]
        # Values are at most 9, and sums of a handful of quotients: a few roundings.
        bound = {"rtol": 8 * np.finfo(real).eps, "atol": 64 * np.finfo(real).eps}
        if forward:
            np.testing.assert_array_equal(got_x, x0)
            np.testing.assert_allclose(got_y, alpha * want_y + spec.accumulate * y0, err_msg=str(spec), **bound)
            if spec.mask:
                np.testing.assert_array_equal(results[0][2], want_mask, err_msg=str(spec))
        else:
            np.testing.assert_array_equal(got_y, y0)
            want = alpha * oracle_backward(spec, y0, want_mask) + spec.accumulate * x0
            np.testing.assert_allclose(got_x, want, err_msg=str(spec), **bound)


@pytest.mark.parametrize("isa", RUNNABLE, ids=lambda isa: isa.name)
def test_nan_and_infinities_as_caffe_compares_them(build, isa):
    """The maximum starts at -FLT_MAX and needs `>`: NaN never wins, -inf neither, and such a window has no gradient."""
    specs = [
        make(direction, size=(6, 20), kernel=kernel, stride=stride, mask_kind=kind, channels=16, block=block)
        for kernel, stride in (((2, 2), (2, 2)), ((6, 20), (6, 20)), ((1, 20), (1, 20)), ((3, 3), (1, 1)))
        for kind, block in (("byte", 0), ("index", 0), ("byte", 16))
        for direction in ("forward", "backward")
    ]
    call = build(specs, isa, "float32")
    rng = np.random.default_rng(2)
    x0 = rng.choice(np.array([np.nan, -np.inf, np.inf, -FLT_MAX, 1.0], np.float32), (2, 16, 6, 20))
    x0[0, 0] = np.nan
    x0[1, 2] = -np.inf
    for i, spec in enumerate(specs):
        want_y, want_mask = oracle_forward(spec, x0)
        if spec.direction == "forward":
            y = memory(spec, np.zeros_like(want_y), np.float32, None)
            mask = memory(spec, np.zeros_like(want_y), mask_type(spec, np.float32), None)
            call(i, 1, memory(spec, x0, np.float32, None), y, mask)
            np.testing.assert_array_equal(planes(spec, y.view), want_y.astype(np.float32))
            np.testing.assert_array_equal(planes(spec, mask.view), want_mask)
        else:
            x, dy = memory(spec, x0, np.float32, None), np.ones(want_y.shape, np.float32)
            mask = memory(spec, want_mask, mask_type(spec, np.float32), None)
            call(i, 1, x, memory(spec, dy, np.float32, None), mask)
            np.testing.assert_array_equal(planes(spec, x.view), oracle_backward(spec, dy, want_mask))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", RUNNABLE, ids=lambda isa: isa.name)
def test_large_results_are_streamed_and_stay_the_same(build, isa, dtype, monkeypatch):
    specs = [
        make(direction, method, **shape)
        for direction, method, shape in (
            ("backward", "MAX", {"size": (9, 64)}),
            ("backward", "MAX", {"size": (6, 48), "stride": (1, 1), "pad": (1, 1)}),
            ("backward", "AVE", {"size": (9, 32)}),
            ("backward", "AVE", {"size": (9, 33), "stride": (2, 3)}),
            ("forward", "AVE", {"size": (9, 32), "kernel": (5, 1), "stride": (1, 1), "pad": (2, 0)}),
            ("backward", "AVE", {"size": (9, 32), "kernel": (5, 1), "stride": (1, 1), "pad": (2, 0)}),
            ("backward", "MAX", {"size": (5, 7), "channels": 32, "block": 16}),
            ("backward", "AVE", {"size": (5, 7), "stride": (2, 1), "channels": 32, "block": 16}),
        )
    ]
    plain = build(specs, isa, dtype)
    monkeypatch.setattr("lossc.codegen.pool.STREAM_BYTES", 0)
    streamed = build(specs, isa, dtype)
    rng = np.random.default_rng(3)
    for i, spec in enumerate(specs):
        text, _ = pool_code(spec, isa, dtype)
        assert ("_stream(" in text) == (spec.stride[1] < 3 and "each output's gradient" not in text), spec
        x0 = rng.standard_normal((spec.n, spec.channels, *spec.in_shape))
        y0 = rng.standard_normal((spec.n, spec.channels, *spec.out_shape))
        masks = [] if spec.mask is None else [oracle_forward(spec, x0)[1]]
        for past in (0, 1):
            results = []
            for call in (plain, streamed):
                x, y = (memory(spec, values, dtype, None, past) for values in (x0, y0))
                call(i, 2, x, y, *(memory(spec, m, np.uint8, None) for m in masks))
                assert x.untouched() and y.untouched(), spec
                results.append(x.view.tobytes() + y.view.tobytes())
            assert results[0] == results[1], spec


@pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed")
@pytest.mark.parametrize("isa", RUNNABLE, ids=lambda isa: isa.name)
def test_no_warnings_from_clang(build, isa):
    build(list(random_specs())[::3], isa, "float32", "clang")


def test_no_warnings_from_gcc(build):
    """Where more is optimised more is seen, and all warnings hold."""
    build(list(random_specs()), RUNNABLE[0], "float32", "gcc", ["-O1"])


def test_same_text_every_time():
    assert pool_code(make(), SCALAR, "f32") == pool_code(make(), SCALAR, "float32")


def test_parameters():
    _, forward = pool_code(make(mask_kind="index"), SCALAR, "float64")
    assert forward == ("const double *restrict x", "double *restrict y", "double *restrict mask")
    _, backward = pool_code(make("backward"), SCALAR, "float32")
    assert backward == ("float *restrict x", "const float *restrict y", "const unsigned char *restrict mask")


def test_refuses_what_it_cannot_do():
    with pytest.raises(InternalError, match="needs its mask"):
        pool_code(make("backward", mask_kind="none"), SCALAR, "float32")
    with pytest.raises(InternalError, match="no byte mask"):
        pool_code(make(size=(20, 20), kernel=(16, 16)), SCALAR, "float32")
    with pytest.raises(InternalError, match="3 channels in blocks"):
        pool_code(make(block=16), SCALAR, "float32")
    with pytest.raises(InternalError, match="mask_kind 'index'"):
        pool_code(make(channels=16, block=16, mask_kind="index"), SCALAR, "float32")
    with pytest.raises(InternalError, match="AVE has no mask"):
        pool_code(make(method="AVE", mask_kind="byte"), SCALAR, "float32")
    with pytest.raises(ShapeError, match="pad"):
        pool_code(make(pad=(3, 3)), SCALAR, "float32")
    with pytest.raises(ShapeError, match="does not fit a real"):
        pool_code(make(size=(5000, 5000), mask_kind="index"), SCALAR, "float32")
    assert pool_code(make(size=(5000, 5000), mask_kind="index"), SCALAR, "float64")
