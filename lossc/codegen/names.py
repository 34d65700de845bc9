"""C identifiers, literals and comments. Names from a net never become C tokens as they are."""

from __future__ import annotations

import math
import re

import numpy as np

_WORDS = """
    auto break case char const continue default do double else enum extern float for goto if inline int long
    register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while
    main net
"""
_KEYWORDS = frozenset(_WORDS.split())
#: How the names of the headers that generated code includes begin.
_PREFIX = re.compile(r"(v[fi]\d+|mf\d+|lossc|omp)_", re.IGNORECASE)


class Names:
    """Hands out identifiers: valid in C, unique, and as near to the wished name as that allows."""

    def __init__(self, reserved: frozenset[str] = frozenset()) -> None:
        self._taken: set[str] = set(reserved)
        self._of: dict[str, str] = {}

    def of(self, key: str) -> str:
        """The identifier for a name; the same name always gets the same one."""
        if key not in self._of:
            self._of[key] = self.fresh(key)
        return self._of[key]

    def fresh(self, wish: str) -> str:
        """A new identifier near ``wish``."""
        base = identifier(wish)
        name, k = base, 2
        while name in self._taken:
            name, k = f"{base}_{k}", k + 1
        self._taken.add(name)
        return name


def identifier(text: str) -> str:
    """``text`` as a C identifier: other characters become underscores; keywords and the headers' names are avoided."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:60].rstrip("_")
    is_macro = len(name) > 1 and name.isupper()  # NULL, NAN, and whatever else a header may define
    if not name or is_macro or name[0].isdigit() or name.lower() in _KEYWORDS or _PREFIX.match(name):
        name = "b_" + name
    return name.rstrip("_") if name != "b_" else "b_"


def literal(value: float, dtype: str) -> str:
    """A C constant that reads back to the very same number of that dtype."""
    number = float(np.float32(value)) if dtype == "f32" else float(value)
    suffix = "f" if dtype == "f32" else ""
    if math.isnan(number):
        return "NAN"
    if math.isinf(number):
        return "INFINITY" if number > 0 else "-INFINITY"
    text = np.format_float_positional(np.float32(number), unique=True) if dtype == "f32" else repr(number)
    if dtype == "f32" and (abs(number) >= 1e7 or (number and abs(number) < 1e-3)):
        text = np.format_float_scientific(np.float32(number), unique=True)
    text = text.rstrip("0") if "." in text and "e" not in text else text
    if "." not in text and "e" not in text:
        text += "."
    text = text + "0" if text.endswith(".") else text.replace(".e", ".0e")
    return text + suffix


def comment(text: str) -> str:
    """Text that can stand in a C comment."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean.replace("\\", "/").replace("*/", "* /").replace("/*", "/ *")


def string(text: str) -> str:
    """A C string literal (UTF-8, everything unusual as octal escapes, so that no trigraph or escape can arise)."""
    out = []
    for byte in text.encode():
        ch = chr(byte)
        out.append(ch if 32 <= byte < 127 and ch not in '"\\?' else f"\\{byte:03o}")
    return '"' + "".join(out) + '"'
