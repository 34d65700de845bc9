"""Log lines with the prefix of Google's glog in its old form, which readers of Caffe's logs expect."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from typing import Any, TextIO


def prefixed(place: str, text: str) -> str:
    """``I1123 15:26:03.902547 12345 solver.cpp:239] TEXT``: severity, month and day, time, process, place."""
    now = datetime.now()
    return f"I{now:%m%d %H:%M:%S.%f} {os.getpid():5d} {place}] {text}"


class Logger:
    """Prints log lines to ``stream`` (standard error, as Caffe does), above a progress bar if there is one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self.console: Any = None

    def __call__(self, place: str, text: str) -> None:
        line = prefixed(place, text)
        if self.console is not None:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)
