"""Direct and gathered convolutions, each on its own, against NumPy in float64, whichever would be chosen."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from contraction_harness import SPEED, Library, assert_tidy, local_names
from test_conv import HERE, check, conv, random_spec, real_specs

from lossc.codegen.contraction import LOCALS, types_of
from lossc.codegen.conv import conv_code
from lossc.codegen.conv_direct import direct_code
from lossc.codegen.conv_gather import gather_code
from lossc.codegen.conv_window import window
from lossc.targets import AVX512, ISAS

ALGORITHMS = {"direct": direct_code, "gather": gather_code}
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def able(spec) -> bool:
    return spec.direction == "forward" or (spec.direction == "bwd_data" and set(spec.stride) == {1})


def code(algorithm, spec, isa, dtype, prefer=""):
    shape = window(spec)
    shape = shape.turned() if spec.direction == "bwd_data" else shape
    return ALGORITHMS[algorithm](spec, shape, isa, types_of(isa, dtype), prefer)


def random_specs(seed: str, count: int, dtype: str):
    rng = random.Random(seed)
    specs = []
    while len(specs) < count:
        spec = random_spec(rng, len(specs), dtype)
        specs += [spec] if able(spec) else []
    return specs


@each_algorithm
@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_random_convolutions(isa, dtype, algorithm, tmp_path):
    specs = random_specs(f"{algorithm} {isa.name} {dtype}", 32, dtype)
    codes = {s.name: code(algorithm, s, isa, dtype) for s in specs}
    library = Library(codes, isa, dtype, tmp_path)
    for seed, spec in enumerate(specs):
        check(library, spec, dtype, seed)


@each_algorithm
@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_candidates_of_layers_of_known_nets(isa, algorithm, tmp_path):
    """The best candidate, and two that come behind: blocks, register tiles and sources of each kind."""
    codes, specs = {}, {}
    for spec in filter(able, real_specs()):
        names = [name for name, _ in code(algorithm, spec, isa, "f32").choice.ranked]
        for index, name in enumerate(dict.fromkeys((names[0], names[len(names) // 2], names[-1]))):
            named = replace(spec, name=f"{spec.name}_{index}")
            specs[named.name], codes[named.name] = named, code(algorithm, named, isa, "f32", name)
            assert codes[named.name].choice.name == name
    library = Library(codes, isa, "f32", tmp_path)
    for seed, spec in enumerate(specs.values()):
        check(library, spec, "f32", seed, threads=(1, 3))


@pytest.mark.parametrize("way", ["forward", "bwd_data"])
def test_results_too_large_for_caches(way, tmp_path):
    """What is fetched ahead lies outside of the last block's arrays: nothing is read there."""
    specs = [
        conv("row", way, 3, 1, 70, 72, (56, 56), (1, 1), (1, 1), (0, 0), (1, 1)),
        conv("rest", way, 2, 1, 80, 72, (57, 31), (3, 3), (1, 1), (1, 0), (1, 1)),
        conv("groups", way, 2, 2, 36, 200, (40, 40), (1, 1), (1, 1), (0, 0), (1, 1), accumulate=True),
    ]
    codes = {s.name: code("direct", s, HERE[0], "f32") for s in specs}
    library = Library(codes, HERE[0], "f32", tmp_path, optimise=SPEED)
    assert all("LOSSC_PREFETCH" in library.codes[s.name].text for s in specs)
    for seed, spec in enumerate(specs):
        check(library, spec, "f32", seed, threads=(1, 2, 5))


@each_algorithm
@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_names_and_lines(isa, algorithm):
    for spec in (*filter(able, real_specs()), *random_specs("names", 30, "f32")):
        text = code(algorithm, replace(spec, epilogue=None), isa, "f32").text
        assert local_names(text) <= LOCALS
        assert text == code(algorithm, replace(spec, epilogue=None), isa, "f32").text
        assert_tidy(text)


def test_both_are_candidates():
    spec = conv("f", "forward", 16, 1, 832, 384, (7, 7), (1, 1), (1, 1), (0, 0), (1, 1))
    best = conv_code(spec, AVX512, "f32")
    names = [name for name, _ in best.choice.ranked]
    assert names[0].startswith("conv direct") and names[1].startswith("conv gather")
    assert conv_code(spec, AVX512, "f32", prefer=names[1]).choice.name == names[1]
