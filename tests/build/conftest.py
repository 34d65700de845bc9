"""Fixtures of the build's tests: an empty cache, and stand-ins for C compilers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lossc.build import Cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache")


@pytest.fixture
def stub(tmp_path: Path) -> Callable[[str, str], str]:
    """Makes an executable shell script: (name, body) to its path."""

    def make(name: str, body: str) -> str:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="ascii")
        os.chmod(path, 0o755)
        return str(path)

    return make


@pytest.fixture
def no_compiler_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which no variable names a compiler."""
    monkeypatch.delenv("LOSSC_CC", raising=False)
    monkeypatch.delenv("CC", raising=False)
