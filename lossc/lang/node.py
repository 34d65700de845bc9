"""Symbolic arrays: nodes of a graph of array operations, each node made once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

from lossc.errors import LosscError, ShapeError, UsageError
from lossc.lang.operators import Operators
from lossc.order import postorder

Shape = tuple[int, ...]

_HERE = os.path.dirname(os.path.abspath(__file__))
_table: ContextVar[dict[Any, Array] | None] = ContextVar("table", default=None)


class Array(Operators):
    """The result of an operation on symbolic arrays: a shape, and how it is computed.

    ``op`` names the operation, ``args`` are its operands, ``attrs`` what else it needs (axes, numbers). ``truth``
    marks truth values, which become 1 and 0 where numbers are wanted. Python's operators, NumPy's functions and
    those of ``lossc`` build them; what they cannot do is a LosscError that names the line.
    """

    __slots__ = ("args", "attrs", "op", "shape", "truth")

    def __init__(self, op: str, args: tuple[Array, ...], attrs: tuple[Any, ...], shape: Shape, truth: bool) -> None:
        self.op = op
        self.args = args
        self.attrs = attrs
        self.shape = shape
        self.truth = truth

    def __repr__(self) -> str:
        return f"<lossc array {list(self.shape)}: {self.op}>"


@contextmanager
def tracing(table: dict[Any, Array]) -> Iterator[None]:
    """While this runs, equal operations on equal operands give one node, kept in ``table``."""
    token = _table.set(table)
    try:
        yield
    finally:
        _table.reset(token)


#: Operations whose operands may change places.
COMMUTE = frozenset({"add", "mul", "min", "max", "eq", "ne", "and", "or", "logaddexp"})


def make(op: str, args: tuple[Array, ...], attrs: tuple[Any, ...], shape: Shape, truth: bool = False) -> Array:
    """The node of an operation: the one that exists, or a new one."""
    table = _table.get()
    if table is None:
        return Array(op, args, attrs, shape, truth)
    key = (op, repr(attrs), shape, truth, *map(id, args))
    if op in COMMUTE and key not in table:
        twin = (op, repr(attrs), shape, truth, *map(id, reversed(args)))
        key = twin if twin in table else key
    if key not in table:
        table[key] = Array(op, args, attrs, shape, truth)
    return table[key]


def new_input(name: str, shape: Shape) -> Array:
    """An input, unlike any other."""
    return Array("input", (), (name,), shape, False)


def walk(*roots: Array) -> Iterator[Array]:
    """Every node below the roots once, operands first."""
    return postorder(roots, lambda node: node.args)


def error(message: str, fix: str | None = None, kind: type[LosscError] = UsageError) -> LosscError:
    """An error at the line of the user's program that called the language."""
    file, line = user_place()
    return kind(message, fix=fix, file=file, line=line)


def shape_error(message: str, fix: str | None = None) -> LosscError:
    return error(message, fix, ShapeError)


def failure_place(problem: BaseException) -> tuple[str | None, int | None]:
    """File and line of the innermost place outside the language and NumPy that an exception came through."""
    found: tuple[str | None, int | None] = None, None
    trace = problem.__traceback__
    while trace is not None:
        if not _is_own(trace.tb_frame.f_code.co_filename):
            found = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next
    return found


def user_place() -> tuple[str | None, int | None]:
    """File and line of the innermost caller outside the language and NumPy."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not _is_own(file):
            return file, frame.f_lineno
        frame = frame.f_back
    return None, None


def _is_own(file: str) -> bool:
    return file.startswith(_HERE) or f"{os.sep}numpy{os.sep}" in file
