"""The interpreter, kernel by kernel, against plain loops over plain arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossc.errors import DataError, InternalError, NumericError
from lossc.ir import Access, Blob, Conv, Dim, Gemm, Geometry, Graph, Kernel, Map, Pool, Random, Ref, Scalar, Store
from lossc.ir.blob import Role
from lossc.ir.checks import CheckFinite, CheckLabel
from lossc.ir.expr import Acc, Expr, Iota, Op, exp, expr, gather, greatest, iota, total, trunc, where
from lossc.ir.interpret import Interpreter
from lossc.ir.kernels import Constant, make_map

CLOSE = {"rtol": 1e-13, "atol": 1e-13}


class Memory:
    """A graph of blobs that hold random numbers, the arrays that they hold, and means to run one kernel."""

    def __init__(self, dtype: str = "f64", **shapes: tuple[int, ...]) -> None:
        self.graph = Graph("g")
        role: Role = "state"
        for name, shape in shapes.items():
            self.graph.add_blob(Blob(name, shape, role, label=name))
        self.interpreter = Interpreter(self.graph, dtype)
        rng = np.random.default_rng(7)
        for name, shape in shapes.items():
            self.interpreter[name][...] = rng.normal(size=shape)
        self.before = {name: self.interpreter[name].copy() for name in shapes}

    def set(self, name: str, values: object) -> None:
        self.interpreter[name][...] = values
        self.before[name] = self.interpreter[name].copy()

    def __call__(self, name: str) -> Ref:
        return self.graph.whole(name)

    def run(self, *kernels: Kernel) -> Interpreter:
        for kernel in kernels:
            self.graph.add(kernel, "layer", "forward")
        self.interpreter.run(["forward"])
        return self.interpreter


def test_map_element_wise_with_broadcasting_and_accumulation() -> None:
    m = Memory(x=(3, 4), row=(3,), column=(4,), out=(3, 4), more=(4, 3))
    value = expr(m("x")["nc"]) * m("row")["n"] + m("column")["c"]
    done = m.run(make_map([Store(m("out")["nc"], value), Store(m("more")["cn"], value - 1.0, accumulate=True)]))
    x, row, column = (m.before[k] for k in ("x", "row", "column"))
    for n, c in np.ndindex(3, 4):
        want = x[n, c] * row[n] + column[c]
        assert done["out"][n, c] == want
        assert done["more"][c, n] == m.before["more"][c, n] + (want - 1.0)


def test_map_all_reads_come_before_any_write() -> None:
    m = Memory(a=(5,), b=(5,))
    a, b = m("a")["i"], m("b")["i"]
    done = m.run(make_map([Store(a, expr(b)), Store(b, expr(a))]))
    np.testing.assert_array_equal(done["a"], m.before["b"])
    np.testing.assert_array_equal(done["b"], m.before["a"])


def test_map_softmax_and_a_loss_in_one() -> None:
    m = Memory(x=(3, 5), label=(3,), p=(3, 5), loss=())
    m.set("label", [4, 0, 2])
    x, label = expr(m("x")["nc"]), m("label")["n"]
    e = exp(x - greatest(x, "c"))
    p = e / total(e, "c")
    picked = gather(m("x")["nc"], "c", label)
    done = m.run(make_map([Store(m("p")["nc"], p)]), make_map([Store(m("loss")[""], total(picked, "n"))]))
    want_loss = 0.0
    for n in range(3):
        row = m.before["x"][n]
        powers = [math.exp(v - max(row)) for v in row]
        np.testing.assert_allclose(done["p"][n], [v / sum(powers) for v in powers], **CLOSE)
        want_loss += row[int(m.before["label"][n])]
    np.testing.assert_allclose(done["loss"], want_loss, **CLOSE)


@pytest.mark.parametrize("kind", ["sum", "max", "min"])
@pytest.mark.parametrize("over", ["n", "h", "nh", "ch", "nch"])
def test_map_reductions(kind: str, over: str) -> None:
    m = Memory(x=(2, 3, 4), out=(2, 3, 4))
    access = m("x")["nch"]
    dims = tuple(sorted(d for d in access.dims if d.name in over))
    from_reduction = Map((Store(m("out")["nch"], expr(access) - _reduce(kind, access, dims)),), access.dims)
    done = m.run(from_reduction)
    fold = {"sum": sum, "max": max, "min": min}[kind]
    for at in np.ndindex(2, 3, 4):
        ranges = [range(e) if "nch"[k] in over else [at[k]] for k, e in enumerate((2, 3, 4))]
        values = [m.before["x"][n, c, h] for n in ranges[0] for c in ranges[1] for h in ranges[2]]
        np.testing.assert_allclose(done["out"][at], m.before["x"][at] - fold(values), **CLOSE)


def _reduce(kind: str, access: Access, dims: tuple[Dim, ...]) -> Expr:
    from lossc.ir.expr import Reduce

    return Reduce(kind, expr(access), dims)


def test_map_gathers_by_truncated_index_and_stays_inside() -> None:
    m = Memory(x=(4, 3), pick=(4,), out=(4,))
    m.set("pick", [0.9, 2.0, -3.0, 17.0])
    done = m.run(make_map([Store(m("out")["n"], gather(m("x")["nc"], "c", m("pick")["n"]))]))
    for n, c in enumerate([0, 2, 0, 2]):
        assert done["out"][n] == m.before["x"][n, c]


def test_map_iota_and_where() -> None:
    m = Memory(x=(3, 4), out=(3, 4))
    x = m("x")["nc"]
    value = where(Op("gt", (expr(x), expr(0.0))), iota(x, "c"), trunc(expr(x) * 10.0) + Iota(x.dims[0]))
    done = m.run(make_map([Store(m("out")["nc"], value)]))
    for n, c in np.ndindex(3, 4):
        v = m.before["x"][n, c]
        assert done["out"][n, c] == (c if v > 0 else math.trunc(v * 10) + n)


def test_map_rounds_every_step_in_single_precision() -> None:
    m = Memory("f32", x=(50,), out=(50,), sum=())
    x = expr(m("x")["i"])
    done = m.run(make_map([Store(m("out")["i"], (x * 0.1 + 0.2) / 3.0)]))
    for i, v in enumerate(m.before["x"]):
        want = np.float32(np.float32(np.float32(v * np.float32(0.1)) + np.float32(0.2)) / np.float32(3))
        assert done["out"][i] == want


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("epilogue", [False, True])
def test_gemm(accumulate: bool, epilogue: bool) -> None:
    """Transposed operands, a scale, and an epilogue with a bias."""
    m = Memory(a=(4, 3), b=(5, 4), c=(3, 5), bias=(5,))
    acc = Acc(m("c")["ij"].dims)
    tail = Op("max", (acc + m("bias")["j"], expr(0.0))) if epilogue else None
    a, b = m("a").transpose(1, 0), m("b").transpose(1, 0)
    done = m.run(Gemm(a, b, m("c"), Scalar(0.3, "loss_weight"), accumulate, tail))
    for i, j in np.ndindex(3, 5):
        v = sum(m.before["a"][k, i] * m.before["b"][j, k] for k in range(4)) * 0.3
        v = max(v + m.before["bias"][j], 0.0) if epilogue else v
        want = v + (m.before["c"][i, j] if accumulate else 0.0)
        np.testing.assert_allclose(done["c"][i, j], want, **CLOSE)


@st.composite
def geometries(draw: st.DrawFn) -> tuple[Geometry, tuple[int, int], tuple[int, int]]:
    """(geometry, space of the image, space of the result)."""
    axes = []
    for _ in range(2):
        k, s, d = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        p, reach = draw(st.integers(0, 2)), d * (k - 1) + 1
        size = draw(st.integers(max(1, reach - 2 * p), 6))
        axes.append((k, s, p, d, size, (size + 2 * p - reach) // s + 1))
    k, s, p, d, size, out = zip(*axes, strict=True)
    return Geometry(k, s, p, d), size, out  # type: ignore[return-value]


def taps(g: Geometry, inside: tuple[int, int], out: tuple[int, int]) -> list[tuple[int, ...]]:
    """(row out, column out, row of the kernel, its column, row in, column in) of all products within the image."""
    found = []
    for oh, ow, kh, kw in np.ndindex(*out, *g.kernel):
        h = oh * g.stride[0] - g.pad[0] + kh * g.dilation[0]
        w = ow * g.stride[1] - g.pad[1] + kw * g.dilation[1]
        if 0 <= h < inside[0] and 0 <= w < inside[1]:
            found.append((oh, ow, kh, kw, h, w))
    return found


@settings(max_examples=25)
@given(geometries(), st.sampled_from([(1, 2, 3), (2, 2, 4), (3, 3, 3)]), st.booleans())
@pytest.mark.parametrize("direction", ["forward", "bwd_data", "bwd_weights"])
def test_conv(
    direction: str,
    shape: tuple[Geometry, tuple[int, int], tuple[int, int]],
    channels: tuple[int, int, int],
    accumulate: bool,
) -> None:
    geometry, inside, out = shape
    groups, ci, co = channels
    m = Memory(x=(2, ci, *inside), w=(co, ci // groups, *geometry.kernel), y=(2, co, *out))
    alpha = Scalar(0.3, "loss_weight")
    kernel = Conv(direction, m("x"), m("w"), m("y"), geometry, groups, alpha, accumulate)
    done = m.run(kernel)
    x, w, y = (m.before[k] for k in "xwy")
    name = {"forward": "y", "bwd_data": "x", "bwd_weights": "w"}[direction]
    want = np.zeros_like(m.before[name])
    for n, o, c in np.ndindex(2, co, ci // groups):
        at = o // (co // groups) * (ci // groups) + c  # the channel of the image in the filter's group
        for oh, ow, kh, kw, h, v in taps(geometry, inside, out):
            if direction == "forward":
                want[n, o, oh, ow] += x[n, at, h, v] * w[o, c, kh, kw]
            elif direction == "bwd_data":
                want[n, at, h, v] += y[n, o, oh, ow] * w[o, c, kh, kw]
            else:
                want[o, c, kh, kw] += y[n, o, oh, ow] * x[n, at, h, v]
    want = 0.3 * want + (m.before[name] if accumulate else 0.0)
    np.testing.assert_allclose(done[name], want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("space", [(7,), (3, 4, 5)], ids=["1d", "3d"])
def test_conv_over_one_and_three_axes_with_an_epilogue(space: tuple[int, ...]) -> None:
    k = len(space)
    geometry = Geometry((2,) * k, (1,) * k, (1,) * k, (1,) * k)
    out = tuple(e + 1 for e in space)
    m = Memory(x=(1, 2, *space), w=(3, 2, *geometry.kernel), y=(1, 3, *out), bias=(3,))
    bias = Acc(m("y")["nchwd"[: k + 2]].dims) + m("bias")["c"]
    done = m.run(Conv("forward", m("x"), m("w"), m("y"), geometry, epilogue=bias))
    want = np.zeros((3, *out))
    for o, c in np.ndindex(3, 2):
        for at in np.ndindex(*out):
            for tap in np.ndindex(*geometry.kernel):
                where_ = tuple(a + t - 1 for a, t in zip(at, tap, strict=True))
                if all(0 <= i < e for i, e in zip(where_, space, strict=True)):
                    want[o][at] += m.before["x"][0, c][where_] * m.before["w"][o, c][tap]
    want += m.before["bias"].reshape(3, *(1,) * k)
    np.testing.assert_allclose(done["y"][0], want, rtol=1e-11, atol=1e-11)


def pool_out(size: int, kernel: int, stride: int, pad: int) -> int:
    """As in Caffe: rounded up, but no window starts beyond the padding."""
    out = -(-(size + 2 * pad - kernel) // stride) + 1
    return out - 1 if pad and (out - 1) * stride >= size + pad else out


@st.composite
def pools(draw: st.DrawFn) -> tuple[Geometry, tuple[int, int], tuple[int, int]]:
    axes = []
    for _ in range(2):
        k, s = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        p = draw(st.integers(0, k - 1))
        size = draw(st.integers(max(1, k - 2 * p), 6))
        axes.append((k, s, p, size, pool_out(size, k, s, p)))
    k, s, p, size, out = zip(*axes, strict=True)
    return Geometry(k, s, p, (1, 1)), size, out  # type: ignore[return-value]


@settings(max_examples=25)
@given(pools(), st.booleans(), st.booleans())
@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_pool(
    method: str, shape: tuple[Geometry, tuple[int, int], tuple[int, int]], ties: bool, accumulate: bool
) -> None:
    """Forward, and backward from the mask that forward left, window by window."""
    g, inside, out = shape
    m = Memory(x=(2, 3, *inside), y=(2, 3, *out), mask=(2, 3, *out), dx=(2, 3, *inside), dy=(2, 3, *out))
    if ties:
        m.set("x", np.random.default_rng(3).integers(0, 2, (2, 3, *inside)))
    mask, alpha = m("mask") if method == "MAX" else None, Scalar(0.3, "loss_weight")
    fore = Pool("forward", method, m("x"), m("y"), g, mask)
    back = Pool("backward", method, m("dx"), m("dy"), g, mask, alpha, accumulate)
    done = m.run(fore, back)
    x, dy = m.before["x"], m.before["dy"]
    dx = m.before["dx"].copy() if accumulate else np.zeros_like(m.before["dx"])
    for n, c, oh, ow in np.ndindex(2, 3, *out):
        top, left = oh * g.stride[0] - g.pad[0], ow * g.stride[1] - g.pad[1]
        rows = [h for h in range(top, top + g.kernel[0]) if 0 <= h < inside[0]]
        columns = [w for w in range(left, left + g.kernel[1]) if 0 <= w < inside[1]]
        window = [(x[n, c, h, w], h, w) for h in rows for w in columns]
        if not window:
            assert done["y"][n, c, oh, ow] == 0
        elif method == "MAX":
            best = max(v for v, _, _ in window)
            h, w = next((h, w) for v, h, w in window if v == best)
            assert done["y"][n, c, oh, ow] == best and done["mask"][n, c, oh, ow] == h * inside[1] + w
            dx[n, c, h, w] += 0.3 * dy[n, c, oh, ow]
        else:
            padded_rows = len([h for h in range(top, top + g.kernel[0]) if h < inside[0] + g.pad[0]])
            padded_columns = len([w for w in range(left, left + g.kernel[1]) if w < inside[1] + g.pad[1]])
            area = padded_rows * padded_columns
            np.testing.assert_allclose(done["y"][n, c, oh, ow], sum(v for v, _, _ in window) / area, **CLOSE)
            for _, h, w in window:
                dx[n, c, h, w] += 0.3 * dy[n, c, oh, ow] / area
    np.testing.assert_allclose(done["dx"], dx, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("distribution", "a", "b", "mean", "variance"),
    [
        ("uniform", -1.0, 3.0, 1.0, 16 / 12),
        ("gaussian", 2.0, 0.5, 2.0, 0.25),
        ("bernoulli", 0.25, 4.0, 1.0, 0.25 * 0.75 * 16),
    ],
)
def test_random(distribution: str, a: float, b: float, mean: float, variance: float) -> None:
    """The right distribution; the same numbers for the same stream and call, others for another stream or call."""
    count = 20_000
    m = Memory(x=(count,), same=(count,), other=(count,))
    for name, stream in (("x", 1), ("same", 1), ("other", 2)):
        m.graph.add(Random(m(name), distribution, a, b, stream), "layer", "forward")
    done = m.run()
    first = done["x"].copy()
    assert abs(first.mean() - mean) < 5 * math.sqrt(variance / count)
    assert abs(first.var() - variance) < 0.05 * variance
    if distribution == "bernoulli":
        assert set(first) == {0.0, b}
    if distribution == "uniform":
        assert a <= first.min() and first.max() < b
    np.testing.assert_array_equal(first, done["same"])
    assert (first != done["other"]).any()
    done.run(["forward"])
    assert (first != done["x"]).any()


@pytest.mark.parametrize(
    ("labels", "ignore", "wrong"),
    [
        ([0, 1, 2, 2], None, None),
        ([0, 255, 2, 2], 255, None),
        ([0, -1, 2, 2], -1, None),
        ([0, 3, 2, 4], None, (3, 1)),
        ([0, 1, 2, -1], None, (-1, 3)),
        ([0, 0.5, 2, 2], None, (0.5, 1)),
        ([np.nan, 0, 0, 0], None, (np.nan, 0)),
        ([0, 255, 2, 3], 255, (3, 3)),
    ],
)
def test_check_label(labels: list[float], ignore: int | None, wrong: tuple[float, int] | None) -> None:
    m = Memory(label=(4,))
    m.set("label", labels)
    if wrong is None:
        m.run(CheckLabel(m("label"), 3, ignore))
        return
    with pytest.raises(DataError, match=f'blob "label" holds the label {wrong[0]:g} at index {wrong[1]}'):
        m.run(CheckLabel(m("label"), 3, ignore))


def test_check_finite() -> None:
    m = Memory(x=(2, 3))
    m.run(CheckFinite(m("x"), "value", "conv"))
    m.set("x", [[0, 1, 2], [3, -np.inf, np.nan]])
    with pytest.raises(NumericError, match=r'the value of "conv" is -inf at \[1, 1\]'):
        m.interpreter.run(["forward"])


def test_constant() -> None:
    m = Memory("f32", x=(2, 3))
    values = np.array([[0.1, 1 / 3, 2], [3, 4, 5]])
    done = m.run(Constant(m("x"), values.astype("<f8").tobytes()))
    np.testing.assert_array_equal(done["x"], values.astype(np.float32))


def test_an_access_past_the_end_is_caught() -> None:
    m = Memory(x=(4,), out=())
    access = Access("x", 2, ((Dim("i", 3), 1),))
    with pytest.raises(InternalError, match="past the end of x"):
        m.run(make_map([Store(m("out")[""], total(access, "i"))]))
