"""Depthwise convolutions of channels in blocks, in all three directions, against NumPy in float64."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from math import prod

import numpy as np
import pytest
import test_conv_halves
from contraction_harness import Library
from test_conv import DIRECTIONS, HERE, check, check_text, conv, epilogue, random_spec
from test_conv_blocks import each_isa, each_type, with_flag
from test_frozen import operands, result

from lossc.codegen.conv import ConvSpec, conv_code
from lossc.errors import InternalError
from lossc.ir.blob import BLOCK
from lossc.targets import AVX512, ISAS


def depthwise(spec: ConvSpec, channels: int, spare: int = 0) -> ConvSpec:
    """The spec with every one of `channels` a group, in images with memory for `spare` channels more."""
    x, y = prod(spec.in_shape), prod(spec.out_shape)
    return replace(
        spec, groups=channels, ci=channels, co=channels, x_block=BLOCK, y_block=BLOCK,
        x_strides=((channels + spare) * x, x), y_strides=((channels + spare) * y, y),
    )  # fmt: skip


def random_specs(seed: str, count: int, dtype: str) -> list[ConvSpec]:
    rng = random.Random(seed)
    specs: list[ConvSpec] = []
    while len(specs) < count:
        spec = random_spec(rng, len(specs), dtype)
        if len(spec.kernel) <= 2:
            spec = depthwise(spec, rng.choice((16, 48)), rng.choice((0, BLOCK)))
            specs.append(replace(spec, epilogue=epilogue(spec, dtype)) if spec.epilogue else spec)
    return specs


def layers() -> list[ConvSpec]:
    """Shapes whose lines, borders and strides are of each kind."""
    shapes = {
        "plane": (2, 32, (28, 28), (3, 3), (1, 1), (1, 1), (1, 1)),
        "down": (3, 16, (15, 14), (3, 3), (2, 2), (1, 1), (1, 1)),
        "small": (5, 48, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
        "five": (1, 16, (13, 30), (5, 5), (2, 1), (2, 2), (1, 1)),
        "seven": (2, 16, (9, 21), (7, 7), (1, 1), (3, 3), (1, 1)),
        "wide": (1, 16, (3, 300), (3, 5), (1, 2), (1, 2), (1, 2)),
        "large": (1, 16, (20, 60), (5, 41), (1, 1), (2, 20), (1, 1)),
        "apart": (2, 16, (11, 12), (2, 3), (3, 4), (0, 1), (1, 3)),
        "outside": (2, 16, (2, 3), (5, 4), (1, 1), (4, 3), (1, 1)),
        "points": (3, 32, (9, 10), (1, 1), (1, 1), (0, 0), (1, 1)),
    }
    specs = [conv(f"{name}_{way}", way, n, c, c, c, *shape) for name, (n, c, *shape) in shapes.items()
             for way in DIRECTIONS]  # fmt: skip
    return [depthwise(spec, spec.groups) for spec in specs]


@each_type
@each_isa
def test_random_convolutions(isa, dtype, tmp_path):
    specs = random_specs(f"depthwise {isa.name} {dtype}", 18, dtype)
    library = Library({s.name: conv_code(s, isa, dtype) for s in specs}, isa, dtype, tmp_path, optimise=["-O1"])
    for seed, spec in enumerate(specs):
        check(library, spec, dtype, seed)


@each_isa
def test_candidates_of_layers(isa, tmp_path):
    """The best candidate, and of some the one that comes last, with all that can be done to results."""
    codes, specs = {}, {}
    for spec in layers():
        names = [name for name, _ in conv_code(spec, isa, "f32").choice.ranked]
        last = names[-1] if spec.name.startswith(("plane", "five", "apart")) else names[0]
        for index, name in enumerate(dict.fromkeys((names[0], last))):
            named = replace(spec, name=f"{spec.name}_{index}")
            if index:
                named = replace(named, accumulate=True, alpha="0.5f", epilogue=epilogue(spec, "f32"))
            specs[named.name], codes[named.name] = named, conv_code(named, isa, "f32", prefer=name)
            assert codes[named.name].choice.name == name
    assert any("singly" in code.choice.name for code in codes.values())
    library = Library(codes, isa, "f32", tmp_path, optimise=["-O1"])
    for seed, spec in enumerate(specs.values()):
        check(library, spec, "f32", seed, threads=(1, 3))


def test_operands_of_every_kind(tmp_path, monkeypatch):
    """Packed weights, sums that are added when the caller says so, images of bfloat16, results past the caches."""
    monkeypatch.setattr("lossc.codegen.conv_depthwise.STREAM_BYTES", 1)
    isa, by_name = HERE[0], {spec.name: spec for spec in layers()}
    frozen = [
        replace(by_name[name], name=f"{name}_frozen", frozen="weights") for name in ("five_forward", "five_bwd_data")
    ]
    told = [replace(by_name[name], name=f"{name}_told{value}", accumulate="adds") for value in (0, 1)
            for name in ("down_forward", "down_bwd_data", "plane_bwd_data")]  # fmt: skip
    sides = [(True, True), (True, False), (False, True)]
    forward = [by_name[f"{name}_forward"] for name in ("plane", "five", "large")]
    halved = [replace(s, name=f"{s.name}_half", x_bf16=x, y_bf16=y) for s, (x, y) in zip(forward, sides, strict=True)]
    halved[0] = replace(halved[0], epilogue=epilogue(halved[0], "f32"))
    streamed = by_name["apart_bwd_data"]
    plain = [by_name[spec.name.removesuffix("_frozen")] for spec in frozen]
    specs = [*frozen, *plain, *halved, *map(test_conv_halves.plain, halved), streamed]
    codes = {spec.name: conv_code(spec, isa, "f32") for spec in specs}
    for spec in told:
        value = int(spec.name[-1])
        codes[f"{spec.name}_{value}"] = with_flag(conv_code(spec, isa, "f32"), spec.name, value)
    library = Library(codes, isa, "f32", tmp_path, optimise=["-O1"])
    for seed, spec in enumerate(told):
        value = int(spec.name[-1])
        check(library, replace(spec, name=f"{spec.name}_{value}", accumulate=value == 1), "f32", seed)
    for seed, spec in enumerate(halved):
        test_conv_halves.check(library, spec, seed)
    assert "_stream(" in codes[streamed.name].text and "_stream(" not in codes[plain[0].name].text
    check(library, streamed, "f32", 0)
    for spec, anew in zip(frozen, plain, strict=True):
        values = operands(spec, "f32", np.random.default_rng(5))
        values["packed"] = library.prepare(spec.name, values["weights"])
        out = spec.y if spec.direction == "forward" else spec.x
        found = result(library, spec.name, values, out, 3)
        np.testing.assert_array_equal(found, result(library, anew.name, values, out, 1))


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_warnings_without_openmp(compiler, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    specs = [*random_specs("warnings", 3, "f32"), *layers()[::5]]
    codes = {s.name: conv_code(s, HERE[0], "f32") for s in specs}
    library = Library(codes, HERE[0], "f32", tmp_path, compiler=compiler, openmp=False)
    for seed, spec in enumerate(specs):
        check(library, spec, "f32", seed, threads=(1,))


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_generated_text(isa):
    """The same spec gives the same text, in short lines; parameters cannot be shadowed."""
    for spec in [*layers(), *random_specs("text", 12, "f32")]:
        check_text(spec, isa)


def test_zeros_between_the_elements_of_a_gradient_are_not_multiplied():
    """At a stride of 2 the columns of dx meet one tap of three and two by turns: 6 products in a tile of four, which
    is repeated, and 2 in the last one, where dy ends."""
    (spec,) = [spec for spec in layers() if spec.name == "down_bwd_data"]
    code = conv_code(spec, AVX512, "f32", prefer="conv depthwise data 3x3 tile 4")
    assert code.choice.name == "conv depthwise data 3x3 tile 4" and code.text.count("_fma(") == 6 + 2


def test_what_nothing_computes_is_refused():
    spec = layers()[0]
    for other, why in (
        (replace(spec, x_block=0), "nothing computes it"),
        (replace(spec, co=2 * spec.co), "nothing computes it"),
        (replace(spec, bf16=True), "whole numbers"),
        (replace(spec, y_bf16=True, accumulate=True), "add to none"),
    ):
        with pytest.raises(InternalError, match=why):
            conv_code(other, AVX512, "f32")
