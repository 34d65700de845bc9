"""``lossc.compile_loss``, and losses and layers of one's own in nets, from Python and from the command line."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.cli.main import main
from lossc.errors import DataError, GraphError, ShapeError, UsageError
from lossc.frontend.net import read_net_text
from lossc.lang.files import collect

RNG = np.random.default_rng(3)
X, Y = (RNG.standard_normal((8, 5)).astype(np.float32) for _ in range(2))


@lossc.loss("MyEuclidean")
def euclidean(pred, target, *, scale=1.0):  # type: ignore[no-untyped-def]
    return scale * ((pred - target) ** 2).sum() / (2 * pred.shape[0])


@lossc.loss("MyEntropy")
def entropy(scores, label):  # type: ignore[no-untyped-def]
    return -lossc.take_along_axis(lossc.log_softmax(scores, 1), label[:, None], 1).mean()


@lossc.loss("Reversed")
def reversed_gradient(pred, target):  # type: ignore[no-untyped-def]
    return ((pred - target) ** 2).sum()


@reversed_gradient.backward
def _(top_diff, pred, target):  # type: ignore[no-untyped-def]
    return -2 * top_diff * (pred - target), None


@lossc.layer("Gate")
def gate(x, *, slope=lossc.Param(lambda x: (x[1],), init=2.0)):  # type: ignore[no-untyped-def]
    """Two tops: a gate per channel, and what it lets through."""
    open_ = lossc.sigmoid(x * slope)
    return open_, open_ * x


def inputs(label: bool = False) -> str:
    shape = "dim: 8" if label else "dim: 8 dim: 5"
    return f"""
        layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 8 dim: 5 }} }} }}
        layer {{ name: "y" type: "Input" top: "y" input_param {{ shape {{ {shape} }} }} }}
        force_backward: true
    """


def net(text: str, layers: object, label: bool = False, **options: object) -> lossc.Net:
    source = read_net_text(f'name: "n" {inputs(label)} {text}', "net.prototxt")
    return lossc.Net(source, lossc.TRAIN, layers=layers, **options)  # type: ignore[arg-type]


# ---- alone


def test_value_and_gradients() -> None:
    fn = lossc.compile_loss(euclidean, pred=X.shape, target=Y.shape, weight=0.5, scale=3.0, grad="all")
    value = fn(X, target=Y)
    assert isinstance(value.loss, float)
    assert value.loss == pytest.approx(1.5 * ((X - Y) ** 2).sum() / 16, rel=1e-6)
    np.testing.assert_allclose(value.grad_pred, 1.5 * (X - Y) / 8, rtol=1e-6)
    np.testing.assert_allclose(value.grad_target, -1.5 * (X - Y) / 8, rtol=1e-6)


def test_which_gradients() -> None:
    for grad, fields in ((None, ("loss", "grad_pred")), ((), ("loss",)), ("target", ("loss", "grad_target"))):
        fn = lossc.compile_loss(euclidean, pred=X.shape, target=Y.shape, grad=grad)
        assert fn(X, Y)._fields == fields
    assert lossc.compile_loss(entropy, scores=X.shape, label=8, grad="all").wanted == ("scores",)
    with pytest.raises(UsageError, match='no bottom "labels"'):
        lossc.compile_loss(entropy, scores=X.shape, label=8, grad="labels")


def test_gradients_outlive_later_calls() -> None:
    fn = lossc.compile_loss(euclidean, pred=X.shape, target=Y.shape)
    first = fn(X, Y).grad_pred
    kept = first.copy()
    for _ in range(5):
        fn(Y, X)
    np.testing.assert_array_equal(first, kept)


def test_inputs_are_read_where_they_lie() -> None:
    """The C gets the addresses of the arrays themselves."""
    fn = lossc.compile_loss(euclidean, pred=X.shape, target=Y.shape)
    fn(X, Y)
    read = [int(fn._native._ffi.cast("uintptr_t", fn._at[k])) for k in range(2)]
    assert read == [X.ctypes.data, Y.ctypes.data]
    np.testing.assert_array_equal(fn(np.asfortranarray(X), Y[:, ::1]).grad_pred, fn(X, Y).grad_pred)
    assert X.flags.c_contiguous


def test_whole_numbers_become_labels() -> None:
    fn = lossc.compile_loss(entropy, scores=X.shape, label=(8,))
    label = np.arange(8) % 5
    shifted = X - X.max(1, keepdims=True)
    wanted = -(shifted[np.arange(8), label] - np.log(np.exp(shifted).sum(1))).mean()
    assert fn(X, label).loss == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(DataError, match="holds the label 5 at index 3"):
        fn(X, np.array([0, 1, 2, 5, 0, 0, 0, 0]))
    assert fn(X, label).loss == pytest.approx(wanted, rel=1e-6)  # one bad call leaves no trace


def test_the_same_kernel_as_the_built_in_loss() -> None:
    mine = lossc.compile_loss(euclidean, pred=X.shape, target=Y.shape)
    theirs = lossc.compile_loss("EuclideanLoss", shapes={"pred": X.shape, "target": Y.shape})
    assert mine(X, Y).loss == theirs(X, Y).loss
    np.testing.assert_array_equal(mine(X, Y).grad_pred, theirs(X, Y).grad_pred)


def test_bad_arguments() -> None:
    fn = lossc.compile_loss(euclidean, pred=X.shape, target=Y.shape)
    with pytest.raises(ShapeError, match=r'"target" has the shape \[5\], the loss was compiled for \[8, 5\]'):
        fn(X, Y[0])
    with pytest.raises(UsageError, match='"pred" is of float64'):
        fn(X.astype(np.float64), Y)
    with pytest.raises(UsageError, match='"target" is missing'):
        fn(X)
    with pytest.raises(UsageError, match='"pred" is given twice'):
        fn(X, pred=X)
    with pytest.raises(UsageError, match="3 arrays for 2 bottoms"):
        fn(X, Y, Y)
    with pytest.raises(UsageError, match='needs the shape of "target"'):
        lossc.compile_loss(euclidean, pred=X.shape)
    with pytest.raises(UsageError, match='no bottom and no parameter "scales"'):
        lossc.compile_loss(euclidean, pred=X.shape, target=X.shape, scales=2)
    with pytest.raises(GraphError, match="not a float"):
        lossc.compile_loss(euclidean, pred=X.shape, target=X.shape, scale="big")
    with pytest.raises(UsageError, match="shape"):
        lossc.compile_loss(euclidean, pred="8x5", target=X.shape)
    with pytest.raises(UsageError, match='there is no loss "Euclidean"'):
        lossc.compile_loss("Euclidean", shapes={"a": (2, 2), "b": (2, 2)})
    with pytest.raises(ShapeError, match="do not fit together"):
        lossc.compile_loss(euclidean, pred=(8, 5), target=(5, 8))


def test_from_several_threads() -> None:
    fn = lossc.compile_loss(euclidean, pred=X.shape, target=Y.shape)
    wanted, wrong = fn(X, Y).loss, []

    def work(a: np.ndarray, b: np.ndarray) -> None:
        for _ in range(50):
            value = fn(a, b)
            if value.loss != wanted or not np.array_equal(np.sign(value.grad_pred), np.sign(a - b)):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=pair) for pair in ((X, Y), (Y, X)) * 2]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


def test_another_function_is_another_library() -> None:
    """The cache goes by what the function does, not by its name."""
    values = []
    for factor in (1.0, 2.0):

        def call(pred, target, factor=None):  # type: ignore[no-untyped-def]
            return (pred * target).sum()

        def scaled(pred, target, *, by=factor):  # type: ignore[no-untyped-def]
            return by * call(pred, target)

        values.append(lossc.compile_loss(lossc.loss("Same")(scaled), pred=X.shape, target=Y.shape)(X, Y).loss)
    assert values[1] == pytest.approx(2 * values[0])


def test_the_diagonal_of_a_large_batch_needs_no_memory() -> None:
    """InfoNCE, as it is written in NumPy: an identity matrix, or the labels 0, 1, 2 ..."""

    def by_matrix(a, b):  # type: ignore[no-untyped-def]
        return -(lossc.log_softmax(a @ b.T, 1) * np.eye(a.shape[0])).sum() / a.shape[0]

    def by_label(a, b):  # type: ignore[no-untyped-def]
        return -lossc.take_along_axis(lossc.log_softmax(a @ b.T, 1), np.arange(a.shape[0])[:, None], 1).mean()

    a, b = (RNG.standard_normal((200, 8)).astype(np.float32) for _ in range(2))
    scores = a @ b.T
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    for call in (by_matrix, by_label):
        fn = lossc.compile_loss(lossc.loss("InfoNCE")(call), a=a.shape, b=b.shape, grad="all")
        found = fn(a, b)
        assert found.loss == pytest.approx(-np.log(np.diag(p)).mean(), rel=1e-5)
        np.testing.assert_allclose(found.grad_a, (p - np.eye(200)) @ b / 200, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found.grad_b, (p - np.eye(200)).T @ a / 200, rtol=1e-3, atol=1e-6)
        assert len(fn.source) < 100_000


# ---- in nets


@pytest.mark.parametrize("weight", [1.0, 0.3, -2.0])
def test_one_sweep_as_the_built_in_losses(weight: float) -> None:
    """No fill, no stored top diff, one kernel for loss and gradient: what fold-loss-weight and join-loss do for all."""
    pairs = [("MyEuclidean", "EuclideanLoss", False), ("MyEntropy", "SoftmaxWithLoss", True)]
    for mine, theirs, label in pairs:
        found = []
        for kind in (mine, theirs):
            text = f'layer {{ name: "l" type: "{kind}" bottom: "x" bottom: "y" top: "l" loss_weight: {weight} }}'
            if not label:
                text = text.replace("top:", "propagate_down: true propagate_down: false top:")
            found.append(net(text, [euclidean, entropy], label))
        for each in found:
            values = {"x": X, "y": np.arange(8) % 5 if label else Y}
            each.forward_backward(**values)
            kernels = [about for n, about in each.graph.nodes.items() if n[0] == "kernel"]
            assert sorted(k["layer"] for k in kernels if k["kernel"] == "map") == ["l", "total"]
            assert not [k for k in kernels if k["section"] == "backward"]
        np.testing.assert_allclose(found[0].loss, found[1].loss, rtol=2e-6)
        np.testing.assert_allclose(found[0].blobs["x"].diff, found[1].blobs["x"].diff, rtol=2e-5, atol=1e-8)


def test_own_backward() -> None:
    text = 'layer { name: "l" type: "Reversed" bottom: "x" bottom: "y" top: "l" loss_weight: 0.5 }'
    mine = net(text, reversed_gradient)
    mine.forward_backward(x=X, y=Y)
    assert mine.loss == pytest.approx(0.5 * ((X - Y) ** 2).sum(), rel=1e-6)
    np.testing.assert_allclose(mine.blobs["x"].diff, -(X - Y), rtol=1e-6)


def test_layer_with_two_tops_and_a_learned_array() -> None:
    text = """
        layer { name: "g" type: "Gate" bottom: "x" top: "open" top: "z" }
        layer { name: "l" type: "EuclideanLoss" bottom: "z" bottom: "y" top: "l" }
        layer { name: "m" type: "MyEuclidean" bottom: "open" bottom: "y" top: "m" lossc_param { scale: 0.5 } }
    """
    mine = net(text, [gate, euclidean], dtype="float64")
    (slope,) = mine.params["g"]
    assert slope.shape == (5,) and (slope.data == 2).all()
    mine.clear_param_diffs()
    mine.forward_backward(x=X, y=Y)
    x, y = X.astype(float), Y.astype(float)
    opened = 1 / (1 + np.exp(-2 * x))
    z = opened * x
    d_open = ((z - y) * x + 0.5 * (opened - y)) / 8
    d_inner = d_open * opened * (1 - opened)
    assert mine.loss == pytest.approx((((z - y) ** 2).sum() + 0.5 * ((opened - y) ** 2).sum()) / 16)
    np.testing.assert_allclose(slope.diff, (d_inner * x).sum(0))
    np.testing.assert_allclose(mine.blobs["x"].diff, 2 * d_inner + (z - y) * opened / 8)


FILE = '''
import lossc
from lossc.ir.expr import expr
from lossc.layers.base import Layer

FACTOR = 3.0


@lossc.loss("Tripled")
def tripled(pred, target, *, power=2.0):
    return FACTOR * (lossc.abs(pred - target) ** power).mean()


class Half(Layer):
    """y = x / 2, written as the built-in layers are."""

    type = "Half"

    def infer_shapes(self, *bottoms):
        return [bottoms[0]]

    def forward(self, b, io):
        b.map((io.top["nc"], expr(io.bottom["nc"]) * 0.5))

    def backward(self, b, io):
        if io.bottom_diff is not None:
            b.add(io.bottom_diff["nc"], expr(io.top_diff["nc"]) * 0.5)
'''
TEXT = """
    layer { name: "h" type: "Half" bottom: "x" top: "h" }
    layer { name: "l" type: "Tripled" bottom: "h" bottom: "y" top: "l" python_param { param_str: "{'power': 1}" } }
