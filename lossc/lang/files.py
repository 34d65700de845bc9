"""Layers from users' own places: Python files, installed packages, objects at hand."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from os import PathLike, fspath
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from lossc.errors import UsageError
from lossc.lang.function import Function

#: Installed packages name their layers under this entry point group: a module, a Function, a Layer class or a list.
GROUP = "lossc.layers"

Given = str | PathLike[str] | Any


@dataclass(frozen=True)
class Custom:
    """A layer type from outside: a Function or a Layer class, and a checksum over all that decides what it does."""

    name: str
    what: Any
    checksum: str


def collect(layers: Given | Sequence[Given] | None) -> dict[str, Custom]:
    """Layer types by name, from Python files (by path), installed packages (by the name of their entry point in the
    group ``lossc.layers``), modules, functions and classes.

    Raises UsageError for what is none of these, for files that fail, and for a name that two of them claim.
    """
    if isinstance(layers, dict):  # collected before
        return layers
    given: list[Any] = [] if layers is None else list(layers) if isinstance(layers, (list, tuple, set)) else [layers]
    out: dict[str, Custom] = {}
    for custom in (custom for each in given for custom in _customs(each)):
        other = out.setdefault(custom.name, custom)
        if other.checksum != custom.checksum and _place(other.what) != _place(custom.what):
            raise UsageError(
                f'two layers are called "{custom.name}": {_place(other.what)} and {_place(custom.what)}',
                fix="give one another name",
            )
        out[custom.name] = custom
    return out


def _customs(given: Given) -> list[Custom]:
    if isinstance(given, (str, PathLike)):
        path = fspath(given)
        if path.endswith(".py") or os.sep in path:
            return _of_module(load_file(path), path)
        return _customs(_installed(path))
    if isinstance(given, ModuleType):
        return _of_module(given, given.__name__)
    if isinstance(given, Function):
        return [Custom(given.name, given, checksum(given))]
    if is_layer_class(given):
        return [Custom(given.type, given, checksum(given))]
    if isinstance(given, (list, tuple)):
        return [custom for each in given for custom in _customs(each)]
    raise UsageError(
        f"{given!r} is no layer", fix="give what @lossc.loss or @lossc.layer made, a Layer class, or a Python file"
    )


def _installed(name: str) -> Any:
    """What an installed package offers under a name."""
    from importlib import metadata

    entries = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
    if name not in entries:
        known = f"installed are {', '.join(sorted(entries))}" if entries else "no installed package offers layers"
        raise UsageError(f'no package offers the layers "{name}"', fix=f"{known}; a file's name ends in .py")
    entry = entries[name]
    try:
        return entry.load()
    except Exception as error:  # whatever the package does when it is imported
        message = f'the layers "{name}" of an installed package ({entry.value}) fail: {type(error).__name__}: {error}'
        raise UsageError(message, fix="repair or reinstall that package") from error


def is_layer_class(x: Any) -> bool:
    """Whether ``x`` is a class as the built-in layers are: with a type, shapes and a forward pass."""
    return isinstance(x, type) and isinstance(getattr(x, "type", None), str) and hasattr(x, "infer_shapes")


def _of_module(module: ModuleType, name: str) -> list[Custom]:
    found: dict[str, Any] = {}
    for x in vars(module).values():
        own = isinstance(x, Function) or (is_layer_class(x) and x.__module__ == module.__name__)
        if own:
            found[x.name if isinstance(x, Function) else x.type] = x
    if not found:
        raise UsageError("defines no layers", fix='@lossc.loss("Name") makes one of a function', file=name)
    return [Custom(n, x, checksum(x)) for n, x in found.items()]


def load_file(path: str | PathLike[str]) -> ModuleType:
    """The module of a Python file, run anew. Raises UsageError where it cannot be read or fails."""
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"there is no file {fspath(path)}", fix="name a Python file that defines layers")
    name = f"lossc_layers_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}"
    spec = util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError("is no Python file", fix="its name must end in .py", file=fspath(path))
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:  # whatever the user's file does
        line = _line_in(error, str(file))
        raise UsageError(f"{type(error).__name__}: {error}", file=fspath(path), line=line) from error
    return module


def _line_in(error: BaseException, file: str) -> int | None:
    if isinstance(error, SyntaxError):
        return error.lineno
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _place(x: Any) -> str:
    if isinstance(x, Function):
        return x.file
    return getattr(sys.modules.get(x.__module__), "__file__", None) or x.__module__


# ---- checksums


def checksum(x: Any) -> str:
    """A checksum over a layer's code, what it refers to in its module, its defaults, and the file that holds it."""
    digest = hashlib.sha256()
    place = Path(_place(x))
    if place.is_file():
        digest.update(place.read_bytes())
    if isinstance(x, Function):
        for call in (x.call, x.own_backward):
            if call is not None:
                _feed(digest, call, set())
    elif inspect.isclass(x):
        for member in vars(x).values():
            _feed(digest, member, set())
    return digest.hexdigest()


def _feed(digest: Any, x: Any, seen: set[int]) -> None:
    """Code, constants and what names stand for, as deep as the user's own functions go."""
    if id(x) in seen:
        return
    seen.add(id(x))
    if isinstance(x, Function):
        _feed(digest, x.call, seen)
    elif isinstance(x, FunctionType):
        _feed(digest, x.__code__, seen)
        for value in (*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()):
            _feed(digest, value, seen)
        for cell in x.__closure__ or ():
            _feed(digest, cell.cell_contents, seen)
        for name in x.__code__.co_names:
            if name in x.__globals__:
                _feed(digest, x.__globals__[name], seen)
    elif isinstance(x, CodeType):
        digest.update(x.co_code + repr(x.co_names).encode())
        for value in x.co_consts:
            _feed(digest, value, seen)
    elif isinstance(x, (tuple, list)):
        for value in x:
            _feed(digest, value, seen)
    elif isinstance(x, (int, float, str, bytes, bool, type(None))):
        digest.update(f"{type(x).__name__} {x!r}".encode())
