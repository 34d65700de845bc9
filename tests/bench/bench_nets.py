"""The nets of examples/models beside PyTorch in one run: training iterations, or inference.

    python tests/bench/bench_nets.py [--torch-python PYTHON] [--nets lenet,vgg16] [--peers eager,compile] [--rounds 5]
                                     [--seconds 3] [--threads 2] [--inference] [--output FOLDER]

A training iteration is forward, backward and SGD with momentum and decay; inputs stay the same, no data loading. Each
round starts every peer once, one after the other, in a process of its own. Writes nets.md and nets.json to the folder:
medians over rounds of each process's median, and the least of all; ratios are to the fastest peer. A C program that
makes three iterations tells how much memory training takes. "+malloc" tells the C library to keep freed memory. The
heading tells how many cores other programs kept busy: above a tenth of one the figures are noise, and flatter whoever
spins least. ``--inference``: forward passes in phase TEST at batch 1 and 16, without losses. ``--torch-python`` names
an interpreter that has PyTorch (by default this one); without it lossc is timed alone, and the table says so.
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
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from clock import measure

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
NETS = (
    "lenet", "cifar10_quick", "mnist_autoencoder", "mnist_siamese", "alexnet", "googlenet", "resnet50", "vgg16",
)  # fmt: skip
PEERS = ("eager", "eager+malloc", "channels-last", "channels-last+malloc", "compile")
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "1000000000"}
BATCHES = (1, 16)
SOLVER = 'net: "net.prototxt" base_lr: 1e-5 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005 max_iter: 1000000\n'
PROGRAM = """#include "net.h"
int main(void)
{
    lossc_net *net = bench_create(%d, 1);
    for (int i = 0; net && i < 3; i++) {
        bench_step(net);
    }
    return net == 0;
}
"""


def prepare(name: str, folder: Path, batch: int | None) -> None:
    """Writes net.prototxt, solver.prototxt and description.json: a training net, or one for inference at ``batch``."""
    from google.protobuf import text_format
    from google.protobuf.json_format import MessageToDict

    from lossc.frontend.net import read_net
    from lossc.pipeline import Request, build_graph

    phase, stages = ("test", ("deploy",)) if batch else ("train", ())
    param = read_net(ROOT / "examples" / "models" / f"{name}.prototxt", phase=phase, stages=stages).param
    for layer in param.layer if batch else ():
        for shape in layer.input_param.shape if layer.type == "Input" else ():
            shape.dim[0] = batch
    (folder / "net.prototxt").write_text(text_format.MessageToString(param))
    (folder / "solver.prototxt").write_text(SOLVER)
    graph, _ = build_graph(Request(read_net(folder / "net.prototxt", phase=phase)), until=None)
    firsts = {call.bottoms[0] for call in graph.calls if call.bottoms}
    layers = []
    for call, layer in zip(graph.calls, (e for e in param.layer if e.type != "Silence"), strict=False):
        if layer.type == "Input":
            continue
        options = next((MessageToDict(value, preserving_proto_field_name=True) for field, value in layer.ListFields()
                        if field.name.endswith("_param")), {})  # fmt: skip
        shapes = [list(s.shape) for s in call.layer.params(*[graph.declared[b].shape for b in call.bottoms])]
        shared = [p.name for p in layer.param] + [""] * len(shapes)
        keys = [f"{shared[k] or layer.name}_{k}" for k in range(len(shapes))]
        weight = layer.loss_weight[0] if layer.loss_weight else 1.0
        layers.append({
            "name": layer.name, "type": layer.type, "bottoms": list(layer.bottom), "tops": list(layer.top),
            "options": options, "params": keys, "param_shapes": shapes, "weight": weight,
        })  # fmt: skip
    inputs = [
        {"name": b, "shape": list(graph.declared[graph.data_of[b]].shape), "noise": graph.data_of[b] in firsts}
        for b in graph.inputs
    ]
    about = {"inference": bool(batch), "layers": layers, "inputs": inputs, "outputs": list(graph.outputs)}
    (folder / "description.json").write_text(json.dumps(about))


def lossc_step(folder: Path, threads: int) -> Callable[[], object]:
    import numpy as np

    import lossc

    about = json.loads((folder / "description.json").read_text())
    if about["inference"]:
        net = lossc.Net(folder / "net.prototxt", lossc.TEST, threads=threads)
        step: Callable[[], object] = net.forward
    else:
        solver = lossc.get_solver(folder / "solver.prototxt", threads=threads)
        net, step = solver.net, lambda: solver.step(1)
    rng = np.random.default_rng(0)
    for entry in about["inputs"]:
        net.blobs[entry["name"]].data[...] = rng.standard_normal(entry["shape"]) if entry["noise"] else 0
    return step


def measure_lossc(folder: Path, threads: int, seconds: float) -> dict[str, float]:
    """As the peers', with the seconds until the net is ready."""
    start = time.perf_counter()
    step = lossc_step(folder, threads)
    ready = time.perf_counter() - start
    return {**measure(step, seconds, warm=2, least=3), "ready": ready}


