"""Finds a C compiler that works and learns what it can do, once: the answer is cached by the compiler's identity."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lossc.build.cache import Cache, default_cache
from lossc.errors import CompilerError

_FIX = "install one (`apt install gcc libc6-dev` or `pip install ziglang`), or let LOSSC_CC name it"
_RETRY_SECONDS = 86400.0  # a compiler without OpenMP is asked again a day later: its library may have been installed
_PROBE_SECONDS = 300.0  # zig builds its C library's stubs on its first run

_PROBE = """\
#include <math.h>
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif
int lossc_probe(int n)
{
    int sum = 0;
#ifdef _OPENMP
#pragma omp parallel for reduction(+ : sum) num_threads(2)
#endif
    for (int i = 0; i < n; i++)
        sum += (int)fabs((double)i);
    return sum;
}
"""
_PROBE_RUN = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).lossc_probe(8) != 28)"


@dataclass(frozen=True)
class Compiler:
    """A C compiler whose output this process can load.

    ``kind`` is "gcc", "clang" or "zig"; ``version`` the first line of ``--version``; ``openmp`` whether it compiles and
    links OpenMP; ``identity`` changes with the compiler's files and the C library.
    """

    command: tuple[str, ...]
    kind: str
    version: str
    openmp: bool
    identity: str


def find_compiler(cache: Cache | None = None) -> Compiler:
    """The first that works of $LOSSC_CC, $CC, gcc, cc, clang and the ``ziglang`` package.

    The two variables are binding: what they name must work. Runs no other program when the cache knows the compiler.
    Raises CompilerError, which says what was tried.
    """
    cache = cache or default_cache()
    for variable in ("LOSSC_CC", "CC"):
        if named := os.environ.get(variable, "").strip():
            try:
                return _examine(_split(named), cache)
            except CompilerError as error:
                raise CompilerError(f"{variable} names no working compiler: {error.message}", fix=_FIX) from None
    tried = []
    for command in _candidates():
        try:
            return _examine(command, cache)
        except CompilerError as error:
            tried.append(error.message)
    found = "\n    ".join(tried) if tried else "neither gcc, cc nor clang is in PATH, nor is ziglang installed"
    raise CompilerError(f"no C compiler works: {found}", fix=_FIX)


def _split(named: str) -> tuple[str, ...]:
    import shlex

    try:
        return (named,) if os.path.isfile(named) else tuple(shlex.split(named))
    except ValueError as error:
        raise CompilerError(f"{named}: {error}") from None


def _candidates() -> Iterator[tuple[str, ...]]:
    for name in ("gcc", "cc", "clang"):
        if shutil.which(name):
            yield (name,)
    if importlib.util.find_spec("ziglang"):
        yield (sys.executable, "-m", "ziglang", "cc")


def _examine(command: tuple[str, ...], cache: Cache) -> Compiler:
    if not shutil.which(command[0]):
        raise CompilerError(f"{command[0]}: not found, or not executable")
    identity = _identity(command)
    if known := cache.get("compilers", identity):
        facts = json.loads(known)
        asked = facts.pop("asked")
        if facts["openmp"] or time.time() - asked < _RETRY_SECONDS:
            return Compiler(command=command, identity=identity, **facts)
    compiler = _probe(command, identity, cache)
    facts = {key: value for key, value in asdict(compiler).items() if key not in ("command", "identity")}
    cache.put("compilers", identity, json.dumps({**facts, "asked": time.time()}).encode())
    return compiler


def _identity(command: tuple[str, ...]) -> str:
    """The command with path, size and time of every program in it: a wrapper such as ccache names the real one next."""
    parts = list(command)
    files = [found for word in command if (found := shutil.which(word))]
    if "ziglang" in command and (spec := importlib.util.find_spec("ziglang")) and spec.origin:
        files.append(os.path.join(os.path.dirname(spec.origin), "zig"))
    for file in files:
        try:
            status = os.stat(file)
            parts.append(f"{os.path.realpath(file)} {status.st_size} {status.st_mtime_ns}")
        except OSError:
            parts.append(file)
    with_libc = getattr(os, "confstr_names", {}).get("CS_GNU_LIBC_VERSION")
    parts.append((os.confstr(with_libc) or "") if with_libc else sys.platform)
    return "\n".join(parts)


def _probe(command: tuple[str, ...], identity: str, cache: Cache) -> Compiler:
    """Asks for the version, and compiles, loads and runs a small function, with OpenMP if possible, else without."""
    first, text = run([*command, "--version"], timeout=_PROBE_SECONDS)
    if first:
        raise CompilerError(f"{' '.join(command)} --version failed: {_brief(text)}")
    version = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if not version:
        raise CompilerError(f"{' '.join(command)} --version says nothing")
    kind = "zig" if "zig" in Path(command[0]).name or "ziglang" in command else "clang" if "clang" in text else "gcc"
    with cache.workspace({"probe.c": _PROBE}) as folder:
        for openmp in (True, False):
            library = folder / f"probe-{openmp}.so"
            flags = ["-std=c11", "-O1", "-fPIC", "-shared", *(["-fopenmp"] if openmp else [])]
            failed, text = run([*command, *flags, "probe.c", "-o", library.name, "-lm"], folder, _PROBE_SECONDS)
            if not failed:
                failed, text = run([sys.executable, "-S", "-E", "-c", _PROBE_RUN, str(library)], folder, _PROBE_SECONDS)
            if not failed:
                return Compiler(command, kind, version, openmp, identity)
    raise CompilerError(f"{' '.join(command)} cannot make a shared library that loads and runs: {_brief(text)}")


def run(command: list[str], folder: Path | None = None, timeout: float | None = None) -> tuple[bool, str]:
    """(whether it failed, what it printed), in the C locale. A program that cannot be started has failed."""
    import subprocess

    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return True, str(error)
    return done.returncode != 0, done.stdout.decode(errors="replace")


def _brief(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()]
    return "; ".join((telling or lines or ["it printed nothing"])[:2])
