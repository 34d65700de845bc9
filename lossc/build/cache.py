"""The on-disk cache: small values under keys, and files named by their content's checksum.

Everything is written beside its place and renamed into it, so that readers in other processes see all of it or
nothing, and carries a checksum that each read verifies: a damaged entry counts as absent and is made again. The folder
is private, since what lies in it is loaded and run.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from lossc.errors import CompilerError

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

T = TypeVar("T")

LIMIT = 2 << 30
"""Bytes that the cache may hold: some hundred large nets."""

_MAGIC = b"lossc cache 1 "
_ROOM = 32 << 20  # bytes free at least for a build: source, object file and library of a large net
_RECENT_SECONDS = 60.0  # what was used just now may be about to be loaded by another process
_STALE_SECONDS = 86400.0  # a build folder that old was left by a process that was killed
_FIX = "free some disk space, or let LOSSC_CACHE name a folder of your own that can be written"


@dataclass(frozen=True)
class CacheInfo:
    """What the cache holds: number of files and their bytes, of at most ``limit``."""

    folder: Path
    files: int
    bytes: int
    limit: int


def default_cache() -> Cache:
    """The cache in $LOSSC_CACHE, else in $XDG_CACHE_HOME/lossc, else in ~/.cache/lossc."""
    named = os.environ.get("LOSSC_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _cache_in(os.path.abspath(os.path.expanduser(named or os.path.join(base, "lossc"))))


@lru_cache(maxsize=8)
def _cache_in(folder: str) -> Cache:
    return Cache(Path(folder))


class Cache:
    """A cache in a subfolder of ``base`` that it makes for itself (mode 0700).

    Where that subfolder cannot be written or belongs to somebody else, a temporary folder that lives as long as the
    process takes its place for writing, with one warning.
    """

    def __init__(self, base: Path, limit: int = LIMIT) -> None:
        self.folder = base / "lossc-v1"  # of its own, so that clear() can never remove a user's files
        self.limit = limit
        self._usable = True
        self._overflow: TemporaryDirectory[str] | None = None
        self._unscanned = limit  # bytes written since the size was last checked: the first write checks

    # ---- values ------------------------------------------------------------------------------------------------

    def get(self, namespace: str, key: str) -> bytes | None:
        """The value put under ``key``, or None if there is none or it is damaged."""
        for root in self._readable():
            path = root / _entry(namespace, key)
            try:
                content = path.read_bytes()
            except OSError:
                continue
            head, _, value = content.partition(b"\n")
            if head == _head(namespace, key, value):
                _touch(path)
                return value
            with suppress(OSError):
                path.unlink()
        return None

    def put(self, namespace: str, key: str, value: bytes) -> None:
        """Keeps ``value`` under ``key``, in place of what was there.

        Raises CompilerError if no folder can be written.
        """
        content = _head(namespace, key, value) + b"\n" + value
        self._write(_entry(namespace, key), content)

    # ---- files -------------------------------------------------------------------------------------------------

    def put_file(self, source: Path) -> Path:
        """Keeps a copy of a file; its new name is its content's checksum and ``source``'s suffix.

        Raises CompilerError if no folder can be written.
        """
        content = source.read_bytes()
        name = hashlib.sha256(content).hexdigest() + source.suffix
        return self._write(_file(name), content)

    def file(self, name: str) -> Path | None:
        """The file that ``put_file`` named so, or None if it is gone or damaged."""
        for root in self._readable():
            path = root / _file(name)
            try:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError:
                continue
            if name.startswith(digest):
                _touch(path)
                return path
            with suppress(OSError):
                path.unlink()
        return None

    # ---- builds ------------------------------------------------------------------------------------------------

    @contextmanager
    def workspace(self, files: Mapping[str, str]) -> Iterator[Path]:
        """A private folder to build in that holds ``files`` (name to text), removed afterwards.

        Raises CompilerError if none can be made.
        """
        import shutil
        from tempfile import TemporaryDirectory

        def make(root: Path) -> TemporaryDirectory[str]:
            builds = root / "tmp"
            builds.mkdir(mode=0o700, exist_ok=True)
            if shutil.disk_usage(builds).free < _ROOM:  # sooner than half-way through the compiler's work
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            folder = TemporaryDirectory(dir=builds, prefix="build-", ignore_cleanup_errors=True)
            for name, text in files.items():
                Path(folder.name, name).write_text(text, encoding="utf-8")
            return folder

        with self._somewhere(make) as folder:
            yield Path(folder)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Holds off other processes that would build the same. Where files cannot be locked it holds off nobody: the
        same is then built more than once, and the last one to finish wins."""
        with ExitStack() as held:
            with suppress(ImportError, OSError):
                import fcntl

                file = held.enter_context(self._somewhere(lambda root: _open_lock(root / "locks", key)))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def keep(self, folder: Path, name: str) -> Path:
        """Copies a build folder to where a user can look into it, in place of an older one of this name."""
        import shutil

        def copy(root: Path) -> Path:
            kept = root / "failed" / name
            shutil.rmtree(kept, ignore_errors=True)
            return Path(shutil.copytree(folder, kept))

        return self._somewhere(copy)

    # ---- upkeep ------------------------------------------------------------------------------------------------

    def info(self) -> CacheInfo:
        """Counts what is in the folder."""
        sizes = [size for _, size, _ in _scan(self.folder)]
        return CacheInfo(self.folder, len(sizes), sum(sizes), self.limit)

    def clear(self) -> CacheInfo:
        """Removes everything; returns what was there. Raises CompilerError if something could not be removed."""
        import shutil

        before = self.info()
        shutil.rmtree(self.folder, ignore_errors=True)
        if left := self.info().files:
            raise CompilerError(f"{left} files of the cache {self.folder} could not be removed", fix="check its owner")
        return before

    def trim(self) -> None:
        """Removes what was used longest ago until nine tenths of the limit are left, and what dead processes left."""
        now = time.time()
        entries = sorted(_scan(self.folder))
        total = sum(size for _, size, _ in entries)
        bound = self.limit if total <= self.limit else self.limit * 9 // 10
        for used, size, path in entries:
            building = "tmp" in path.relative_to(self.folder).parts
            if (now - used > _STALE_SECONDS) if building else (total > bound and now - used > _RECENT_SECONDS):
                with suppress(OSError):
                    path.unlink()
                    total -= size
        self._unscanned = 0

    # ---- folders -----------------------------------------------------------------------------------------------

    def _readable(self) -> Iterator[Path]:
        with suppress(OSError):
            _check_private(self.folder)
            yield self.folder
        if self._overflow:
            yield Path(self._overflow.name)

    def _write(self, place: str, content: bytes) -> Path:
        path = self._somewhere(lambda root: _write_atomically(root / place, content))
        self._unscanned += len(content)
        if self._unscanned > self.limit // 16:
            self.trim()
        return path

    def _somewhere(self, action: Callable[[Path], T]) -> T:
        """The action on the cache's folder, or, from its first failure on, on a temporary one."""
        if self._usable:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _check_private(self.folder)
                return action(self.folder)
            except OSError as error:
                self._usable = False
                message = (
                    f"lossc's cache {self.folder} cannot be used ({_reason(error)}): what is built now is lost when "
                    f"this process ends; {_FIX}"
                )
                # Explicit: no line of a program's source has to do with it, so none is shown.
                warnings.warn_explicit(message, RuntimeWarning, "lossc", 0)
        try:
            if self._overflow is None:
                from tempfile import TemporaryDirectory

                self._overflow = TemporaryDirectory(prefix="lossc-", ignore_cleanup_errors=True)
            return action(Path(self._overflow.name))
        except OSError as error:
            raise CompilerError(
                f"neither the cache {self.folder} nor a temporary folder can be written ({_reason(error)})", fix=_FIX
            ) from error


