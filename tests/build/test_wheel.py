"""The wheel: complete, and at home where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


def test_templates_headers_and_licence_are_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (("templates", "**/*.j2"), ("runtime", "*.h")):
        files = {f"lossc/_{folder}/{path.relative_to(TOP / folder)}" for path in (TOP / folder).glob(pattern)}
        assert files and files <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "examples/", "templates/", "runtime/")) for name in names)


def test_it_compiles_a_library_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = """
from lossc.build import compile_library
from lossc.resources import runtime_dir, templates_dir
from lossc.targets import host_target
compile_library('#include "simd.h"\\nint lanes(void);\\nint lanes(void) { return VF32_LANES; }', target=host_target())
print(runtime_dir(), templates_dir())
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "LOSSC_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    package = tmp_path / "site" / "lossc"
    assert done.stdout == f"{package / '_runtime'} {package / '_templates'}\n", done.stderr
