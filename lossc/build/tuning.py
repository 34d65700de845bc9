"""What ``lossc tune`` measured: names of candidates by contractions' keys, in a JSON file or in the cache.

Nothing here is read unless somebody asks for it (``tuned=``, ``--tuned``): a build depends on what it is given alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from lossc.build.cache import default_cache
from lossc.errors import ArgumentError, DataError, OutputError, UsageError
from lossc.targets import Target, processor_name

FORMAT = 1
SUFFIX = ".json"

_WRITE = "`lossc tune NET -o FILE.json` writes one"


@dataclass(frozen=True)
class Entry:
    """The candidate that was chosen for a contraction, and the number of threads it was measured with."""

    choice: str
    threads: int


@dataclass(frozen=True)
class Tuning:
    """Measurements of one processor and target: ``dtype`` "float32" or "float64", ``entries`` by contractions' keys."""

    processor: str
    isa: str
    dtype: str
    entries: Mapping[str, Entry]

    @staticmethod
    def here(target: Target, entries: Mapping[str, Entry]) -> Tuning:
        """What was measured on this machine."""
        return Tuning(processor_name(), target.name, target.dtype, entries)

    def text(self) -> str:
        """As JSON: the same measurements give the same text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"


def choices(tuned: bool | str | PathLike[str], target: Target) -> dict[str, str] | None:
    """The names of candidates by contractions' keys that ``tuned`` asks for: True: what the cache holds for this
    processor and target; a path: what the file holds; False: None.

    Raises UsageError where nothing was measured or the file is for another target, DataError where it is damaged.
    """
    if tuned is False:
        return None
    tuning = kept_tuning(target) if tuned is True else read_tuning(tuned, target)
    if tuning is None:
        message = f"nothing was tuned for {target.name}, {target.dtype} on this machine"
        raise UsageError(message, fix="run `lossc tune NET` first")
    return {key: entry.choice for key, entry in sorted(tuning.entries.items())}


def kept_tuning(target: Target) -> Tuning | None:
    """All that the cache holds for this processor and target; None where nothing was measured."""
    known = default_cache().get("tuning", _key(target))
    return _parsed(known.decode()) if known else None


def keep_tuning(tuning: Tuning, target: Target) -> None:
    """Adds measurements of this machine to the cache's; later ones take the place of earlier ones."""
    cache = default_cache()
    with cache.lock(f"tuning-{target.name}-{target.dtype}"):
        before = kept_tuning(target)
        entries = {**(before.entries if before else {}), **tuning.entries}
        cache.put("tuning", _key(target), Tuning.here(target, entries).text().encode())


def write_tuning(path: str, tuning: Tuning) -> None:
    """Raises OutputError."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(tuning.text())
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", fix="name another file", file=path) from error


def read_tuning(path: str | PathLike[str], target: Target) -> Tuning:
    """What ``write_tuning`` wrote.

    Raises DataError for a file that cannot be read, is damaged or of another format, UsageError for one that is for
    another instruction set or dtype.
    """
    if not isinstance(path, (str, PathLike)):
        raise ArgumentError(f"tuned is {path!r:.60}", fix="give True, or the path of a file that `lossc tune -o` wrote")
    name = str(path)
    try:
        with open(path, encoding="utf-8") as file:
            tuning = _parsed(file.read())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", fix=_WRITE, file=name) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"is damaged, or not of `lossc tune` ({type(error).__name__}: {error})"
        raise DataError(message, fix=_WRITE, file=name) from None
    if (tuning.isa, tuning.dtype) != (target.name, target.dtype):
        message = f"was measured for {tuning.isa}, {tuning.dtype}, and the net is for {target.name}, {target.dtype}"
        raise UsageError(message, fix="run `lossc tune` with the net's --target and --dtype", file=name)
    return tuning


def _key(target: Target) -> str:
    return repr((FORMAT, processor_name(), target.triple, target.name, target.dtype))


def _parsed(text: str) -> Tuning:
    """Raises ValueError, KeyError, TypeError or AttributeError where the text is none of ours."""
    found: dict[str, Any] = json.loads(text)
    if found["format"] != FORMAT:
        raise ValueError(f"format {found['format']!r:.20}, not {FORMAT}")
    entries = {key: Entry(**entry) for key, entry in found["entries"].items()}
    tuning = Tuning(found["processor"], found["isa"], found["dtype"], entries)
    texts = (tuning.processor, tuning.isa, tuning.dtype, *(e.choice for e in entries.values()))
    if not all(isinstance(each, str) for each in texts) or not all(type(e.threads) is int for e in entries.values()):
        raise ValueError("a name is no text, or a number of threads no number")
    return tuning
