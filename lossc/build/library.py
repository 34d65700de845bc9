"""Compiles generated C to a shared library, in the cache or into a folder of the user's."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossc.build.cache import Cache, default_cache
from lossc.build.compiler import Compiler, find_compiler, run
from lossc.build.units import Kernel, split
from lossc.errors import CompilerError, InternalError, OutputError, UsageError
from lossc.resources import runtime_dir
from lossc.targets import Target, host_target

# Explicit FMAs only (-ffp-contract=off). Never -ffast-math or -Ofast: at link time they add a start-up function that
# sets flush-to-zero for the whole process that loads the library.
_FLAGS = (
    "-std=c11",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
)
# gcc copies the register tile of gradients of weights into each of its calls: as fast, but twice the time to compile.
# Functions declared inline, as the headers' are, stay so; clang would not inline those either.
_GCC_FLAG = "-fno-inline-functions"
# What Python loads is made while somebody waits. Most kernels are written out in vectors, for which -O3 does no more
# than -O2, but takes gcc longer; plain loops are still vectorised as under -O3. The results are the same bits.
_GCC_QUICK = ("-O2", "-fvect-cost-model=dynamic")
_SHARED = ("-fPIC", "-shared", "-fvisibility=hidden")
_ERROR_LINES = 5


@dataclass(frozen=True)
class Bundle:
    """What ``compile_bundle`` left in ``folder``: the library, its sources, and the command that made it of them."""

    folder: Path
    library: Path
    sources: tuple[Path, ...]
    command: str


def compile_library(
    source: str,
    *,
    target: Target,
    name: str = "net",
    compiler: Compiler | None = None,
    extra_flags: Sequence[str] = (),
    extra_files: Mapping[str, str] | None = None,
    kernels: Sequence[Kernel] = (),
    jobs: int | None = None,
    cache: Cache | None = None,
) -> Path:
    """The path of the shared library made of ``source``, from the cache if it was made before.

    ``name`` is a file name's stem, seen in messages alone; ``extra_files`` (name to text) lie beside the source where
    ``#include "..."`` finds them. Where ``kernels`` says at which lines functions stand, ``jobs`` compilers (by default
    one per core) work on parts of a large source at once. Raises CompilerError with the compiler's first errors; the
    source is then kept.
    """
    cache = cache or default_cache()
    compiler = compiler or find_compiler(cache)
    files = _sources(source, name, extra_files)
    quick = _GCC_QUICK if compiler.kind == "gcc" else ()
    flags = _flags(compiler, target, (*quick, *extra_flags))
    key = _key(files, compiler, target, flags)
    if library := _cached(cache, key):
        return library
    with cache.lock(key):
        if library := _cached(cache, key):  # made by another process while this one waited
            return library
        with cache.workspace(files) as folder:
            output = f"{name}{target.library_suffix}"
            jobs = jobs or os.cpu_count() or 1
            units = split(source, kernels, jobs, f"{name}.c")
            if len(units) == 1:
                _run(_command(compiler, flags, runtime_dir(), [f"{name}.c"], output), folder, cache)
            else:
                _run_units(units, compiler, flags, output, folder, jobs, cache)
            library = cache.put_file(folder / output)
        cache.put("libraries", key, library.name.encode())
    return library


def compile_bundle(
    source: str,
    folder: Path,
    *,
    target: Target,
    name: str = "net",
    compiler: Compiler | None = None,
    extra_flags: Sequence[str] = (),
    extra_files: Mapping[str, str] | None = None,
    cache: Cache | None = None,
) -> Bundle:
    """Writes source, headers and library into ``folder`` (made if need be), for use without Python.

    The folder is complete: its ``runtime/`` holds the headers, and ``command``, run there, makes the library again.
    Raises CompilerError with the compiler's first errors, OutputError if the folder cannot be written.
    """
    cache = cache or default_cache()
    compiler = compiler or find_compiler(cache)
    files = _sources(source, name, extra_files)
    output = f"lib{name}{target.library_suffix}"
    command = _command(compiler, _flags(compiler, target, extra_flags), Path("runtime"), [f"{name}.c"], output)
    try:
        (folder / "runtime").mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        for header in _headers():
            shutil.copyfile(header, folder / "runtime" / header.name)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}", fix="name another folder") from error
    _run(command, folder, cache)
    return Bundle(folder, folder / output, tuple(folder / file for file in files), shlex.join(command))


def _sources(source: str, name: str, extra_files: Mapping[str, str] | None) -> dict[str, str]:
    files = {f"{name}.c": source, **(extra_files or {})}
    for file in files:
        if os.path.basename(file) != file or file.startswith((".", "-")):
            raise InternalError(f"{file!r} is not a plain file name")
    return files


def _flags(compiler: Compiler, target: Target, extra: Sequence[str]) -> list[str]:
    host = host_target()
    if (target.arch, target.os) != (host.arch, host.os):
        raise UsageError(
            f"{compiler.command[0]} compiles for {host.triple} and cannot make a library for {target.triple}",
            fix="generate the C here and compile it there",
        )
    return [*program_flags(target, compiler), *_SHARED, *extra]


def program_flags(target: Target, compiler: Compiler | None = None) -> list[str]:
    """What the compiler is told where generated C is a part of a program; without one: gcc or clang, no OpenMP."""
    flags = [*_FLAGS, *target.isa.compiler_flags("gcc" if compiler is None else compiler.kind)]
    if compiler is not None and compiler.kind == "gcc":
        flags.append(_GCC_FLAG)
    return [*flags, "-fopenmp"] if compiler is not None and compiler.openmp else flags


def _command(
    compiler: Compiler, flags: Sequence[str], headers: Path, files: Sequence[str], output: str
) -> list[str]:
    link = [] if "-c" in flags else ["-lm"]
    return [*compiler.command, *flags, "-I", str(headers), *files, "-o", output, *link]


def _headers() -> list[Path]:
    return sorted(runtime_dir().glob("*.h"))


def _key(files: Mapping[str, str], compiler: Compiler, target: Target, flags: Sequence[str]) -> str:
    """A checksum over all that decides the library's content."""
    digest = hashlib.sha256()
    parts = [target.triple, compiler.identity, compiler.version, *compiler.command, *flags]
    for part in (*parts, *(text for file in files.items() for text in file)):
        digest.update(f"{len(part)} {part}".encode())
    for header in _headers():
        content = header.read_bytes()
        digest.update(f"{header.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _cached(cache: Cache, key: str) -> Path | None:
    name = cache.get("libraries", key)
    return cache.file(name.decode()) if name else None


def _run_units(
    units: Sequence[str], compiler: Compiler, flags: Sequence[str], output: str, folder: Path, jobs: int, cache: Cache
) -> None:
    """Compiles the units, ``jobs`` at once, and links them."""
    from concurrent.futures import ThreadPoolExecutor

    compile_flags = [*(flag for flag in flags if flag != "-shared"), "-c"]
    objects, commands = [f"unit{k}.o" for k in range(len(units))], []
    for k, text in enumerate(units):
        (folder / f"unit{k}.c").write_text(text, encoding="utf-8")
        commands.append(_command(compiler, compile_flags, runtime_dir(), [f"unit{k}.c"], objects[k]))
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda command: run(command, folder), commands))
    for command, result in zip(commands, results, strict=True):  # after all have ended: nobody writes to the folder now
        _check(command, *result, folder, cache)
    _run(_command(compiler, flags, runtime_dir(), objects, output), folder, cache)


def _run(command: list[str], folder: Path, cache: Cache) -> None:
    """Runs the compiler in ``folder``, so that no path of this machine gets into what it makes."""
    _check(command, *run(command, folder), folder, cache)


def _check(command: list[str], failed: bool, text: str, folder: Path, cache: Cache) -> None:
    """Keeps the folder and raises CompilerError where the command has failed."""
    if not failed:
        return
    lines = text.splitlines()
    first = next((at for at, line in enumerate(lines) if "error" in line), 0)
    told = "\n    ".join(lines[first : first + _ERROR_LINES]) or "it printed nothing"
    kept = cache.keep(folder, hashlib.sha256(text.encode()).hexdigest()[:16])
    raise CompilerError(
        f"the C compiler refused the generated code:\n    {told}\n  source: {kept}\n  command: {shlex.join(command)}",
        fix="report this with the source; meanwhile another compiler (LOSSC_CC) or target may do",
    )
