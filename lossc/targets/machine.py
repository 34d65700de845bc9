"""The machine's caches and cores, which decide block sizes and team sizes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_KIB, _MIB = 1 << 10, 1 << 20
_SYSFS_CPU = Path("/sys/devices/system/cpu")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_SUFFIXES = {"K": _KIB, "M": _MIB, "G": 1 << 30}


@dataclass(frozen=True)
class Machine:
    """Cache sizes in bytes: ``l1d`` and ``l2`` of one core, ``l3`` of one socket.

    ``cores`` counts the physical cores that this process may use (its affinity and container quota respected),
    ``threads`` the hardware threads; vector code gains nothing from more threads than cores.
    """

    l1d: int
    l2: int
    l3: int
    cores: int
    threads: int


@lru_cache(maxsize=1)
def host_machine() -> Machine:
    """This machine, from Linux's sysfs; where that says nothing, sizes that any current processor has."""
    caches = _caches()
    cpus = _usable_cpus()
    quota = _quota()
    return Machine(
        l1d=caches.get(1, 32 * _KIB),
        l2=caches.get(2, 512 * _KIB),
        l3=caches.get(3, 8 * _MIB),
        cores=min(_physical_cores(cpus), quota),
        threads=min(len(cpus), quota),
    )


def _caches() -> dict[int, int]:
    """Bytes by level of the first processor's data and unified caches."""
    sizes: dict[int, int] = {}
    for index in (_SYSFS_CPU / "cpu0" / "cache").glob("index*"):
        try:
            kind, level, size = (_read(index / name) for name in ("type", "level", "size"))
            if kind != "Instruction":
                sizes[int(level)] = int(size.rstrip("KMG")) * _SUFFIXES.get(size[-1:], 1)
        except (OSError, ValueError):
            continue
    return sizes


def _usable_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _physical_cores(cpus: list[int]) -> int:
    """How many cores these hardware threads sit on; a thread whose siblings are unknown counts as a core."""
    cores = set()
    for cpu in cpus:
        try:
            cores.add(_read(_SYSFS_CPU / f"cpu{cpu}" / "topology" / "thread_siblings_list"))
        except OSError:
            cores.add(f"cpu{cpu}")
    return len(cores)


def _quota() -> int:
    """Whole CPUs that the container's quota allows (cgroup v2: ``QUOTA PERIOD`` in microseconds), at least 1."""
    try:
        quota, period = _read(_CGROUP_QUOTA).split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max": no limit
        return 1 << 30


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()
