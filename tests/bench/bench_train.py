"""LeNet's training iteration (batch 64: forward, backward, SGD with momentum and decay) beside PyTorch, in one run.

    python tests/bench/bench_train.py [--torch-python PYTHON] [--threads 2] [--rounds 5] [--seconds 3]

Each round starts every peer once, one after the other, in a process of its own; inputs stay the same, no data loading.
Prints a Markdown table of the medians and minima over all rounds and their ratios to lossc. ``--torch-python`` names an
interpreter that has PyTorch (by default this one); without it only lossc is timed, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH = ("torch-eager", "torch-channels-last", "torch-compile")
NET = """name: "LeNet"
layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 64 dim: 1 dim: 28 dim: 28 } shape { dim: 64 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 50 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
  inner_product_param { num_output: 500 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005 max_iter: 1000000\n'


def lossc_step(threads: int) -> Callable[[], object]:
    sys.path.insert(0, str(ROOT))
    import numpy as np

    import lossc

    folder = Path(tempfile.mkdtemp())
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER)
    solver = lossc.get_solver(folder / "solver.prototxt", threads=threads)
    rng = np.random.default_rng(0)
    solver.net.blobs["data"].data[...] = rng.standard_normal((64, 1, 28, 28))
    solver.net.blobs["label"].data[...] = rng.integers(0, 10, 64)
    return lambda: solver.step(1)


def torch_step(peer: str, threads: int) -> Callable[[], object]:
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    net: nn.Module = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(inplace=True), nn.Linear(500, 10),
    )  # fmt: skip
    x, label = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    if peer == "torch-channels-last":
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=0.0005)
    forward = torch.compile(net) if peer == "torch-compile" else net
    criterion = nn.CrossEntropyLoss()

    def step() -> object:
        optimiser.zero_grad(set_to_none=True)
        loss = criterion(forward(x), label)
        loss.backward()
        optimiser.step()
        return loss

    return step


def one(peer: str, threads: int, seconds: float) -> dict[str, float]:
    """Median and minimum (ms) of single iterations in this process."""
    step = lossc_step(threads) if peer == "lossc" else torch_step(peer, threads)
    for _ in range(20):
        step()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return {"median": statistics.median(times), "min": min(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.threads, args.seconds)))
        return
    has_torch = subprocess.run([args.torch_python, "-c", "import torch"], capture_output=True).returncode == 0
    peers = ("lossc", *(TORCH if has_torch else ()))
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    found: dict[str, list[dict[str, float]]] = {p: [] for p in peers}
    for _ in range(args.rounds):
        for peer in peers:
            python = sys.executable if peer == "lossc" else args.torch_python
            command = [python, __file__, "--one", peer, "--threads", str(args.threads), "--seconds", str(args.seconds)]
            run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            found[peer].append(json.loads(run.stdout.splitlines()[-1]))
    print(f"LeNet, batch 64, {args.threads} threads, {args.rounds} rounds of {args.seconds:g} s, ms an iteration\n")
    print("| | median | min | median / lossc | min / lossc |\n| --- | --- | --- | --- | --- |")
    base = {k: statistics.median(r[k] for r in found["lossc"]) for k in ("median", "min")}
    for peer, rounds in found.items():
        median, least = (statistics.median(r[k] for r in rounds) for k in ("median", "min"))
        print(f"| {peer} | {median:.2f} | {least:.2f} | {median / base['median']:.2f} | {least / base['min']:.2f} |")
    if not has_torch:
        print("\nPyTorch was not timed: give an interpreter that has it by --torch-python.")


if __name__ == "__main__":
    main()
