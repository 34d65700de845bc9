"""Winograd convolutions whose transformed tiles and weights are rounded to bfloat16, against a model in NumPy: float32
transforms, which are the same to the bit, rounded, and products and sums in float64; and how far they are from the
exact results."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from itertools import product
from math import ceil

import numpy as np
import pytest
from contraction_harness import Library, bf16, local_names
from test_bf16 import HERE, NATIVE
from test_conv import check, conv, epilogue, reference
from test_conv_halves import SIDES as IN_MEMORY
from test_conv_halves import check as check_halves
from test_conv_halves import plain
from test_winograd import SIDES, random_spec

from lossc.codegen.contraction import LOCALS, types_of
from lossc.codegen.conv import ConvSpec, conv_code
from lossc.codegen.conv_window import window
from lossc.codegen.filtering import FILTERINGS, Filtering
from lossc.codegen.winograd import winograd_code
from lossc.ir.blob import BLOCK
from lossc.targets import AVX512, AVX512_BF16, ISAS

SMALL = {f.r: f for f in FILTERINGS if f.m == 2}  # by the kernel
each_isa = pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
each_kernel = pytest.mark.parametrize("taps", SMALL)


def code(spec: ConvSpec, isa, prefer: str = "", pairs: bool = True):
    """The best candidate that rounds, or does not, or the one that is preferred."""
    shape, types, among = window(spec), types_of(isa, "f32"), (SMALL[spec.kernel[0]],)
    if not (prefer or pairs):
        return winograd_code(spec, replace(shape, bf16=False), isa, types, among)
    names = [name for name, _ in winograd_code(spec, shape, isa, types, among).choice.ranked if " bf16 " in name]
    found = winograd_code(spec, shape, isa, types, among, prefer or names[0])
    assert found.choice.name == (prefer or names[0]) and "vf32_dot2" in found.text
    return found


def specs(seed: str, count: int) -> list[ConvSpec]:
    """Odd shapes, groups, epilogues; odd numbers of channels in planes, and either side in blocks."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        sides = ((0, 0), *SIDES)[len(found) % 4]
        spec = random_spec(rng, len(found), "f32", rng.choice(tuple(SMALL)), *sides)
        if spec.direction == "forward":
            found.append(replace(spec, bf16=True))
    return found


def transformed(matrix, tiles: np.ndarray) -> np.ndarray:
    """M d M^T in the tiles' type, lines before columns."""
    for axis in (-2, -1):
        lines = np.moveaxis(tiles, axis, 0)
        sums = [sum(tiles.dtype.type(c) * line for c, line in zip(row, lines, strict=True) if c) for row in matrix]
        tiles = np.moveaxis(np.stack(sums), 0, axis)
    return tiles


