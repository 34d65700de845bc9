"""Runs a net in Caffe, from the prototxt beside the description, through pycaffe; see peer.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import caffe
from peer import Arrays, main


def make(about: dict[str, Any], kind: str, params: Arrays, inputs: Arrays, threads: int) -> Callable[[], Any]:
    os.chdir(Path(sys.argv[1]).parent)  # the solver names its net without a folder
    caffe.set_mode_cpu()
    if about["backward"]:
        solver = caffe.SGDSolver("solver.prototxt")
        net = solver.net
    else:
        net = caffe.Net("net.prototxt", caffe.TEST)
    for layer in about["layers"]:
        for blob, key in zip(net.params.get(layer["name"], []), layer["params"], strict=True):
            blob.data[...] = params[key]
    for name, array in inputs.items():
        net.blobs[name].data[...] = array
    losses = [(layer["weight"], layer["tops"][0]) for layer in about["layers"] if layer["type"].endswith("Loss")]

    def step() -> Any:
        if about["backward"]:
            solver.step(1)
            return sum(weight * net.blobs[top].data for weight, top in losses)
        net.forward()
        return [net.blobs[name].data for name in about["outputs"]]

    return step


if __name__ == "__main__":
    main(("caffe",), make, lambda kind: str(caffe.__version__))
