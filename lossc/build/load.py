"""Loads compiled libraries by cffi.

A library is opened in cffi's ABI mode, so the only C that is compiled is the net's own, and neither Python's headers
nor setuptools are needed. Parsing the declarations takes pycparser longer than all the rest, so cffi's out-of-line form
of them, a short Python module of tables, is kept in the cache by their text: a warm start executes it and imports
neither ``cffi`` nor pycparser, only the small extension ``_cffi_backend``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from lossc.build.cache import default_cache
from lossc.errors import CompilerError, InternalError
from lossc.resources import runtime_dir


def load_library(path: Path, cdef: str) -> tuple[Any, Any]:
    """(ffi, lib): the library's functions that ``cdef`` declares, callable as ``lib.NAME``.

    The same ``cdef`` always gives the same ``ffi``, so objects of one net's types fit another net's functions.
    ``cdef`` is plain C declarations without a preprocessor and without cffi's ``...``. The library stays mapped until
    the process ends: threads of an OpenMP runtime would otherwise return into code that is gone. Raises CompilerError
    if the library cannot be loaded.
    """
    ffi = _ffi(cdef)
    try:
        with _short_waits():
            return ffi, ffi.dlopen(str(path), ffi.RTLD_NOW | ffi.RTLD_LOCAL | ffi.RTLD_NODELETE)
    except OSError as error:
        raise CompilerError(
            f"the compiled library cannot be loaded: {error}",
            fix="let LOSSC_CACHE name a folder from which programs may run; else run `lossc cache clear`",
        ) from error


@contextmanager
def _short_waits() -> Iterator[None]:
    """GNU's OpenMP, if it is loaded now, lets a thread wait a tenth of a millisecond before it sleeps, not for 15.

    Where other programs want the cores too, threads that wait busily for one that does not run stop it for long. What
    the user says in the environment holds.
    """
    name = "GOMP_SPINCOUNT"
    if name in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ[name] = "4000"
    try:
        yield
    finally:
        del os.environ[name]


@lru_cache(maxsize=16)
def net_declarations(prefix: str) -> str:
    """abi.h as cffi reads it, and the one function by which a net of this prefix hands out its table."""
    path = runtime_dir() / "abi.h"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CompilerError(f"{path} cannot be read: {error.strerror}", fix="reinstall lossc") from error
    text = re.sub(r"/\*.*?\*/", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE), flags=re.DOTALL)
    return f"{text}\nconst lossc_abi *{prefix}_abi(void);\n"


def prepare_net(prefix: str) -> None:
    """Does what loading a net of this prefix needs beside its library: parsing declarations takes some tenths of a
    second, in which a C compiler can run."""
    _ffi(net_declarations(prefix))


@lru_cache(maxsize=16)
def _ffi(cdef: str) -> Any:
    import _cffi_backend

    cache = default_cache()
    key = f"{_cffi_backend.__version__}\n{cdef}"
    module = cache.get("declarations", key)
    if module is None:
        module = _parse(cdef)
        cache.put("declarations", key, module)
    scope: dict[str, Any] = {}
    exec(compile(module, "<declarations>", "exec"), scope)
    return scope["ffi"]


def _parse(cdef: str) -> bytes:
    """The declarations as a Python module that defines ``ffi``."""
    from io import StringIO

    import cffi
    from cffi.recompiler import make_py_source

    ffi = cffi.FFI()
    try:
        ffi.cdef(cdef)
    except (cffi.CDefError, cffi.FFIError) as error:
        raise InternalError(f"cffi cannot read the declarations: {error}") from error
    text = StringIO()
    make_py_source(ffi, "lossc_declarations", text)
    return text.getvalue().encode()
