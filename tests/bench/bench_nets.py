"""The nets of examples/models beside PyTorch, JAX, Caffe, ONNX Runtime and OpenVINO: training iterations, or inference.

    python tests/bench/bench_nets.py [--peer-python PYTHON ...] [--nets lenet,vgg16] [--peers eager,jax] [--rounds 5]
                                     [--seconds 3] [--threads 2] [--inference [--bf16]] [--output FOLDER]

A training iteration is forward, backward and SGD with momentum and decay; inputs stay the same, no data loading. Each
round starts every peer once, one after the other, in a process of its own. Writes MODE.md and MODE.json (training,
inference or inference-bf16) to the folder: medians over rounds of each process's median, and the least of all; ratios
are to the fastest peer. A C program that makes three iterations tells how much memory training takes. "+malloc" tells
the C library to keep freed memory. The heading tells how many cores other programs kept busy: above a tenth of one the
figures are noise, and flatter whoever spins least. ``--inference``: forward passes in phase TEST at batch 1 and 16,
without losses.
``--bf16``: lossc and OpenVINO may multiply numbers rounded to bfloat16, all others stay in float32.

All start from the same parameters and inputs. What the first call returns must agree with lossc's: outputs, or the
loss, except where Dropout draws at random. ``--peer-python`` names interpreters that have the peers (by default this
one); the table says which peers none of them has.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from environment import peer_environment

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))
NETS = (
    "lenet", "cifar10_quick", "mnist_autoencoder", "mnist_siamese", "alexnet", "googlenet", "resnet50", "vgg16",
)  # fmt: skip
DEPLOYED = ("lenet", "alexnet", "googlenet", "resnet50")
_TORCH = ("eager", "eager+malloc", "channels-last", "channels-last+malloc", "compile")
TRAINING = (*_TORCH, "jax", "caffe")
INFERENCE = (*_TORCH, "onnxruntime", "openvino", "caffe")
#: Peer, without "+malloc": the script that runs it, and the modules that it needs.
SCRIPTS = {
    "lossc": ("lossc_peer.py", ""),
    **dict.fromkeys(("eager", "channels-last", "compile"), ("torch_peer.py", "torch, numpy")),
    "jax": ("jax_peer.py", "jax"),
    "caffe": ("caffe_peer.py", "caffe"),
    "onnxruntime": ("onnx_peer.py", "onnx, onnxruntime"),
    "openvino": ("onnx_peer.py", "onnx, openvino"),
}
#: The largest difference from lossc's outputs that rounding explains, as a part of the largest output.
TOLERANCE = 1e-4
#: The same where lossc rounds operands to bfloat16, and the peer does not, or does so elsewhere.
ROUNDED = 0.05
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "1000000000"}
BATCHES = (1, 16)
SOLVER = 'net: "net.prototxt" base_lr: 1e-5 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005 max_iter: 1000000\n'
PROGRAM = """#include <stdio.h>
#include <string.h>
#include "net.h"
static void show_peak(void)
{
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (strncmp(line, "VmHWM:", 6) == 0)
            fputs(line + 6, stdout);
}
int main(void)
{
    lossc_net *net = bench_create(%d, 1);
    for (int i = 0; net && i < 3; i++) {
        bench_step(net);
    }
    show_peak();
    return net == 0;
}
"""


def prepare(name: str, folder: Path, batch: int | None, bf16: bool = False) -> None:
    """Writes net.prototxt, solver.prototxt and description.json: a training net, or one for inference at ``batch``;
    ``bf16``: which may round."""
    from google.protobuf import text_format

    from lossc.frontend.net import read_net
    from lossc.frontend.solver import read_solver
    from lossc.pipeline import Request
    from lossc.profile.description import describe

    phase, stages = ("test", ("deploy",)) if batch else ("train", ())
    param = read_net(ROOT / "examples" / "models" / f"{name}.prototxt", phase=phase, stages=stages).param
    for layer in param.layer if batch else ():
        for shape in layer.input_param.shape if layer.type == "Input" else ():
            shape.dim[0] = batch
    (folder / "net.prototxt").write_text(text_format.MessageToString(param))
    (folder / "solver.prototxt").write_text(SOLVER)
    solver = None if batch else read_solver(folder / "solver.prototxt").param
    about = describe(Request(read_net(folder / "net.prototxt", phase=phase), solver=solver))
    (folder / "description.json").write_text(json.dumps({**about, "bf16": bf16}))


def memory(folder: Path, threads: int) -> dict[str, float | None]:
    """Megabytes: the most that a C program of three iterations holds, and what the compiler planned.

    The program says itself what it held at most, where the system (Linux) tells: wait4's ru_maxrss begins with what
    the parent had when it forked.
    """
    bundle = folder / "bundle"
    command = [sys.executable, "-m", "lossc.cli.main", "compile", "net.prototxt", "--solver", "solver.prototxt"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--name", "bench", "-o", "bundle"], cwd=folder, check=True, env=environment,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    (bundle / "main.c").write_text(PROGRAM % threads)
    library = json.loads((bundle / "manifest.json").read_text())
    subprocess.run([os.environ.get("CC", "cc"), "main.c", library["library"], "-Wl,-rpath,$ORIGIN", "-o", "main"],
                   cwd=bundle, check=True)  # fmt: skip
    done = subprocess.run([bundle / "main"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the C program of {folder.name} failed")
    planned = library["bytes"]
    resident = int(done.stdout.split()[0]) / 1024 if done.stdout else None
    return {"resident": resident, "arena": planned["arena"] / 2**20, "params": planned["params"] / 2**20}


def interpreters(peers: list[str], pythons: list[str]) -> dict[str, str]:
    """The first interpreter that has a peer's modules, by peer; those that none has are left out."""
    found = {}
    for peer in peers:
        _, modules = SCRIPTS[peer.partition("+")[0]]
        able = next((python for python in pythons if _has(python, modules)), None)
        if able:
            found[peer] = able
    return found


