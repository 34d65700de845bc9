"""Convolution and its gradients against NumPy in float64: odd shapes, any number of axes, every ISA that runs here."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from contraction_harness import GUARD, REAL, Library, assert_tidy, bf16, local_names

from lossc.codegen.contraction import LOCALS, Epilogue, types_of
from lossc.codegen.conv import ConvSpec, conv_code
from lossc.codegen.conv_gather import gather_code
from lossc.codegen.conv_window import window
from lossc.errors import InternalError
from lossc.targets import AVX512, ISAS, runnable_targets

HERE = [target.isa for target in runnable_targets()]
DIRECTIONS = ("forward", "bwd_data", "bwd_weights")


def reference(spec: ConvSpec, x, w, y):
    """The result of the spec's direction; x (n, ci, ...), w (co, ci / groups, ...), y (n, co, ...), all float64."""
    axes = len(spec.kernel)
    wide = [max((o - 1) * s + d * (k - 1) + 1, i + p) for o, s, d, k, i, p in zip(
        spec.out_shape, spec.stride, spec.dilation, spec.kernel, spec.in_shape, spec.pad, strict=True)]  # fmt: skip
    inner = (slice(None), slice(None), *(slice(p, p + i) for p, i in zip(spec.pad, spec.in_shape, strict=True)))
    padded = np.zeros((spec.n, spec.ci, *wide))
    if spec.direction != "bwd_data":
        padded[inner] = x
    out = {"forward": np.zeros_like(y), "bwd_data": padded, "bwd_weights": np.zeros_like(w)}[spec.direction]
    ci, co = spec.ci // spec.groups, spec.co // spec.groups
    for taps in itertools.product(*(range(k) for k in spec.kernel)):
        window = tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(taps, spec.dilation, spec.out_shape, spec.stride, strict=True)
        )
        for g in range(spec.groups):
            at_x = (slice(None), slice(g * ci, (g + 1) * ci), *window)
            at_y = (slice(None), slice(g * co, (g + 1) * co))
            at_w = (slice(g * co, (g + 1) * co), slice(None), *taps)
            if spec.direction == "forward":
                out[at_y] += np.moveaxis(np.tensordot(w[at_w], padded[at_x], (1, 1)), 0, 1)
            elif spec.direction == "bwd_data":
                out[at_x] += np.moveaxis(np.tensordot(w[at_w], y[at_y], (0, 1)), 0, 1)
            else:
                over = (0, *range(2, 2 + axes))
                out[at_w] += np.tensordot(y[at_y], padded[at_x], (over, over))
    return out[inner] if spec.direction == "bwd_data" else out


def epilogue(spec: ConvSpec, dtype: str) -> Epilogue:
    """relu(acc + channel[c]) + each[n] + position[j ...]: every coordinate matters."""
    vec, real = f"v{dtype}", {"f32": "float", "f64": "double"}[dtype]
    if {"forward": spec.y_block, "bwd_data": spec.x_block, "bwd_weights": 0}[spec.direction]:
        channel, position = f"{vec}_load(channel + c)", f"{vec}_set1(position[j])"
    else:
        channel, position = f"{vec}_set1(channel[c])", f"{vec}_load_n(position + j, m)"
    lines = [
        f"const {vec} biased = {vec}_add(acc, {channel});",
        f"const {vec} placed = {vec}_add(biased, {position});",
    ]
    if spec.direction == "bwd_weights":
        lines.append(f"const {vec} out = {vec}_max(placed, {vec}_zero());")
        args = ("channel", "position")
    else:
        lines.append(f"const {vec} out = {vec}_max({vec}_add(placed, {vec}_set1(each[n])), {vec}_zero());")
        args = ("channel", "position", "each")
    return Epilogue(tuple(lines), tuple(f"const {real} *restrict {arg}" for arg in args))


def conv(name, direction, n, groups, ci, co, size, kernel, stride, pad, dilation, **more) -> ConvSpec:
    """A spec with the output shape that the sizes give."""
    shape = tuple(
        (i + 2 * p - d * (k - 1) - 1) // s + 1
        for i, k, s, p, d in zip(size, kernel, stride, pad, dilation, strict=True)
    )
    assert min(shape) > 0
    strides = {"x_strides": (ci * prod(size), prod(size)), "y_strides": (co * prod(shape), prod(shape))} | more
    return ConvSpec(
        name, f"{direction} {ci}->{co} k{kernel} {size}->{shape}", "src", "weights", "dst", direction,
        n, groups, ci, co, tuple(size), shape, tuple(kernel), tuple(stride), tuple(pad), tuple(dilation), **strides,
    )  # fmt: skip


