"""Direct convolutions of images that lie in memory as bfloat16, against the same ones of float32 images that hold the
same numbers: their results, rounded, bit for bit."""

from __future__ import annotations

import random
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from contraction_harness import GUARD, Library, assert_tidy, bf16, floats, halves, local_names
from test_bf16 import HERE, NATIVE
from test_conv import epilogue, planes, random_spec
from test_conv_blocks import in_blocks, layers

from lossc.codegen.contraction import L2_BYTES, LOCALS, Epilogue
from lossc.codegen.conv import ConvSpec, conv_code
from lossc.errors import InternalError
from lossc.ir.blob import BLOCK
from lossc.targets import AVX512, ISAS

# of x and y: whole planes, blocks of channels, or those as bfloat16
PLANES, BLOCKS, HALVES = (0, False), (BLOCK, False), (BLOCK, True)
SIDES = ((HALVES, HALVES), (HALVES, PLANES), (PLANES, HALVES), (HALVES, BLOCKS), (BLOCKS, HALVES))
each_isa = pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)


def halved(spec: ConvSpec, number: int, channels: tuple[int, int], spare: int = 0) -> ConvSpec:
    """The spec with its sides as the pair of this number has them."""
    (x_block, x_bf16), (y_block, y_bf16) = SIDES[number % len(SIDES)]
    spec = in_blocks(spec, x_block, y_block, channels, spare)
    return replace(spec, bf16=True, x_bf16=x_bf16, y_bf16=y_bf16, accumulate=False)


