"""What a layer takes in ``lossc_param { name: value ... }``, lossc's own settings beyond Caffe's."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossc.errors import GraphError

#: What each kind of setting wants to be given.
KINDS = {
    "number": "a number",
    "integer": "a whole number",
    "truth": "true or false",
    "text": "a word, or a string in quotes",
    "numbers": "numbers: [a, b]",
    "texts": "words: [a, b]",
}


@dataclass(frozen=True)
class Extra:
    """One setting: its kind (see ``KINDS``), its value where none is given, and what it may be.

    ``choices`` of a text; ``least`` and ``most``, both included, of every number. Numbers are finite.
    """

    kind: str
    default: Any = None
    choices: tuple[str, ...] = ()
    least: float = -math.inf
    most: float = math.inf

    @staticmethod
    def of(default: Any) -> Extra:
        """The setting that a Python function's parameter with this default stands for.

        A default of int or float takes any number (a whole one arrives as int where the default is an int), a sequence
        takes as many values as are given. Raises GraphError for what prototxt cannot express.
        """
        if isinstance(default, (list, tuple)):
            texts = bool(default) and all(isinstance(v, str) for v in default)
            return Extra("texts" if texts else "numbers", tuple(default))
        for kind, types in (("truth", bool), ("number", (int, float)), ("text", str)):
            if isinstance(default, types):
                return Extra(kind, default)
        raise GraphError(
            f"a setting cannot have the default {default!r}", fix="give a number, True or False, a string, or a list"
        )

    def convert(self, name: str, values: list[float | bool | str]) -> Any:
        """The value of the entry ``name``. Raises GraphError where it is of another kind or out of range."""
        kind, many = self.kind.removesuffix("s"), self.kind.endswith("s")
        wanted: type[Any] | tuple[type[Any], ...] = {"truth": bool, "text": str}.get(kind, (int, float))
        for value in values:
            fits = isinstance(value, wanted) and isinstance(value, bool) == (kind == "truth")
            if not fits or (kind == "integer" and (not math.isfinite(value) or value != int(value))):  # type: ignore[arg-type]
                raise GraphError(f"{name} wants {KINDS[self.kind]}, not {_show(value)}")
            if kind == "text" and self.choices and value not in self.choices:
                raise GraphError(f"{name} cannot be {value}", fix=_suggest(str(value), self.choices))
            if isinstance(value, float) and not (math.isfinite(value) and self.least <= value <= self.most):
                raise GraphError(f"{name} cannot be {_show(value)}", fix=self._range())
        if many:
            return tuple(values)
        if len(values) != 1:
            raise GraphError(f"{name} is given {len(values)} values", fix=f"it wants {KINDS[self.kind]}, once")
        value = values[0]
        whole = kind == "integer" or (type(self.default) is int and kind == "number" and value == int(value))
        return int(value) if whole else value

    def _range(self) -> str:
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"give {self.least:g} to {self.most:g}"
        if math.isfinite(self.least):
            return f"give {self.least:g} or more"
        return f"give {self.most:g} or less" if math.isfinite(self.most) else "give a finite number"


def read_extras(known: Mapping[str, Extra], lossc_param: Any, type_name: str) -> dict[str, Any]:
    """Every setting of ``known`` with its value: the one in the LosscParameter, or the default.

    Raises GraphError for names that are not known and values that do not fit.
    """
    found = {name: extra.default for name, extra in known.items()}
    for entry in lossc_param.entry:
        if entry.name not in known:
            message = f'{type_name} has no setting "{entry.name}" in lossc_param'
            raise GraphError(message, fix=_suggest(entry.name, tuple(known)))
        values = [getattr(value, value.WhichOneof("kind") or "number") for value in entry.value]
        found[entry.name] = known[entry.name].convert(entry.name, values)
    return found


def _suggest(word: str, choices: tuple[str, ...]) -> str:
    by_case = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), by_case, 1)
    return f"did you mean {by_case[near[0]]}?" if near else f"it takes {', '.join(sorted(choices))}"


def _show(value: float | bool | str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, (int, float)) else f'"{value}"'