def random_spec(rng: random.Random, index: int, dtype: str) -> ConvSpec:
    axes = rng.choice([1, 2, 2, 2, 2, 3, 4])

    def pick(*values: int) -> tuple[int, ...]:
        return tuple(rng.choice(values) for _ in range(axes))

    while True:
        size = tuple(rng.randint(1, {1: 90, 2: 21, 3: 7, 4: 4}[axes]) for _ in range(axes))
        kernel, stride = pick(1, 1, 2, 3, 3, 5), pick(1, 1, 1, 2, 3)
        pad, dilation = pick(0, 0, 1, 2, 4), pick(1, 1, 1, 2)
        if rng.random() < 0.2:
            kernel, stride, pad = (1,) * axes, (1,) * axes, (0,) * axes
        if all(i + 2 * p >= d * (k - 1) + 1 for i, p, d, k in zip(size, pad, dilation, kernel, strict=True)):
            break
    groups = rng.choice([1, 1, 1, 2, 3])
    ci, co = groups * rng.choice([1, 2, 3, 7, 20, 33]), groups * rng.choice([1, 2, 5, 16, 17, 35])
    way, images = rng.choice(DIRECTIONS), rng.randint(1, 5)
    spec = conv(f"conv{index}", way, images, groups, ci, co, size, kernel, stride, pad, dilation)
    if rng.random() < 0.3:
        x, y = prod(spec.in_shape) + 3, prod(spec.out_shape) + 2
        spec = replace(spec, x_strides=(spec.ci * x + 5, x), y_strides=(spec.co * y + 1, y))
    spec = replace(spec, accumulate=rng.random() < 0.5, alpha=rng.choice(["1.0f", "0.5f"]))
    return replace(spec, epilogue=epilogue(spec, dtype)) if rng.random() < 0.4 else spec


