"""The cache: what it returns, and what it does when the disk is full, read-only, damaged or somebody else's."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from lossc.build import Cache, default_cache
from lossc.build import cache as cache_module
from lossc.errors import CompilerError


def _refuse(folder: Path, error: int):
    """An ``os.replace`` that fails below ``folder`` as a full or read-only disk would."""
    real = os.replace

    def replace(source, destination):
        if str(destination).startswith(str(folder)):
            raise OSError(error, os.strerror(error))
        real(source, destination)

    return replace


def test_values_come_back_and_are_kept_apart_by_namespace_and_key(cache: Cache) -> None:
    cache.put("a", "key", b"first")
    cache.put("b", "key", b"second")
    cache.put("a", "../escape\n", b"third")
    assert cache.get("a", "key") == b"first"
    assert cache.get("b", "key") == b"second"
    assert cache.get("a", "../escape\n") == b"third"
    assert cache.get("a", "other") is None
    cache.put("a", "key", b"")
    assert cache.get("a", "key") == b""
    assert Cache(cache.folder.parent).get("b", "key") == b"second"


def test_the_folder_is_private(cache: Cache) -> None:
    cache.put("a", "key", b"value")
    for folder in (cache.folder, cache.folder / "a"):
        assert folder.stat().st_mode & 0o777 == 0o700
    (entry,) = (cache.folder / "a").iterdir()
    assert entry.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", [b"", b"lossc", b"lossc cache 1 0\nvalue", b"\xff" * 300])
def test_a_damaged_value_counts_as_absent_and_can_be_put_again(cache: Cache, damage: bytes) -> None:
    cache.put("a", "key", b"value")
    (entry,) = (cache.folder / "a").iterdir()
    entry.write_bytes(damage)
    assert cache.get("a", "key") is None
    assert not entry.exists()
    cache.put("a", "key", b"value")
    assert cache.get("a", "key") == b"value"


def test_one_flipped_bit_is_noticed(cache: Cache) -> None:
    cache.put("a", "key", b"value")
    (entry,) = (cache.folder / "a").iterdir()
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)
    assert cache.get("a", "key") is None


def test_a_value_under_another_ones_name_is_not_believed(cache: Cache) -> None:
    cache.put("a", "one", b"1")
    (one,) = (cache.folder / "a").iterdir()
    cache.put("a", "two", b"2")
    (two,) = set((cache.folder / "a").iterdir()) - {one}
    os.replace(two, one)
    assert cache.get("a", "one") is None


def test_files_are_named_by_content(cache: Cache, tmp_path: Path) -> None:
    source = tmp_path / "net.so"
    source.write_bytes(b"library")
    kept = cache.put_file(source)
    assert kept.read_bytes() == b"library"
    assert kept.suffix == ".so"
    assert cache.file(kept.name) == kept
    assert cache.put_file(source) == kept
    kept.write_bytes(b"librarz")
    assert cache.file(kept.name) is None
    assert cache.file("0" * 64 + ".so") is None


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_an_unwritable_cache_is_replaced_by_a_temporary_one_with_one_warning(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    cache.put("a", "before", b"readable")
    (tmp_path / "net.so").write_bytes(b"library")
    monkeypatch.setattr(os, "replace", _refuse(cache.folder, error))
    with pytest.warns(RuntimeWarning, match="LOSSC_CACHE") as caught:
        cache.put("a", "key", b"value")
        kept = cache.put_file(tmp_path / "net.so")
        with cache.workspace({"net.c": "int x;"}) as folder:
            assert (folder / "net.c").read_text() == "int x;"
    assert len(caught) == 1
    assert os.strerror(error) in str(caught[0].message)
    assert cache.get("a", "key") == b"value"
    assert cache.get("a", "before") == b"readable"
    assert cache.file(kept.name) == kept
    assert cache.folder not in kept.parents
    assert [path.name for path in cache.folder.rglob(".new-*")] == []


def test_a_folder_that_cannot_be_made_is_replaced_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = Cache(tmp_path / "file" / "cache")
    assert cache.get("a", "key") is None
    with pytest.warns(RuntimeWarning):
        cache.put("a", "key", b"value")
    assert cache.get("a", "key") == b"value"


def test_little_room_on_the_disk_sends_builds_elsewhere(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_ROOM", 1 << 62)
    with (
        pytest.warns(RuntimeWarning, match=os.strerror(errno.ENOSPC)),
        pytest.raises(CompilerError, match="neither the cache .* nor a temporary folder"),
        cache.workspace({}),
    ):
        pass


def test_a_disk_that_takes_nothing_is_an_error_and_leaves_no_half_written_file(tmp_path: Path) -> None:
    program = """
