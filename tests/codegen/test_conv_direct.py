"""The direct convolution on its own against NumPy in float64: odd shapes, any number of axes, every ISA that runs here."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from contraction_harness import Library, local_names
from test_conv import HERE, check, random_spec, real_specs

from lossc.codegen.contraction import LOCALS, Choice, types_of
from lossc.codegen.conv_direct import direct_code
from lossc.codegen.conv_window import window
from lossc.targets import AVX512, ISAS


def able(spec) -> bool:
    return spec.direction == "forward" or (spec.direction == "bwd_data" and set(spec.stride) == {1})


def code(spec, isa, dtype, prefer=""):
    shape = window(spec)
    shape = shape.turned() if spec.direction == "bwd_data" else shape
    return direct_code(spec, shape, isa, types_of(isa, dtype), prefer)


def random_specs(seed: str, count: int, dtype: str):
    rng = random.Random(seed)
    specs = []
    while len(specs) < count:
        spec = random_spec(rng, len(specs), dtype)
        specs += [spec] if able(spec) else []
    return specs


def candidates(choice: Choice) -> list[str]:
    return [name for name, _ in choice.ranked]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_random_convolutions(isa, dtype, tmp_path):
    specs = random_specs(f"direct {isa.name} {dtype}", 40, dtype)
    library = Library({s.name: code(s, isa, dtype) for s in specs}, isa, dtype, tmp_path, optimise=["-O1"])
    for seed, spec in enumerate(specs):
        check(library, spec, dtype, seed)


@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_candidates_of_layers_of_known_nets(isa, tmp_path):
    """Every kind of block: the best candidate, and two that come far behind."""
    codes, specs = {}, {}
    for spec in filter(able, real_specs()):
        names = candidates(code(spec, isa, "f32").choice)
        for index, name in enumerate(dict.fromkeys((names[0], names[len(names) // 2], names[-1]))):
            named = replace(spec, name=f"{spec.name}_{index}")
            specs[named.name], codes[named.name] = named, code(named, isa, "f32", name)
            assert codes[named.name].choice.name == name
    library = Library(codes, isa, "f32", tmp_path, optimise=["-O1"])
    for seed, spec in enumerate(specs.values()):
        check(library, spec, "f32", seed, threads=(1, 3))


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_names_and_lines(isa):
    for spec in (*filter(able, real_specs()), *random_specs("names", 30, "f32")):
        text = code(replace(spec, epilogue=None), isa, "f32").text
        assert local_names(text) <= LOCALS
        assert text == code(replace(spec, epilogue=None), isa, "f32").text
        for line in text.splitlines():
            assert len(line) <= 120 and line == line.rstrip() and "\t" not in line, line
