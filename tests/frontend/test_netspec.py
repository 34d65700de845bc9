"""Nets written in Python: they are the nets that prototxt would have been."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import lossc
from lossc import L, NetSpec, P
from lossc.errors import LosscError, UsageError
from lossc.frontend import read_net, read_net_text
from lossc.frontend.netspec import to_proto

LENET = """name: "lenet"
layer { name: "data" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 4 dim: 1 dim: 28 dim: 28 } shape { dim: 4 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { lr_mult: 1 } param { lr_mult: 2 }
        convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool1" top: "ip1"
        inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip1" bottom: "label" top: "loss" loss_weight: 0.5
        loss_param { ignore_label: 3 } lossc_param { label_smoothing: 0.25 } }
layer { name: "acc" type: "Accuracy" bottom: "ip1" bottom: "label" top: "acc" include { phase: TEST }
        accuracy_param { top_k: 2 } }
"""


def lenet() -> NetSpec:
    n = NetSpec("lenet")
    n.data, n.label = L.Input(ntop=2, shape=[dict(dim=[4, 1, 28, 28]), dict(dim=[4])])
    rates = [dict(lr_mult=1), dict(lr_mult=2)]
    n.conv1 = L.Convolution(n.data, num_output=20, kernel_size=5, weight_filler=dict(type="xavier"), param=rates)
    n.pool1 = L.Pooling(n.conv1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n.ip1 = L.InnerProduct(n.pool1, num_output=10, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.loss = L.SoftmaxWithLoss(n.relu1, n.label, loss_weight=0.5, ignore_label=3, label_smoothing=0.25)
    n.acc = L.Accuracy(n.relu1, n.label, include=dict(phase="TEST"), accuracy_param=dict(top_k=2))
    return n


def test_lenet_is_that_of_the_prototxt() -> None:
    written, read = read_net(lenet().to_proto(), phase="TEST").param, read_net_text(LENET, phase="TEST").param
    assert len(written.layer) == 7
    for mine, theirs in zip(written.layer, read.layer, strict=True):
        assert mine == theirs, mine.name
    assert written.name == read.name


def test_it_compiles_and_its_text_is_prototxt() -> None:
    proto = lenet().to_proto()
    nets = [lossc.Net(proto, lossc.TRAIN), lossc.Net(read_net_text(LENET), lossc.TRAIN)]
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((4, 1, 28, 28)), [1, 3, 5, 9]
    losses = [net.forward_backward(data=x, label=y) for net in nets]
    assert losses[0] == losses[1] > 0
    np.testing.assert_array_equal(*[net.params["conv1"][0].diff for net in nets])


def test_made_up_names_and_unnamed_inputs() -> None:
    data, label = L.Input(ntop=2, shape=[dict(dim=[2, 3]), dict(dim=[2])])
    hidden = L.InnerProduct(L.Sigmoid(data), num_output=4, name="ip")
    net = to_proto(L.SoftmaxWithLoss(hidden, label), L.Silence(hidden, ntop=1, in_place=False))
    assert [(x.name, list(x.bottom), list(x.top)) for x in net.layer[:4]] == [
        ("Input1", [], ["Input1", "Input2"]),
        ("Sigmoid1", ["Input1"], ["Sigmoid1"]),
        ("ip", ["Sigmoid1"], ["InnerProduct1"]),
        ("SoftmaxWithLoss1", ["InnerProduct1", "Input2"], ["SoftmaxWithLoss1"]),
    ]


def test_a_layer_without_tops() -> None:
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 3]))
    n.end = L.Silence(n.data, ntop=0)
    net = n.to_proto()
    assert (net.layer[1].name, list(net.layer[1].bottom), list(net.layer[1].top)) == ("end", ["data"], [])


def _spec() -> NetSpec:
    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 3]))
    return n


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "misspelt": (lambda: L.Convolution(_spec().data, num_outputs=3), 'did you mean "num_output"'),
    "misspelt within": (lambda: L.Convolution(_spec().data, weight_filler=dict(typ="x")), 'did you mean "type"'),
    "kind": (lambda: L.Convolution(_spec().data, num_output="many"), "num_output = 'many'"),
    "enum": (lambda: L.Pooling(_spec().data, pool="MIDDLE"), "pool = 'MIDDLE'"),
    "input": (lambda: L.ReLU("data"), "input 0 of ReLU is 'data'"),  # type: ignore[arg-type]
    "in place": (lambda: L.Eltwise(_spec().data, _spec().data, in_place=True), "2 inputs"),
    "count": (lambda: L.Input(ntop=-1), "ntop -1"),
    "assigned": (lambda: setattr(_spec(), "x", 3), "x = 3"),
    "truth": (lambda: bool(_spec().data), "no value"),
    "setting": (lambda: L.Huber(_spec().data, delta=object()), "give numbers, strings"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case: str) -> None:
    make, words = WRONG[case]
    with pytest.raises(UsageError) as caught:
        make()
    assert words in str(caught.value)


def test_made_up_names_are_new() -> None:
    n = NetSpec()
    n.ReLU1 = L.Input(shape=dict(dim=[2, 3]))
    n.end = L.Sigmoid(L.ReLU(n.ReLU1))
    assert [list(layer.top) for layer in n.to_proto().layer] == [["ReLU1"], ["ReLU2"], ["end"]]


def test_an_unknown_top() -> None:
    with pytest.raises(AttributeError, match='no top "dat".*did you mean "data"'):
        _ = _spec().dat
    with pytest.raises(AttributeError, match="no message"):
        _ = P.Poling


def test_an_unknown_type_is_the_compiler_s_error() -> None:
    n = _spec()
    n.x = L.Rellu(n.data)
    with pytest.raises(LosscError, match='unknown layer type "Rellu"'):
        lossc.Net(n.to_proto(), lossc.TRAIN)
