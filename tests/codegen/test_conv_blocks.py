"""Direct convolutions of operands whose channels lie in blocks, against NumPy in float64."""

from __future__ import annotations

import random
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from contraction_harness import SPEED, Library, assert_tidy, local_names
from test_conv import HERE, check, conv, epilogue, random_spec
from test_frozen import operands, result

from lossc.codegen.contraction import LOCALS, Code
from lossc.codegen.conv import ConvSpec, conv_code
from lossc.errors import InternalError
from lossc.ir.blob import BLOCK
from lossc.targets import AVX512, ISAS

SIDES = ((BLOCK, BLOCK), (BLOCK, 0), (0, BLOCK))  # of x and y
each_isa = pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
each_type = pytest.mark.parametrize("dtype", ["f32", "f64"])


def in_blocks(spec: ConvSpec, x_block: int, y_block: int, channels: tuple[int, int], spare: int = 0) -> ConvSpec:
    """The spec with so many channels in a group of x and y where their side lies in blocks, and memory for `spare`
    channels more in each of those images."""
    ci = spec.groups * channels[0] if x_block else spec.ci
    co = spec.groups * channels[1] if y_block else spec.co
    x, y = prod(spec.in_shape), prod(spec.out_shape)
    return replace(
        spec, x_block=x_block, y_block=y_block, ci=ci, co=co,
        x_strides=((ci + spare) * x, x) if x_block else (ci * spec.x_strides[1], spec.x_strides[1]),
        y_strides=((co + spare) * y, y) if y_block else (co * spec.y_strides[1], spec.y_strides[1]),
    )  # fmt: skip


def computed(spec: ConvSpec) -> bool:
    """Whether there is an algorithm for its operands in blocks."""
    pointwise = prod(spec.kernel) == 1 and not any(spec.pad) and len(spec.kernel) == 2
    able = spec.direction == "forward" or (spec.direction == "bwd_data" and (pointwise or set(spec.stride) == {1}))
    return able and len(spec.kernel) <= 2


def random_specs(seed: str, count: int, dtype: str) -> list[ConvSpec]:
    rng = random.Random(seed)
    specs: list[ConvSpec] = []
    while len(specs) < count:
        spec = random_spec(rng, len(specs), dtype)
        if computed(spec):
            channels = (rng.choice((16, 32, 48)), rng.choice((16, 32, 48, 80)))
            spec = in_blocks(spec, *SIDES[len(specs) % 3], channels, rng.choice((0, BLOCK)))
            specs.append(replace(spec, epilogue=epilogue(spec, dtype)) if spec.epilogue else spec)
    return specs


@each_type
@each_isa
def test_random_convolutions(isa, dtype, tmp_path):
    specs = random_specs(f"blocks {isa.name} {dtype}", 45, dtype)
    library = Library({s.name: conv_code(s, isa, dtype) for s in specs}, isa, dtype, tmp_path)
    for seed, spec in enumerate(specs):
        check(library, spec, dtype, seed)


