"""The environment that the benchmarks give to the processes of their peers."""

from __future__ import annotations

import os
from pathlib import Path


def peer_environment(threads: int) -> dict[str, str]:
    """This process's environment for a peer in another interpreter, with so many threads.

    Without PYTHONPATH: another interpreter must not find the packages of this one.
    """
    found = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"), str(threads))
    found["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
    # Caffe logs every layer that it sets up, into a pipe that nobody empties meanwhile.
    found["GLOG_minloglevel"] = "2"
    # OpenBLAS knows AMD's processors with AVX-512 since 0.3.22 only, and takes its kernels for AVX2 before.
    if _amd_with_avx512():
        found.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    return found


def _amd_with_avx512() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    return "AuthenticAMD" in text and " avx512f " in text