"""


def test_layers_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE)
    assert set(collect(file)) == {"Tripled", "Half"}
    mine = net(TEXT, str(file))
    mine.forward_backward(x=X, y=Y)
    assert mine.loss == pytest.approx(3 * np.abs(X / 2 - Y).mean(), rel=1e-6)
    np.testing.assert_allclose(mine.blobs["x"].diff, 1.5 * np.sign(X / 2 - Y) / 40, rtol=1e-6)
    file.write_text(FILE.replace("3.0", "5.0"))  # the file's content is part of the cache's key
    again = net(TEXT, file)
    again.forward_backward(x=X, y=Y)
    assert again.loss == pytest.approx(5 * np.abs(X / 2 - Y).mean(), rel=1e-6)


def test_never_imported_by_a_net_itself() -> None:
    with pytest.raises(GraphError, match='unknown layer type "Half"'):
        net(TEXT, None)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "net.prototxt").write_text(inputs() + TEXT)
    layer = ["--layer", str(tmp_path / "mine.py")]
    assert main(["inspect", str(tmp_path / "net.prototxt"), "--format", "c", *layer]) == 0
    assert "Tripled" in capsys.readouterr().out
    assert main(["compile", str(tmp_path / "net.prototxt"), "-o", str(tmp_path / "out"), "--source-only", *layer]) == 0
    assert (tmp_path / "out" / "net.c").exists()
    assert main(["inspect", str(tmp_path / "net.prototxt")]) == 1
    assert 'unknown layer type "Half"' in capsys.readouterr().err
    assert main(["check", str(tmp_path / "net.prototxt"), "--samples", "5", *layer]) == 0
    out = capsys.readouterr().out
    assert 'layer "h" (Half)' in out and 'layer "l" (Tripled)' in out


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = '@tripled.backward\ndef _(top_diff, pred, target, *, power):\n    return top_diff * (pred - target), None\n'
    (tmp_path / "good.py").write_text(FILE)
    (tmp_path / "bad.py").write_text(FILE + wrong)
    assert main(["check", f"{tmp_path}/good.py:tripled", "--samples", "5"]) == 0
    assert capsys.readouterr().out.count("derivatives agree") == 4
    assert main(["check", f"{tmp_path}/good.py:Tripled", "--shape", "pred=2,3", "--set", "power=1"]) == 0
    assert "pred[2, 3]" in capsys.readouterr().out
    assert main(["check", f"{tmp_path}/bad.py:tripled", "--samples", "5"]) == 1
    assert 'd loss / d "pred"' in capsys.readouterr().out
    assert main(["check", f"{tmp_path}/good.py:triple"]) == 2
    assert 'did you mean "tripled"' in capsys.readouterr().err
    assert main(["check", "HuberLoss", "--samples", "3"]) == 0
