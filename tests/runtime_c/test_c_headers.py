"""The headers by themselves: no warnings from any compiler, threads, the arena, and files made for other lanes."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from c_drivers import CROSS, EXACT, STRICT, Drivers, native_compiler

from lossc.resources import runtime_dir
from lossc.targets import ISAS, NEON, SCALAR, Isa, runnable_targets

HEADERS = ["simd.h", "threads.h", "arena.h", "random.h"]


def compile_text(text: str, compiler: str, kind: str, isa: Isa, *flags: str) -> subprocess.CompletedProcess[str]:
    """Compiles a file to nowhere, with optimisation, as some warnings need it."""
    command = [compiler, *STRICT, "-O1", *EXACT, *isa.compiler_flags(kind), *flags, f"-I{runtime_dir()}"]
    return subprocess.run([*command, "-xc", "-c", "-", "-o", "/dev/null"], input=text, capture_output=True, text=True)


def compiler_for(kind: str, isa: Isa) -> str:
    """A compiler of this kind for the ISA. Skips the test where there is none."""
    arch = runnable_targets()[0].arch
    name = CROSS[0] if isa is NEON and arch != "aarch64" and kind == "gcc" else kind
    if isa.arch not in (None, arch) and name == kind:
        pytest.skip(f"no {kind} for {isa.arch}")
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("kind", ["gcc", "clang"])
@pytest.mark.parametrize("header", HEADERS)
def test_no_warnings(isa: Isa, kind: str, header: str) -> None:
    done = compile_text(f'#include "{header}"\n#include "{header}"\n', compiler_for(kind, isa), kind, isa)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["gcc", "clang"])
def test_arena_asks_for_huge_pages_without_warnings(kind: str) -> None:
    text = '#define _DEFAULT_SOURCE\n#include "arena.h"\n'
    if sys.platform == "linux":
        text += "#if !defined(MADV_HUGEPAGE)\n#error hidden\n#endif\n"
    done = compile_text(text, compiler_for(kind, SCALAR), kind, SCALAR)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_vector_length_is_refused() -> None:
    compiler, kind = native_compiler()
    done = compile_text('#include "simd.h"\n', compiler, kind, SCALAR, "-DLOSSC_LANES_F32=16")
    assert done.returncode != 0
    assert "generated for another vector length" in done.stderr


def test_an_isa_without_its_flags_is_refused() -> None:
    compiler, kind = native_compiler()
    wrong = next(isa for isa in ISAS if isa.arch is not None and isa.flags)
    done = compile_text('#include "simd.h"\n', compiler, kind, SCALAR, "-ULOSSC_ISA_SCALAR", f"-D{wrong.define}")
    assert f"{wrong.define} needs" in done.stderr
    done = compile_text('#include "simd.h"\n', compiler, kind, SCALAR, "-ULOSSC_ISA_SCALAR")
    assert "define one of" in done.stderr


def skip_without_openmp(*flags: str) -> None:
    """Skips the test where there are flags for OpenMP, but the compiler has none."""
    compiler, kind = native_compiler()
    if flags and compile_text("#include <omp.h>\nint x;\n", compiler, kind, SCALAR, *flags).returncode:
        pytest.skip(f"{kind} has no OpenMP here")


@pytest.mark.parametrize("flags", [(), ("-fopenmp",)], ids=["alone", "openmp"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("count", "grain"), [(1000, 1), (1000, 64), (7, 4), (2, 16), (0, 1)])
def test_threads(drivers: Drivers, flags: tuple[str, ...], threads: int, count: int, grain: int) -> None:
    skip_without_openmp(*flags)
    team, owners = drivers("threads.c", SCALAR, *flags)(threads, count, grain).decode().splitlines()
    size = threads if flags else 1
    assert team.split() == [str(size), "1"]
    owner = [int(thread) for thread in owners.split()]
    assert all(0 <= thread < size for thread in owner[:count]) and set(owner[count:]) <= {-1}
    assert owner[:count] == sorted(owner[:count])
    borders = [i for i in range(1, count) if owner[i] != owner[i - 1]]
    assert all(border % grain == 0 for border in borders)
    grains = [-(-owner[:count].count(thread) // grain) for thread in range(size)]
    assert max(grains) - min(grains) <= 1


@pytest.mark.parametrize("flags", [(), ("-fopenmp",)], ids=["alone", "openmp"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_team_of_one_within_a_team_of_the_caller_s(drivers: Drivers, flags: tuple[str, ...], threads: int) -> None:
    skip_without_openmp(*flags)
    assert int(drivers("teams.c", SCALAR, *flags)(threads)) == (threads if flags else 1)


@pytest.mark.parametrize("size", [0, 1, 64, 100_000, 5_000_000, 1_000_000_007])
def test_arena(drivers: Drivers, size: int) -> None:
    offset, zero, resident_kb = map(int, drivers("arena.c", SCALAR)(size).split())
    assert zero
    assert offset % (2**21 if size >= 2**22 else 64) == 0
    if size > 10**8 and sys.platform == "linux":  # three or four huge pages at most, and not a gigabyte
        assert resident_kb < 6 * 2**21 // 1000


@pytest.mark.parametrize("size", [2**63 - 1, 2**63, 2**64 - 1, 2**62])
def test_arena_refuses_what_does_not_exist(drivers: Drivers, size: int) -> None:
    assert drivers("arena.c", SCALAR)(size) == b"none\n"
