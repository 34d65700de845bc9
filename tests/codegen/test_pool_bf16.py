"""Poolings of images that lie in memory as bfloat16, against the same ones in float32, to the bit."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from contraction_harness import WARNINGS, bf16
from test_pool import build, make, memory  # noqa: F401 (a fixture)

from lossc.codegen.pool import pool_code
from lossc.codegen.pool_spec import PoolSpec
from lossc.errors import InternalError
from lossc.resources import runtime_dir
from lossc.targets import AVX512, NEON, rounding_targets, runnable_targets

HERE = [target.isa for target in (*rounding_targets(), *runnable_targets())]
SIDES = ((True, True), (True, False), (False, True))  # of x and y: which lies as bfloat16
SHAPES = (
    {"size": (13, 9)},
    {"size": (9, 7), "mask_kind": "none", "alpha": "0.375f"},
    {"size": (7, 7), "stride": (1, 1), "pad": (1, 1), "gap": 3},
    {"size": (7, 6), "kernel": (7, 6), "stride": (1, 1)},
    {"size": (9, 8), "kernel": (8, 7), "stride": (2, 1), "pad": (3, 0), "mask_kind": "none"},
    {"size": (5, 6), "kernel": (1, 2), "stride": (3, 4), "out": (3, 3)},
)


def poolings() -> list[PoolSpec]:
    found = []
    for shape, method, (x, y) in itertools.product(SHAPES, ("MAX", "AVE"), SIDES):
        kind = shape.get("mask_kind", "byte") if method == "MAX" else "none"
        spec = make(method=method, channels=32, block=16, **{**shape, "mask_kind": kind})
        found.append(replace(spec, x_bf16=x, y_bf16=y, accumulate=not y and method == "AVE"))
    return found


def stored(values: np.ndarray, half: bool) -> np.ndarray:
    """As it lies in memory; the values are bfloat16's where ``half``."""
    return (values.view(np.uint32) >> 16).astype(np.uint16) if half else values


@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_the_same_as_in_float32_but_for_the_result_rounded_once(build, isa):  # noqa: F811
    specs = poolings()
    assert any("lines[" in pool_code(spec, isa, "float32")[0] for spec in specs)
    halves = build(specs, isa, "float32")
    wide = build([replace(spec, x_bf16=False, y_bf16=False) for spec in specs], isa, "float32")
    rng = np.random.default_rng(4)
    for i, spec in enumerate(specs):
        x0, y0 = (rng.standard_normal((spec.n, spec.channels, *s)) for s in (spec.in_shape, spec.out_shape))
        x0, y0 = (bf16(values.astype(np.float32)) for values in (x0, y0))
        results = []
        for call, threads, x_half, y_half in (
            (wide, 1, False, False), (halves, 1, spec.x_bf16, spec.y_bf16), (halves, 3, spec.x_bf16, spec.y_bf16),
        ):  # fmt: skip
            x = memory(spec, stored(x0, x_half), np.uint16 if x_half else np.float32, spec.x_strides)
            y = memory(spec, stored(y0, y_half), np.uint16 if y_half else np.float32, spec.y_strides)
            mask = [memory(spec, 0 * y0, np.uint8, None)] if spec.mask else []
            call(i, threads, x, y, *mask)
            assert all(a.untouched() for a in (x, y, *mask)), spec
            results.append([a.view.copy() for a in (y, *mask)])
        expected = results[0]
        expected[0] = stored(bf16(expected[0]), True) if spec.y_bf16 else expected[0]
        for found in results[1:]:
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=str(spec))


@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_no_warnings_from_clang(build, isa):  # noqa: F811
    if not shutil.which("clang"):
        pytest.skip("clang is not installed")
    build(poolings(), isa, "float32", "clang")


def test_no_warnings_for_neon(tmp_path):
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if not compiler:
        pytest.skip("there is no compiler for AArch64")
    codes = [pool_code(replace(s, name=f"kernel{i}"), NEON, "float32")[0] for i, s in enumerate(poolings())]
    text = "\n".join(['#include <float.h>\n#include "simd.h"\n#include "threads.h"', *codes])
    (tmp_path / "pool.c").write_text(text)
    flags = [*WARNINGS, "-Wno-unused-function", "-O1", *NEON.compiler_flags("gcc"), f"-I{runtime_dir()}"]
    done = subprocess.run([compiler, *flags, "-c", "pool.c"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_parameters_and_stores(monkeypatch):
    """No store of bfloat16 goes past the caches."""
    monkeypatch.setattr("lossc.codegen.pool.STREAM_BYTES", 0)
    spec = make(method="AVE", channels=16, block=16)
    texts = {}
    for x, y in ((False, False), *SIDES):
        texts[x, y], declared = pool_code(replace(spec, x_bf16=x, y_bf16=y), AVX512, "float32")
        types = ["uint16_t" if half else "float" for half in (x, y)]
        assert declared == (f"const {types[0]} *restrict x", f"{types[1]} *restrict y")
    assert [sides for sides, text in texts.items() if "vf32_stream" in text] == [(False, False), (True, False)]


def test_refuses_what_it_cannot_do():
    blocks = make(channels=16, block=16, x_bf16=True)
    for spec, dtype in (
        (make(channels=16, x_bf16=True), "float32"),
        (replace(blocks, direction="backward"), "float32"),
        (blocks, "float64"),
    ):
        with pytest.raises(InternalError, match="bfloat16 is for float32 in blocks, forward"):
            pool_code(spec, AVX512, dtype)
    with pytest.raises(InternalError, match="nothing is added"):
        pool_code(replace(blocks, y_bf16=True, accumulate=True), AVX512, "float32")
