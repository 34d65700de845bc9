"""gemm against NumPy in float64: shapes around the tiles' borders, any strides, every ISA that runs here."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from contraction_harness import GUARD, REAL, SPEED, Library, assert_tidy, bf16, local_names

from lossc.codegen.contraction import LOCALS, Epilogue
from lossc.codegen.gemm import gemm_code
from lossc.codegen.gemm_plan import GemmSpec, along_rows
from lossc.targets import AVX512, ISAS, runnable_targets

HERE = [target.isa for target in runnable_targets()]


def span(shape, strides):
    return sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1


def view(array, shape, strides):
    return np.lib.stride_tricks.as_strided(array, shape, [s * array.itemsize for s in strides])


def bias_relu(dtype: str, spec: GemmSpec) -> Epilogue:
    """max(acc + bias[i, j], 0), the bias contiguous along C's contiguous axis."""
    at = f"j * {spec.m} + i" if along_rows(spec) else f"i * {spec.n} + j"
    vec, real = f"v{dtype}", {"f32": "float", "f64": "double"}[dtype]
    lines = (
        f"const {vec} biased = {vec}_add(acc, {vec}_load_n(bias + {at}, m));",
        f"const {vec} out = {vec}_max(biased, {vec}_zero());",
    )
    return Epilogue(lines, (f"const {real} *restrict bias",))


def random_spec(rng: random.Random, index: int, lanes: int, dtype: str) -> GemmSpec:
    def extent() -> int:
        return rng.choice([1, 2, 3, max(1, lanes - 1), lanes, lanes + 1, 2 * lanes + 1, rng.randint(1, 6 * lanes + 9)])

    def strides(rows: int, columns: int) -> tuple[int, int]:
        gap = rng.choice([0, 0, 3])
        return (columns + gap, 1) if rng.random() < 0.6 else (1, rows + gap)

    m, n, k = extent(), extent(), rng.choice([extent(), extent(), 1, 600, 1100])
    c_strides = rng.choice([(2 * n + 1, 2), (3, 3 * m + 1)]) if rng.random() < 0.15 else strides(m, n)
    spec = GemmSpec(
        f"gemm{index}", f"c[{m},{n}] = a[{m},{k}] b[{k},{n}]", "a", "b", "c", m, n, k, strides(m, k), strides(k, n),
        c_strides, alpha=rng.choice(["1.0f", "1.0", "0.5f", "scale[0]"]), accumulate=rng.random() < 0.5,
    )  # fmt: skip
    if spec.alpha == "scale[0]":
        real = {"f32": "float", "f64": "double"}[dtype]
        spec = replace(spec, alpha_comment="scale of a blob", alpha_args=(f"const {real} *restrict scale",))
    return replace(spec, epilogue=bias_relu(dtype, spec)) if rng.random() < 0.4 else spec


def check(library: Library, spec: GemmSpec, dtype: str, seed: int, threads=(1, 2, 4)) -> None:
    rng = np.random.default_rng(seed)
    real = REAL[dtype]
    a = rng.standard_normal(span((spec.m, spec.k), spec.a_strides)).astype(real)
    b = rng.standard_normal(span((spec.k, spec.n), spec.b_strides)).astype(real)
    before = rng.standard_normal(span((spec.m, spec.n), spec.c_strides) + 2 * GUARD).astype(real)
    bias = rng.standard_normal((spec.n, spec.m) if along_rows(spec) else (spec.m, spec.n)).astype(real)
    scale = np.array([0.25], real)

    expected = before.astype(np.float64)
    c = view(expected[GUARD:], (spec.m, spec.n), spec.c_strides)
    factor = 0.25 if spec.alpha == "scale[0]" else float(spec.alpha.rstrip("f"))
    read = bf16 if spec.bf16 else np.array
    a64, b64 = (
        view(read(x).astype(np.float64), shape, strides)
        for x, shape, strides in ((a, (spec.m, spec.k), spec.a_strides), (b, (spec.k, spec.n), spec.b_strides))
    )
    value = factor * (a64 @ b64)
    if spec.epilogue:
        value = np.maximum(value + (bias.T if along_rows(spec) else bias), 0)
    c[...] = value + c if spec.accumulate else value

    results = []
    for count in threads:
        got = before.copy()
        arrays = [a, b, got[GUARD:-GUARD]]
        arrays += [bias] if spec.epilogue else []
        arrays += [scale] if spec.alpha_args else []
        library.run(spec.name, arrays, count)
        results.append(got)
    tolerance = {"f32": 1e-6, "f64": 1e-14}[dtype] * (4 + spec.k)
    np.testing.assert_allclose(results[0], expected, rtol=0, atol=tolerance, err_msg=str(spec))
    touched = np.zeros(before.shape, bool)
    view(touched[GUARD:], (spec.m, spec.n), spec.c_strides)[...] = True
    assert (results[0][~touched] == before[~touched]).all(), f"written outside of c: {spec}"
    for got in results[1:]:
        assert got.tobytes() == results[0].tobytes(), f"depends on the number of threads: {spec}"


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_random_products(isa, dtype, tmp_path):
    rng = random.Random(f"{isa.name} {dtype}")
    lanes = isa.lanes("float32" if dtype == "f32" else "float64")
    specs = [random_spec(rng, index, lanes, dtype) for index in range(24)]
    library = Library({s.name: gemm_code(s, isa, dtype) for s in specs}, isa, dtype, tmp_path)
    for seed, spec in enumerate(specs):
        check(library, spec, dtype, seed)