def _check_private(folder: Path) -> None:
    """Raises PermissionError if somebody else could have put something into ``folder``."""
    own = os.getuid()
    inside, around = folder.lstat(), folder.parent.stat()
    if not stat.S_ISDIR(inside.st_mode) or inside.st_uid != own or inside.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} belongs to somebody else, or others may write to it")
    anyone = around.st_mode & stat.S_IWOTH and not around.st_mode & stat.S_ISVTX
    if around.st_uid not in (own, 0) or anyone:
        raise PermissionError(f"{folder.parent} belongs to somebody else, or everybody may write to it")


def _entry(namespace: str, key: str) -> str:
    return os.path.join(namespace, hashlib.sha256(key.encode()).hexdigest())


def _file(name: str) -> str:
    return os.path.join("files", name)


def _head(namespace: str, key: str, value: bytes) -> bytes:
    """An entry's first line; its checksum covers the key, so an entry under another's name is damaged too."""
    digest = hashlib.sha256(f"{namespace}\0{key}\0".encode())
    digest.update(value)
    return _MAGIC + digest.hexdigest().encode()


def _write_atomically(path: Path, content: bytes) -> Path:
    from tempfile import mkstemp

    path.parent.mkdir(mode=0o700, exist_ok=True)
    handle, temporary = mkstemp(dir=path.parent, prefix=".new-")
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return path


def _open_lock(folder: Path, key: str) -> IO[bytes]:
    folder.mkdir(mode=0o700, exist_ok=True)
    return open(folder / key, "wb")


def _scan(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(time of last use, bytes, path) of each file below ``folder``; files that vanish meanwhile are left out."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with suppress(OSError):
                status = path.lstat()
                yield status.st_mtime, status.st_size, path


def _touch(path: Path) -> None:
    with suppress(OSError):
        os.utime(path)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
