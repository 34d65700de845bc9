"""What passes tell of their work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remark:
    """What the pass ``by`` did to a layer's kernels, and why nobody can see a difference in the results."""

    by: str
    layer: str
    section: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.by}: {self.layer} {self.section}: {self.what}, since {self.why}"
