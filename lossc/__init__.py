"""lossc: an ahead-of-time compiler for neural nets with losses, from Caffe's prototxt to C that trains them.

``Net``, ``get_solver`` and what else a user calls is imported at first use: ``import lossc`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossc.errors import LosscError as LosscError
    from lossc.loss_weight import Runtime as Runtime
    from lossc.loss_weight import Schedule as Schedule
    from lossc.runtime.blob import Blob as Blob
    from lossc.runtime.net import Net as Net
    from lossc.runtime.solver import Solver as Solver
    from lossc.runtime.solver import get_solver as get_solver

__version__ = "0.1.0"

#: Caffe's phases.
TRAIN = 0
TEST = 1

_PLACES = {
    "Blob": "lossc.runtime.blob",
    "LosscError": "lossc.errors",
    "Net": "lossc.runtime.net",
    "Runtime": "lossc.loss_weight",
    "Schedule": "lossc.loss_weight",
    "Solver": "lossc.runtime.solver",
    "get_solver": "lossc.runtime.solver",
}

__all__ = ["TEST", "TRAIN", "Blob", "LosscError", "Net", "Runtime", "Schedule", "Solver", "__version__", "get_solver"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'lossc' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
