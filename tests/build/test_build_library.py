"""Compiling and loading: cached, concurrent, refused, and harmless to the process that loads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lossc.build import Cache, compile_bundle, compile_library, find_compiler, load_library
from lossc.build import compiler as compiler_module
from lossc.build import library as library_module
from lossc.errors import CompilerError, InternalError, OutputError, UsageError
from lossc.targets import AVX2, NEON, SCALAR, Target, host_target, parse_target

EXPORT = '__attribute__((visibility("default"))) '
SQUARE = EXPORT + "double square(double x);\ndouble square(double x) { return x * x; }\n"
CDEF = "double square(double x);"
OPENMP = (
    "#ifdef _OPENMP\n#include <omp.h>\n#endif\n"
    + EXPORT
    + """int team(int n) {
    int sum = 0;
#ifdef _OPENMP
#pragma omp parallel for num_threads(2) reduction(+ : sum)
#endif
    for (int i = 0; i < n; i++)
        sum += i;
    return sum;
}
"""
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a fresh process with an empty cache."""
    return {**os.environ, "LOSSC_CACHE": str(tmp_path / "cache")}


def _python(program: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True)


def test_a_library_is_compiled_once_and_runs(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compile_library(SQUARE, target=host_target(), cache=cache)
    _, lib = load_library(path, CDEF)
    assert lib.square(1.5) == 2.25
    monkeypatch.setattr(subprocess, "run", None)
    assert compile_library(SQUARE, target=host_target(), cache=cache) == path
    assert cache.file(path.name) == path


def test_every_part_of_a_request_counts(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = find_compiler(cache)
    target = host_target()
    headers = tmp_path / "runtime"
    shutil.copytree(library_module.runtime_dir(), headers)
    monkeypatch.setattr(library_module, "runtime_dir", lambda: headers)

    def key(source: str = "a", compiler=compiler, target: Target = target, extra=(), files=()) -> str:
        flags = library_module._flags(compiler, target, extra)
        return library_module._key(library_module._sources(source, "net", dict(files)), compiler, target, flags)

    keys = [
        key(),
        key("b"),
        key(compiler=replace(compiler, version="other")),
        key(compiler=replace(compiler, identity="other")),
        key(target=parse_target("scalar")),
        key(extra=("-DX",)),
        key(files={"net.h": "a"}),
        key(files={"net.h": "b"}),
    ]
    assert key() == keys[0]
    (headers / "simd.h").write_text("changed")
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_what_must_never_be_among_the_flags(cache: Cache) -> None:
    flags = library_module._flags(find_compiler(cache), host_target(), ())
    assert not {"-Ofast", "-ffast-math", "-funsafe-math-optimizations"} & set(flags)
    assert "-ffp-contract=off" in flags


def test_only_what_python_loads_is_compiled_quickly(stub, cache: Cache, tmp_path: Path, monkeypatch) -> None:
    log = tmp_path / "log"
    if not (real := shutil.which("gcc")):
        pytest.skip("gcc alone has flags of its own")
    monkeypatch.setenv("LOSSC_CC", stub("cc", f'case "$*" in *net.c*) echo "$*" >> {log};; esac; exec {real} "$@"'))
    compile_library(SQUARE, target=host_target(), cache=cache)
    bundle = compile_bundle(SQUARE, tmp_path / "bundle", target=host_target(), cache=cache)
    library, shipped = log.read_text().splitlines()
    levels = [[word for word in command.split() if word.startswith("-O")] for command in (library, shipped)]
    assert levels == [["-O3", "-O2"], ["-O3"]]  # the last one holds
    assert "-O3" in bundle.command and "-O2" not in bundle.command


def test_a_damaged_library_is_made_again(cache: Cache) -> None:
    path = compile_library(SQUARE, target=host_target(), cache=cache)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again = compile_library(SQUARE, target=host_target(), cache=cache)
    assert again.stat().st_size > len(whole) // 2
    assert load_library(again, CDEF)[1].square(3.0) == 9.0


def test_extra_files_lie_beside_the_source(cache: Cache) -> None:
    source = '#include "net.h"\n' + EXPORT + "int value(void) { return VALUE; }\n"
    path = compile_library(source, target=host_target(), extra_files={"net.h": "#define VALUE 42\n"}, cache=cache)
    assert load_library(path, "int value(void);")[1].value() == 42
    with pytest.raises(InternalError, match="not a plain file name"):
        compile_library(source, target=host_target(), extra_files={"../net.h": ""}, cache=cache)


def test_refused_code_is_an_error_with_the_compilers_words_and_the_source(cache: Cache) -> None:
    with pytest.raises(CompilerError, match=r"net\.c:1:.*error") as caught:
        compile_library("int f(void) { return x; }\n", target=host_target(), cache=cache)
    place = next(line for line in caught.value.message.splitlines() if "source: " in line).partition("source: ")[2]
    assert (Path(place) / "net.c").read_text() == "int f(void) { return x; }\n"
    assert caught.value.fix


def test_a_compiler_that_vanished_is_an_error(cache: Cache, tmp_path: Path) -> None:
    gone = replace(find_compiler(cache), command=(str(tmp_path / "gone"),))
    with pytest.raises(CompilerError, match="gone"):
        compile_library(SQUARE, target=host_target(), compiler=gone, cache=cache)


def test_a_target_of_another_machine_cannot_be_built(cache: Cache) -> None:
    foreign = NEON if host_target().arch == "x86_64" else AVX2
    with pytest.raises(UsageError, match="cannot make a library for"):
        compile_library(SQUARE, target=Target(foreign, foreign.arch or "", "linux"), cache=cache)


def test_a_bundle_can_be_built_again_by_its_command(cache: Cache, tmp_path: Path) -> None:
    source = '#include "net.h"\n#include "threads.h"\n' + EXPORT + "int value(void) { return VALUE; }\n"
    target = parse_target("scalar")
    files = {"net.h": "#define VALUE 7\n"}
    bundle = compile_bundle(
        source, tmp_path / "out" / "folder", target=target, name="lenet", extra_files=files, cache=cache
    )
    assert bundle.library.name == f"liblenet{target.library_suffix}"
    assert [path.name for path in bundle.sources] == ["lenet.c", "net.h"]
    assert load_library(bundle.library, "int value(void);")[1].value() == 7
    moved = tmp_path / "moved"
    shutil.copytree(bundle.folder, moved)
    (moved / bundle.library.name).unlink()
    subprocess.run(bundle.command, shell=True, cwd=moved, check=True)
    assert load_library(moved / bundle.library.name, "int value(void);")[1].value() == 7


def test_a_bundle_needs_a_folder(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        compile_bundle(SQUARE, tmp_path / "file", target=host_target(), cache=cache)


def test_four_processes_that_want_the_same_library_compile_it_once(stub, environment, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    real = shutil.which("gcc") or shutil.which("clang")
    environment["LOSSC_CC"] = stub("cc", f'case "$*" in *net.c*) echo run >> {log};; esac; exec {real} "$@"')
    program = f"""
from lossc.build import compile_library, load_library
from lossc.targets import host_target
path = compile_library({SQUARE!r}, target=host_target())
print(path.name, load_library(path, {CDEF!r})[1].square(4.0))
"""
    command = [sys.executable, "-c", program]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    printed = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(printed) == 1
    assert printed.pop().endswith(" 16.0\n")
    assert log.read_text() == "run\n"


def test_an_unwritable_cache_still_compiles_and_runs(environment, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    program = f"""
from lossc.build import compile_library, load_library
from lossc.targets import host_target
print(load_library(compile_library({SQUARE!r}, target=host_target()), {CDEF!r})[1].square(4.0))
"""
    done = _python(program, environment)
    assert done.stdout == "16.0\n"
    assert done.stderr.count("RuntimeWarning") == 1


def test_a_warm_start_runs_no_program_and_imports_nothing_heavy(environment) -> None:
    program = f"""
import sys
from lossc.build import compile_library, load_library
from lossc.targets import host_target
before = set(sys.modules)
_, lib = load_library(compile_library({SQUARE!r}, target=host_target()), {CDEF!r})
assert lib.square(2.0) == 4.0
print(*sorted({{"subprocess", "tempfile", "cffi", "pycparser", "jinja2", "networkx", "numpy"}} & set(sys.modules)))
"""
    cold, warm = _python(program, environment), _python(program, environment)
    assert cold.returncode == 0, cold.stderr
    assert "subprocess" in cold.stdout
    assert (warm.returncode, warm.stdout) == (0, "\n"), warm.stderr


def test_importing_the_build_imports_nothing_heavy() -> None:
    heavy = {"subprocess", "cffi", "_cffi_backend", "jinja2", "networkx", "numpy"}
    program = f"import sys, lossc.build; print(*{heavy} & set(sys.modules))"
    assert _python(program, dict(os.environ)).stdout == "\n"


def test_an_openmp_library_lets_the_process_end_in_peace(cache: Cache) -> None:
    """Unloading a library while its OpenMP runtime's threads spin in it for more work ended most processes by a signal.

    Without the tests' own settings: threads that wait passively hide it.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    path = compile_library(OPENMP, target=host_target(), cache=cache)
    program = """
import sys
from pathlib import Path
from lossc.build import load_library
ffi, lib = load_library(Path(sys.argv[1]), "int team(int n);")
assert lib.team(1000) == 499500
"""
    statuses = [_python(program, environment, str(path)).returncode for _ in range(20)]
    assert statuses == [0] * 20


def test_a_library_stays_mapped_when_nothing_refers_to_it(cache: Cache) -> None:
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("the process's mappings can be read on Linux alone")
    path = compile_library(SQUARE + "/* mapped */", target=host_target(), cache=cache)
    ffi, lib = load_library(path, CDEF)
    assert lib.square(2.0) == 4.0
    del ffi, lib
    assert path.name in Path("/proc/self/maps").read_text()


def test_loading_does_not_flush_denormals_to_zero(cache: Cache) -> None:
    path = compile_library(OPENMP, target=host_target(), cache=cache)
    program = """
import sys
from pathlib import Path
from lossc.build import load_library
ffi, lib = load_library(Path(sys.argv[1]), "int team(int n);")
lib.team(100)
smallest = 5e-324
print(float(sys.argv[2]) / 2 > 0.0, smallest * 1.0 == smallest, smallest + smallest)
"""
    done = _python(program, dict(os.environ), str(path), repr(sys.float_info.min))
    assert done.stdout == "True True 1e-323\n", done.stderr


def test_libraries_of_one_set_of_declarations_share_their_types(cache: Cache) -> None:
    cdef = "typedef struct { int size; double (*apply)(double); } table; const table *functions(void);"
    source = """
typedef struct { int size; double (*apply)(double); } table;
static double apply(double x) { return x + %s; }
static const table functions_ = { %s, apply };
__attribute__((visibility("default"))) const table *functions(void) { return &functions_; }
"""
    (ffi, one), (same, two) = (
        load_library(compile_library(source % (number, number), target=host_target(), cache=cache), cdef)
        for number in (1, 2)
    )
    assert ffi is same
    assert (one.functions().size, two.functions().size) == (1, 2)
    assert (one.functions().apply(0.5), two.functions().apply(0.5)) == (1.5, 2.5)
    assert ffi.typeof(one.functions()) is ffi.typeof(two.functions())


def test_what_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "net.so").write_bytes(b"not a library")
    with pytest.raises(CompilerError, match="cannot be loaded"):
        load_library(tmp_path / "net.so", CDEF)


def test_declarations_that_are_not_c_are_a_bug(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="declarations"):
        load_library(tmp_path / "net.so", "int f(;")


@pytest.mark.parametrize("isa", [SCALAR, host_target().isa], ids=lambda isa: isa.name)
def test_the_header_of_an_isa_compiles_with_its_flags(cache: Cache, isa) -> None:
    source = '#include "simd.h"\n' + EXPORT + "int lanes(void) { return VF32_LANES; }\n"
    path = compile_library(source, target=replace(host_target(), isa=isa), cache=cache)
    assert load_library(path, "int lanes(void);")[1].lanes() == isa.lanes_f32


def test_messages_are_in_english(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    failed, text = compiler_module.run([sys.executable, "-c", "import os; print(os.environ['LC_ALL'])"])
    assert (failed, text) == (False, "C\n")
