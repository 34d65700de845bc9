"""Gradients of convolutions' weights of operands whose channels lie in blocks, against NumPy in float64."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from math import prod

import pytest
from contraction_harness import Library
from test_conv import HERE, check, check_text, conv, epilogue, random_spec
from test_conv_blocks import SIDES, each_isa, each_type

from lossc.codegen.conv import ConvSpec, conv_code
from lossc.ir.blob import BLOCK
from lossc.targets import AVX512, ISAS


def in_blocks(spec: ConvSpec, x_block: int, y_block: int, ci: int, co: int, spare: int = 0) -> ConvSpec:
    """The spec with `ci` and `co` channels in a group, in images with memory for `spare` channels more."""
    ci, co, x, y = spec.groups * ci, spec.groups * co, prod(spec.in_shape), prod(spec.out_shape)
    return replace(
        spec, x_block=x_block, y_block=y_block, ci=ci, co=co, x_strides=((ci + spare) * x, x),
        y_strides=((co + spare) * y, y),
    )  # fmt: skip


def random_specs(seed: str, count: int, dtype: str) -> list[ConvSpec]:
    rng = random.Random(seed)
    specs: list[ConvSpec] = []
    while len(specs) < count:
        spec = random_spec(rng, len(specs), dtype)
        if spec.direction == "bwd_weights" and len(spec.kernel) <= 2:
            x_block, y_block = SIDES[len(specs) % 3]
            ci = rng.choice((16, 32, 48, 64)) if x_block else rng.choice((1, 3, 20, 24))
            co = rng.choice((16, 32, 48, 80, 112)) if y_block else rng.choice((1, 5, 17, 24, 40))
            specs.append(in_blocks(spec, x_block, y_block, ci, co, rng.choice((0, BLOCK))))
    return specs


@each_type
@each_isa
def test_random_convolutions(isa, dtype, tmp_path):
    specs = random_specs(f"weights {isa.name} {dtype}", 42, dtype)
    library = Library({s.name: conv_code(s, isa, dtype) for s in specs}, isa, dtype, tmp_path)
    for seed, spec in enumerate(specs):
        check(library, spec, dtype, seed)


def layer_specs() -> list[ConvSpec]:
    """Layers of known nets, with few channels and images, of every pair of sides; all kinds of cutting up."""
    shapes = {
        "first": (2, 1, 3, 64, (61, 57), (7, 7), (2, 2), (3, 3)),
        "reduce": (3, 1, 192, 16, (28, 28), (1, 1), (1, 1), (0, 0)),
        "expand": (2, 1, 64, 112, (56, 56), (1, 1), (1, 1), (0, 0)),
        "deep": (11, 1, 160, 96, (7, 7), (1, 1), (1, 1), (0, 0)),
        "small": (5, 1, 48, 32, (7, 5), (3, 3), (1, 1), (1, 1)),
        "spread": (3, 2, 64, 32, (15, 14), (1, 1), (2, 2), (0, 0)),
        "margin": (2, 1, 16, 48, (9, 8), (1, 1), (3, 2), (1, 2)),
        "five": (3, 1, 16, 80, (28, 28), (5, 5), (1, 1), (2, 2)),
        "groups": (2, 3, 32, 16, (20, 13), (3, 2), (2, 1), (1, 0)),
        "wide": (1, 1, 16, 32, (3, 1700), (3, 5), (1, 2), (1, 2)),
        "outside": (2, 1, 16, 16, (2, 3), (5, 4), (1, 1), (4, 3)),
    }
    specs = []
    for name, (n, groups, ci, co, size, *geometry) in shapes.items():
        for x_block, y_block in SIDES:
            if not x_block or ci % BLOCK == 0:
                spec = conv(f"{name}_{x_block}_{y_block}", "bwd_weights", n, groups, groups * ci, groups * co, size,
                            *geometry, (1, 1), x_block=x_block, y_block=y_block)  # fmt: skip
                specs.append(spec)
    return specs


@each_isa
def test_candidates_of_layers(isa, tmp_path):
    """The best candidate, and two that come behind, plainly and with all that can be done to results."""
    codes, specs = {}, {}
    for spec in layer_specs():
        names = [name for name, _ in conv_code(spec, isa, "f32").choice.ranked]
        for index, name in enumerate(dict.fromkeys((names[0], names[len(names) // 2], names[-1]))):
            named = replace(spec, name=f"{spec.name}_{index}")
            if index % 2:
                named = replace(named, accumulate=True, alpha="0.5f", epilogue=epilogue(spec, "f32"))
            specs[named.name], codes[named.name] = named, conv_code(named, isa, "f32", prefer=name)
            assert codes[named.name].choice.name == name
    library = Library(codes, isa, "f32", tmp_path)
    for seed, spec in enumerate(specs.values()):
        check(library, spec, "f32", seed, threads=(1, 3))


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_warnings_without_openmp(compiler, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    specs = [*random_specs("warnings", 6, "f32"), *layer_specs()[::3]]
    codes = {s.name: conv_code(s, HERE[0], "f32") for s in specs}
    library = Library(codes, HERE[0], "f32", tmp_path, compiler=compiler, openmp=False, optimise=["-O1"])
    for seed, spec in enumerate(specs):
        check(library, spec, "f32", seed, threads=(1,))


def test_one_sided_sums_need_no_turning():
    """Of dy in blocks nothing is turned on the way in, of pointwise results with vectors along x nothing at all."""
    by_name = {spec.name: conv_code(spec, AVX512, "f32") for spec in layer_specs()}
    assert "turned" not in by_name["five_16_16"].text and "turned" in by_name["five_16_0"].text
    assert "swapped" in by_name["reduce_16_16"].choice.name and "transpose" not in by_name["reduce_16_16"].text


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_generated_text(isa):
    """The same spec gives the same text, in short lines; parameters cannot be shadowed."""
    for spec in [*layer_specs(), *random_specs("text", 12, "f32")]:
        check_text(spec, isa)


def test_rows_that_lie_in_planes_are_fetched_in_turn():
    spec = conv("reduce", "bwd_weights", 2, 1, 192, 32, (28, 28), (1, 1), (1, 1), (0, 0), (1, 1))
    planes, blocks = (conv_code(replace(spec, x_block=x, y_block=BLOCK), AVX512, "f32").text for x in (0, BLOCK))
    assert "LOSSC_PREFETCH(a + w % 16 * 783 + " in planes
    assert "w % 16" not in blocks
