"""Finds ``templates/`` and ``runtime/``: in the package in a wheel, beside it in a checkout or an editable install."""

from __future__ import annotations

from pathlib import Path

from lossc.errors import InternalError

_PACKAGE = Path(__file__).resolve().parent


def templates_dir() -> Path:
    """The folder of the ``.c.j2`` templates. Raises InternalError if the installation lacks it."""
    return _find("templates")


def runtime_dir() -> Path:
    """The folder of the C headers that generated code includes. Raises InternalError if the installation lacks it."""
    return _find("runtime")


def _find(name: str) -> Path:
    for folder in (_PACKAGE / f"_{name}", _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise InternalError(
        f"the folder {name}/ of lossc is missing beside {_PACKAGE}",
        fix="reinstall it: pip install --force-reinstall lossc",
    )
