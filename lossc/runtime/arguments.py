"""Checks of what callers give: one clear error in place of whatever would fail far below."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lossc.errors import ArgumentError, UsageError


def whole_number(name: str, value: Any, least: int, most: int | None = None, fix: str | None = None) -> int:
    """``value`` as an int of ``least`` to ``most``. Raises ArgumentError, UsageError out of that range."""
    wanted = fix or (f"give {least} or more" if most is None else f"give {least} to {most}")
    try:
        number = operator.index(value) if not isinstance(value, (bool, np.bool_)) else None
    except TypeError:
        number = None
    if number is None:
        raise ArgumentError(f"{name} is {value!r:.60}, not a whole number", fix=wanted)
    if number < least or (most is not None and number > most):
        raise UsageError(f"{name} is {number}", fix=wanted)
    return number


def real_array(what: str, values: Any, shape: Sequence[int], *, fix: str, file: str) -> np.ndarray:
    """``values`` as an array of real numbers of that shape. Raises ArgumentError; ``fix`` is the one for shapes."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:  # NumPy's for rows of different lengths and the like
        reason = "rows of different lengths" if "inhomogeneous" in str(error) else str(error)
        wanted = f"give one of shape {list(shape)}"
        raise ArgumentError(f"{what} is no array: {reason}", fix=wanted, file=file) from None
    if array.dtype.kind not in "fiub":
        kind = {"c": "complex numbers", "O": "Python objects", "U": "text", "S": "text"}.get(array.dtype.kind)
        message = f"{what} holds {kind or array.dtype}, not real numbers"
        raise ArgumentError(message, fix=f"give real numbers, shape {list(shape)}", file=file)
    if array.shape != tuple(shape):
        message = f"{what} has the shape {list(array.shape)}, the net wants {list(shape)}"
        raise ArgumentError(message, fix=fix, file=file)
    return array


def names_of(what: str, value: str | Iterable[str] | None) -> tuple[str, ...]:
    """Names given as one text or several. Raises ArgumentError."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    try:
        names = tuple(value)
    except TypeError:
        raise ArgumentError(f"{what} is {value!r:.60}", fix="give a list of names") from None
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ArgumentError(f"{what} holds {wrong[0]!r:.60}, which is no name", fix="give names as text")
    return names
