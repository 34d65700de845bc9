"""What a misspelt name was meant to be."""

from __future__ import annotations

from collections.abc import Iterable

from lossc.errors import PrototxtError


def closest(word: str, choices: Iterable[str]) -> str | None:
    """The one of ``choices`` that ``word`` was most likely meant to be, or None. Case counts little."""
    import difflib  # only errors need it

    known = {choice.lower(): choice for choice in choices}
    match = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return known[match[0]] if match else None


def suggestion(word: str, choices: Iterable[str], what: str = "") -> str:
    """The text of a fix: the closest of ``choices``, or all of them (``what`` names them in the plural)."""
    choices = list(choices)
    match = closest(word, choices)
    return f'did you mean "{match}"?' if match else f"{what or 'known are'} {', '.join(sorted(choices))}"


def unknown_layer_type(
    type_name: str, known: Iterable[str], *, layer: str | None = None, file: str | None = None, line: int | None = None
) -> PrototxtError:
    """The error for a layer whose ``type`` is none of ``known``, with the type that was likely meant."""
    fix = suggestion(type_name, known, "the known types are")
    return PrototxtError(f'unknown layer type "{type_name}"', fix=fix, layer=layer, file=file, line=line)
