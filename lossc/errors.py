"""Errors that a user can act on: what is wrong, where (file, line, layer) and what to do about it."""

from __future__ import annotations

_LONGEST_NAME = 240  # characters of a file's name that messages show


def count_of(number: int, noun: str, several: str = "") -> str:
    """The number with its noun: "1 top", "2 tops"; ``several`` where an s is not enough."""
    return f"{number} {noun}" if number == 1 else f"{number} {several or noun + 's'}"


def _shortened(file: str) -> str:
    """A file's name on one line, of a length that can be read."""
    name = " ".join(file.split("\n"))
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]}...{name[-_LONGEST_NAME // 2 :]}"


class LosscError(Exception):
    """Base of every error that lossc raises on purpose.

    ``str(error)`` is complete: ``FILE:LINE: layer "NAME": MESSAGE`` and, on a line of its own, ``fix: ...``.
    """

    def __init__(
        self,
        message: str,
        *,
        fix: str | None = None,
        layer: str | None = None,
        file: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.layer = layer
        self.file = file
        self.line = line

    def located(self, *, layer: str | None = None, file: str | None = None, line: int | None = None) -> LosscError:
        """The same error; places that it does not know yet are filled in."""
        self.layer = self.layer or layer
        if self.file is None:
            self.file, self.line = file, line
        return self

    def __str__(self) -> str:
        where = ""
        if self.file:
            file = _shortened(self.file)
            where = f"{file}:{self.line}: " if self.line else f"{file}: "
        if self.layer:
            where += f'layer "{self.layer}": '
        text = where + self.message
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class PrototxtError(LosscError):
    """A net or solver description that cannot be read or means nothing."""


class GraphError(LosscError):
    """Layers that do not fit together: missing bottoms, cycles, shapes."""


class ShapeError(GraphError):
    """Shapes that do not fit."""


class WeightsError(LosscError):
    """A .caffemodel, .solverstate or .h5 file that is damaged or belongs to another net."""


class DataError(LosscError):
    """Input data that cannot be read, or labels that are out of range."""


class NumericError(LosscError):
    """A number that is not finite, in a net that was built to look for the first of them."""


class SolverError(LosscError):
    """Solver settings that contradict each other."""


class CompilerError(LosscError):
    """No working C compiler, or generated code that it refuses."""


class UsageError(LosscError):
    """A call that cannot be carried out as it was made."""


class ArgumentError(UsageError, TypeError, ValueError):
    """A value of a kind that cannot be used where it was given, such as text for a number."""


class OutputError(LosscError):
    """A file or folder that cannot be written."""


class InternalError(LosscError):
    """The compiler broke one of its own rules: a bug in lossc, never the user's fault."""
