"""Compiles the C drivers of the headers' tests, one program for each instruction set that runs here."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from lossc.resources import runtime_dir
from lossc.targets import NEON, Isa, rounding_targets, runnable_targets

SOURCES = Path(__file__).parent
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")
EXACT = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
CROSS = ("aarch64-linux-gnu-gcc", "qemu-aarch64")


def native_compiler() -> tuple[str, str]:
    """A compiler's path and kind. Skips the test where there is none."""
    for kind in ("gcc", "clang"):
        if path := shutil.which(kind):
            return path, kind
    pytest.skip("neither gcc nor clang is installed")


@dataclass(frozen=True)
class Driver:
    """A compiled driver and what must stand in front of it to run it here."""

    command: tuple[str, ...]
    isa: Isa

    def __call__(self, *arguments: object, stdin: bytes = b"") -> bytes:
        """Its standard output; fails the test where it ends with an error."""
        done = subprocess.run([*self.command, *map(str, arguments)], input=stdin, capture_output=True, timeout=600)
        assert done.returncode == 0, f"{self.command} {arguments}: {done.returncode}\n{done.stderr.decode()}"
        return done.stdout


@dataclass(frozen=True)
class Drivers:
    """Compiles drivers into a folder that all test processes of one run share."""

    folder: Path

    def __call__(self, source: str, isa: Isa, *flags: str) -> Driver:
        """The driver ``source`` (a file beside this one) for ``isa``. Skips the test if the ISA cannot run here."""
        if any(target.isa is isa for target in (*runnable_targets(), *rounding_targets())):
            compiler, kind = native_compiler()
            runner: tuple[str, ...] = ()
            link = ["-lm"]
        elif isa is NEON:
            if missing := [tool for tool in CROSS if not shutil.which(tool)]:
                pytest.skip(f"code for neon runs here with {' and '.join(missing)} only")
            compiler, kind, runner, link = CROSS[0], "gcc", (CROSS[1],), ["-lm", "-static"]
        else:
            pytest.skip(f"this processor does not run {isa.name}")
        program = self.folder / "-".join([Path(source).stem, isa.name, *(flag.strip("-") for flag in flags)])
        if not program.exists():
            partial = program.with_suffix(f".{os.getpid()}")
            options = [*STRICT, "-O2", *EXACT, *isa.compiler_flags(kind), *flags, f"-I{runtime_dir()}"]
            subprocess.run([compiler, *options, str(SOURCES / source), "-o", str(partial), *link], check=True)
            partial.replace(program)
        return Driver((*runner, str(program)), isa)