def blocked_specs() -> list[GemmSpec]:
    """Large enough for every kind of blocking: rows, columns, depth, both operands packed."""
    return [
        GemmSpec("square", "both packed", "a", "b", "c", 500, 300, 1030, (1030, 1), (300, 1), (300, 1)),
        GemmSpec("rows", "blocks of rows", "a", "b", "c", 2100, 260, 300, (512, 1), (260, 1), (260, 1)),
        GemmSpec("columns", "blocks of columns", "a", "b", "c", 70, 9001, 300, (300, 1), (9001, 1), (9001, 1)),
        GemmSpec("turned", "ip forward", "a", "b", "c", 64, 500, 800, (800, 1), (1, 800), (500, 1)),
        GemmSpec("weights", "ip weights", "a", "b", "c", 500, 800, 64, (1, 500), (800, 1), (800, 1), accumulate=True),
        GemmSpec("layer", "tasks with panels of their own", "a", "b", "c", 100, 523, 784, (784, 1), (1, 784), (523, 1)),
        GemmSpec("data", "ip gradient of the data", "a", "b", "c", 100, 500, 1000, (1000, 1), (500, 1), (500, 1)),
        GemmSpec("crowded", "rows of b a page apart", "a", "b", "c", 100, 1000, 300, (300, 1), (1024, 1), (1000, 1)),
        GemmSpec("narrow", "columns fewer than a panel's", "a", "b", "c", 90, 27, 2000, (2000, 1), (27, 1), (27, 1)),
        GemmSpec("one_row", "a vector times a matrix", "a", "b", "c", 1, 1000, 700, (700, 1), (1000, 1), (1000, 1)),
        GemmSpec("one_image", "a matrix times a vector", "a", "b", "c", 1, 1000, 700, (700, 1), (1, 700), (1000, 1)),
    ]


def test_blocked_products(tmp_path):
    isa = HERE[0]
    library = Library({s.name: gemm_code(s, isa, "f32") for s in blocked_specs()}, isa, "f32", tmp_path, optimise=SPEED)
    for seed, spec in enumerate(blocked_specs()):
        check(library, spec, "f32", seed, threads=(1, 2, 3))


def few_rows_specs() -> list[GemmSpec]:
    """A few rows by a large matrix, in either order of its terms; the last runs and chunks of terms are shorter."""
    return [
        GemmSpec("streamed", "ip data", "a", "b", "c", 16, 1100, 530, (530, 1), (1100, 1), (1100, 1)),
        GemmSpec("streamed_on", "one chunk", "a", "b", "c", 5, 1024, 261, (300, 1), (1024, 1), (1031, 1),
                 alpha="0.5f", accumulate=True),
        GemmSpec("streamed_tail", "tiles overlap", "a", "b", "c", 15, 1030, 777, (1, 15), (1030, 1), (1030, 1)),
        GemmSpec("crossed", "ip forward", "a", "b", "c", 16, 301, 4096, (4096, 1), (1, 4096), (301, 1)),
    ]  # fmt: skip


