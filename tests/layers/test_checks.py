"""Labels that are out of range, and numbers that are not finite: who says so, where, and before what."""

from __future__ import annotations

import numpy as np
import pytest

from lossc import TRAIN, Net
from lossc.errors import DataError, NumericError
from lossc.frontend import read_net_text
from lossc.ir.interpret import Interpreter
from lossc.layers.net import import_net
from lossc.passes.finite import FindNonFinite
from lossc.passes.pipeline import run_passes

HEAD = """name: "n" force_backward: true
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: {n} dim: {k} }} }} }}
layer {{ name: "t" type: "Input" top: "t" input_param {{ shape {{ dim: {n} }} }} }}
"""
LOSS = 'layer {{ name: "l" type: "{}" bottom: "{}" bottom: "t" top: "y" {} }}'
KINDS = ["SoftmaxWithLoss", "HingeLoss", "MultinomialLogisticLoss", "Accuracy"]


def make(text: str, **options: object) -> Net:
    return Net(read_net_text(text, "n.prototxt"), TRAIN, threads=2, **options)  # type: ignore[arg-type]


def filled(net: Net, **values: float) -> dict[str, np.ndarray]:
    return {name: np.full(net.blobs[name].shape, value) for name, value in values.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "at"), [(3, 1), (40, 39), (9000, 8191)])
@pytest.mark.parametrize("label", [5.0, -1.0, 2.5, float("nan")])
def test_bad_labels(kind: str, n: int, at: int, label: float) -> None:
    net = make(HEAD.format(n=n, k=5) + LOSS.format(kind, "x", ""))
    t = np.arange(n) % 5.0
    net.forward(t=t, **filled(net, x=0.5))
    t[at] = label
    t[-1] = label
    with pytest.raises(DataError) as caught:
        net.forward(t=t)
    text = f'n.prototxt:4: layer "l": blob "t" holds the label {label:g} at index {at}; labels are whole numbers'
    assert str(caught.value).startswith(text)
    t[at] = t[-1] = 4
    net.forward(t=t)
    assert np.isfinite(net.blobs["y"].data)


def test_an_ignored_label_is_truncated_as_in_caffe() -> None:
    options = "loss_param { ignore_label: -1 }"
    net = make(HEAD.format(n=5000, k=5) + LOSS.format("SoftmaxWithLoss", "x", options))
    t = np.full(5000, -1.5)
    assert net.forward_backward(t=t) == 0
    t[4999] = -2
    with pytest.raises(DataError, match="label -2 at index 4999"):
        net.forward_backward(t=t)


DEEP = (
    HEAD.format(n=4, k=3)
    + """layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 5 } }
layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "bn" }
"""
    + LOSS.format("SoftmaxWithLoss", "bn", "")
)


def test_nothing_is_written_before_the_error() -> None:
    """Neither outputs, nor the moving averages of layers that stand before the loss, nor gradients."""
    net = make(DEEP, keep="all")
    net.forward_backward(x=np.eye(4, 3), t=[0, 1, 2, 3])
    before = {name: (b.data.copy(), b.diff.copy()) for name, b in net.blobs.items() if name not in ("x", "t")}
    params = [(b.data.copy(), b.diff.copy()) for bs in net.params.values() for b in bs]
    with pytest.raises(DataError):
        net.forward_backward(x=np.ones((4, 3)), t=[0, 1, 9, 3])
    for name, (data, diff) in before.items():
        np.testing.assert_array_equal(net.blobs[name].data, data)
        np.testing.assert_array_equal(net.blobs[name].diff, diff)
    after = [(b.data, b.diff) for bs in net.params.values() for b in bs]
    for (data, diff), (new_data, new_diff) in zip(params, after, strict=True):
        np.testing.assert_array_equal(new_data, data)
        np.testing.assert_array_equal(new_diff, diff)


def test_checks_can_be_turned_off() -> None:
    text = HEAD.format(n=4, k=5) + LOSS.format("SoftmaxWithLoss", "x", "")
    on, off = make(text), make(text, check_labels=False)
    assert "LOSSC_BAD_LABEL;" in on.source
    assert "LOSSC_BAD_LABEL;" not in off.source
    inputs = {"x": np.arange(20).reshape(4, 5), "t": [0, 1, 2, 4]}
    assert on.forward_backward(**inputs) == off.forward_backward(**inputs)


