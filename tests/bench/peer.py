"""What the scripts share that run one net, each in a process of its own: the start, the outputs, the clock.

    python SCRIPT.py DESCRIPTION.json KIND --threads N --seconds S [--outputs FILE]

prints JSON: milliseconds of single iterations (of forward passes, where the net has no loss), median and minimum, and
the version of the library. ``--outputs`` writes what the first call returned. Needs NumPy, and no lossc.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from clock import measure

Arrays = dict[str, np.ndarray]


def start_of(about: dict[str, Any]) -> tuple[Arrays, Arrays]:
    """Parameters by key and inputs by name: the same numbers in every process.

    Of a size that neither vanishes nor explodes on the way through many layers, so that outputs can be compared.
    """
    rng = np.random.default_rng(0)
    params: Arrays = {}
    for layer in about["layers"]:
        for k, (key, shape) in enumerate(zip(layer["params"], layer["param_shapes"], strict=True)):
            if key in params:
                continue
            noise = rng.standard_normal(shape, dtype=np.float32)
            if layer["type"] == "BatchNorm":
                params[key] = (0.1 * noise, 1 + 0.1 * abs(noise), np.ones(shape, np.float32))[k]
            elif layer["type"] == "Scale":
                params[key] = (0.5, 0)[k] + 0.1 * noise
            elif k == 0:
                params[key] = noise * np.float32((2 / max(np.prod(shape[1:]), 1)) ** 0.5)
            else:
                params[key] = 0.1 * noise
    inputs = {
        e["name"]: rng.standard_normal(e["shape"], dtype=np.float32) if e["noise"] else np.zeros(e["shape"], np.float32)
        for e in about["inputs"]
    }
    return params, inputs


#: (description, kind, parameters, inputs, threads) -> a call that runs the net once; it returns its loss or outputs.
Maker = Callable[[dict[str, Any], str, Arrays, Arrays, int], Callable[[], Any]]


def main(kinds: Sequence[str], make: Maker, version: Callable[[str], str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("description")
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--outputs")
    args = parser.parse_args()
    with open(args.description, encoding="utf-8") as file:
        about = json.load(file)
    step = make(about, args.kind, *start_of(about), args.threads)
    first = step()
    if args.outputs:
        arrays = first if isinstance(first, (list, tuple)) else [first]
        np.savez(args.outputs, *[np.array(a, np.float32) for a in arrays])
    print(json.dumps({**measure(step, args.seconds, warm=1, least=3), "version": version(args.kind)}))