def model(spec: ConvSpec, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> np.ndarray:
    f: Filtering = SMALL[spec.kernel[0]]
    rows, columns = (ceil(size / f.m) for size in spec.out_shape)
    (top, left), (height, width) = spec.pad, spec.in_shape
    lines, row = max(rows * f.m + f.r - 1, top + height), max(columns * f.m + f.r - 1, left + width)
    padded = np.zeros((spec.n, spec.ci, lines, row), np.float32)
    padded[:, :, top : top + height, left : left + width] = x
    tiles = np.lib.stride_tricks.sliding_window_view(padded, (f.window, f.window), (2, 3))[:, :, :: f.m, :: f.m]
    tiles = bf16(transformed(f.input, tiles[:, :, :rows, :columns])).astype(np.float64)
    weights = bf16(transformed(f.weights, w.astype(np.float32))).astype(np.float64)
    tiles = tiles.reshape(spec.n, spec.groups, -1, *tiles.shape[2:])
    weights = weights.reshape(spec.groups, spec.co // spec.groups, *weights.shape[1:])
    sums = np.einsum("ngchwij,gocij->ngohwij", tiles, weights, optimize=True)
    sums = transformed(f.output, sums.reshape(spec.n, spec.co, *sums.shape[3:]))
    return sums.swapaxes(3, 4).reshape(spec.n, spec.co, rows * f.m, -1)[:, :, : y.shape[2], : y.shape[3]]


def check_model(library: Library, spec: ConvSpec, seed: int, threads=(1, 2, 3)) -> None:
    check(library, replace(spec, bf16=False), "f32", seed, threads, computed=model)


@each_isa
def test_random_convolutions(isa, tmp_path):
    found = specs(f"winograd bf16 {isa.name}", 12)
    library = Library({s.name: code(s, isa) for s in found}, isa, "f32", tmp_path)
    for seed, spec in enumerate(found):
        check_model(library, spec, seed)


@each_isa
def test_images_that_lie_as_bfloat16(isa, tmp_path):
    """The results of float32 images that hold the same numbers, rounded; where the algorithm rounds and where not."""
    shapes = [
        (3, 1, 32, 48, (9, 12), (3, 3), (1, 1), (1, 1), (1, 1)),
        (2, 2, 64, 32, (7, 6), (5, 5), (1, 1), (2, 1), (1, 1)),
    ]
    codes, found = {}, []
    for number, (sides, pairs) in enumerate(product(IN_MEMORY, (True, False))):
        (x_block, x_bf16), (y_block, y_bf16) = sides
        spec = conv(f"c{number}", "forward", *shapes[number // 2 % 2])
        spec = replace(spec, bf16=True, x_block=x_block, y_block=y_block, x_bf16=x_bf16, y_bf16=y_bf16)
        spec = replace(spec, epilogue=epilogue(spec, "f32"), frozen=spec.w if number % 3 else "")
        codes |= {each.name: code(each, isa, pairs=pairs) for each in (spec, plain(spec))}
        found.append(spec)
    library = Library(codes, isa, "f32", tmp_path)
    for seed, spec in enumerate(found):
        check_halves(library, spec, seed)


@each_isa
def test_frozen_weights_give_the_same_sums(isa, tmp_path):
    """Whether packed by one thread or by three, or in each call."""
    found = [replace(s, epilogue=None, accumulate=False) for s in specs("winograd bf16 frozen", 4)]
    codes = {}
    for spec in found:
        frozen = code(replace(spec, name=f"{spec.name}_frozen", frozen=spec.w), isa)
        codes |= {f"{spec.name}_frozen": frozen, spec.name: code(spec, isa, frozen.choice.name)}
    library, rng = Library(codes, isa, "f32", tmp_path), np.random.default_rng(4)
    for spec in found:
        w = rng.standard_normal(spec.co * spec.ci // spec.groups * spec.kernel[0] ** 2).astype(np.float32)
        x = rng.standard_normal(spec.n * spec.x_strides[0]).astype(np.float32)
        anew, y = np.zeros((2, spec.n * spec.y_strides[0]), np.float32)
        packed = [library.prepare(f"{spec.name}_frozen", w, threads) for threads in (1, 3)]
        assert packed[0].tobytes() == packed[1].tobytes()
        library.run(spec.name, [x, w, anew], 2)
        library.run(f"{spec.name}_frozen", [x, packed[0], y], 1)
        assert anew.any() and y.tobytes() == anew.tobytes(), spec


@each_kernel
@pytest.mark.parametrize("channels", [64, 512])
def test_error_beside_that_of_the_rounded_operands(taps, channels, tmp_path):
    """Root mean square and maximum, relative to the results': of inputs that passed a ReLU, and weights by He."""
    spec = conv("f", "forward", 1, 1, channels, 64, (14, 14), (taps, taps), (1, 1), (taps // 2,) * 2, (1, 1))
    spec, rng = replace(spec, bf16=True), np.random.default_rng(channels)
    library = Library({"f": code(spec, NATIVE)}, NATIVE, "f32", tmp_path)
    x = np.maximum(rng.standard_normal((1, channels, 14, 14)), 0).astype(np.float32)
    w = rng.standard_normal((64, channels, taps, taps)) * np.sqrt(2 / (channels * taps**2))
    w, y = w.astype(np.float32), np.zeros((1, 64, 14, 14), np.float32)
    library.run("f", [x.ravel(), w.ravel(), y.ravel()], 2)
    exact, direct = (reference(spec, *(read(a).astype(np.float64) for a in (x, w)), y) for read in (np.array, bf16))

    def errors(found):
        """Beside the exact results."""
        off = found - exact
        return np.sqrt(np.mean(off**2) / np.mean(exact**2)), np.max(np.abs(off)) / np.max(np.abs(exact))

    mean, largest = errors(y)
    direct_mean, direct_largest = errors(direct)
    assert 1.3 * direct_mean < mean < 1.7 * direct_mean and mean < 0.0042
    assert largest < 2.2 * direct_largest and largest < 0.005


def test_choice():
    """Where it is estimated faster than direct sums, and than itself in float32; larger tiles are never rounded."""
    spec = conv("c", "forward", 2, 1, 128, 192, (28, 28), (3, 3), (1, 1), (1, 1), (1, 1))
    for sides in ((0, 0), (BLOCK, BLOCK)):
        spec = replace(spec, bf16=True, x_block=sides[0], y_block=sides[1])
        for winograd in (2, 4):
            choice = conv_code(spec, NATIVE, "f32", winograd=winograd).choice
            assert choice.name.startswith("conv winograd bf16 F(2x2,3x3) ")
            assert not any("bf16 F(4x4" in name for name, _ in choice.ranked)
        alone = conv_code(spec, NATIVE, "f32").choice
        assert not any("winograd" in name for name, _ in alone.ranked)
        plain = conv_code(replace(spec, bf16=False), NATIVE, "f32", winograd=2).choice
        assert plain.name.startswith("conv winograd F(2x2,3x3) ")
        assert not any("bf16" in name for name, _ in plain.ranked)
    few = replace(spec, ci=16, co=16, in_shape=(7, 7), out_shape=(7, 7), x_strides=(784, 49), y_strides=(784, 49))
    assert conv_code(few, NATIVE, "f32", winograd=2).choice.name.startswith("conv direct 3x3 bf16 ")


def test_no_warnings_from_clang_with_or_without_the_instructions(tmp_path):
    if not shutil.which("clang"):
        pytest.skip("no clang")
    found = specs("winograd bf16 warnings", 6)
    codes = {s.name: code(s, AVX512) for s in found}
    assert codes == {s.name: code(s, AVX512_BF16) for s in found}
    for isa in (AVX512, AVX512_BF16):
        Library(codes, isa, "f32", tmp_path, compiler="clang", openmp=False)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_names_and_lines(isa):
    for spec in specs("winograd bf16 names", 12):
        found = code(replace(spec, epilogue=None, frozen=spec.w), isa)
        for text in (found.text, found.prepared.text, code(replace(spec, epilogue=None), isa).text):
            assert local_names(text) <= LOCALS
            assert all(line == line.rstrip() and "\t" not in line for line in text.splitlines())