CHAIN = (
    HEAD.format(n=2, k=3)
    + """
layer { name: "e" type: "Exp" bottom: "x" top: "e" }
layer { name: "ip" type: "InnerProduct" bottom: "e" top: "ip" inner_product_param { num_output: 4 } }
layer { name: "r" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "l" type: "SoftmaxWithLoss" bottom: "ip" bottom: "t" top: "y" }
"""
)


def test_the_first_value_that_is_not_finite() -> None:
    net = make(CHAIN, check_finite=True)
    x = np.ones((2, 3))
    assert np.isfinite(net.forward_backward(x=x, t=[0, 1]))
    x[1, 2] = 100
    with pytest.raises(NumericError) as caught:
        net.forward_backward(x=x)
    assert str(caught.value) == 'n.prototxt:5: layer "e": in forward, the value of "e" is inf at [1, 2]'
    x[1, 2] = np.nan
    with pytest.raises(NumericError, match=r'layer "x": in forward, the value of "x" is -?nan at \[1, 2\]'):
        net.forward(x=x)


def test_a_parameter_that_is_not_finite() -> None:
    net = make(CHAIN, check_finite=True)
    net.params["ip"][0].data[3, 1] = -np.inf
    with pytest.raises(NumericError, match=r'layer "ip": in forward, the parameter of "ip/0" is -inf at \[3, 1\]'):
        net.forward(**filled(net, x=1, t=0))


@pytest.mark.parametrize("together", [True, False])
def test_a_gradient_that_is_not_finite(together: bool) -> None:
    """The loss is finite, since x log x is; its derivative at 0 is not."""
    text = """force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "p" type: "Power" bottom: "x" top: "p" power_param { power: 0.5 } }
layer { name: "s" type: "Reduction" bottom: "p" top: "s" loss_weight: 1 }
"""
    net = make(text, check_finite=True)
    x = np.array([[1.0, 1, 1], [1, 0, 1]])
    with pytest.raises(NumericError) as caught:
        if together:
            net.forward_backward(x=x)
        else:
            assert np.isfinite(net.forward(x=x)["s"])
            net.backward()
    assert str(caught.value).startswith('n.prototxt:3: layer "p": in backward, the gradient of "x" is ')
    assert str(caught.value).endswith(" at [1, 1]")


@pytest.mark.parametrize("optimise", [False, True])
def test_the_interpreter_finds_the_same(optimise: bool) -> None:
    source = read_net_text(CHAIN, "n.prototxt")
    graph = import_net(source.param, "TRAIN", file=source.file, line_of=source.line)
    graph.options["keep"] = "all"
    run_passes(graph, optimise=optimise)
    assert FindNonFinite().run(graph)
    assert not FindNonFinite().run(graph)
    interpreter = Interpreter(graph)
    interpreter.run(["init"])
    interpreter["x"][...] = 1
    interpreter.run(["forward", "backward"])
    interpreter["x"][0, 1] = 200
    with pytest.raises(NumericError, match=r'the value of "e" is inf at \[0, 1\]'):
        interpreter.run(["forward"])


def test_windows_are_checked_where_they_are() -> None:
    """A slice of a blob: rows lie apart."""
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 2 } } }
layer { name: "a" type: "Exp" bottom: "x" top: "a" }
layer { name: "b" type: "Log" bottom: "x" top: "b" }
layer { name: "c" type: "Concat" bottom: "a" bottom: "b" top: "c" }
"""
    net = make(text, check_finite=True)
    net.forward(**filled(net, x=1))
    x = np.ones((3, 2))
    x[2, 1] = -1
    with pytest.raises(NumericError, match=r'layer "b": in forward, the value of "b" is -?nan at \[2, 1\]'):
        net.forward(x=x)


def test_results_are_the_same_with_checks() -> None:
    plain, checked = make(DEEP, keep="all"), make(DEEP, check_finite=True)
    inputs = {"x": np.random.default_rng(0).normal(size=(4, 3)), "t": [0, 1, 2, 3]}
    assert plain.forward_backward(**inputs) == checked.forward_backward(**inputs)
    np.testing.assert_array_equal(plain.blobs["x"].diff, checked.blobs["x"].diff)
