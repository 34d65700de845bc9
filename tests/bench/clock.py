"""What the benchmarks share that time calls in turns; needs nothing but Python."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def measure(call: Callable[[], object], seconds: float, *, warm: int = 0, least: int = 1) -> dict[str, float]:
    """Median and minimum (ms) of single calls for that long, at least ``least`` after ``warm`` that do not count."""
    for _ in range(warm):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return {"median": statistics.median(times), "min": min(times)}
