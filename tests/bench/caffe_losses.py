"""Losses in pycaffe, Caffe's own layers and Python layers, for bench_custom_loss and bench_loss."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import caffe
import numpy as np
from numpy_losses import BODIES, Body


class PythonLoss(caffe.Layer):  # type: ignore[misc]
    """A loss in the manner of Caffe's examples/pycaffe/layers/pyloss.py; ``param_str`` names its body.

    Unlike there, memory is kept while the shape stays the same: Caffe calls ``reshape`` before every forward pass.
    """

    def setup(self, bottom: Any, top: Any) -> None:
        self.body: Body | None = None
        self.shape: tuple[int, ...] = ()

    def reshape(self, bottom: Any, top: Any) -> None:
        shape = tuple(bottom[0].shape)
        if shape != self.shape:
            self.body, self.shape = BODIES[self.param_str](shape), shape
            top[0].reshape(1)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = self.body.forward(bottom[0].data, bottom[1].data)

    def backward(self, top: Any, propagate_down: Sequence[bool], bottom: Any) -> None:
        bottom[0].diff[...] = self.body.backward()


def caffe_step(
    layer: str, arrays: Sequence[np.ndarray], gradients: int = 1, body: str = ""
) -> Callable[[], tuple[float, np.ndarray]]:
    """A call that runs both passes of a net of one loss; it returns the loss and the first gradient.

    The first bottoms, as many as there are ``gradients``, are parameters, the others inputs: so Caffe computes the
    gradients that are asked for and no others. With ``force_backward`` it would compute EuclideanLoss's two.
    ``body``: what the Python layer computes, where ``layer`` is "Python".
    """
    text = []
    for k, array in enumerate(arrays):
        kind = "parameter" if k < gradients else "input"
        shape = " ".join(f"dim: {extent}" for extent in array.shape)
        text.append(f'name: "x{k}" top: "x{k}" type: "{kind.capitalize()}" {kind}_param {{ shape {{ {shape} }} }}')
    bottoms = " ".join(f'bottom: "x{k}"' for k in range(len(arrays)))
    own = f'python_param {{ module: "caffe_losses" layer: "PythonLoss" param_str: "{body}" }}' if body else ""
    text.append(f'name: "loss" top: "loss" type: "{layer}" loss_weight: 1 {bottoms} {own}')
    caffe.set_mode_cpu()
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.writelines(f"layer {{ {each} }}\n" for each in text)
        file.flush()
        net = caffe.Net(file.name, caffe.TRAIN)
    for k, array in enumerate(arrays):
        blob = net.params[f"x{k}"][0] if k < gradients else net.blobs[f"x{k}"]
        blob.data[...] = array

    def step() -> tuple[float, np.ndarray]:
        loss = float(net.forward()["loss"])
        net.backward()
        return loss, net.blobs["x0"].diff

    return step