def planes(array, shape, strides, block=0):
    """(n, channels, *spatial) in a flat array with these image and channel strides; of channels in blocks
    (n, channels / block, block, *spatial)."""
    image, channel = strides
    inner = [prod(shape[a + 1 :]) for a in range(2, len(shape))]
    if block:
        n, channels, *space = shape
        shape = (n, channels // block, block, *space)
        strides = (image, channel * block, 1, *(step * block for step in inner))
    else:
        strides = (image, channel, *inner)
    return np.lib.stride_tricks.as_strided(array, shape, [s * array.itemsize for s in strides])


def check(
    library: Library, spec: ConvSpec, dtype: str, seed: int, threads=(1, 2, 4), growth: float = 1.0,
    computed=reference,
) -> None:  # fmt: skip
    """`growth`: how much larger an algorithm's rounding errors are than those of plain sums; `computed`: what it
    computes."""
    rng = np.random.default_rng(seed)
    real = REAL[dtype]
    x_shape, y_shape = (spec.n, spec.ci, *spec.in_shape), (spec.n, spec.co, *spec.out_shape)
    w_shape = (spec.co, spec.ci // spec.groups, *spec.kernel)

    def flat(shape, strides):
        span = (shape[0] - 1) * strides[0] + (shape[1] - 1) * strides[1] + prod(shape[2:])
        return rng.standard_normal(span + 2 * GUARD).astype(real)

    w_strides = (prod(w_shape[1:]), prod(w_shape[2:]))
    x, y, w = flat(x_shape, spec.x_strides), flat(y_shape, spec.y_strides), flat(w_shape, w_strides)
    layout = {
        "x": (x, x_shape, spec.x_strides, spec.x_block),
        "y": (y, y_shape, spec.y_strides, spec.y_block),
        "w": (w, w_shape, w_strides, 0),
    }
    order = {"forward": "xwy", "bwd_data": "ywx", "bwd_weights": "xyw"}[spec.direction]
    before, shape, *where = layout[order[2]]

    read = bf16 if spec.bf16 else np.array
    wide = {
        key: planes(read(a).astype(np.float64)[GUARD:], shape, *where).reshape(shape)
        for key, (a, shape, *where) in layout.items()
    }
    value = float(spec.alpha.rstrip("f")) * computed(spec, wide["x"], wide["w"], wide["y"])
    extra = []
    if spec.epilogue:
        channel, position = (rng.standard_normal(k).astype(real) for k in (shape[1], prod(shape[2:])))
        if spec.direction == "bwd_weights":
            channel, position = (rng.standard_normal(k).astype(real) for k in (shape[0], prod(shape[1:])))
            value = value + channel.reshape(-1, *[1] * (len(shape) - 1)) + position.reshape(1, *shape[1:])
            extra = [channel, position]
        else:
            image = rng.standard_normal(spec.n).astype(real)
            value = value + channel.reshape(1, -1, *[1] * len(spec.kernel)) + position.reshape(1, 1, *shape[2:])
            value = value + image.reshape(-1, *[1] * (len(shape) - 1))
            extra = [channel, position, image]
        value = np.maximum(value, 0)
    expected = before.astype(np.float64)
    out = planes(expected[GUARD:], shape, *where)
    value = value.reshape(out.shape)
    out[...] = value + out if spec.accumulate else value

    results = []
    for count in threads:
        got = before.copy()
        inputs = [layout[key][0][GUARD:-GUARD].copy() for key in order[:2]]
        library.run(spec.name, [*inputs, got[GUARD:-GUARD], *extra], count)
        results.append(got)
    terms = {
        "forward": prod(w_shape[1:]),
        "bwd_data": spec.co * prod(spec.kernel),
        "bwd_weights": spec.n * prod(spec.out_shape),
    }[spec.direction]
    tolerance = {"f32": 1e-6, "f64": 1e-14}[dtype] * (8 + terms) * growth
    np.testing.assert_allclose(results[0], expected, rtol=0, atol=tolerance, err_msg=str(spec))
    touched = np.zeros(before.shape, bool)
    planes(touched[GUARD:], shape, *where)[...] = True
    assert (results[0][~touched] == before[~touched]).all(), f"written outside of the output: {spec}"
    for got in results[1:]:
        assert got.tobytes() == results[0].tobytes(), f"depends on the number of threads: {spec}"


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_random_convolutions(isa, dtype, tmp_path):
    rng = random.Random(f"conv {isa.name} {dtype}")
    specs = [random_spec(rng, index, dtype) for index in range(30)]
    library = Library({s.name: conv_code(s, isa, dtype) for s in specs}, isa, dtype, tmp_path)
    for seed, spec in enumerate(specs):
        check(library, spec, dtype, seed)


def real_specs() -> list[ConvSpec]:
    """Layers of known nets, with few channels and images: every kind of blocking."""
    shapes = {
        "lenet1": (4, 1, 1, 20, (28, 28), (5, 5), (1, 1), (0, 0), (1, 1)),
        "lenet2": (5, 1, 20, 50, (12, 12), (5, 5), (1, 1), (0, 0), (1, 1)),
        "alexnet1": (1, 1, 3, 24, (227, 227), (11, 11), (4, 4), (0, 0), (1, 1)),
        "alexnet2": (2, 2, 24, 32, (27, 27), (5, 5), (1, 1), (2, 2), (1, 1)),
        "vgg": (1, 1, 16, 24, (56, 56), (3, 3), (1, 1), (1, 1), (1, 1)),
        "deep": (2, 1, 150, 40, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
        "pointwise": (3, 1, 70, 33, (14, 14), (1, 1), (1, 1), (0, 0), (1, 1)),
        "shared": (8, 1, 130, 101, (7, 7), (1, 1), (1, 1), (0, 0), (1, 1)),
        "spread": (3, 2, 40, 36, (15, 14), (1, 1), (2, 2), (0, 0), (1, 1)),
        "spread3": (2, 1, 9, 30, (20, 33), (1, 1), (3, 1), (0, 0), (1, 1)),
        "strip": (2, 1, 8, 24, (30, 30), (1, 1), (1, 1), (0, 0), (1, 1)),
        "long": (1, 1, 5, 8, (31, 35), (1, 1), (1, 1), (0, 0), (1, 1)),
        "depthwise": (2, 12, 12, 12, (14, 14), (3, 3), (2, 2), (1, 1), (1, 1)),
        "wide": (1, 1, 2, 3, (3, 700), (3, 5), (1, 2), (1, 2), (1, 1)),
        "volume": (2, 1, 6, 10, (8, 12, 12), (3, 3, 3), (1, 2, 2), (1, 1, 1), (1, 1, 1)),
        "signal": (2, 1, 4, 6, (1000,), (9,), (3,), (4,), (2,)),
    }
    return [conv(f"{name}_{way}", way, *shape) for name, shape in shapes.items() for way in DIRECTIONS]


@pytest.mark.parametrize("way", DIRECTIONS)
def test_layers_of_known_nets(way, tmp_path):
    specs = [spec for spec in real_specs() if spec.direction == way]
    library = Library({s.name: conv_code(s, HERE[0], "f32") for s in specs}, HERE[0], "f32", tmp_path)
    for seed, spec in enumerate(specs):
        check(library, spec, "f32", seed, threads=(1, 2, 3))


def test_gradients_of_strided_pointwise_convolutions(tmp_path):
    specs = [spec for spec in real_specs() if spec.name.startswith("spread") and spec.direction == "bwd_data"]
    specs += [replace(s, name=f"{s.name}_added", accumulate=True, alpha="0.5f") for s in specs]
    specs += [replace(s, name=f"{s.name}_more", n=s.n + 5) for s in specs[:2]]
    codes = {s.name: conv_code(s, HERE[0], "f32") for s in specs}
    assert len(specs) == 6 and all(code.choice.name.startswith("conv direct") for code in codes.values())
    library = Library(codes, HERE[0], "f32", tmp_path)
    for seed, spec in enumerate(specs):
        check(library, spec, "f32", seed)


def test_few_large_blocks_are_shared_out_by_channels():
    (spec,) = [spec for spec in real_specs() if spec.name == "shared_forward"]
    gathered = gather_code(spec, window(spec), AVX512, types_of(AVX512, "f32"))
    assert re.search(r"block \d+x1x49/[24] ", gathered.choice.name)
    (spec,) = [replace(spec, n=1) for spec in real_specs() if spec.name == "shared_forward"]
    assert re.search(r"block 1x49/[24]", conv_code(spec, AVX512, "f32").choice.name)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_warnings_without_openmp(compiler, tmp_path):
    import shutil

    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    rng = random.Random(11)
    specs = [random_spec(rng, index, "f32") for index in range(9)] + real_specs()[3:6]
    codes = {s.name: conv_code(s, HERE[0], "f32") for s in specs}
    library = Library(codes, HERE[0], "f32", tmp_path, compiler=compiler, openmp=False, optimise=["-O1"])
    for seed, spec in enumerate(specs):
        check(library, spec, "f32", seed, threads=(1,))


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_the_same_spec_gives_the_same_text(isa):
    for spec in real_specs()[:6]:
        assert conv_code(spec, isa, "f32") == conv_code(spec, isa, "f32")


def test_parameters_come_in_the_order_of_the_documentation():
    orders = {"forward": "src weights dst", "bwd_data": "dst weights src", "bwd_weights": "src dst weights"}
    for way, names in orders.items():
        code = conv_code(conv("f", way, 1, 1, 2, 3, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1)), AVX512, "f32")
        assert [param.split("restrict ")[1] for param in code.params] == names.split()


def test_parameters_cannot_be_shadowed():
    """Every name declared inside the functions is in LOCALS, which callers keep their parameters apart from."""
    rng = random.Random(7)
    for spec in [*real_specs(), *(random_spec(rng, index, "f32") for index in range(60))]:
        assert local_names(conv_code(replace(spec, epilogue=None), AVX512, "f32").text) <= LOCALS


def test_contradicting_shapes_are_refused():
    spec = conv("f", "forward", 1, 1, 2, 3, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1))
    for wrong in (replace(spec, groups=2), replace(spec, pad=(1,))):
        with pytest.raises(InternalError, match="convolution f"):
            conv_code(wrong, AVX512, "f32")


def check_text(spec: ConvSpec, isa) -> None:
    """The same spec gives the same text, which is tidy; parameters cannot be shadowed."""
    text = conv_code(spec, isa, "f32").text
    assert text == conv_code(spec, isa, "f32").text
    assert local_names(conv_code(replace(spec, epilogue=None), isa, "f32").text) <= LOCALS
    assert_tidy(text)


def test_lines_are_short():
    for spec in real_specs():
        assert_tidy(conv_code(spec, AVX512, "f32").text)
