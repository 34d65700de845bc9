"""Kernels that compute nothing: they stop a pass at bad labels, or at the first number that is not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lossc.ir.blob import Ref
from lossc.ir.kernels import Kernel, Memory


@dataclass(frozen=True)
class CheckLabel(Kernel):
    """Stops the pass unless every label is an integer in 0..classes-1, or ``ignore``."""

    kind: ClassVar[str] = "check_label"
    label: Ref
    classes: int
    ignore: int | None = None

    def inputs(self) -> tuple[Ref, ...]:
        return (self.label,)

    def outputs(self) -> tuple[Ref, ...]:
        return ()

    def numpy(self, memory: Memory) -> None:
        flat = memory.array(self.label).reshape(-1)
        good = (flat >= 0) & (flat < self.classes) & (np.trunc(flat) == flat)
        if self.ignore is not None:
            good |= np.trunc(flat) == self.ignore
        bad = np.flatnonzero(~good)
        if bad.size:
            memory.refuse_label(self.label.blob, int(bad[0]), float(flat[bad[0]]))


@dataclass(frozen=True)
class CheckFinite(Kernel):
    """Stops the pass where a number of ``values`` is not finite.

    ``what`` they are: "value", "gradient" or "parameter"; ``label``: of what, as users call it.
    """

    kind: ClassVar[str] = "check_finite"
    values: Ref
    what: str
    label: str

    def inputs(self) -> tuple[Ref, ...]:
        return (self.values,)

    def outputs(self) -> tuple[Ref, ...]:
        return ()

    def numpy(self, memory: Memory) -> None:
        flat = memory.array(self.values).reshape(-1)
        bad = np.flatnonzero(~np.isfinite(flat))
        if bad.size:
            at = np.unravel_index(bad[0], self.values.shape)
            memory.refuse_value(self.label, self.what, tuple(int(i) for i in at), float(flat[bad[0]]))