@cache
def _has(python: str, modules: str) -> bool:
    done = subprocess.run([python, "-c", f"import {modules}"], capture_output=True, env=peer_environment(1))
    return done.returncode == 0


def run_peer(peer: str, python: str, folder: Path, args: argparse.Namespace, outputs: Path | None) -> dict[str, Any]:
    kind, _, malloc = peer.partition("+")
    command = [python, str(HERE / SCRIPTS[kind][0]), str(folder / "description.json"), kind]
    command += ["--threads", str(args.threads), "--seconds", str(args.seconds)]
    command += ["--outputs", str(outputs)] if outputs else []
    environment = (dict(os.environ) if kind == "lossc" else {}) | peer_environment(args.threads)
    environment |= MALLOC if malloc else {}
    start, busy, own = time.perf_counter(), _busy(), _children()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    others = (_busy() - busy - (_children() - own)) / (time.perf_counter() - start)
    if done.returncode:
        raise SystemExit(f"{peer} failed on {folder.name}:\n{done.stderr[-2000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "others": max(others, 0.0)}


def difference(peer: Path, ours: Path) -> float:
    """The largest difference between the outputs in two files, as a part of the largest output."""
    with np.load(peer) as theirs, np.load(ours) as expected:
        return max(
            float(abs(theirs[name].ravel() - expected[name].ravel()).max() / abs(expected[name]).max())
            for name in expected.files
        )


def _busy() -> float:
    """CPU seconds that all programs have used so far; 0 where the system does not tell."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0].split()
    except OSError:
        return 0.0
    return sum(int(first[k]) for k in (1, 2, 3, 6, 7)) / os.sysconf("SC_CLK_TCK")


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def measure_case(name: str, batch: int | None, pythons: dict[str, str], args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as place:
        folder = Path(place)
        prepare(name, folder, batch, args.bf16)
        about = json.loads((folder / "description.json").read_text())
        random = about["training"] and any(layer["type"] == "Dropout" for layer in about["layers"])
        rounds: dict[str, list[dict[str, Any]]] = {peer: [] for peer in ("lossc", *pythons)}
        differences = {}
        for k in range(args.rounds):
            for peer, found in rounds.items():
                outputs = None if k or random else folder / f"{peer}.npz"
                found.append(run_peer(peer, pythons.get(peer, sys.executable), folder, args, outputs))
                if outputs:
                    differences[peer] = difference(outputs, folder / "lossc.npz")
                    if not differences[peer] <= (ROUNDED if args.bf16 else TOLERANCE):
                        raise SystemExit(f"{name}: outputs of {peer} differ from lossc's by {differences[peer]:.2g}")
        medians = {peer: statistics.median(r["median"] for r in found) for peer, found in rounds.items()}
        least = {peer: min(r["min"] for r in found) for peer, found in rounds.items()}
        held = None if batch else memory(folder, args.threads)
    return {
        "net": name, "batch": batch, "median": medians, "min": least, "memory": held, "differences": differences,
        "rounds": rounds,
    }  # fmt: skip


def table(cases: list[dict[str, Any]], peers: list[str]) -> str:
    """Markdown: least ms of everybody, then how many times faster than the fastest peer by minima and by medians."""
    heads = ["net", "lossc", *peers, *(["faster, min", "faster, median"] if peers else []), "MB in C", "MB of arena"]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    ratios: dict[str, list[float]] = {"min": [], "median": []}
    for case in cases:
        cells = [case["net"] + (f", batch {case['batch']}" if case["batch"] else "")]
        cells += [f"{case['min'][peer]:.3g}" for peer in ("lossc", *peers)]
        for by in ("min", "median") if peers else ():
            ratios[by].append(min(case[by][peer] for peer in peers) / case[by]["lossc"])
            cells.append(f"{ratios[by][-1]:.2f}x")
        held = case["memory"]
        cells += [f"{held[key]:.0f}" if held and held[key] else "" for key in ("resident", "arena")]
        lines.append("| " + " | ".join(cells) + " |")
    if peers:
        means = [f"{statistics.geometric_mean(ratios[by]):.2f}x" for by in ("min", "median")]
        lines.append("| " + " | ".join(["geometric mean", *[""] * (1 + len(peers)), *means, "", ""]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", nargs="+", default=[sys.executable])
    parser.add_argument("--nets", help=f"names of examples/models (all; of inference {DEPLOYED})")
    parser.add_argument("--peers", help="names from the table's heading")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("bench_results"))
    args = parser.parse_args()
    if args.bf16 and not args.inference:
        parser.error("--bf16 is for --inference")
    known = INFERENCE if args.inference else TRAINING
    peers = [peer for peer in known if args.peers is None or peer in args.peers.split(",")]
    pythons = interpreters(peers, args.peer_python)
    cases = []
    for name in args.nets.split(",") if args.nets else DEPLOYED if args.inference else NETS:
        for batch in BATCHES if args.inference else (None,):
            cases.append(measure_case(name, batch, pythons, args))
            print(table(cases[-1:], list(pythons)).splitlines()[2], flush=True)
    from lossc.build.compiler import find_compiler

    mode = ("inference-bf16" if args.bf16 else "inference") if args.inference else "training"
    about = {
        "mode": mode, "machine": processor(), "threads": args.threads, "rounds": args.rounds,
        "seconds": args.seconds, "date": date.today().isoformat(), "python": platform.python_version(),
        "compiler": find_compiler().version,
        "versions": {peer: found[0]["version"] for peer, found in cases[0]["rounds"].items()},
        "missing": [peer for peer in peers if peer not in pythons],
    }  # fmt: skip
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / f"{mode}.json").write_text(json.dumps({**about, "cases": cases}, indent=1) + "\n")
    text = f"{_heading(about, cases)}\n\n{table(cases, list(pythons))}\n"
    (args.output / f"{mode}.md").write_text(text)
    print(f"\n{text}")


def _heading(about: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    facts = [f"{key} {about[key]}" for key in ("machine", "threads", "rounds", "seconds", "date", "python", "compiler")]
    facts += [f"{peer} {version}" for peer, version in about["versions"].items() if "+" not in peer]
    others = max(r["others"] for case in cases for found in case["rounds"].values() for r in found)
    facts.append(f"cores taken by others up to {others:.2f}")
    lines = [f"Least milliseconds, {about['mode']}: {', '.join(facts)}."]
    found = [d for case in cases for peer, d in case["differences"].items() if peer != "lossc"]
    if found:
        what = "the first losses (without Dropout) differ" if about["mode"] == "training" else "outputs differ"
        lines.append(f"From the same start {what} from lossc's by {max(found):.1g} of the largest at most.")
    if about["missing"]:
        lines.append(f"Not here: {', '.join(about['missing'])}; --peer-python names interpreters that have them.")
    return "\n".join(lines)


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
