"""Speed of generated poolings in GB/s: input and output moved once, and the mask.

Whole planes, and channels in blocks where they are multiples of 16, are timed in turns.

    python tests/bench/bench_pool.py [--isa avx512] [--threads 1 2] [--only SUBSTRING]
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "codegen"), str(Path(__file__).resolve().parents[2])]

from contraction_bench import arguments, save, timed  # noqa: E402

from lossc.codegen.pool import pool_code  # noqa: E402
from lossc.codegen.pool_spec import PoolSpec  # noqa: E402
from lossc.resources import runtime_dir  # noqa: E402

# name: method (LRN: AVE across channels), images, channels, size, outputs, kernel, stride, pad
SHAPES = {
    "lenet_k2s2": ("MAX", 64, 20, 24, 12, 2, 2, 0),
    "quick_max_k3s2": ("MAX", 100, 32, 32, 16, 3, 2, 0),
    "quick_ave_k3s2": ("AVE", 100, 32, 16, 8, 3, 2, 0),
    "alexnet1_k3s2": ("MAX", 16, 96, 55, 27, 3, 2, 0),
    "alexnet2_k3s2": ("MAX", 16, 256, 27, 13, 3, 2, 0),
    "googlenet_lrn": ("LRN", 16, 192, 56, 56, 5, 1, 2),
    "inception_28_k3s1p1": ("MAX", 16, 256, 28, 28, 3, 1, 1),
    "googlenet_k3s2": ("MAX", 16, 64, 112, 56, 3, 2, 0),  # and ResNet-50's
    "googlenet2_k3s2": ("MAX", 16, 192, 56, 28, 3, 2, 0),
    "googlenet3_k3s2": ("MAX", 16, 480, 28, 14, 3, 2, 0),
    "googlenet4_k3s2": ("MAX", 16, 832, 14, 7, 3, 2, 0),
    "inception_k3s1p1": ("MAX", 16, 480, 14, 14, 3, 1, 1),
    "inception_7_k3s1p1": ("MAX", 16, 832, 7, 7, 3, 1, 1),
    "googlenet_ave7": ("AVE", 16, 1024, 7, 1, 7, 1, 0),
    "resnet50_ave7": ("AVE", 16, 2048, 7, 1, 7, 1, 0),
    "googlenet_ave5s3": ("AVE", 16, 512, 14, 4, 5, 3, 0),
    "vgg_k2s2": ("MAX", 4, 64, 224, 112, 2, 2, 0),
}


def specs_of(name: str) -> list[PoolSpec]:
    """Forward and backward, of planes and of blocks in turns."""
    blocks = (0, 16) if SHAPES[name][0] != "LRN" and SHAPES[name][2] % 16 == 0 else (0,)
    return [spec(name, d, block) for d in ("forward", "backward") for block in blocks]


def spec(name: str, direction: str, block: int) -> PoolSpec:
    method, n, channels, size, out, kernel, stride, pad = SHAPES[name]
    if method == "LRN":  # across channels: AVE over the lines of a view [n, 1, channels, height * width]
        return PoolSpec(
            f"{name}_{direction}", name, direction, "AVE", n, 1, (channels, size**2), (channels, size**2), (kernel, 1),
            (1, 1), (pad, 0), "x", "y", None, "none", (channels * size**2,) * 2, (channels * size**2,) * 2,
            "1.0f", False,
        )  # fmt: skip
    mask, kind = ("mask", "byte") if method == "MAX" else (None, "none")
    return PoolSpec(
        f"{name}_{direction}{'_blocks' * bool(block)}", name, direction, method, n, channels, (size,) * 2, (out,) * 2,
        (kernel,) * 2, (stride,) * 2, (pad,) * 2, "x", "y", mask, kind, (channels * size**2, size**2),
        (channels * out**2, out**2), "1.0f", False, block,
    )  # fmt: skip


def aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros that begin where a cache line does, as blobs of a net do."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def main() -> None:
    options, records = arguments(__doc__), []
    real = np.float32 if options.dtype == "f32" else np.float64
    rng = np.random.default_rng(0)
    for name in SHAPES:
        specs = [s for s in specs_of(name) if options.only in s.name]
        if not specs:
            continue
        s = specs[0]
        y = aligned((s.n, s.channels, *s.out_shape), real)
        x = aligned((s.n, s.channels, *s.in_shape), real)
        x[...] = rng.standard_normal(x.shape)
        mask = aligned(y.shape, np.uint8)
        arrays = (x, y) if s.mask is None else (x, y, mask)
        text = '#include <float.h>\n#include "simd.h"\n#include "threads.h"\n'
        for s in specs_of(name):
            code, params = pool_code(s, options.isa, options.dtype)
            names = ", ".join(p.split()[-1] for p in params)
            text += f"{code}\nvoid run_{s.name}(int threads, {', '.join(params)});\n"
            text += f"void run_{s.name}(int threads, {', '.join(params)})\n{{\n    (void)threads;\n"
            text += f"    LOSSC_PARALLEL(threads)\n    {s.name}({names});\n}}\n"
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder) / "net.c", Path(folder) / "net.so"
            source.write_text(text)
            flags = ["-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp"]
            flags += [*options.isa.compiler_flags("gcc"), "-fPIC", "-shared", f"-I{runtime_dir()}"]
            subprocess.run(["gcc", *flags, str(source), "-o", str(library), "-lm"], check=True)
            # RTLD_NODELETE: an OpenMP library must stay mapped until the process ends.
            loaded = ctypes.CDLL(str(library), mode=0x1000 | 2)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in arrays]
        times: dict[tuple[str, int], list[float]] = {(s.name, t): [] for s in specs for t in options.threads}
        stop = time.perf_counter() + options.seconds * len(specs)
        while time.perf_counter() < stop:
            for s in specs:
                # A mask that backward can follow: of planes or blocks, as this one has it.
                loaded[f"run_{s.name}".replace("backward", "forward")](ctypes.c_int(1), *pointers)
                for threads in options.threads:
                    run = partial(loaded[f"run_{s.name}"], ctypes.c_int(threads), *pointers)
                    times[s.name, threads].append(timed(run, time.perf_counter))
        for s in specs:
            line, record = f"{s.name:36s}", {"name": s.name, "threads": {}}
            for threads in options.threads:
                best, median = min(times[s.name, threads]), statistics.median(times[s.name, threads])
                rate = sum(a.nbytes for a in arrays) / best / 1e9
                line += f"  {threads}t {rate:6.1f} GB/s {best * 1e6:8.0f} us (median {median * 1e6:.0f})"
                record["threads"][threads] = {"gb_s": rate, "us": best * 1e6, "median_us": median * 1e6}
            print(line, flush=True)
            records.append(record)
    save(records, options)


if __name__ == "__main__":
    main()
