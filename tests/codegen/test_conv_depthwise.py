"""Depthwise convolutions of channels in blocks, in all three directions, against NumPy in float64."""

from __future__ import annotations

import random
from dataclasses import replace
from math import prod

from contraction_harness import Library
from test_conv import DIRECTIONS, check, conv, epilogue, random_spec
from test_conv_blocks import each_isa, each_type

from lossc.codegen.conv import ConvSpec, conv_code
from lossc.ir.blob import BLOCK


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
    specs = random_specs(f"depthwise {isa.name} {dtype}", 24, dtype)
    library = Library({s.name: conv_code(s, isa, dtype) for s in specs}, isa, dtype, tmp_path, optimise=["-O1"])
    for seed, spec in enumerate(specs):
        check(library, spec, dtype, seed)


@each_isa
def test_candidates_of_layers(isa, tmp_path):
    """The best candidate, and the one that comes last, with all that can be done to results."""
    codes, specs = {}, {}
    for spec in layers():
        names = [name for name, _ in conv_code(spec, isa, "f32").choice.ranked]
        for index, name in enumerate(dict.fromkeys((names[0], names[-1]))):
            named = replace(spec, name=f"{spec.name}_{index}")
            if index:
                named = replace(named, accumulate=True, alpha="0.5f", epilogue=epilogue(spec, "f32"))
            specs[named.name], codes[named.name] = named, conv_code(named, isa, "f32", prefer=name)
            assert codes[named.name].choice.name == name
    assert any("singly" in code.choice.name for code in codes.values())
    library = Library(codes, isa, "f32", tmp_path, optimise=["-O1"])
    for seed, spec in enumerate(specs.values()):
        check(library, spec, "f32", seed, threads=(1, 3))
