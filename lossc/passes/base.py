"""The pass manager: runs passes in order, verifies after each, times them, and dumps on request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lossc.errors import InternalError, LosscError
from lossc.ir import Graph
from lossc.ir.printer import to_dot, to_text
from lossc.ir.verify import Known, verify


class Pass(Protocol):
    """A frozen dataclass with a kebab-case ``name`` and a docstring whose first line is the rewrite."""

    @property
    def name(self) -> str: ...

    def run(self, graph: Graph) -> bool:
        """Rewrites the graph in place; says whether it changed."""
        ...


@dataclass
class PassRecord:
    """What one pass did: whether it changed the graph, and how many milliseconds it took."""

    name: str
    changed: bool
    ms: float


@dataclass
class PassManager:
    """Runs ``passes`` over a graph; ``dump`` is a folder for NN_name.txt and NN_name.dot after each."""

    passes: Sequence[Pass]
    dump: Path | None = None
    records: list[PassRecord] = field(default_factory=list)

    def run(self, graph: Graph, until: str | None = None) -> Graph:
        """Runs all passes, or those up to and with ``until``. Raises InternalError where a pass breaks the graph."""
        known = Known()
        for number, p in enumerate(self.passes, 1):
            start = time.perf_counter()
            changed = p.run(graph)
            self.records.append(PassRecord(p.name, changed, 1e3 * (time.perf_counter() - start)))
            try:
                verify(graph, known)
            except LosscError as error:
                raise InternalError(f"after {p.name}: {error.message}") from error
            if self.dump is not None:
                self.dump.mkdir(parents=True, exist_ok=True)
                (self.dump / f"{number:02d}_{p.name}.txt").write_text(to_text(graph))
                (self.dump / f"{number:02d}_{p.name}.dot").write_text(to_dot(graph))
            if p.name == until:
                break
        return graph
