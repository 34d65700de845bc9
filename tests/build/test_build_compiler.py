"""Finding a C compiler: order, broken ones, and that a known one is not asked again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lossc.build import Cache, find_compiler
from lossc.build import compiler as compiler_module
from lossc.errors import CompilerError

REAL = shutil.which("gcc") or shutil.which("clang") or "cc"


@pytest.fixture
def no_ziglang(monkeypatch: pytest.MonkeyPatch) -> None:
    real = compiler_module.importlib.util.find_spec
    monkeypatch.setattr(
        compiler_module.importlib.util, "find_spec", lambda name: None if name == "ziglang" else real(name)
    )


def test_a_working_compiler_is_described(cache: Cache, no_compiler_named: None) -> None:
    compiler = find_compiler(cache)
    assert compiler.kind in ("gcc", "clang", "zig")
    assert any(character.isdigit() for character in compiler.version)
    if compiler.kind == "gcc":
        assert compiler.openmp


def test_a_known_compiler_costs_no_subprocess(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSC_CC", REAL)
    first = find_compiler(cache)
    monkeypatch.setattr(subprocess, "run", None)
    assert find_compiler(cache) == first


def test_variables_come_first_and_lossc_cc_before_cc(cache: Cache, stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", stub("mine", f'exec {REAL} "$@"'))
    assert find_compiler(cache).command == (os.environ["CC"],)
    wrapper = stub("wrapper", 'exec "$@"')
    monkeypatch.setenv("LOSSC_CC", f"{wrapper} {REAL}")
    assert find_compiler(cache).command == tuple(os.environ["LOSSC_CC"].split())


def test_a_path_with_spaces_may_be_named(cache: Cache, stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSC_CC", stub("my compiler", f'exec {REAL} "$@"'))
    assert find_compiler(cache).command == (os.environ["LOSSC_CC"],)


def test_a_missing_compiler_that_is_named_is_an_error(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSC_CC", "no-such-compiler")
    with pytest.raises(CompilerError, match=r"LOSSC_CC .*no-such-compiler: not found") as caught:
        find_compiler(cache)
    assert caught.value.fix and "apt install gcc" in caught.value.fix and "pip install ziglang" in caught.value.fix


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("exit 1", "--version failed"),
        ("exit 0", "--version says nothing"),
        (
            '[ "$1" = --version ] && echo "cc 1.0" && exit; echo "cc1: fatal error: broken" >&2; exit 1',
            "fatal error: broken",
        ),
        ('[ "$1" = --version ] && echo "cc 1.0"; exit 0', "cannot make a shared library"),
        (
            '[ "$1" = --version ] && echo "cc 1.0" && exit; for f; do case $f in *.so) echo junk > $f;; esac; done',
            "load",
        ),
    ],
)
def test_a_broken_compiler_is_an_error_that_says_why(
    cache: Cache, stub, monkeypatch: pytest.MonkeyPatch, body: str, told: str
) -> None:
    monkeypatch.setenv("LOSSC_CC", stub("broken", body))
    with pytest.raises(CompilerError, match="LOSSC_CC names no working compiler") as caught:
        find_compiler(cache)
    assert told in caught.value.message


def test_quotes_that_do_not_match_are_an_error(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSC_CC", "'gcc")
    with pytest.raises(CompilerError, match="No closing quotation"):
        find_compiler(cache)


def test_no_compiler_at_all(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_compiler_named: None, no_ziglang: None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerError, match="neither gcc, cc nor clang is in PATH") as caught:
        find_compiler(cache)
    assert "apt install gcc" in str(caught.value)


def test_a_broken_one_in_path_is_passed_over(
    cache: Cache, stub, monkeypatch: pytest.MonkeyPatch, no_compiler_named: None
) -> None:
    folder = os.path.dirname(stub("gcc", "echo 'gcc: cannot run' >&2; exit 1"))
    stub("cc", f'exec {REAL} "$@"')
    monkeypatch.setenv("PATH", folder, prepend=os.pathsep)
    assert find_compiler(cache).command == ("cc",)


def test_all_broken_ones_are_named(
    cache: Cache, stub, monkeypatch: pytest.MonkeyPatch, no_compiler_named: None, no_ziglang: None
) -> None:
    folder = os.path.dirname(stub("gcc", "echo 'no license' >&2; exit 1"))
    stub("clang", "echo 'error: no headers' >&2; exit 1")
    monkeypatch.setenv("PATH", folder)
    with pytest.raises(CompilerError, match=r"(?s)gcc .*no license.*clang .*no headers"):
        find_compiler(cache)


def test_a_compiler_that_was_mended_is_found_at_once(cache: Cache, stub, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = Path(stub("switch", ""))
    monkeypatch.setenv("LOSSC_CC", stub("cc", f'[ -e {switch} ] && exit 1; exec {REAL} "$@"'))
    with pytest.raises(CompilerError):
        find_compiler(cache)
    switch.unlink()
    assert find_compiler(cache).version


def test_a_compiler_that_changed_is_asked_again(cache: Cache, stub, monkeypatch: pytest.MonkeyPatch) -> None:
    body = '[ "$1" = --version ] && echo "cc {}" && exit; exec {} "$@"'
    monkeypatch.setenv("LOSSC_CC", stub("cc", body.format("1.0", REAL)))
    before = find_compiler(cache)
    stub("cc", body.format("2.0.0", REAL))
    after = find_compiler(cache)
    assert (before.version, after.version) == ("cc 1.0", "cc 2.0.0")
    assert before.identity != after.identity


def test_one_without_openmp_works_and_is_asked_again_a_day_later(
    cache: Cache, stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = Path(stub("switch", ""))
    refuse = f'for f; do [ "$f" = -fopenmp ] && [ -e {switch} ] && echo "error: no libomp" >&2 && exit 1; done'
    monkeypatch.setenv("LOSSC_CC", stub("cc", f'{refuse}; exec {REAL} "$@"'))
    first = find_compiler(cache)
    assert not first.openmp
    switch.unlink()
    assert not find_compiler(cache).openmp
    facts = json.loads(cache.get("compilers", first.identity) or b"")
    facts["asked"] -= 2 * 86400
    cache.put("compilers", first.identity, json.dumps(facts).encode())
    plain = subprocess.run(
        [REAL, "-fopenmp", "-x", "c", "-shared", "-fPIC", "-o", os.devnull, "-"], input=b"", capture_output=True
    )
    assert find_compiler(cache).openmp == (plain.returncode == 0)


def test_the_ziglang_package_is_the_last_resort(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_compiler_named: None
) -> None:
    package = tmp_path / "site" / "ziglang"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "zig").write_text("binary")
    (package / "__main__.py").write_text(
        "import os, sys\n"
        "assert sys.argv[1] == 'cc'\n"
        "if sys.argv[2] == '--version': print('clang version 20.1')\n"
        f"else: os.execv({REAL!r}, [{REAL!r}, *sys.argv[2:]])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(compiler_module, "run", lambda command, *rest, **named: _with_path(path, command, rest, named))
    compiler = find_compiler(cache)
    assert compiler.command == (sys.executable, "-m", "ziglang", "cc")
    assert (compiler.kind, compiler.version) == ("zig", "clang version 20.1")
    (package / "zig").write_text("another binary")
    assert find_compiler(cache).identity != compiler.identity


_run = compiler_module.run


def _with_path(path: str, command, rest, named):
    """Runs with the real PATH, in which the stand-in's C compiler finds its linker."""
    return _run(["/usr/bin/env", f"PATH={path}", *command], *rest, **named)