@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_few_rows_by_a_large_matrix(isa, tmp_path):
    specs = [replace(s, epilogue=bias_relu("f32", s)) if index % 2 else s for index, s in enumerate(few_rows_specs())]
    codes = {s.name: gemm_code(s, isa, "f32") for s in specs}
    library = Library(codes, isa, "f32", tmp_path, optimise=["-O1"])
    for seed, spec in enumerate(specs):
        check(library, spec, "f32", seed, threads=(1, 2, 3))


def test_a_large_matrix_passes_few_rows_by_in_order():
    names = {s.name: gemm_code(s, AVX512, "f32").choice.name for s in few_rows_specs()}
    streams = [name for name, choice in names.items() if "stream" in choice]
    assert streams == ["streamed", "streamed_on", "streamed_tail"]
    assert names["crossed"] == "gemm nt 6x1 crossed packed b"
    assert "2 chunks of 288 terms" in gemm_code(few_rows_specs()[0], AVX512, "f32").text


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_warnings_without_openmp(compiler, tmp_path):
    import shutil

    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    isa = HERE[0]
    rng = random.Random(5)
    specs = [random_spec(rng, index, isa.lanes("float32"), "f32") for index in range(8)]
    specs += blocked_specs()[3:6] + few_rows_specs()
    codes = {s.name: gemm_code(s, isa, "f32") for s in specs}
    library = Library(codes, isa, "f32", tmp_path, compiler=compiler, openmp=False, optimise=["-O1"])
    for seed, spec in enumerate(specs):
        check(library, spec, "f32", seed, threads=(1,))


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_the_same_spec_gives_the_same_text(isa):
    for spec in blocked_specs():
        assert gemm_code(spec, isa, "f32") == gemm_code(spec, isa, "f32")


def test_parameters_cannot_be_shadowed():
    """Every name declared inside the functions is in LOCALS, which callers keep their parameters apart from."""
    rng = random.Random(7)
    for index in range(60):
        spec = replace(random_spec(rng, index, 16, "f32"), epilogue=None)
        assert local_names(gemm_code(spec, AVX512, "f32").text) <= LOCALS


def test_the_large_operand_is_never_packed():
    """ip1's forward at batch 64: w[500,800] is read where it lies, only x[64,800] is packed."""
    spec = blocked_specs()[3]
    code = gemm_code(spec, AVX512, "f32")
    assert code.shared_scratch == 64 * 800
    assert code.params == ("const float *restrict a", "const float *restrict b", "float *restrict c")


def test_weights_are_packed_by_the_task_that_uses_them():
    """A layer's forward at batch 100: what is shared is x[100,784] at the most, never w[523,784]."""
    code = gemm_code(blocked_specs()[5], AVX512, "f32")
    assert "each task packs its own" in code.text
    assert code.shared_scratch <= 100 * 784 and code.thread_scratch < 64 * 784


def test_gradients_of_data_read_weights_where_they_lie():
    """A layer's gradient of the data at batch 100: w[1000,500] is fetched ahead, and never copied."""
    code = gemm_code(blocked_specs()[6], AVX512, "f32")
    assert code.shared_scratch == 0 and "packed_b" not in code.text
    assert "LOSSC_PREFETCH_L2(b + next_column" in code.text


def test_weights_whose_rows_crowd_the_cache_are_packed_by_blocks():
    """Rows a page apart fall on few sets of the L1 cache: threads copy the block at hand."""
    code = gemm_code(blocked_specs()[7], AVX512, "f32")
    assert "each task packs its own" in code.text and code.shared_scratch == 0


def test_plain_tiles_are_stored_straight_from_registers():
    """Gradients of weights: whole tiles take no detour, those at the border do; an epilogue asks for it always."""
    spec = blocked_specs()[4]
    assert "const ptrdiff_t out_row, const int adds" in gemm_code(spec, AVX512, "f32").text
    fused = replace(spec, epilogue=bias_relu("f32", spec))
    assert "out_row" not in gemm_code(fused, AVX512, "f32").text


def test_lines_are_short_and_indented_by_four():
    for spec in blocked_specs():
        assert_tidy(gemm_code(spec, AVX512, "f32").text)
