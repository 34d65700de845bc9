"""What all tests share: an isolated cache, few threads, the golden cases' folder, and headers compiled once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from lossc.build import library
from lossc.build.compiler import Compiler, find_compiler
from lossc.errors import CompilerError
from lossc.resources import runtime_dir
from lossc.targets import parse_target

_FEATURES = "-D_DEFAULT_SOURCE="  # as generated C defines it, before its headers

# Compiled code makes a first example slow, so no test may depend on an example's time.
settings.register_profile("lossc", deadline=None, print_blob=True)
settings.load_profile("lossc")

# Set before any OpenMP runtime is loaded: several test processes share the cores, where spinning threads starve others.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_configure(config: pytest.Config) -> None:
    """Keeps what the tests compile apart from the user's cache, but from one run to the next."""
    if getattr(config, "cache", None) is not None:
        os.environ["LOSSC_CACHE"] = str(config.cache.mkdir("lossc"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of the golden cases, outputs of the real Caffe; tests that use it are marked ``golden``."""
    folder = os.environ.get("LOSSC_GOLDEN")
    if not folder:
        pytest.skip("LOSSC_GOLDEN does not name the folder of the golden cases")
    return Path(folder)


@pytest.fixture(scope="session")
def _compiled_headers(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A header that includes all of generated C's, beside it what gcc makes of it; None without gcc."""
    with suppress(CompilerError):
        if (compiler := find_compiler()).kind == "gcc":
            return _precompiled(compiler, tmp_path_factory.mktemp("headers"))
    return None


def _precompiled(compiler: Compiler, folder: Path) -> Path:
    header = folder / "all.h"
    header.write_text('#include "kernels.h"\n')
    flags = library._flags(compiler, parse_target("native"), library._GCC_QUICK)
    flags = [flag for flag in flags if flag != "-shared"]
    command = [*compiler.command, *flags, _FEATURES, f"-I{runtime_dir()}", "-x", "c-header", "all.h", "-o", "all.h.gch"]
    subprocess.run(command, cwd=folder, check=True)
    return header


@pytest.fixture
def headers_compiled_once(_compiled_headers: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated C of this process is compiled after headers that were compiled before, in two thirds of the time.

    They are the same headers; gcc reads them as text where its flags are others, as for another instruction set.
    """
    if _compiled_headers is None:
        return
    plain, before = library._command, [_FEATURES, "-include", str(_compiled_headers)]

    def command(compiler: Compiler, flags: Sequence[str], *more: Any) -> list[str]:
        return plain(compiler, [*before, *flags] if compiler.kind == "gcc" else flags, *more)

    monkeypatch.setattr(library, "_command", command)
