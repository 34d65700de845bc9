"""What this machine can do at most: multiplications and additions, and bytes from each level of memory, in a second."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from lossc.build.cache import default_cache
from lossc.build.compiler import find_compiler
from lossc.build.library import compile_library
from lossc.build.load import load_library
from lossc.targets import Target, processor_name
from lossc.targets.machine import host_machine

#: 12 chains of FMAs keep two units busy at a latency of up to six cycles. STREAM's triad (McCalpin, 1995) over arrays
#: of each thread's own, as many times as make a measurement long enough. Both give the best of several short runs, one
#: of which other programs may leave alone.
_SOURCE = """
#define _DEFAULT_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include "simd.h"
#include "threads.h"
#include "timing.h"

enum { CHAINS = 12, STEPS = 50000, RUNS = 1000, SWEEPS = 10 };

__attribute__((visibility("default"))) double lossc_peak_flops(int threads)
{
    double best = 0;
    double sink = 0;
    for (int run = 0; run < RUNS; run++) {
        const double start = lossc_now();
        LOSSC_PARALLEL(threads)
        {
            VEC sum[CHAINS];
            const VEC a = VEC_(set1)((REAL)0.999), b = VEC_(set1)((REAL)0.001);
            for (int s = 0; s < CHAINS; s++) {
                sum[s] = VEC_(set1)((REAL)s);
            }
            for (int step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
                for (int s = 0; s < CHAINS; s++) {
                    sum[s] = VEC_(fma)(a, sum[s], b);
                }
            }
            for (int s = 1; s < CHAINS; s++) {
                sum[0] = VEC_(add)(sum[0], sum[s]);
            }
            if (lossc_thread_id() == 0) {
                sink += (double)VEC_(sum)(sum[0]);
            }
        }
        const double rate = 2.0 * CHAINS * STEPS * LANES * threads / (lossc_now() - start);
        best = rate > best ? rate : best;
    }
    return sink < 0 ? 0 : best;
}

__attribute__((visibility("default"))) double lossc_triad(int threads, int64_t count, int64_t times)
{
    double best = 0;
    REAL *const memory = malloc((size_t)(3 * count * threads) * sizeof(REAL));
    if (memory == NULL) {
        return 0;
    }
    for (int run = 0; run <= SWEEPS; run++) {    /* the first one touches the memory */
        const double start = lossc_now();
        LOSSC_PARALLEL(threads)
        {
            REAL *const a = memory + 3 * count * lossc_thread_id(), *const b = a + count, *const c = b + count;
            if (run == 0) {
                for (int64_t i = 0; i < 3 * count; i++) {
                    a[i] = (REAL)1;
                }
            }
            const VEC s = VEC_(set1)((REAL)0.5);
            for (int64_t k = 0; k < times && run > 0; k++) {
                for (int64_t i = 0; i < count; i += LANES) {
                    VEC_(store)(a + i, VEC_(fma)(s, VEC_(load)(c + i), VEC_(load)(b + i)));
                }
            }
        }
        const double rate = 3.0 * (double)count * sizeof(REAL) * (double)times * threads / (lossc_now() - start);
        best = run > 0 && rate > best ? rate : best;
    }
    free(memory);
    return best;
}
"""
_CDEF = "double lossc_peak_flops(int threads); double lossc_triad(int threads, int64_t count, int64_t times);"
_MOVED = 32 << 20  # bytes that a thread moves while a level is measured
_FAR = 4  # arrays this many times as large as the last cache come from memory


@dataclass(frozen=True)
class Peaks:
    """FLOP/s, and bytes/s of the triad from the second and third cache and from memory, of a whole team."""

    threads: int
    flops: float
    l2: float
    l3: float
    memory: float

    def bound(self, flops: float, moved: float) -> float:
        """The seconds that a kernel takes at least that comes from memory: its roofline (Williams et al., 2009)."""
        return max(flops / self.flops, moved / self.memory)


def measure_peaks(target: Target, threads: int) -> Peaks:
    """The peaks for a target's vectors and elements, measured in about two seconds.

    The cache remembers the best that each has ever been: other programs' load only makes measurements worse. Raises
    CompilerError.
    """
    cache, compiler = default_cache(), find_compiler()
    key = repr((1, processor_name(), target.triple, target.name, target.dtype, threads, compiler.identity, _SOURCE))
    dtype, real, width = ("f32", "float", 4) if target.dtype == "float32" else ("f64", "double", 8)
    define = f"#define REAL {real}\n#define VEC v{dtype}\n#define VEC_(name) v{dtype}_##name\n"
    define += f"#define LANES V{dtype.upper()}_LANES\n"
    library = compile_library(define + _SOURCE, target=target, name="peaks")
    _, lib = load_library(library, _CDEF)
    machine = host_machine()

    def triad(total: int) -> float:
        count = max(total // (3 * width) // 64 * 64, 64)
        return float(lib.lossc_triad(threads, count, max(1, _MOVED // (3 * width * count))))

    far = min(_FAR * machine.l3, 1 << 30) // threads
    peaks = Peaks(
        threads, float(lib.lossc_peak_flops(threads)), triad(machine.l2 // 2),
        triad(max(machine.l3 // (2 * threads), machine.l2 // 2)), triad(far),
    )  # fmt: skip
    if known := cache.get("peaks", key):
        before = json.loads(known)
        peaks = Peaks(**{name: max(value, before[name]) for name, value in asdict(peaks).items()})
    cache.put("peaks", key, json.dumps(asdict(peaks)).encode())
    return peaks
