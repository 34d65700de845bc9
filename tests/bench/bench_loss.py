"""Losses alone, forward and backward, beside PyTorch, JAX and Caffe: times, and GB/s of the least possible traffic.

    python tests/bench/bench_loss.py [--peer-python PYTHON ...] [--peers torch-eager torch-compile jax caffe]
                                     [--threads 2] [--rounds 8] [--seconds 0.2] [--only SUBSTRING] [--json FILE]

Each case is called from Python on NumPy arrays and the loss is read as a float. Every peer is a process of its own;
they take turns for ``--seconds`` in each round, and so does STREAM's triad (192 MB, the same threads), with ordinary
stores and with stores past the caches. Least traffic: each input read once, each gradient written once.
``--peer-python`` names interpreters that have the peers (by default this one); the table says which peers they lack.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from environment import peer_environment

ROOT = Path(__file__).resolve().parents[2]
PEERS = ("torch-eager", "torch-compile", "jax", "caffe")
STREAMS = ("triad", "triad-nt")
#: How far a peer's loss may be from lossc's; Caffe adds a million terms one by one, in float32.
TOLERANCES = {**dict.fromkeys(PEERS, 1e-4), "caffe": 1e-3}
# name: (layer, shape of the scores)
CASES = {
    "euclidean 64 KB": ("EuclideanLoss", (64, 256)),
    "euclidean 4 MB": ("EuclideanLoss", (256, 4096)),
    "euclidean 64 MB": ("EuclideanLoss", (1024, 16384)),
    "softmax 256x1000": ("SoftmaxWithLoss", (256, 1000)),
    "softmax 8x21x256x256": ("SoftmaxWithLoss", (8, 21, 256, 256)),
    "sigmoid CE 100x784": ("SigmoidCrossEntropyLoss", (100, 784)),
    "sigmoid CE 4 MB": ("SigmoidCrossEntropyLoss", (256, 4096)),
    "hinge 256x1000": ("HingeLoss", (256, 1000)),
    "contrastive 4096x256": ("ContrastiveLoss", (4096, 256)),
}
TRIAD = r"""
#define _DEFAULT_SOURCE
#include <immintrin.h>
#include <stdlib.h>
#include <sys/mman.h>
enum { COUNT = 1 << 24, ARRAYS = 3 };
static float *memory;
int triad_open(void)
{
    const size_t bytes = sizeof(float) * ARRAYS * COUNT;
    memory = aligned_alloc(1 << 21, bytes);
    if (memory == NULL)
        return 0;
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    #pragma omp parallel for schedule(static)
    for (long i = 0; i < COUNT; i++)
        memory[i] = memory[i + COUNT] = memory[i + 2 * COUNT] = 1.0f;
    return 1;
}
void triad(int nt)
{
    float *restrict a = memory;
    const float *restrict b = memory + COUNT, *restrict c = memory + 2 * COUNT;
    #pragma omp parallel for schedule(static)
    for (long part = 0; part < 64; part++)
        for (long i = part * (COUNT / 64); i < (part + 1) * (COUNT / 64); i += 8) {
            const __m256 v = _mm256_fmadd_ps(_mm256_set1_ps(3.0f), _mm256_load_ps(c + i), _mm256_load_ps(b + i));
            if (nt)
                _mm256_stream_ps(a + i, v);
            else
                _mm256_store_ps(a + i, v);
        }
}
"""
TRIAD_BYTES = 3 * 4 * 2**24


def inputs(layer: str, shape: tuple[int, ...]) -> list[Any]:
    """The bottoms as NumPy arrays; the same numbers for every peer."""
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32)
    if layer == "EuclideanLoss":
        return [x, rng.standard_normal(shape, dtype=np.float32)]
    if layer == "SigmoidCrossEntropyLoss":
        return [x, rng.random(shape, dtype=np.float32)]
    if layer == "ContrastiveLoss":
        similar = rng.integers(0, 2, shape[0]).astype(np.float32)
        return [x, rng.standard_normal(shape, dtype=np.float32), similar]
    return [x, rng.integers(0, shape[1], (shape[0], *shape[2:])).astype(np.float32)]


def gradients(layer: str) -> int:
    """How many bottoms, the first ones, get a gradient."""
    return 2 if layer == "ContrastiveLoss" else 1


def traffic(layer: str, shape: tuple[int, ...]) -> int:
    """Bytes: each input read once, each gradient written once."""
    size, labels = math.prod(shape), math.prod(shape) // shape[1]
    reals = {"EuclideanLoss": 3 * size, "SigmoidCrossEntropyLoss": 3 * size, "ContrastiveLoss": 4 * size + shape[0]}
    return 4 * reals.get(layer, 2 * size + labels)


# ---- the peers, each in a process of its own


def lossc_step(layer: str, arrays: list[Any], threads: int) -> Callable[[], float]:
    sys.path.insert(0, str(ROOT))
    import lossc

    names = [f"x{k}" for k in range(len(arrays))]
    shapes = {name: array.shape for name, array in zip(names, arrays, strict=True)}
    loss = lossc.compile_loss(layer, shapes=shapes, grad=names[: gradients(layer)], threads=threads)
    return lambda: loss(*arrays).loss


def torch_step(layer: str, arrays: list[Any], threads: int, compiled: bool) -> Callable[[], float]:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)

    def hinge(x: Any, y: Any) -> Any:
        sign = torch.where(torch.arange(x.shape[1])[None] == y[:, None], -1.0, 1.0)
        return torch.clamp(1 + sign * x, min=0).sum() / x.shape[0]

    def contrastive(a: Any, b: Any, similar: Any) -> Any:
        square = ((a - b) ** 2).sum(1)
        apart = torch.clamp(1 - torch.sqrt(square), min=0) ** 2
        return (similar * square + (1 - similar) * apart).sum() / (2 * a.shape[0])

    functions: dict[str, Callable[..., Any]] = {
        "EuclideanLoss": lambda x, y: F.mse_loss(x, y, reduction="sum") / (2 * x.shape[0]),
        "SoftmaxWithLoss": F.cross_entropy,
        "SigmoidCrossEntropyLoss": lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="sum") / x.shape[0],
        "HingeLoss": hinge,
        "ContrastiveLoss": contrastive,
    }
    tensors = [torch.from_numpy(a) for a in arrays]
    if layer in ("SoftmaxWithLoss", "HingeLoss"):
        tensors[1] = tensors[1].long()
    for t in tensors[: gradients(layer)]:
        t.requires_grad_()
    function = torch.compile(functions[layer]) if compiled else functions[layer]

    def step() -> float:
        for t in tensors:
            t.grad = None
        loss = function(*tensors)
        loss.backward()
        return float(loss)

    return step


def jax_step(layer: str, arrays: list[Any]) -> Callable[[], float]:
    import jax
    import jax.numpy as jnp

    def softmax(x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(x, 1), jnp.expand_dims(y, 1), 1).mean()

    def sigmoid(x: Any, t: Any) -> Any:
        return (jnp.maximum(x, 0) - x * t + jnp.log1p(jnp.exp(-jnp.abs(x)))).sum() / x.shape[0]

    def hinge(x: Any, y: Any) -> Any:
        return jnp.maximum(0, 1 + jnp.where(jnp.arange(x.shape[1])[None] == y[:, None], -x, x)).sum() / x.shape[0]

    def contrastive(a: Any, b: Any, similar: Any) -> Any:
        square = ((a - b) ** 2).sum(1)
        apart = jnp.maximum(1 - jnp.sqrt(square), 0) ** 2
        return (similar * square + (1 - similar) * apart).sum() / (2 * a.shape[0])

    functions: dict[str, Callable[..., Any]] = {
        "EuclideanLoss": lambda x, y: ((x - y) ** 2).sum() / (2 * x.shape[0]),
        "SoftmaxWithLoss": softmax,
        "SigmoidCrossEntropyLoss": sigmoid,
        "HingeLoss": hinge,
        "ContrastiveLoss": contrastive,
    }
    labels = layer in ("SoftmaxWithLoss", "HingeLoss")
    values = [jnp.asarray(a, "int32" if k and labels else "float32") for k, a in enumerate(arrays)]
    wanted = tuple(range(gradients(layer)))
    both = jax.jit(jax.value_and_grad(functions[layer], argnums=wanted))

    def step() -> float:
        loss, grads = both(*values)
        jax.block_until_ready(grads)
        return float(loss)

    return step


def caffe_loss_step(layer: str, arrays: list[Any]) -> Callable[[], float]:
    from caffe_losses import caffe_step

    both = caffe_step(layer, arrays, gradients(layer))
    return lambda: both()[0]


def triad_step(past_caches: bool) -> Callable[[], float]:
    import ctypes

    folder = Path(tempfile.mkdtemp())
    (folder / "triad.c").write_text(TRIAD, encoding="utf-8")
    command = ["cc", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "triad.c", "-o", "triad.so"]
    subprocess.run(command, check=True, cwd=folder)
    library = ctypes.CDLL(str(folder / "triad.so"))
    if not library.triad_open():
        raise MemoryError
    return lambda: library.triad(int(past_caches)) or 0.0


def worker(peer: str, threads: int) -> None:
    """Answers each line of standard input, a case or a number of seconds to run for, with a line of JSON."""
    step: Callable[[], float] = float
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, str):
            layer, shape = CASES[order]
            if peer in STREAMS:
                step = triad_step(peer == "triad-nt")
            elif peer == "jax":
                step = jax_step(layer, inputs(layer, shape))
            elif peer == "caffe":
                step = caffe_loss_step(layer, inputs(layer, shape))
            elif peer == "lossc":
                step = lossc_step(layer, inputs(layer, shape), threads)
            else:
                step = torch_step(layer, inputs(layer, shape), threads, peer == "torch-compile")
            print(json.dumps(step() + 0 * step()), flush=True)
            continue
        times: list[float] = []
        end = time.perf_counter() + order
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


class Worker:
    """A peer in its own process. Raises OSError where it stops, as it does where its library is missing."""

    def __init__(self, peer: str, python: str, threads: int) -> None:
        command = [python, str(Path(__file__).resolve()), "--worker", peer, "--threads", str(threads)]
        environment = peer_environment(threads) | {"PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload]

    def ask(self, order: str | float) -> Any:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise OSError((self.process.stderr.read().strip().splitlines() or ["it stopped"])[-1])
        return json.loads(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(case: str, peers: list[str], options: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, str]]:
    """(seconds of each call by peer, why a peer is missing)."""
    workers: dict[str, Worker] = {}
    missing: dict[str, str] = {}
    losses = {}
    for peer in peers:
        for python in options.peer_python if peer in PEERS else [sys.executable]:
            workers[peer] = Worker(peer, python, options.threads)
            try:
                losses[peer] = workers[peer].ask(case)
                missing.pop(peer, None)
                break
            except OSError as error:
                workers.pop(peer).process.wait()
                missing[peer] = str(error)
    for peer in PEERS:
        if peer in losses and not math.isclose(losses[peer], losses["lossc"], rel_tol=TOLERANCES[peer]):
            raise SystemExit(f"{case}: {peer} says {losses[peer]}, lossc {losses['lossc']}")
    times: dict[str, list[float]] = {peer: [] for peer in workers}
    for _ in range(options.rounds):
        for peer, each in workers.items():
            each.ask(options.seconds / 10)  # awake again
            times[peer] += each.ask(options.seconds)
    for each in workers.values():
        each.close()
    return times, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", nargs="+", default=[sys.executable])
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.2, help="for each peer in each round")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--json", help="a file for all figures")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.threads)
        return
    records = []
    names = ["lossc", *options.peers]
    print("Milliseconds, minimum (median); GB/s of the least traffic at the minimum.\n")
    print(f"| case | {' | '.join(names)} | fastest peer / lossc | lossc GB/s | triad, past caches GB/s |")
    print("| --- " * (len(names) + 4) + "|")
    for case, (layer, shape) in CASES.items():
        if options.only not in case:
            continue
        times, missing = measure(case, [*names, *STREAMS], options)
        size = traffic(layer, shape)
        best = {peer: min(t) for peer, t in times.items()}
        middle = {peer: statistics.median(t) for peer, t in times.items()}
        rate = size / best["lossc"] / 1e9
        streams = {s: TRIAD_BYTES / best[s] / 1e9 for s in STREAMS if s in best}
        peers = [p for p in options.peers if p in best]
        ratios = [min(of[p] for p in peers) / of["lossc"] for of in (best, middle)] if peers else []
        cells = [f"{best[p] * 1e3:.4g} ({middle[p] * 1e3:.4g})" if p in best else "not here" for p in names]
        ratio = f"{ratios[0]:.2f}x ({ratios[1]:.2f}x)" if ratios else ""
        rates = ", ".join(f"{v:.1f}" for v in streams.values())
        print(f"| {case} | {' | '.join(cells)} | {ratio} | {rate:.1f} | {rates} |", flush=True)
        records.append({
            "case": case, "bytes": size, "threads": options.threads, "missing": missing, "ratios": ratios,
            "min_ms": {p: t * 1e3 for p, t in best.items()}, "median_ms": {p: t * 1e3 for p, t in middle.items()},
            "calls": {p: len(t) for p, t in times.items()}, "gb_s": rate, "triad_gb_s": streams,
        })  # fmt: skip
        if options.json:
            Path(options.json).write_text(json.dumps(records, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
