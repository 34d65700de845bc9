"""Runs a net in lossc; see peer.py. The net's prototxt and its solver's lie beside the description."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer import Arrays, main

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import lossc  # noqa: E402


def make(about: dict[str, Any], kind: str, params: Arrays, inputs: Arrays, threads: int) -> Callable[[], Any]:
    folder = Path(sys.argv[1]).parent
    if about["backward"]:
        solver = lossc.get_solver(folder / "solver.prototxt", threads=threads)
        net = solver.net
    else:
        net = lossc.Net(folder / "net.prototxt", lossc.TEST, threads=threads, freeze=True, bf16=about["bf16"])
    for layer in about["layers"]:
        for blob, key in zip(net.params.get(layer["name"], []), layer["params"], strict=True):
            blob.data[...] = params[key]
    for name, array in inputs.items():
        net.blobs[name].data[...] = array

    def step() -> Any:
        if about["backward"]:
            solver.step(1)
            return solver.loss
        net.forward()
        return [net.blobs[name].data for name in about["outputs"]]

    return step


if __name__ == "__main__":
    main(("lossc",), make, lambda kind: lossc.__version__)
