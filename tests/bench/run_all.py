"""All benchmarks one after the other, into one report: bench.md for people, bench.json for programs.

    python tests/bench/run_all.py [--peer-python PYTHON ...] [--only nets,pool] [--nets lenet] [--peers jax,openvino]
                                  [--rounds 2] [--threads 2] [--quick] [--output FOLDER]

Takes hours: leave the machine alone meanwhile. ``--nets``, ``--peers`` and ``--rounds`` make those of nets shorter. The
report is written anew after each benchmark. ``--peer-python`` names
interpreters that have PyTorch, JAX, Caffe, ONNX Runtime and OpenVINO (by default this one). ``--quick`` measures
everything once and briefly, which shows that all of it runs; such figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from bench_nets import ROOT, processor

HERE = Path(__file__).resolve().parent
#: What a reader must know to repeat the figures, as packages of the interpreters that are named.
PACKAGES = ("torch", "jax", "onnxruntime", "openvino", "numpy")
#: Benchmark: title, script, its options, those of --quick.
BENCHES: dict[str, tuple[str, str, list[str], list[str]]] = {
    "nets": ("Training of nets", "bench_nets.py", [], ["--rounds", "1", "--seconds", "0.1"]),
    "inference": ("Inference of nets", "bench_nets.py", ["--inference"], ["--rounds", "1", "--seconds", "0.1"]),
    "bf16": (
        "Inference of nets, operands in bfloat16",
        "bench_nets.py",
        ["--inference", "--bf16"],
        ["--rounds", "1", "--seconds", "0.1"],
    ),
    "losses": ("Losses with their gradients", "bench_loss.py", [], ["--rounds", "1", "--seconds", "0.02"]),
    "gemm": ("Matrix products", "bench_gemm.py", [], ["--seconds", "0.02"]),
    "conv": ("Convolutions", "bench_conv.py", [], ["--seconds", "0.02"]),
    "pool": ("Poolings", "bench_pool.py", [], ["--seconds", "0.02"]),
    "startup": ("Seconds to a loaded net", "bench_startup.py", [], ["--runs", "1"]),
}


def command(name: str, folder: Path, args: argparse.Namespace) -> tuple[list[str], Path]:
    """What runs the benchmark, and the file of JSON that it writes."""
    _, script, options, quick = BENCHES[name]
    line = [sys.executable, str(HERE / script), *options, *(quick if args.quick else [])]
    found = folder / f"{name}.json"
    if script == "bench_nets.py":
        line += ["--output", str(folder)]
        line += [f"--{each}={value}" for each in ("nets", "peers", "rounds") if (value := getattr(args, each))]
        mode = "inference" if "--inference" in options else "training"
        found = folder / f"{mode}{'-bf16' if '--bf16' in options else ''}.json"
    else:
        line += ["--json", str(found)]
    if name in ("nets", "inference", "bf16", "losses"):
        line += ["--threads", str(args.threads), "--peer-python", *args.peer_python]
    elif name != "startup":
        line += ["--threads", *map(str, sorted({1, args.threads}))]
    return line, found


def about(args: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions, date."""
    from lossc.build.compiler import find_compiler

    ask = f"""
from importlib.metadata import PackageNotFoundError, version
for name in {PACKAGES}:
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass"""
    versions: dict[str, str] = {}
    for python in args.peer_python:
        found = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout
        for name, _, version in (line.partition(" ") for line in found.splitlines()):
            versions.setdefault(name, version)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "date": datetime.now().astimezone().isoformat(timespec="minutes"), "machine": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": args.threads, "system": platform.platform(), "load": os.getloadavg()[0],
        "python": platform.python_version(), "compiler": find_compiler().version,
        "commit": commit.stdout.strip() or None, "versions": versions,
        "missing": [name for name in PACKAGES if name not in versions], "quick": args.quick,
    }  # fmt: skip


def run(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Runs one benchmark; what it prints is shown at once."""
    line, found = command(name, folder, args)
    found.unlink(missing_ok=True)
    print(f"\n== {BENCHES[name][0]}", flush=True)
    start, text = time.perf_counter(), []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        for each in child.stdout:
            print(each, end="", flush=True)
            text.append(each)
    failed = f"it ended with status {child.returncode}" if child.returncode else None
    report = found.with_suffix(".md")
    if report.exists() and not failed:
        text = [report.read_text(encoding="utf-8")]
    figures = json.loads(found.read_text(encoding="utf-8")) if found.exists() else None
    seconds = round(time.perf_counter() - start)
    return {"text": "".join(text), "figures": figures, "failed": failed, "seconds": seconds}


def markdown(facts: dict[str, Any], results: dict[str, dict[str, Any]]) -> str:
    lines = ["# Benchmarks", ""]
    if facts["quick"]:
        lines += ["**Measured with --quick: the figures mean nothing.**", ""]
    flat = {**{k: v for k, v in facts.items() if k not in ("versions", "missing", "quick")}, **facts["versions"]}
    lines += ["| what | value |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in flat.items() if v is not None), ""]
    if facts["missing"]:
        lines += [f"Not here: {', '.join(facts['missing'])}; --peer-python names interpreters that have them.", ""]
    for name, result in results.items():
        fence = [] if "| --- |" in result["text"] else ["```"]
        lines += [f"## {BENCHES[name][0]}", "", *fence, result["text"].strip(), *fence, ""]
        lines += [f"Failed: {result['failed']}.", ""] if result["failed"] else []
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", nargs="+", default=[sys.executable])
    parser.add_argument("--only", default=",".join(BENCHES), help="benchmarks, separated by commas")
    parser.add_argument("--nets", help="the nets that are timed (all)")
    parser.add_argument("--peers", help="what they are timed beside (all)")
    parser.add_argument("--rounds", type=int, help="how often each is started (5)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("bench_results"))
    args = parser.parse_args()
    chosen = args.only.split(",")
    if unknown := sorted(set(chosen) - set(BENCHES)):
        parser.error(f"--only: there is no {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    args.output.mkdir(parents=True, exist_ok=True)
    facts, results = about(args), {}
    for name in chosen:
        results[name] = run(name, args.output, args)
        (args.output / "bench.md").write_text(markdown(facts, results), encoding="utf-8")
        text = json.dumps({**facts, "benchmarks": results}, indent=1)
        (args.output / "bench.json").write_text(text + "\n", encoding="utf-8")
    failed = [name for name, result in results.items() if result["failed"]]
    print(f"\n{args.output / 'bench.md'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
