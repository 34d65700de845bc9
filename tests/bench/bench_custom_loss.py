"""Losses written as functions beside the built-in ones, NumPy, PyTorch, and Caffe with its layers and Python layers.

    python tests/bench/bench_custom_loss.py [--peer-python PYTHON] [--caffe-python PYTHON] [--threads 2] [--rounds 5]
                                            [--seconds 0.1] [--only SUBSTRING]

Value and gradient of Euclidean, softmax cross-entropy and focal at 64 KB, 1 MB, 4 MB and 64 MB of scores. Contestants
take turns in each round, each time another one first. PyTorch, eager and torch.compile, runs in a process of its own,
in the interpreter that ``--peer-python`` names. So does Caffe in that of ``--caffe-python``: ``net.forward()`` and
``net.backward()`` of a net that is the one loss, with its input in place; "caffe" is Caffe's own layer, where it has
one, "caffe-python" a Python layer around the NumPy body that "numpy" calls alone. All must agree on the value and on
the sum of the gradient's absolute values.

Prints a Markdown table: the least milliseconds of a call, and the median over rounds of each round's median; at the end
how many times faster than the Python layer the function is, by both.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from clock import measure
from environment import peer_environment
from numpy_losses import BODIES

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {"64 KB": (64, 256), "1 MB": (256, 1024), "4 MB": (1024, 1024), "64 MB": (16384, 1024)}
KINDS = ("euclidean", "softmax", "focal")
OWN = ("function", "built-in", "numpy")
TORCH = ("torch-eager", "torch-compile")
CAFFE = ("caffe", "caffe-python")
#: Returns the loss and the gradient of the scores.
Run = Callable[[], Any]


def values(kind: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(shape, dtype=np.float32)
    if kind == "euclidean":
        return scores, rng.standard_normal(shape, dtype=np.float32)
    return scores, rng.integers(0, shape[1], shape[0]).astype(np.float32)


def numpy_run(kind: str, x: np.ndarray, y: np.ndarray) -> Run:
    body = BODIES[kind](x.shape)
    return lambda: (body.forward(x, y), body.backward())


def own(kind: str, threads: int, x: np.ndarray, y: np.ndarray) -> dict[str, Run]:
    import lossc

    @lossc.loss("WrittenEuclidean")
    def euclidean(pred: Any, target: Any) -> Any:
        return ((pred - target) ** 2).sum() / (2 * pred.shape[0])

    @lossc.loss("WrittenSoftmax")
    def softmax(scores: Any, label: Any) -> Any:
        return -lossc.take_along_axis(lossc.log_softmax(scores, 1), label[:, None], 1).mean()

    @lossc.loss("WrittenFocal")
    def focal(scores: Any, label: Any) -> Any:
        log = lossc.take_along_axis(lossc.log_softmax(scores, 1), label[:, None], 1)
        return -((1 - lossc.exp(log)) ** 2 * log).mean()

    written, name = {
        "euclidean": (euclidean, "EuclideanLoss"),
        "softmax": (softmax, "SoftmaxWithLoss"),
        "focal": (focal, "FocalLoss"),
    }[kind]
    names = ("pred", "target") if kind == "euclidean" else ("scores", "label")
    shapes = dict(zip(names, (x.shape, y.shape), strict=True))
    fn = lossc.compile_loss(written, threads=threads, shapes=shapes)
    built_in = lossc.compile_loss(name, threads=threads, shapes=shapes)
    return {"function": lambda: fn(x, y), "built-in": lambda: built_in(x, y), "numpy": numpy_run(kind, x, y)}


def torch_runs(kind: str, threads: int, x: np.ndarray, y: np.ndarray) -> dict[str, Run]:
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    scores, target = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)
    if kind != "euclidean":
        target = target.long()

    def loss(a: Any, b: Any) -> Any:
        if kind == "euclidean":
            return ((a - b) ** 2).sum() / (2 * a.shape[0])
        if kind == "softmax":
            return F.cross_entropy(a, b)
        log = F.log_softmax(a, 1).gather(1, b[:, None])
        return -((1 - log.exp()) ** 2 * log).mean()

    def run(call: Any) -> Run:
        def once() -> Any:
            scores.grad = None
            value = call(scores, target)
            value.backward()
            return value.item(), scores.grad

        return once

    return {"torch-eager": run(loss), "torch-compile": run(torch.compile(loss))}


def caffe_runs(kind: str, x: np.ndarray, y: np.ndarray) -> dict[str, Run]:
    from caffe_losses import caffe_step

    layers = {"euclidean": "EuclideanLoss", "softmax": "SoftmaxWithLoss"}
    runs = {"caffe": caffe_step(layers[kind], [x, y])} if kind in layers else {}
    return {**runs, "caffe-python": caffe_step("Python", [x, y], body=kind)}


def prove(runs: dict[str, Run]) -> dict[str, tuple[float, float]]:
    """The loss, and the sum of the gradient's absolute values, from each contestant."""
    found = {}
    for name, run in runs.items():
        loss, gradient = run()
        found[name] = float(loss), float(np.abs(np.asarray(gradient)).sum(dtype=np.float64))
    return found