def layers() -> list[ConvSpec]:
    """Layers of known nets, with few images, whose blocks, tiles and sources are of each kind."""
    shapes = {
        "row": (2, 1, 64, 96, (56, 56), (1, 1), (1, 1), (0, 0), (1, 1)),
        "odd": (3, 2, 32, 64, (13, 11), (1, 1), (1, 1), (0, 0), (1, 1)),
        "plane": (2, 1, 48, 64, (28, 28), (3, 3), (1, 1), (1, 1), (1, 1)),
        "inside": (2, 1, 32, 80, (15, 17), (3, 3), (1, 1), (0, 0), (1, 1)),
        "small": (3, 1, 160, 112, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
        "five": (1, 1, 16, 32, (28, 28), (5, 5), (1, 1), (2, 2), (1, 1)),
        "wide": (1, 1, 16, 16, (3, 700), (3, 5), (1, 1), (1, 2), (1, 2)),
        "signal": (2, 1, 16, 32, (1000,), (9,), (1,), (4,), (2,)),
        "strided": (2, 1, 64, 48, (15, 14), (1, 1), (2, 2), (0, 0), (1, 1)),
        "down": (2, 2, 32, 64, (28, 27), (3, 3), (2, 2), (1, 1), (1, 1)),
    }
    return [conv(f"{name}_{way}", way, *shape) for name, shape in shapes.items() for way in ("forward", "bwd_data")]


@each_isa
def test_candidates_of_layers_of_known_nets(isa, tmp_path):
    """The best candidate, and two that come behind, added to what was there."""
    codes, specs = {}, {}
    for number, plain in enumerate(filter(computed, layers())):
        spec = in_blocks(plain, *SIDES[number // 2 % 3], (plain.ci // plain.groups, plain.co // plain.groups))
        names = [name for name, _ in conv_code(spec, isa, "f32").choice.ranked]
        for index, name in enumerate(dict.fromkeys((names[0], names[len(names) // 2], names[-1]))):
            named = replace(spec, name=f"{spec.name}_{index}", accumulate=index > 0)
            specs[named.name], codes[named.name] = named, conv_code(named, isa, "f32", prefer=name)
            assert codes[named.name].choice.name == name
    library = Library(codes, isa, "f32", tmp_path)
    for seed, spec in enumerate(specs.values()):
        check(library, spec, "f32", seed, threads=(1, 3))


@each_type
@each_isa
def test_gradients_of_strided_pointwise_convolutions(isa, dtype, tmp_path):
    shapes = [
        (3, 2, 32, 64, (15, 14), (1, 1), (2, 2), (0, 0), (1, 1)),
        (2, 1, 48, 32, (20, 33), (1, 1), (3, 1), (0, 0), (1, 1)),
        (1, 1, 16, 64, (5, 1201), (1, 1), (2, 2), (0, 0), (1, 1)),
        (5, 1, 80, 112, (13, 12), (1, 1), (2, 2), (0, 0), (1, 1)),
    ]
    specs = [conv(f"f{k}", "bwd_data", *shape, alpha="0.5f") for k, shape in enumerate(shapes)]
    specs = [replace(s, name=f"{s.name}_{k}", x_block=x, y_block=y) for s in specs for k, (x, y) in enumerate(SIDES)]
    specs += [replace(s, name=f"{s.name}_added", accumulate=True) for s in specs]
    specs += [replace(s, name=f"{s.name}_map", epilogue=epilogue(s, dtype)) for s in specs]
    library = Library({s.name: conv_code(s, isa, dtype) for s in specs}, isa, dtype, tmp_path)
    for seed, spec in enumerate(specs):
        check(library, spec, dtype, seed)


def test_what_large_sums_are_added_to_is_fetched_while_they_are_computed():
    def code(size: int) -> str:
        spec = conv("wide", "bwd_data", 2, 1, 256, 32, (size, size), (1, 1), (1, 1), (0, 0), (1, 1), accumulate=True)
        return conv_code(replace(spec, x_block=BLOCK, y_block=BLOCK), AVX512, "f32").text

    assert "LOSSC_PREFETCH(out" in code(28)
    assert "LOSSC_PREFETCH(out" not in code(7)  # stays in the L2 cache


def with_flag(code: Code, name: str, value: int) -> Code:
    """The function ``name`` with this value for its parameter ``adds``, as `name`_`value`."""
    kept = [p for p in code.params if p != "const int adds"]
    buffers = [b for b, size in (("shared", code.shared_scratch), ("local", code.thread_scratch)) if size]
    args = [str(value) if p == "const int adds" else p.split("*restrict ")[1] for p in code.params] + buffers
    params = ", ".join([*kept, *(f"float *restrict {b}" for b in buffers)])
    text = f"static void {name}_{value}({params})\n{{\n    {name}({', '.join(args)});\n}}\n"
    return replace(code, text=f"{code.text}\n{text}", params=tuple(kept))


@each_isa
def test_sums_that_are_added_when_the_caller_says_so(isa, tmp_path):
    codes, specs = {}, []
    shapes = {"dense": (3, 1, 32, 48, (13, 11), (1, 1), (1, 1), (0, 0), (1, 1)),
              "spread": (3, 1, 32, 48, (13, 11), (1, 1), (2, 2), (0, 0), (1, 1))}  # fmt: skip
    for name, shape in shapes.items():
        for side, (x, y) in enumerate(SIDES):
            for value in (0, 1):
                spec = conv(f"{name}{side}{value}", "bwd_data", *shape, x_block=x, y_block=y, accumulate="adds")
                named = replace(spec, name=f"{spec.name}_{value}", accumulate=value == 1)
                codes[named.name] = with_flag(conv_code(spec, isa, "f32"), spec.name, value)
                specs.append(named)
    library = Library(codes, isa, "f32", tmp_path)
    for seed, spec in enumerate(specs):
        check(library, spec, "f32", seed)


@each_isa
def test_frozen_weights_give_the_same_sums(isa, tmp_path):
    shapes = [
        (2, 1, 32, 48, (9, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
        (3, 2, 32, 96, (7, 7), (1, 1), (1, 1), (0, 0), (1, 1)),
        (2, 1, 48, 32, (8, 9), (1, 1), (2, 2), (0, 0), (1, 1)),
    ]
    specs = [conv(f"f{k}_{way}", way, *s) for k, s in enumerate(shapes) for way in ("forward", "bwd_data")]
    specs = [replace(s, frozen=s.w, x_block=BLOCK, y_block=BLOCK) for s in specs]
    codes = {s.name: conv_code(s, isa, "f32") for s in specs}
    for spec in specs:
        anew = replace(spec, name=f"{spec.name}_anew", frozen="")
        codes[anew.name] = conv_code(anew, isa, "f32", prefer=codes[spec.name].choice.name)
        assert codes[anew.name].choice.name == codes[spec.name].choice.name
    library, rng = Library(codes, isa, "f32", tmp_path), np.random.default_rng(3)
    for spec in specs:
        values = operands(spec, "f32", rng)
        values["packed"] = library.prepare(spec.name, values[spec.w])
        out = spec.y if spec.direction == "forward" else spec.x
        anew = result(library, f"{spec.name}_anew", values, out, 1)
        for threads in (1, 3):
            np.testing.assert_array_equal(result(library, spec.name, values, out, threads), anew)


@pytest.mark.parametrize("way", ["forward", "bwd_data"])
def test_results_too_large_for_caches(way, tmp_path):
    """What is fetched ahead lies outside of the last block's arrays: nothing is read there."""
    specs = [
        conv("row", way, 3, 1, 64, 80, (56, 56), (1, 1), (1, 1), (0, 0), (1, 1)),
        conv("rest", way, 2, 1, 80, 96, (57, 31), (3, 3), (1, 1), (1, 0), (1, 1)),
        conv("groups", way, 2, 2, 96, 192, (40, 40), (1, 1), (1, 1), (0, 0), (1, 1), accumulate=True),
    ]
    specs = [replace(s, x_block=BLOCK, y_block=BLOCK) for s in specs]
    library = Library({s.name: conv_code(s, HERE[0], "f32") for s in specs}, HERE[0], "f32", tmp_path, optimise=SPEED)
    for seed, spec in enumerate(specs):
        check(library, spec, "f32", seed, threads=(1, 2, 5))


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_warnings_without_openmp(compiler, tmp_path):
    specs = random_specs("warnings", 12, "f32")
    codes = {s.name: conv_code(s, HERE[0], "f32") for s in specs}
    library = Library(codes, HERE[0], "f32", tmp_path, compiler=compiler, openmp=False, optimise=["-O1"])
    for seed, spec in enumerate(specs):
        check(library, spec, "f32", seed, threads=(1,))


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_names_and_lines(isa):
    known = [replace(s, x_block=BLOCK, y_block=BLOCK) for s in filter(computed, layers())]
    for spec in [*random_specs("names", 30, "f32"), *known]:
        text = conv_code(replace(spec, epilogue=None), isa, "f32").text
        assert local_names(text) <= LOCALS
        assert_tidy(text)


def test_what_nothing_computes_is_refused():
    plane = conv("f", "forward", 1, 1, 32, 32, (9, 9), (3, 3), (2, 2), (1, 1), (1, 1), x_block=BLOCK, y_block=BLOCK)
    volume = conv("f", "forward", 1, 1, 32, 32, (9, 9, 9), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), x_block=BLOCK)
    for spec in (replace(plane, direction="bwd_data"), replace(plane, groups=4), volume):
        with pytest.raises(InternalError, match="convolution f: nothing computes it"):
            conv_code(spec, AVX512, "f32")
