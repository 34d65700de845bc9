"""What bench_gemm, bench_conv and bench_pool share: options and records, and timing against the FMA peak."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from contraction_harness import REAL, SPEED, Library

from lossc.codegen.contraction import Code, types_of
from lossc.targets import host_target, parse_target

PEAK = """/* {sums} chains of FMAs, which keep two units busy at a latency of up to five cycles */
static void peak(const {real} *restrict x, {real} *restrict y, {real} *restrict local)
{{
    {vec} sum[{sums}];
    const {vec} a = {vec}_load(x), b = {vec}_load(x + {lanes});
    #pragma GCC unroll {sums}
    for (int s = 0; s < {sums}; ++s)
        sum[s] = {vec}_set1(x[s]);
    for (ptrdiff_t p = 0; p < {steps}; ++p) {{
        #pragma GCC unroll {sums}
        for (int s = 0; s < {sums}; ++s)
            sum[s] = {vec}_fma(a, b, sum[s]);
    }}
    #pragma GCC unroll {sums}
    for (int s = 0; s < {sums}; ++s)
        {vec}_store(local, {vec}_add(sum[s], {vec}_load(local)));
    (void)y;
}}
"""
SUMS, STEPS = 10, 100_000


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--isa", default=host_target().name, type=lambda name: parse_target(name).isa)
    parser.add_argument("--dtype", default="f32", choices=["f32", "f64"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="only shapes whose name contains this")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each shape")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    options = parser.parse_args()
    if isinstance(options.isa, str):
        options.isa = parse_target(options.isa).isa
    return options


def save(records: list[dict[str, Any]], options: argparse.Namespace) -> None:
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def measure(
    name: str, code: Code, flops: int, sizes: tuple[int, ...], options: argparse.Namespace
) -> dict[str, Any]:
    """Prints and returns the share of the FMA peak for each number of threads, and the seconds that gcc takes."""
    types = types_of(options.isa, options.dtype)
    peak_text = PEAK.format(real=types.real, vec=types.vec, lanes=types.lanes, sums=SUMS, steps=STEPS)
    peak = Code(peak_text, ("x", "y"), 0, types.lanes)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(max(16, size)).astype(REAL[options.dtype]) for size in sizes]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        library = Library({name: code, "peak": peak}, options.isa, options.dtype, Path(folder), optimise=SPEED)
        compiled = time.perf_counter() - start
        text, record = f"{name:24s}", {"name": name, "compile_s": compiled, "threads": {}}
        for threads in options.threads:
            run = library.caller(name, arrays, threads)
            top = library.caller("peak", [np.zeros(64, REAL[options.dtype])] * 2, threads)
            clock = time.thread_time if threads == 1 else time.perf_counter  # one thread: others' time does not count
            best_run = best_top = float("inf")
            run()
            top()
            stop = time.perf_counter() + options.seconds
            while time.perf_counter() < stop:
                best_top = min(best_top, timed(top, clock))
                best_run = min(best_run, timed(run, clock), timed(run, clock), timed(run, clock))
            peak_rate = threads * 2 * SUMS * STEPS * types.lanes / best_top
            rate = flops / best_run
            text += f"  {threads}t {rate / 1e9:7.1f} GF/s {100 * rate / peak_rate:5.1f}% {best_run * 1e6:9.0f} us"
            record["threads"][threads] = {"gflops": rate / 1e9, "of_peak": rate / peak_rate, "us": best_run * 1e6}
        print(f"{text}  (gcc {compiled:.2f} s)", flush=True)
    return record


def timed(call, clock) -> float:
    start = clock()
    call()
    return clock() - start
