"""Winograd convolutions, each tile size and direction on its own, against NumPy in float64."""

from __future__ import annotations

import argparse
import random
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from contraction_harness import SPEED, Library, local_names
from test_conv import check, conv, epilogue

from lossc.cli import inspect_command
from lossc.cli.request import net_request
from lossc.codegen.contraction import LOCALS, types_of
from lossc.codegen.conv_window import window
from lossc.codegen.filtering import FILTERINGS
from lossc.codegen.winograd import filterings, winograd_code
from lossc.codegen.winograd_weights import winograd_weights_code
from lossc.errors import UsageError
from lossc.frontend.net import read_net_text
from lossc.ir.blob import BLOCK
from lossc.pipeline import Request, compile_net
from lossc.targets import AVX512, runnable_targets

#: Times the tolerance of plain sums, of which F(2x2,3x3) needs 0.19 at most here, F(2x2,5x5) 0.18 and F(4x4,3x3) 5.3.
PLAIN_SUMS = {"F(2x2,3x3)": 1.0, "F(4x4,3x3)": 6.0, "F(2x2,5x5)": 1.0}
each_filtering = pytest.mark.parametrize("filtering", FILTERINGS, ids=str)
SIDES = [(BLOCK, 0), (0, BLOCK), (BLOCK, BLOCK)]  # of x and y
HERE = [target.isa for target in runnable_targets()]


def code(spec, isa, dtype, filtering):
    shape = window(spec)
    shape = shape.turned() if spec.direction == "bwd_data" else shape
    assert filtering in filterings(shape, 4)
    if spec.direction == "bwd_weights":
        return winograd_weights_code(spec, shape, isa, types_of(isa, dtype), among=(filtering,))
    return winograd_code(spec, shape, isa, types_of(isa, dtype), among=(filtering,))


def random_spec(rng: random.Random, index: int, dtype: str, taps: int, x_block: int = 0, y_block: int = 0):
    """Odd shapes, planes smaller than a tile, several images in a block, groups, pads that differ by axis."""
    while True:
        size, pad = (rng.randint(1, 23), rng.randint(1, 70)), (rng.randint(0, taps), rng.randint(0, taps))
        way = rng.choice(["forward", "bwd_data", "bwd_weights"])
        fits = way != "bwd_data" or max(pad) < taps  # turned, the pad is taps - 1 - pad
        if fits and min(s + 2 * p for s, p in zip(size, pad, strict=True)) >= taps:
            break
    groups = rng.choice([1, 1, 1, 2, 3])
    ci = groups * rng.choice([16, 32] if x_block else [1, 3, 8, 21])
    co = groups * rng.choice([16, 48] if y_block else [1, 2, 5, 16, 29])
    spec = conv(f"conv{index}", way, rng.randint(1, 5), groups, ci, co, size, (taps, taps), (1, 1), pad, (1, 1))
    spec = replace(spec, accumulate=rng.random() < 0.5, alpha=rng.choice(["1.0f", "0.5f"]))
    if x_block or y_block:
        spec = replace(spec, x_block=x_block, y_block=y_block)
        spec = replace(spec, x_strides=(spec.x_strides[0] + 5, spec.x_strides[1]))
    return replace(spec, epilogue=epilogue(spec, dtype)) if rng.random() < 0.4 else spec


def growth(f):
    """By how much the transforms enlarge independent rounding errors: for each axis, the root of the squares of all
    products of the three matrices' entries, against the terms that remain of them."""
    squares = [
        sum(float(a * w * d) ** 2 for a, b, g in zip(row, f.input, f.weights, strict=True) for w in g for d in b)
        for row in f.output
    ]
    return max(squares) / f.r


@each_filtering
def test_transforms_are_exact(filtering):
    """A^T ((G g) * (B^T d)) is the correlation of d and g, for every pair of unit vectors."""
    for i in range(filtering.window):
        for tap in range(filtering.r):
            product = [b[i] * g[tap] for b, g in zip(filtering.input, filtering.weights, strict=True)]
            for out, row in enumerate(filtering.output):
                assert sum(a * p for a, p in zip(row, product, strict=True)) == (out + tap == i)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@each_filtering
@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_random_convolutions(isa, filtering, dtype, tmp_path):
    rng = random.Random(f"winograd {isa.name} {filtering} {dtype}")
    specs = [random_spec(rng, index, dtype, filtering.r) for index in range(24)]
    codes = {s.name: code(s, isa, dtype, filtering) for s in specs}
    library = Library(codes, isa, dtype, tmp_path)
    for seed, spec in enumerate(specs):
        check(library, spec, dtype, seed, growth=PLAIN_SUMS[str(filtering)])


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@each_filtering
@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_operands_whose_channels_lie_in_blocks(isa, filtering, dtype, tmp_path):
    rng = random.Random(f"winograd blocks {isa.name} {filtering} {dtype}")
    specs = [random_spec(rng, index, dtype, filtering.r, *SIDES[index % 3]) for index in range(12)]
    codes = {s.name: code(s, isa, dtype, filtering) for s in specs}
    library = Library(codes, isa, dtype, tmp_path)
    for seed, spec in enumerate(specs):
        check(library, spec, dtype, seed, growth=PLAIN_SUMS[str(filtering)])


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_channels_in_blocks_without_warnings(compiler, tmp_path):
    """Tiles that fill the planes, with and without windows over edges, and without OpenMP."""
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    specs = [
        replace(
            conv(f"{way}{number}", way, 2, 1, 32, 16, (size, size), (3, 3), (1, 1), (pad, pad), (1, 1)),
            x_block=x_block, y_block=y_block,
        )
        for way in ("forward", "bwd_data", "bwd_weights")
        for number, (size, pad, (x_block, y_block)) in enumerate(product((10, 11), (0, 1, 2), SIDES))
    ]  # fmt: skip
    codes = {s.name: code(s, HERE[0], "f32", FILTERINGS[0]) for s in specs}
    library = Library(codes, HERE[0], "f32", tmp_path, compiler=compiler, openmp=False, optimise=["-O1"])
    for seed, spec in enumerate(specs):
        check(library, spec, "f32", seed, threads=(1,))


