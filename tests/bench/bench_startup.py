"""How long the compiler takes: LeNet from prototxt to a loaded library, cold and from the cache; ``lossc --help``.

    python tests/bench/bench_startup.py [--runs 5] [--json FILE]

Whole processes, Python's own start and ``import lossc`` included; prints medians and minima in seconds.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOAD = "import lossc; lossc.Net('examples/fashion_mnist/lenet.prototxt', lossc.TRAIN)"


def run(command: list[str], cache: str) -> float:
    start = time.perf_counter()
    environment = {**os.environ, "LOSSC_CACHE": cache, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="a file for all figures")
    options = parser.parse_args()
    load = [sys.executable, "-c", LOAD]
    cold, warm, usage = [], [], []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(run(load, cache))
            run(load, cache)
            warm.append(run(load, cache))
            usage.append(run([sys.executable, "-m", "lossc.cli.main", "--help"], cache))
    taken = {"cold compile of LeNet": cold, "from the cache": warm, "lossc --help": usage}
    for what, times in taken.items():
        print(f"{what:24} median {statistics.median(times):.3f} s, min {min(times):.3f} s")
    if options.json:
        options.json.write_text(json.dumps(taken, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
