"""Contractions of operands rounded to bfloat16 against sums of the rounded operands' products in float64: odd shapes,
every candidate, with and without the CPU's instructions, on every ISA that runs here."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import test_conv
import test_conv_algorithms
import test_conv_blocks
import test_frozen
import test_gemm
from contraction_harness import WARNINGS, Library, assert_tidy, bf16, local_names
from test_conv import conv

from lossc.codegen.contraction import LOCALS
from lossc.codegen.contractions import Contraction, rounded
from lossc.codegen.conv import ConvSpec, conv_code
from lossc.codegen.gemm import gemm_code
from lossc.codegen.gemm_plan import GemmSpec
from lossc.errors import InternalError
from lossc.targets import AVX512, AVX512_BF16, ISAS, rounding_targets, runnable_targets

HERE = [target.isa for target in (*rounding_targets(), *runnable_targets())]
NATIVE = HERE[0]


def convolutions(count: int) -> list[ConvSpec]:
    rng, found = random.Random(3), []
    while len(found) < count:
        spec = test_conv.random_spec(rng, len(found), "f32")
        if spec.direction == "forward":
            found.append(replace(spec, bf16=True))
    return found + [replace(s, bf16=True) for s in test_conv.real_specs() if s.direction == "forward"]


def products(count: int, lanes: int = 16) -> list[GemmSpec]:
    rng = random.Random(4)
    found = [test_gemm.random_spec(rng, index, lanes, "f32") for index in range(count)]
    return [replace(spec, bf16=True) for spec in (*found, *test_gemm.blocked_specs())]


@test_conv_algorithms.each_algorithm
@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_convolutions(isa, algorithm, tmp_path):
    specs = convolutions(20)
    codes = {s.name: test_conv_algorithms.code(algorithm, s, isa, "f32") for s in specs}
    assert all(code.choice.name.startswith(f"conv {algorithm}") for code in codes.values())
    assert all(" bf16 " in code.choice.name and "vf32_dot2" in code.text for code in codes.values())
    library = Library(codes, isa, "f32", tmp_path)
    for seed, spec in enumerate(specs):
        test_conv.check(library, spec, "f32", seed, threads=(1, 2, 3))


@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_channels_in_blocks(isa, tmp_path):
    specs = []
    for number, spec in enumerate(s for s in test_conv_blocks.layers() if s.direction == "forward"):
        channels = (spec.ci // spec.groups, spec.co // spec.groups)
        specs.append(test_conv_blocks.in_blocks(spec, *test_conv_blocks.SIDES[number % 3], channels))
    specs += [s for s in test_conv_blocks.random_specs(f"bf16 {isa.name}", 30, "f32") if s.direction == "forward"]
    specs = [replace(spec, bf16=True) for spec in specs]
    codes = {s.name: conv_code(s, isa, "f32") for s in specs}
    assert all(code.choice.name.startswith("conv direct") and "vf32_dot2" in code.text for code in codes.values())
    assert any("vf32_pack_next" in code.text for code in codes.values())
    library = Library(codes, isa, "f32", tmp_path)
    for seed, spec in enumerate(specs):
        test_conv.check(library, spec, "f32", seed, threads=(1, 2, 3))


def few_channels() -> list[ConvSpec]:
    """Whose pairs are of neighbouring taps, an odd number in a row and an even one."""
    shapes = {
        "first": (2, 1, 3, 48, (29, 33), (7, 7), (2, 2), (3, 3), (1, 1)),
        "far": (1, 1, 3, 32, (47, 46), (11, 11), (4, 4), (0, 1), (1, 1)),
        "grey": (3, 1, 1, 20, (14, 15), (5, 5), (1, 1), (0, 2), (1, 1)),
        "even": (2, 1, 1, 16, (19, 18), (3, 4), (1, 2), (1, 5), (2, 1)),
        "groups": (2, 2, 6, 64, (9, 40), (1, 5), (1, 3), (0, 2), (1, 1)),
        "one": (2, 1, 5, 33, (8, 9), (1, 2), (1, 1), (0, 0), (1, 1)),
        "signal": (2, 1, 1, 32, (100,), (9,), (3,), (4,), (1,)),
        "volume": (2, 1, 1, 16, (5, 6, 9), (2, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    }
    specs = [conv(name, "forward", *shape, bf16=True) for name, shape in shapes.items()]
    return [*specs, test_conv_blocks.in_blocks(replace(specs[0], name="blocks"), 0, 16, (3, 48))]


@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_pairs_of_taps(isa, tmp_path):
    """What is no number reaches those sums alone that it is a term of."""
    specs = few_channels()
    codes = {s.name: test_conv_algorithms.code("direct", s, isa, "f32") for s in specs}
    assert all("pairs of taps" in code.text for code in codes.values())
    library = Library(codes, isa, "f32", tmp_path)
    for seed, spec in enumerate(specs):
        test_conv.check(library, spec, "f32", seed, threads=(1, 3))
    for spec in specs[:-1]:
        shapes = ((spec.n, spec.ci, *spec.in_shape), (spec.co, spec.ci // spec.groups, *spec.kernel),
                  (spec.n, spec.co, *spec.out_shape))  # fmt: skip
        x, w, y = (np.full(shape, fill, np.float32) for shape, fill in zip(shapes, (0, 1, 0), strict=True))
        x.reshape(-1)[x.size // 2] = 1
        reached = test_conv.reference(spec, *(a.astype(np.float64) for a in (x, w, y))) > 0
        x[x > 0] = np.nan
        library.run(spec.name, [x.reshape(-1), w.reshape(-1), y.reshape(-1)], 1)
        np.testing.assert_array_equal(np.isnan(y), reached, spec.name)


@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_products(isa, tmp_path):
    specs = products(24, isa.lanes("float32"))
    library = Library({s.name: gemm_code(s, isa, "f32") for s in specs}, isa, "f32", tmp_path)
    for seed, spec in enumerate(specs):
        test_gemm.check(library, spec, "f32", seed, threads=(1, 2, 3))


def test_every_candidate(tmp_path):
    """The cheapest ones of a few shapes: among them are rows of scalar products, blocks of terms, strips of lines."""
    few = test_gemm.blocked_specs()
    specs = [replace(few[0], m=50, n=90), replace(few[-1], m=3, k=701, a_strides=(701, 1), b_strides=(1, 701)), few[3]]
    specs += [s for s in test_conv.real_specs() if s.name in ("deep_forward", "lenet2_forward", "strip_forward")]
    named = {}
    for spec in specs:
        contraction = Contraction(replace(spec, bf16=True))
        for index, (name, _) in enumerate(contraction.code(NATIVE, "f32").choice.ranked[:8]):
            named[f"{spec.name}{index}"] = contraction.named(f"{spec.name}{index}", ""), name
    codes = {name: contraction.code(NATIVE, "f32", choice) for name, (contraction, choice) in named.items()}
    choices = {code.choice.name for code in codes.values()}
    assert len(choices) == len(codes) > 40 and all("bf16" in choice for choice in choices)
    assert any("dot" in choice for choice in choices) and any("packed ab" in choice for choice in choices)
    library = Library(codes, NATIVE, "f32", tmp_path)
    for seed, (contraction, _) in enumerate(named.values()):
        spec = contraction.spec
        check = test_gemm.check if isinstance(spec, GemmSpec) else test_conv.check
        check(library, spec, "f32", seed, threads=(1, 2))


@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_frozen_operands_are_rounded_once(isa, tmp_path):
    """To the very bits that they are rounded to in each call; rounded operands change nothing."""
    contractions = [c for c in test_frozen.specs() if not isinstance(c.spec, ConvSpec) or c.spec.direction == "forward"]
    contractions = [replace(c, spec=rounded(c.spec)) for c in contractions if not c.winograd]
    codes = {}
    for contraction in contractions:
        code = contraction.code(isa, "f32")
        anew = test_frozen.thawed(contraction).code(isa, "f32", code.choice.name)
        assert contraction.spec.bf16 and code.prepared is not None and anew.prepared is None
        codes |= {contraction.spec.name: code, f"{contraction.spec.name}_anew": anew}
    library, rng = Library(codes, isa, "f32", tmp_path), np.random.default_rng(5)
    for contraction in contractions:
        spec, name = contraction.spec, contraction.spec.name
        values = test_frozen.operands(spec, "f32", rng)
        out, before = spec.c if isinstance(spec, GemmSpec) else spec.y, codes[name].prepared
        values[before.packed] = library.prepare(name, values[spec.frozen], 1)
        np.testing.assert_array_equal(
            library.prepare(name, values[spec.frozen], 3).view(np.int32), values[before.packed].view(np.int32)
        )
        found = test_frozen.result(library, name, values, out, 1)
        np.testing.assert_array_equal(test_frozen.result(library, name, values, out, 3), found, contraction.key)
        exact = {key: bf16(value) for key, value in values.items() if key not in (before.packed, out)}
        exact |= {before.packed: library.prepare(name, exact[spec.frozen]), out: values[out]}
        np.testing.assert_array_equal(test_frozen.result(library, name, exact, out, 1), found, contraction.key)
        if codes[name].choice.name == codes[f"{name}_anew"].choice.name:
            anew = test_frozen.result(library, f"{name}_anew", values, out, 2)
            np.testing.assert_array_equal(anew, found, contraction.key)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_warnings_with_or_without_the_instructions(compiler, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    specs = [*convolutions(5)[:12], *few_channels(), *products(5)]
    codes = {}
    for spec in specs:
        code = gemm_code if isinstance(spec, GemmSpec) else conv_code
        codes[spec.name] = code(spec, AVX512, "f32")
        assert code(spec, AVX512_BF16, "f32") == codes[spec.name]
    for isa in (AVX512, AVX512_BF16):
        assert "-Werror" in WARNINGS
        Library(codes, isa, "f32", tmp_path, compiler=compiler, openmp=False, optimise=["-O1"])


def test_which_contractions_are_rounded():
    conv = test_conv.conv("c", "forward", 1, 1, 3, 8, (9, 9), (3, 3), (1, 1), (1, 1), (1, 1))
    product = GemmSpec("g", "", "a", "b", "c", 64, 64, 64, (64, 1), (1, 64), (64, 1))
    assert rounded(conv).bf16 and rounded(product).bf16
    assert not rounded(replace(conv, direction="bwd_data")).bf16
    assert not rounded(replace(conv, ci=8, groups=8)).bf16  # one channel a group: nothing to pair
    assert not rounded(replace(product, k=1)).bf16
    assert not rounded(replace(product, m=1)).bf16 and rounded(replace(product, m=1, frozen="b")).bf16
    for spec in (conv, product):
        assert replace(spec, bf16=True).key != spec.key
    for code, spec, dtype in ((conv_code, conv, "f64"), (gemm_code, product, "f64")):
        with pytest.raises(InternalError, match="rounded to bfloat16"):
            code(replace(spec, bf16=True), AVX512, dtype)
    with pytest.raises(InternalError, match="rounded to bfloat16"):
        conv_code(replace(conv, direction="bwd_data", bf16=True), AVX512, "f32")


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_the_c_is_tidy(isa):
    """Short lines, the same text each time, and no name that a parameter could shadow."""
    contractions = [Contraction(spec) for spec in (*convolutions(0), *few_channels(), *products(0))]
    named = [(c, name) for c in contractions for name, _ in c.code(isa, "f32").choice.ranked[:2]]
    for contraction, name in named:
        text = contraction.code(isa, "f32", name).text
        assert text == contraction.code(isa, "f32", name).text and local_names(text) <= LOCALS
        assert_tidy(text)
