"""Detects the processor at hand and turns users' target names into targets."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from functools import lru_cache

from lossc.errors import UsageError
from lossc.targets.isa import ISAS, ROUNDING, Isa
from lossc.targets.target import Target

_ARCHS = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}
_NAMES = ("native", *(isa.name for isa in (*ISAS, *ROUNDING)))


@lru_cache(maxsize=1)
def runnable_targets() -> tuple[Target, ...]:
    """Every target with a header of its own whose code this machine can run, the widest vectors first; never empty."""
    return _runnable(ISAS)


def rounding_targets() -> tuple[Target, ...]:
    """Those that this machine can run which have instructions for bfloat16."""
    return _runnable(ROUNDING)


def _runnable(isas: tuple[Isa, ...]) -> tuple[Target, ...]:
    arch = _host_arch()
    features = _cpu_features() if arch == "x86_64" else frozenset()
    os = "macos" if sys.platform == "darwin" else "linux"
    return tuple(Target(isa, arch, os) for isa in isas if isa.arch in (None, arch) and isa.cpu_flags <= features)


def host_target() -> Target:
    """The target with the widest vectors that this machine can run."""
    return runnable_targets()[0]


def parse_target(name: str, *, dtype: str = "float32", bf16: bool = False) -> Target:
    """The target called ``name``: "native" (this machine's best) or an instruction set's name, in any case.

    ``bf16``: "native" has the instructions for bfloat16 that this machine has, which nothing else needs.
    An instruction set of another architecture is accepted: its C can be generated here, though not run.
    Raises UsageError for a name or dtype that is not known.
    """
    if dtype not in ("float32", "float64"):
        raise UsageError(f"the dtype {dtype!r} is not known", fix='use "float32" or "float64"')
    if not isinstance(name, str):
        raise UsageError(f"the target {name!r} is not known", fix=f"use one of: {', '.join(_NAMES)}")
    wanted = name.strip().lower()
    host = host_target()
    if wanted == "native":
        return replace(next(iter(rounding_targets()), host) if bf16 else host, dtype=dtype)
    isa = next((isa for isa in (*ISAS, *ROUNDING) if isa.name == wanted), None)
    if isa is None:
        raise _unknown(name)
    return Target(isa, isa.arch or host.arch, host.os, dtype)


def check_runnable(target: Target) -> None:
    """Raises UsageError where this machine cannot run the target's code, which would end the process by a signal."""
    able = (*runnable_targets(), *rounding_targets())
    if all((target.isa, target.arch, target.os) != (own.isa, own.arch, own.os) for own in able):
        names = ", ".join(own.name for own in able)
        raise UsageError(f"this machine cannot run code for {target.name}", fix=f'use "native", or one of: {names}')


@lru_cache(maxsize=1)
def processor_name() -> str:
    """The processor's name: a cache folder may be shared by machines."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace", buffering=4096) as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


def _unknown(name: str) -> UsageError:
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), _NAMES, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return UsageError(f"the target {name!r} is not known{hint}", fix=f"use one of: {', '.join(_NAMES)}")


def _host_arch() -> str:
    machine = platform.machine().lower()
    return _ARCHS.get(machine, machine)


def _cpu_features() -> frozenset[str]:
    """The flags of the first processor in Linux's /proc/cpuinfo; empty where there is no such file.

    The kernel lists there only what it has enabled, so registers that it does not save are not used. Reading stops at
    the first processor: rendering the file for a hundred of them takes the kernel long.
    """
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace", buffering=4096) as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "flags":
                    return frozenset(value.split())
    except OSError:
        pass
    return frozenset()
