"""Runs a net in PyTorch, as ``lossc time --compare torch`` builds it; see peer.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peer import Arrays, main

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lossc" / "profile"))
from torch_net import TorchNet, step_of  # noqa: E402


@torch.no_grad()
def build(about: dict[str, Any], params: Arrays) -> TorchNet:
    net = TorchNet(about)
    for layer in about["layers"]:
        own = [torch.from_numpy(params[key]) for key in layer["params"]]
        if layer["type"] == "BatchNorm":
            for name, value in zip(("mean", "variance"), own, strict=False):
                getattr(net, f"{name}_{net.key(layer['name'])}").copy_(value)
            continue
        for key, value in zip(layer["params"], own, strict=True):
            net.weights[net.key(key)].copy_(value)
    return net


def make(about: dict[str, Any], kind: str, params: Arrays, inputs: Arrays, threads: int) -> Callable[[], Any]:
    torch.set_num_threads(threads)
    step = step_of(about, kind, build(about, params), {k: torch.from_numpy(v) for k, v in inputs.items()})

    def run() -> Any:
        found = step()
        return [t.numpy() for t in found] if isinstance(found, list) else found.detach().numpy()

    return run


if __name__ == "__main__":
    main(("eager", "channels-last", "compile"), make, lambda kind: torch.__version__)