def turns(runs: dict[str, Run], seconds: float, first: int) -> dict[str, dict[str, float]]:
    """Least and median milliseconds of a call in each contestant's turn; ``first`` says who begins."""
    names = list(runs)
    names = names[first % len(names) :] + names[: first % len(names)]
    return {name: measure(runs[name], seconds) for name in names}


def answer(args: argparse.Namespace) -> int:
    """In a peer's process: answers each line, a case or a round's number, with what it is to prove, or with times."""
    runs: dict[str, Run] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, int):
            print(json.dumps(turns(runs, args.seconds, order)), flush=True)
            continue
        kind, size = order
        runs.clear()
        data = values(kind, SHAPES[size])
        runs = torch_runs(kind, args.threads, *data) if args.peer == "torch" else caffe_runs(kind, *data)
        print(json.dumps(prove(runs)), flush=True)
    return 0


class Peer:
    """PyTorch or Caffe in a process of its own."""

    def __init__(self, peer: str, python: str, args: argparse.Namespace) -> None:
        command = [python, __file__, "--peer", peer, "--threads", str(args.threads), "--seconds", str(args.seconds)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.name = peer
        self.process = subprocess.Popen(  # type: ignore[call-overload]
            command, text=True, env=peer_environment(args.threads), **pipes
        )

    def ask(self, order: Any) -> Any:
        print(json.dumps(order), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} stopped, its message stands above")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure_case(kind: str, size: str, peers: list[Peer], args: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Least and median milliseconds by contestant."""
    runs = own(kind, args.threads, *values(kind, SHAPES[size]))
    proofs = prove(runs)
    for peer in peers:
        proofs |= peer.ask([kind, size])
    for name, proof in proofs.items():
        for got, expected in zip(proof, proofs["function"], strict=True):
            if not math.isclose(got, expected, rel_tol=1e-4):
                raise SystemExit(f"{kind} {size}: loss and gradient of {name} are {proof}, not {proofs['function']}")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in proofs}
    for turn in range(args.rounds):
        for times in (turns(runs, args.seconds, turn), *(peer.ask(turn) for peer in peers)):
            for name, each in times.items():
                found[name].append(each)
    return {n: (min(e["min"] for e in f), statistics.median(e["median"] for e in f)) for n, f in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="an interpreter that has PyTorch")
    parser.add_argument("--caffe-python", help="an interpreter that has pycaffe, with the layer Python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--only", default="")
    parser.add_argument("--peer", choices=("torch", "caffe"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return answer(args)
    pythons = {"torch": args.peer_python, "caffe": args.caffe_python}
    peers = [Peer(name, python, args) for name, python in pythons.items() if python]
    absent = {*(() if args.peer_python else TORCH), *(() if args.caffe_python else CAFFE)}
    sys.path.insert(0, str(ROOT))
    columns = (*OWN, *TORCH, *CAFFE)
    print("| least / median ms |", " | ".join(columns), "| caffe-python / function |")
    print("| --- " * (len(columns) + 2) + "|")
    for kind in KINDS:
        for size in SHAPES:
            if args.only not in f"{kind} {size}":
                continue
            found = measure_case(kind, size, peers, args)
            cells = [
                "{:.3g} / {:.3g}".format(*found[c]) if c in found else "not here" if c in absent else "none"
                for c in columns
            ]
            pairs = zip(found.get("caffe-python", ()), found["function"], strict=False)
            cells.append(" / ".join(f"{theirs / ours:.1f}x" for theirs, ours in pairs))
            print(f"| {kind} {size} |", " | ".join(cells), "|", flush=True)
    for peer in peers:
        peer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