@pytest.mark.parametrize("way", ["forward", "bwd_data"])
def test_frozen_weights_give_the_same_sums_of_channels_in_blocks(way, tmp_path):
    spec = conv("anew", way, 2, 1, 32, 48, (9, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    spec = replace(spec, x_block=BLOCK, y_block=BLOCK)
    frozen = replace(spec, name="frozen", frozen=spec.w)
    codes = {s.name: code(s, HERE[0], "f32", FILTERINGS[0]) for s in (spec, frozen)}
    library = Library(codes, HERE[0], "f32", tmp_path, optimise=SPEED)
    rng = np.random.default_rng(3)
    source, out = (rng.standard_normal(2 * 48 * 72).astype(np.float32) for _ in range(2))
    w, other = rng.standard_normal(48 * 32 * 9).astype(np.float32), out.copy()
    library.run("anew", [source, w, out], 2)
    library.run("frozen", [source, library.prepare("frozen", w, 2), other], 2)
    assert out.tobytes() == other.tobytes()


@pytest.mark.parametrize("way", ["forward", "bwd_data", "bwd_weights"])
def test_nothing_is_turned_where_channels_lie_in_blocks(way):
    plain = conv("c", way, 8, 1, 64, 64, (28, 28), (3, 3), (1, 1), (1, 1), (1, 1))
    one, both = (replace(plain, x_block=BLOCK, y_block=y_block) for y_block in (0, BLOCK))
    codes = [code(spec, AVX512, "f32", FILTERINGS[0]) for spec in (plain, one, both)]
    assert codes[0].choice.cycles > codes[1].choice.cycles > codes[2].choice.cycles
    turns = [c.text.count("c_transpose(") - 1 for c in codes]  # calls
    assert turns == ([3, 2, 1] if way == "bwd_weights" else [2, 1, -1])


@each_filtering
def test_error_relative_to_the_sum_of_magnitudes(filtering, tmp_path):
    taps, pad = filtering.r, filtering.r // 2
    spec = conv("f", "forward", 2, 1, 64, 32, (28, 28), (taps, taps), (1, 1), (pad, pad), (1, 1))
    library = Library({"f": code(spec, HERE[0], "f32", filtering)}, HERE[0], "f32", tmp_path, optimise=SPEED)
    rng = np.random.default_rng(filtering.m)
    x = rng.standard_normal((2, 64, 28, 28)).astype(np.float32)
    w = rng.standard_normal((32, 64, taps, taps)).astype(np.float32)
    y = np.zeros((2, 32, 28, 28), np.float32)
    library.run("f", [x.ravel(), w.ravel(), y.ravel()], 2)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (taps, taps), (2, 3))
    exact = np.einsum("nchwij,ocij->nohw", windows, w, optimize=True)
    size = np.einsum("nchwij,ocij->nohw", np.abs(windows), np.abs(w), optimize=True)
    assert np.max(np.abs(y - exact) / size) < growth(filtering) * np.finfo(np.float32).eps


def test_names_and_lines():
    rng = random.Random(5)
    for index in range(30):
        filtering = FILTERINGS[index % len(FILTERINGS)]
        for sides in ((0, 0), *SIDES):
            spec = random_spec(rng, index, "f32", filtering.r, *sides)
            text = code(replace(spec, epilogue=None), AVX512, "f32", filtering).text
            assert local_names(text) <= LOCALS


NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 64 dim: 56 dim: 56 } } }
layer { name: "y" type: "Convolution" bottom: "x" top: "y"
        convolution_param { num_output: 64 kernel_size: 3 pad: 1 } }
"""


@pytest.mark.parametrize(
    ("options", "winograd", "algorithm"),
    [
        ([], 2, "conv winograd F(2x2,3x3)"),
        (["--winograd", "4"], 4, "conv winograd F(4x4,3x3)"),
        (["--no-winograd"], 0, "conv direct"),
        (["--exact"], 0, "conv direct"),
    ],
)
def test_options_choose_among_the_algorithms(options, winograd, algorithm, tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    parser = argparse.ArgumentParser()
    inspect_command.add_arguments(parser)
    request, _ = net_request(parser.parse_args([str(tmp_path / "net.prototxt"), "--target", "avx512", *options]))
    assert request.winograd == winograd
    kernels = compile_net(replace(request, timed=True)).program.manifest["kernels"]
    (chosen,) = [k["algorithm"] for k in kernels if k["kind"] == "conv forward"]
    assert chosen.startswith(algorithm)


def test_another_tile_is_an_error():
    with pytest.raises(UsageError, match="winograd is 3"):
        Request(read_net_text(NET, "net.prototxt"), winograd=3)
