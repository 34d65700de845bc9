"""How long the compiler takes: LeNet from prototxt to a loaded library, cold and from the cache; ``lossc --help``.

    python tests/bench/bench_startup.py [--runs 5]

Whole processes, Python's own start and ``import lossc`` included; prints medians and minima in seconds.
"""

from __future__ import annotations

import argparse
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
    runs = parser.parse_args().runs
    load = [sys.executable, "-c", LOAD]
    cold, warm, usage = [], [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(run(load, cache))
            run(load, cache)
            warm.append(run(load, cache))
            usage.append(run([sys.executable, "-m", "lossc.cli.main", "--help"], cache))
    for what, times in (("cold compile of LeNet", cold), ("from the cache", warm), ("lossc --help", usage)):
        print(f"{what:24} median {statistics.median(times):.3f} s, min {min(times):.3f} s")


if __name__ == "__main__":
    main()