def known() -> list[ConvSpec]:
    forward = [spec for spec in layers() if spec.direction == "forward"]
    return [halved(s, number, (s.ci // s.groups, s.co // s.groups)) for number, s in enumerate(forward)]


def random_specs(seed: str, count: int) -> list[ConvSpec]:
    rng, specs = random.Random(seed), []
    while len(specs) < count:
        spec = random_spec(rng, len(specs), "f32")
        if spec.direction == "forward" and len(spec.kernel) <= 2:
            channels = (rng.choice((16, 32, 48)), rng.choice((16, 32, 48, 80)))
            spec = halved(spec, len(specs), channels, rng.choice((0, BLOCK)))
            spec = replace(spec, frozen=rng.choice(("", spec.w)))
            specs.append(replace(spec, epilogue=epilogue(spec, "f32")) if spec.epilogue else spec)
    return specs


def plain(spec: ConvSpec) -> ConvSpec:
    """The same of float32 images."""
    return replace(spec, name=f"{spec.name}_plain", x_bf16=False, y_bf16=False)


def check(library: Library, spec: ConvSpec, seed: int, threads: tuple[int, ...] = (1, 2, 3)) -> None:
    rng = np.random.default_rng(seed)
    frozen, shape = spec.frozen, (spec.n, spec.co, *spec.out_shape)

    def flat(n: int, channels: int, strides: tuple[int, int], size: tuple[int, ...]) -> np.ndarray:
        span = (n - 1) * strides[0] + (channels - 1) * strides[1] + prod(size)
        return bf16(rng.standard_normal(span + 2 * GUARD).astype(np.float32))

    x = flat(spec.n, spec.ci, spec.x_strides, spec.in_shape)[GUARD:-GUARD]
    before = flat(spec.n, spec.co, spec.y_strides, spec.out_shape)
    w = rng.standard_normal(spec.co * spec.ci // spec.groups * prod(spec.kernel)).astype(np.float32)
    sizes = {"channel": spec.co, "position": prod(spec.out_shape), "each": spec.n, "other": before.size}
    args = [arg.split("*restrict ")[1] for arg in spec.epilogue.args] if spec.epilogue else []
    extra = [rng.standard_normal(sizes[arg]).astype(np.float32) for arg in args]
    extra = [halves(each) if arg == "other" else each for arg, each in zip(args, extra, strict=True)]

    def run(name: str, image: np.ndarray, result: np.ndarray, count: int) -> np.ndarray:
        operand = library.prepare(name, w) if frozen else w
        library.run(name, [image, operand, result[GUARD:-GUARD], *extra], count)
        return result

    expected = run(plain(spec).name, x, before.copy(), 1)
    touched = np.zeros(before.shape, bool)
    planes(touched[GUARD:], shape, spec.y_strides, spec.y_block)[...] = True
    assert (expected[touched] != before[touched]).any()
    for count in threads:
        found = run(spec.name, halves(x) if spec.x_bf16 else x, halves(before) if spec.y_bf16 else before.copy(), count)
        if spec.y_bf16:
            found, rounded = floats(found), np.where(touched, bf16(expected), before)
        else:
            rounded = expected
        np.testing.assert_array_equal(found.view(np.int32), rounded.view(np.int32), f"{count} threads: {spec}")


def joined(spec: ConvSpec) -> Epilogue:
    """acc + other, which lies as y does."""
    other = f"other + n * {spec.y_strides[0]} + c * {spec.y_strides[1]} + j * {BLOCK}"
    lines = (f"const vf32 out = vf32_add(acc, vf32_load_bf16({other}));",)
    return Epilogue(lines, ("const uint16_t *restrict other",))


def library_of(specs: list[ConvSpec], isa, folder, names: dict[str, str] | None = None, **how) -> Library:
    """The specs' functions, and those of the same float32 images; ``names``: of candidates to take."""
    codes = {spec.name: conv_code(spec, isa, "f32", prefer=(names or {}).get(spec.name, "")) for spec in specs}
    codes |= {plain(spec).name: conv_code(plain(spec), isa, "f32") for spec in specs}
    assert all(code.choice.name.startswith("conv direct") and "vf32_dot2" in code.text for code in codes.values())
    return Library(codes, isa, "f32", folder, **how)


@each_isa
def test_sides_in_memory(isa, tmp_path):
    specs = [*known()[::2], *random_specs(f"halves {isa.name}", 8)]
    library = library_of(specs, isa, tmp_path)
    for seed, spec in enumerate(specs):
        check(library, spec, seed)


def test_read_in_place_and_from_strips(tmp_path):
    """Where no position touches the padding there are both, for one spec or another with epilogues."""
    specs, names = [], {}
    for number, spec in enumerate(s for s in known() if s.x_bf16 and not any(s.pad)):
        plan = conv_code(spec, NATIVE, "f32").choice.name.removesuffix(" strip")
        for strip in ("", " strip"):
            named = replace(spec, name=f"{spec.name}{strip[1:]}")
            specs.append(replace(named, epilogue=epilogue(spec, "f32")) if number % 2 else named)
            names[named.name] = plan + strip
    assert len(specs) >= 4
    library = library_of(specs, NATIVE, tmp_path, names)
    for seed, spec in enumerate(specs):
        code = library.codes[spec.name]
        assert code.choice.name == names[spec.name]
        assert ("uint16_t *restrict strip" in code.text) == ("strip" in spec.name)
        check(library, spec, seed)


def test_what_is_added_to_results_is_fetched_while_they_are_computed(tmp_path):
    specs = [replace(s, name=f"{s.name}_joined", epilogue=joined(s)) for s in known() if s.y_block]
    library = library_of(specs, NATIVE, tmp_path)
    fetched = ["PREFETCH(other" in library.codes[spec.name].text for spec in specs]
    large = [spec.n * spec.co * prod(spec.out_shape) * 4 > L2_BYTES for spec in specs]
    assert fetched == [far and spec.y_bf16 for far, spec in zip(large, specs, strict=True)] and len(set(fetched)) == 2
    for seed, spec in enumerate(specs):
        check(library, spec, seed)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_warnings_without_openmp(compiler, tmp_path):
    specs = random_specs("warnings", 6)
    library = library_of(specs, AVX512, tmp_path, compiler=compiler, openmp=False)
    for seed, spec in enumerate(specs):
        check(library, spec, seed, threads=(1,))


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_names_and_lines(isa):
    for spec in [*random_specs("names", 12), *known()]:
        text = conv_code(replace(spec, epilogue=None), isa, "f32").text
        assert local_names(text) <= LOCALS
        assert_tidy(text)


def test_what_cannot_be_is_refused():
    spec = known()[0]
    assert spec.x_bf16 and spec.y_bf16
    for other, dtype, why in (
        (replace(spec, x_block=0), "f32", "only channels in blocks"),
        (replace(spec, y_block=0), "f32", "only channels in blocks"),
        (replace(spec, bf16=False), "f32", "is multiplied so"),
        (replace(spec, bf16=False, x_bf16=False), "f64", "forward pass alone"),
        (replace(spec, bf16=False, x_bf16=False, direction="bwd_data"), "f32", "forward pass alone"),
    ):
        with pytest.raises(InternalError, match=why):
            conv_code(other, AVX512, dtype)
