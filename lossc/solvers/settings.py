"""What the compiled update needs to know of a solver description."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SolverSettings:
    """Caffe's SolverParameter, as far as it shapes the compiled code. All rates and factors are floats."""

    type: str = "SGD"
    policy: str = "fixed"
    base_lr: float = 0.01
    gamma: float = 0.0
    power: float = 0.0
    stepsize: int = 0
    stepvalues: tuple[int, ...] = ()
    max_iter: int = 0
    momentum: float = 0.0
    weight_decay: float = 0.0
    regularization: str = "L2"
    clip_gradients: float = -1.0
    iter_size: int = 1

    @staticmethod
    def of(param: Any) -> SolverSettings:
        """From a SolverParameter message (validated by the frontend)."""
        return SolverSettings(
            type=param.type,
            policy=param.lr_policy or "fixed",
            base_lr=param.base_lr,
            gamma=param.gamma,
            power=param.power,
            stepsize=param.stepsize,
            stepvalues=tuple(param.stepvalue),
            max_iter=param.max_iter,
            momentum=param.momentum,
            weight_decay=param.weight_decay,
            regularization=param.regularization_type,
            clip_gradients=param.clip_gradients,
            iter_size=param.iter_size,
        )

    def view(self) -> dict[str, Any]:
        """For the templates."""
        return asdict(self)