def memory(folder: Path, threads: int) -> dict[str, float]:
    """Megabytes: the most that a C program of three iterations holds, and what the compiler planned."""
    bundle = folder / "bundle"
    command = [sys.executable, "-m", "lossc.cli.main", "compile", "net.prototxt", "--solver", "solver.prototxt"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--name", "bench", "-o", "bundle"], cwd=folder, check=True, env=environment,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    (bundle / "main.c").write_text(PROGRAM % threads)
    library = json.loads((bundle / "manifest.json").read_text())
    subprocess.run([os.environ.get("CC", "cc"), "main.c", library["library"], "-Wl,-rpath,$ORIGIN", "-o", "main"],
                   cwd=bundle, check=True)  # fmt: skip
    child = subprocess.Popen([bundle / "main"])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"the C program of {folder.name} failed")
    planned = library["bytes"]
    return {"resident": usage.ru_maxrss / 1024, "arena": planned["arena"] / 2**20, "params": planned["params"] / 2**20}


def run_peer(peer: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    options = ["--threads", str(args.threads), "--seconds", str(args.seconds)]
    if peer == "lossc":
        command = [sys.executable, __file__, "--one", str(folder), *options]
    else:
        kind, _, malloc = peer.partition("+")
        environment |= MALLOC if malloc else {}
        script = Path(__file__).with_name("torch_net.py")
        command = [args.torch_python, str(script), str(folder / "description.json"), kind, *options]
    start, busy, own = time.perf_counter(), _busy(), _children()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    others = (_busy() - busy - (_children() - own)) / (time.perf_counter() - start)
    if done.returncode:
        raise RuntimeError(f"{peer} failed on {folder.name}:\n{done.stderr[-2000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "others": max(others, 0.0)}


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


def measure_case(name: str, batch: int | None, peers: list[str], args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as place:
        folder = Path(place)
        prepare(name, folder, batch)
        rounds: dict[str, list[dict[str, float]]] = {peer: [] for peer in ("lossc", *peers)}
        for _ in range(args.rounds):
            for peer, found in rounds.items():
                found.append(run_peer(peer, folder, args))
        medians = {peer: statistics.median(r["median"] for r in found) for peer, found in rounds.items()}
        least = {peer: min(r["min"] for r in found) for peer, found in rounds.items()}
        held = None if batch else memory(folder, args.threads)
    return {"net": name, "batch": batch, "median": medians, "min": least, "memory": held, "rounds": rounds}


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
        cells += [f"{held['resident']:.0f}", f"{held['arena']:.0f}"] if held else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    if peers:
        means = [f"{statistics.geometric_mean(ratios[by]):.2f}x" for by in ("min", "median")]
        lines.append("| " + " | ".join(["geometric mean", *[""] * (1 + len(peers)), *means, "", ""]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("bench_results"))
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure_lossc(args.one, args.threads, args.seconds)))
        return
    ask = [args.torch_python, "-c", "import torch; print(torch.__version__)"]
    asked = subprocess.run(ask, capture_output=True, text=True)
    peers = [peer for peer in args.peers.split(",") if peer] if asked.returncode == 0 else []
    cases = []
    for name in args.nets.split(","):
        for batch in BATCHES if args.inference else (None,):
            cases.append(measure_case(name, batch, peers, args))
            print(table(cases[-1:], peers).splitlines()[2], flush=True)
    from lossc.build.compiler import find_compiler

    about = {
        "machine": _processor(), "threads": args.threads, "rounds": args.rounds, "seconds": args.seconds,
        "date": date.today().isoformat(), "python": platform.python_version(), "compiler": find_compiler().version,
        "torch": asked.stdout.strip() if peers else None, "mode": "inference" if args.inference else "training",
    }  # fmt: skip
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "nets.json").write_text(json.dumps({**about, "cases": cases}, indent=1) + "\n")
    facts = ", ".join(f"{key} {value}" for key, value in about.items() if value is not None)
    missing = "" if peers else "\nPyTorch was not timed: give an interpreter that has it by --torch-python.\n"
    others = max(r["others"] for case in cases for found in case["rounds"].values() for r in found)
    facts += f", cores taken by others up to {others:.2f}"
    text = f"Least milliseconds. {facts}\n\n{table(cases, peers)}\n{missing}"
    (args.output / "nets.md").write_text(text)
    print(f"\n{text}")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
