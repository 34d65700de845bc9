"""Arguments that name files."""

from __future__ import annotations

import re
from os import PathLike, fspath
from typing import Any

from lossc.errors import ArgumentError


def path_text(value: str | PathLike[str] | Any, what: str = "a file") -> str:
    """``value`` as the text of a path. Raises ArgumentError for what is none; ``what`` is what was wanted."""
    try:
        text = fspath(value)
    except TypeError:
        text = None
    if isinstance(text, bytes):
        text = text.decode(errors="surrogateescape")
    if not isinstance(text, str):
        raise ArgumentError(f"{what} is wanted, not {value!r:.60}", fix="give its path, such as \"net.prototxt\"")
    return text


def looks_like_prototxt(text: str) -> bool:
    """Whether a text that names no file was meant as the content of one."""
    return "\n" in text or re.search(r"[{}]|:\s|:\"", text) is not None
