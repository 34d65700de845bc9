"""Fillers and the layers that make data: their moments, their shapes, and when they run."""

from __future__ import annotations

import numpy as np
import pytest
from layer_nets import lower

from lossc.ir import Graph
from lossc.ir.interpret import Interpreter


def dummy(filler: str, *dims: int) -> np.ndarray:
    shape = " ".join(f"dim: {d}" for d in dims)
    text = f"""layer {{ name: "d" type: "DummyData" top: "d"
                      dummy_data_param {{ shape {{ {shape} }} data_filler {{ {filler} }} }} }}"""
    return values(lower(text), "d")


def values(graph: Graph, name: str) -> np.ndarray:
    interpreter = Interpreter(graph, "f64")
    interpreter.run(["init", "forward"])
    return interpreter[name].copy()


def test_constant() -> None:
    assert (dummy('type: "constant" value: 2.5', 3, 4) == 2.5).all()
    assert (dummy("", 3) == 0).all()


def test_uniform() -> None:
    x = dummy('type: "uniform" min: -2 max: 4', 100, 200)
    assert -2 <= x.min() < -1.99 and 3.99 < x.max() <= 4
    assert x.mean() == pytest.approx(1, abs=0.05)


def test_gaussian() -> None:
    x = dummy('type: "gaussian" mean: 3 std: 0.5', 100, 200)
    assert x.mean() == pytest.approx(3, abs=0.02)
    assert x.std() == pytest.approx(0.5, abs=0.02)


def test_sparse_gaussian_keeps_the_given_share() -> None:
    x = dummy('type: "gaussian" mean: 3 std: 0.5 sparse: 10', 50, 400)
    assert (x != 0).mean() == pytest.approx(10 / 50, abs=0.02)
    assert x[x != 0].mean() == pytest.approx(3, abs=0.05)


def test_positive_unitball() -> None:
    x = dummy('type: "positive_unitball"', 4, 3, 5)
    assert x.min() > 0
    np.testing.assert_allclose(x.sum((1, 2)), 1)
    np.testing.assert_array_equal(dummy('type: "positive_unitball"', 4, 1), np.ones((4, 1)))


@pytest.mark.parametrize(("norm", "fan"), [("FAN_IN", 75), ("FAN_OUT", 500), ("AVERAGE", 287.5)])
def test_xavier_and_msra(norm: str, fan: float) -> None:
    x = dummy(f'type: "xavier" variance_norm: {norm}', 20, 3, 5, 5)
    bound = np.sqrt(3 / fan)
    assert 0.98 * bound < np.abs(x).max() <= bound
    x = dummy(f'type: "msra" variance_norm: {norm}', 200, 30, 5, 5)
    assert x.std() == pytest.approx(np.sqrt(2 / (10 * fan)), rel=0.02)


def test_bilinear() -> None:
    x = dummy('type: "bilinear"', 2, 3, 4, 4)
    row = np.array([0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(x, np.broadcast_to(np.outer(row, row), x.shape))
    odd = dummy('type: "bilinear"', 1, 1, 3, 3)
    np.testing.assert_allclose(odd[0, 0, 1], [0.5, 1, 0.5])


def test_parameters_are_filled_once() -> None:
    graph = lower(
        """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 4
                weight_filler { type: "constant" value: 0.5 } bias_filler { type: "constant" value: -1 } } }"""
    )
    assert [n.section for n in graph.nodes if n.kernel.writes()[:1] in (("ip.w",), ("ip.b",))] == ["init", "init"]
    interpreter = Interpreter(graph)
    interpreter.run(["init"])
    assert (interpreter["ip.w"] == 0.5).all() and (interpreter["ip.b"] == -1).all()


def test_dummy_data_draws_random_values_afresh_and_constants_once() -> None:
    graph = lower(
        """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 } } }
        layer { name: "t" type: "TanH" bottom: "x" top: "t" }
        layer { name: "d" type: "DummyData" top: "c" top: "r" dummy_data_param { num: 2 num: 3 channels: 1 height: 2
                width: 1 width: 5 data_filler { value: 7 } data_filler { type: "uniform" } } }"""
    )
    assert graph.blobs["c"].shape == (2, 1, 2, 1)
    assert graph.blobs["r"].shape == (3, 1, 2, 5)
    assert graph.blobs["c"].persistent
    assert [n.section for n in graph.nodes if n.layer == "d"] == ["init", "forward"]
    interpreter = Interpreter(graph)
    interpreter.run(["init", "forward"])
    assert (interpreter["c"] == 7).all()
    interpreter["c"][...] = 5
    first = interpreter["r"].copy()
    interpreter.run(["forward"])
    assert (interpreter["c"] == 5).all()
    assert (interpreter["r"] != first).all()


def test_input_and_data_shapes() -> None:
    graph = lower(
        """layer { name: "x" type: "Input" top: "a" top: "b" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "y" type: "Input" top: "s" input_param { shape { } } }
        layer { name: "db" type: "Data" top: "data" top: "label" }""",
        data_shapes={"db": [(8, 3, 4, 5), (8,)]},
    )
    shapes = {name: graph.blobs[name].shape for name in graph.inputs}
    assert shapes == {"a": (2, 3), "b": (2, 3), "s": (), "data": (8, 3, 4, 5), "label": (8,)}
    assert {graph.blobs[name].role for name in graph.inputs} == {"input"}


def test_dropout_keeps_the_mean() -> None:
    text = """force_backward: true
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 100 dim: 100 } } }
        layer { name: "d" type: "Dropout" bottom: "x" top: "x" dropout_param { dropout_ratio: 0.2 } loss_weight: 1 }"""
    graph = lower(text)
    interpreter = Interpreter(graph)
    interpreter[graph.data_of["x"]][...] = 2  # one memory for what goes in and what comes out, as in Caffe
    interpreter.run()
    y = interpreter[graph.data_of["x"]]
    assert set(np.unique(y)) == {0, 2.5}
    assert (y == 0).mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(interpreter["x.diff"], y / 2)
    test = lower(text, "TEST")
    interpreter = Interpreter(test)
    interpreter[test.data_of["x"]][...] = 2
    interpreter.run()
    assert (interpreter[test.data_of["x"]] == 2).all() and (interpreter["x.diff"] == 1).all()
