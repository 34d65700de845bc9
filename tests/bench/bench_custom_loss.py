"""Losses written as functions beside the built-in ones, PyTorch, and a NumPy body as a Caffe Python layer would hold.

    python tests/bench/bench_custom_loss.py [--peer-python PYTHON] [--threads 2] [--rounds 5] [--seconds 0.1]
                                            [--only SUBSTRING]

Value and gradient of Euclidean, softmax cross-entropy and focal at 64 KB, 1 MB, 4 MB and 64 MB of scores. Contestants
take turns in each round, each time another one first; PyTorch, eager and torch.compile, runs in a process of its own,
in the interpreter that ``--peer-python`` names. Prints a Markdown table: least and median milliseconds. The NumPy
body is the least that a Python layer costs: Caffe's own calls come on top.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from clock import measure

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {"64 KB": (64, 256), "1 MB": (256, 1024), "4 MB": (1024, 1024), "64 MB": (16384, 1024)}
KINDS = ("euclidean", "softmax", "focal")
COLUMNS = ("function", "built-in", "numpy", "torch-eager", "torch-compile")
Run = Callable[[], Any]


def values(kind: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(shape, dtype=np.float32)
    if kind == "euclidean":
        return scores, rng.standard_normal(shape, dtype=np.float32)
    return scores, rng.integers(0, shape[1], shape[0]).astype(np.float32)


def numpy_body(kind: str, x: np.ndarray, y: np.ndarray) -> Run:
    n, rows = x.shape[0], np.arange(x.shape[0])
    if kind == "euclidean":
        diff = np.empty_like(x)

        def euclidean() -> Any:
            np.subtract(x, y, out=diff)
            return float((diff * diff).sum() / n / 2), diff / np.float32(n)

        return euclidean
    label = y.astype(np.int64)

    def entropy() -> Any:
        e = np.exp(x - x.max(1, keepdims=True))
        p = e / e.sum(1, keepdims=True)
        here = p[rows, label]
        log = np.log(here)
        if kind == "softmax":
            factor, loss = np.full(n, 1.0 / n, np.float32), -log.mean()
        else:
            loss = -((1 - here) ** 2 * log).mean()
            factor = ((1 - here) ** 2 - 2 * here * (1 - here) * log) / np.float32(n)
        p[rows, label] -= 1
        return float(loss), p * factor[:, None]

    return entropy


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
    return {"function": lambda: fn(x, y), "built-in": lambda: built_in(x, y), "numpy": numpy_body(kind, x, y)}


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


def turns(runs: dict[str, Run], seconds: float, first: int) -> dict[str, float]:
    """Milliseconds a call, the least of each contestant's turn; ``first`` says who begins."""
    names = list(runs)
    names = names[first % len(names) :] + names[: first % len(names)]
    return {name: measure(runs[name], seconds)["min"] for name in names}


def peer(args: argparse.Namespace) -> int:
    """Answers each line ``TURN KIND SIZE`` with the times of a round."""
    known: dict[str, dict[str, Run]] = {}
    for line in sys.stdin:
        turn, kind, size = line.strip().split(" ", 2)
        case = f"{kind} {size}"
        if case not in known:
            known = {case: torch_runs(kind, args.threads, *values(kind, SHAPES[size]))}
            for run in known[case].values():
                run()
        found = turns(known[case], args.seconds, int(turn))
        print(" ".join(f"{name}={ms}" for name, ms in found.items()), flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--only", default="")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(args)
    process = None
    if args.peer_python:
        command = [args.peer_python, __file__, "--peer", "--threads", str(args.threads), "--seconds", str(args.seconds)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    sys.path.insert(0, str(ROOT))
    print("| least / median ms |", " | ".join(COLUMNS), "|")
    print("| --- " * (len(COLUMNS) + 1) + "|")
    for kind in KINDS:
        for size, shape in SHAPES.items():
            if args.only not in f"{kind} {size}":
                continue
            runs = own(kind, args.threads, *values(kind, shape))
            found: dict[str, list[float]] = {name: [] for name in COLUMNS}
            for turn in range(args.rounds):
                times = turns(runs, args.seconds, turn)
                if process is not None and process.stdin is not None and process.stdout is not None:
                    print(turn, kind, size, file=process.stdin, flush=True)
                    times |= {k: float(v) for k, v in (p.split("=") for p in process.stdout.readline().split())}
                for name, ms in times.items():
                    found[name].append(ms)
            cells = [f"{min(f):.3g} / {statistics.median(f):.3g}" if f else "-" for f in found.values()]
            print(f"| {kind} {size} |", " | ".join(cells), "|", flush=True)
    if process is not None and process.stdin is not None:
        process.stdin.close()
        process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
