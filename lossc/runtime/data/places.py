"""Where the files of data sources lie."""

from __future__ import annotations

import os
from pathlib import Path

from lossc.errors import DataError


def find_source(source: str, relative_to: str | os.PathLike[str] | None) -> Path:
    """The path that exists: as it is, or below the folder ``relative_to``. Raises DataError naming all it tried."""
    tried = [Path(source)]
    if relative_to is not None and not tried[0].is_absolute():
        tried.append(Path(relative_to) / source)
    for path in tried:
        if path.exists():
            return path
    places = " and ".join(str(path.absolute()) for path in tried)
    raise DataError(f"does not exist (tried {places})", fix="correct the path, or fetch the data", file=source)
