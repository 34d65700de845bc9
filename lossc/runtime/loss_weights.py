"""The weights of a compiled net's losses, as they are now."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lossc.errors import UsageError
from lossc.frontend.names import suggestion
from lossc.runtime.native import Native


class LossWeights(Mapping[str, float]):
    """The weight of each loss by its top's name; a layer's name will do where one of its tops is a loss.

    Weights that were compiled as ``lossc.Runtime`` can be set: what is set counts from the next forward pass. Those
    with a ``lossc.Schedule`` show what the last forward pass computed from the iteration. Raises UsageError for a name
    that is no loss, for setting a weight that is a constant of the code or follows a schedule, and for values that are
    not finite.
    """

    def __init__(self, native: Native) -> None:
        self._native = native
        self._losses: dict[str, dict[str, Any]] = {loss["blob"]: loss for loss in native.manifest["losses"]}

    def __getitem__(self, name: str) -> float:
        loss = self._find(name)
        return float(loss["weight"] if loss["at"] is None else self._native.flat(loss["at"], 1)[0])

    def __iter__(self) -> Iterator[str]:
        return iter(self._losses)

    def __len__(self) -> int:
        return len(self._losses)

    def __contains__(self, name: object) -> bool:
        return name in self._losses

    def __repr__(self) -> str:
        return repr(dict(self))

    def __setitem__(self, name: str, value: float) -> None:
        loss = self._find(name)
        if loss["policy"] != "runtime":
            constant = loss["policy"] == "constant"
            kind = "is a constant of the code" if constant else f'follows the policy "{loss["policy"]}"'
            fix = f'compile the net with loss_weights={{"{name}": lossc.Runtime()}}'
            raise UsageError(f'the loss_weight of "{name}" {kind}', fix=fix)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f'the loss_weight of "{name}" is set to {value!r}', fix="give a finite number")
        self._native.flat(loss["at"], 1)[0] = number

    def take_over(self, other: Mapping[str, float]) -> None:
        """Sets each weight that can be set, and that ``other`` has too, to the other's."""
        for name, loss in self._losses.items():
            if loss["policy"] == "runtime" and name in other:
                self[name] = other[name]

    def _find(self, name: str) -> dict[str, Any]:
        if name in self._losses:
            return self._losses[name]
        of_layer = [loss for loss in self._losses.values() if loss["layer"] == name]
        if len(of_layer) == 1:
            return of_layer[0]
        if of_layer:
            tops = ", ".join(loss["blob"] for loss in of_layer)
            raise UsageError(f'layer "{name}" has several losses', fix=f"name one of its tops: {tops}")
        known = [*self._losses, *(loss["layer"] for loss in self._losses.values())]
        raise UsageError(f'the net has no loss "{name}"', fix=suggestion(name, known))
