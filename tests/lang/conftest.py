"""What the tests of the language share: functions through the interpreter and through generated C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import lossc
from lossc.frontend.caffe_pb2 import NetParameter
from lossc.ir.interpret import Interpreter
from lossc.lang.files import Custom
from lossc.lang.function import Function
from lossc.layers.function import custom_layers
from lossc.layers.net import import_net
from lossc.passes.pipeline import run_passes

Loss = Callable[..., tuple[float, list[np.ndarray]]]


def interpreted(function: Function, *arrays: Any, optimise: bool = True, **parameters: Any) -> tuple[float, list[Any]]:
    """Value and gradients (None where there is none) of a loss by the float64 interpreter."""
    net = NetParameter(name="n", force_backward=True)
    names = [f"in{k}" for k in range(len(arrays))]
    for name, array in zip(names, arrays, strict=True):
        layer = net.layer.add(name=name, type="Input", top=[name])
        layer.input_param.shape.add(dim=np.shape(array)).SetInParent()
    layer = net.layer.add(name="loss", type=function.name, bottom=names, top=["loss"])
    if parameters:
        layer.python_param.param_str = repr(parameters)
    graph = import_net(net, "TRAIN", layers=custom_layers({function.name: Custom(function.name, function, "")}))
    run_passes(graph, optimise=optimise)
    interpreter = Interpreter(graph, "f64")
    interpreter.run(["init"])
    for name, array in zip(names, arrays, strict=True):
        interpreter[graph.data_of[name]][...] = array
    interpreter.run(["forward", "backward"])
    grads = [interpreter[graph.diff_of[n]].copy() if n in graph.diff_of else None for n in names]
    return float(interpreter["loss_total"]), grads


def compiled(function: Function, *arrays: Any, **parameters: Any) -> tuple[float, list[Any]]:
    """The same by generated C in float64, one thread."""
    shapes = dict(zip(function.bottoms, (np.shape(a) for a in arrays), strict=True))
    fn = lossc.compile_loss(function, shapes=shapes, grad="all", dtype="float64", threads=1, **parameters)
    value = fn(*(np.asarray(a, np.float64) for a in arrays))
    grads = dict(zip(fn.wanted, value[1:], strict=True))
    return value.loss, [grads.get(name) for name in function.bottoms]


def differences(call: Callable[..., float], arrays: Sequence[np.ndarray], which: int, step: float = 1e-6) -> np.ndarray:
    """Central differences of a function of NumPy arrays."""
    out = np.zeros(np.shape(arrays[which]))
    values = [np.array(a, np.float64) for a in arrays]
    for index in np.ndindex(out.shape):
        old = values[which][index]
        values[which][index] = old + step
        above = call(*values)
        values[which][index] = old - step
        below = call(*values)
        values[which][index] = old
        out[index] = (above - below) / (2 * step)
    return out


@pytest.fixture(params=["interpreter", "as lowered", "C"])
def run(request: pytest.FixtureRequest) -> Loss:
    """Runs a loss on arrays: (value, gradients)."""
    if request.param == "C":
        return compiled
    optimise = request.param == "interpreter"
    return lambda function, *arrays, **given: interpreted(function, *arrays, optimise=optimise, **given)


@pytest.fixture(autouse=True)
def _headers(headers_compiled_once: None) -> None:
    """For all tests of this folder, which compile many small nets."""