import resource, sys, warnings
from pathlib import Path
from lossc.build import Cache
from lossc.errors import CompilerError
warnings.simplefilter("ignore")
cache = Cache(Path(sys.argv[1]))
cache.put("a", "small", b"fits")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    cache.put("a", "large", bytes(100_000))
except CompilerError as error:
    assert error.fix and "LOSSC_CACHE" in error.fix
    print(cache.get("a", "small"), cache.get("a", "large"))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "b'fits' None\n", done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1


def test_a_folder_of_somebody_else_is_not_used(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put("a", "key", b"planted")
    owner = cache.folder.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert cache.get("a", "key") is None
    with pytest.warns(RuntimeWarning, match="belongs to somebody else"):
        cache.put("a", "key", b"own")
    assert cache.get("a", "key") == b"own"


@pytest.mark.parametrize("spoil", ["others may write inside", "a link", "everybody may write around"])
def test_a_folder_that_others_can_change_is_not_used(cache: Cache, tmp_path: Path, spoil: str) -> None:
    cache.put("a", "key", b"planted")
    if spoil == "others may write inside":
        cache.folder.chmod(0o777)
    elif spoil == "a link":
        cache.folder.rename(tmp_path / "elsewhere")
        cache.folder.symlink_to(tmp_path / "elsewhere")
    else:
        cache.folder.parent.chmod(0o777)
    assert cache.get("a", "key") is None
    with pytest.warns(RuntimeWarning):
        cache.put("a", "key", b"own")


def test_trimming_removes_what_was_used_longest_ago(cache: Cache) -> None:
    for number in range(20):
        cache.put("a", str(number), bytes(1000))
        _age(cache, str(number), 10_000 - number)
    assert cache.get("a", "0") is not None  # which makes it the last one used
    cache.limit = 10_000
    cache.trim()
    left = [number for number in range(20) if cache.get("a", str(number)) is not None]
    assert left == [0, 13, 14, 15, 16, 17, 18, 19]
    assert cache.info().bytes <= 9_000


def test_writing_keeps_the_cache_below_its_limit(cache: Cache) -> None:
    cache.limit = 50_000
    for number in range(100):
        cache.put("a", str(number), bytes(1000))
        _age(cache, str(number), 10_000 - number)
    assert cache.info().bytes <= cache.limit * 17 // 16
    assert cache.get("a", "99") is not None


def test_trimming_spares_builds_that_run_and_removes_those_of_dead_processes(cache: Cache) -> None:
    cache.limit = 0
    with cache.workspace({"net.c": "int x;"}) as folder:
        old = time.time() - 1e6
        (folder.parent / "build-dead").mkdir()
        (folder.parent / "build-dead" / "net.c").write_text("int y;")
        os.utime(folder.parent / "build-dead" / "net.c", (old, old))
        cache.trim()
        assert (folder / "net.c").exists()
        assert not (folder.parent / "build-dead" / "net.c").exists()
    assert not folder.exists()


def test_clear_removes_the_caches_own_files_alone(cache: Cache) -> None:
    cache.put("a", "key", b"value")
    (cache.folder.parent / "mine.txt").write_text("kept")
    assert cache.clear().files == 1
    assert cache.info().files == 0
    assert cache.get("a", "key") is None
    assert (cache.folder.parent / "mine.txt").read_text() == "kept"
    cache.put("a", "key", b"again")
    assert cache.get("a", "key") == b"again"


def test_the_default_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSC_CACHE", str(tmp_path / "named"))
    assert default_cache().folder.parent == tmp_path / "named"
    monkeypatch.delenv("LOSSC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache().folder.parent == tmp_path / "xdg" / "lossc"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache().folder.parent == tmp_path / "home" / ".cache" / "lossc"
    assert default_cache() is default_cache()


def test_reading_never_creates_anything(cache: Cache) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get("a", "key") is None
        assert cache.file("0" * 64) is None
        assert cache.info().files == 0
    assert not cache.folder.parent.exists()


def _age(cache: Cache, key: str, seconds: float) -> None:
    used = time.time() - seconds
    os.utime(cache.folder / cache_module._entry("a", key), (used, used))
