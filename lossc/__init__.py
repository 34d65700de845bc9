"""lossc: an ahead-of-time compiler for neural nets with losses, from Caffe's prototxt to C that trains them.

``Net``, ``get_solver`` and what else a user calls is imported at first use: ``import lossc`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossc.errors import LosscError as LosscError
    from lossc.frontend.netspec import NetSpec as NetSpec
    from lossc.frontend.netspec import layers as L  # noqa: F401
    from lossc.frontend.netspec import params as P  # noqa: F401
    from lossc.lang.function import Param as Param
    from lossc.lang.function import layer as layer
    from lossc.lang.function import loss as loss
    from lossc.loss_weight import Runtime as Runtime
    from lossc.loss_weight import Schedule as Schedule
    from lossc.runtime.blob import Blob as Blob
    from lossc.runtime.loss import compile_loss as compile_loss
    from lossc.runtime.net import Net as Net
    from lossc.runtime.solver import Solver as Solver
    from lossc.runtime.solver import get_solver as get_solver

__version__ = "0.1.0"

#: Caffe's phases.
TRAIN = 0
TEST = 1

#: The functions of the language in which losses are written.
_LANGUAGE = (
    "abs", "arange", "broadcast_to", "clip", "concatenate", "equal", "erf", "exp", "expand_dims", "expm1", "eye",
    "floor", "greater", "greater_equal", "less", "less_equal", "log", "log1p", "log_sigmoid", "log_softmax",
    "logaddexp", "logical_and", "logical_not", "logical_or", "logsumexp", "matmul", "max", "maximum", "mean", "min",
    "minimum", "norm", "not_equal", "one_hot", "power", "reciprocal", "relu", "reshape", "sigmoid", "sign",
    "softmax", "softplus", "sqrt", "square", "squeeze", "stack", "std", "stop_gradient", "sum", "swapaxes",
    "take_along_axis", "tanh", "transpose", "trunc", "var", "where",
)  # fmt: skip

_PLACES = {
    **dict.fromkeys(_LANGUAGE, "lossc.lang.functions"),
    "Blob": "lossc.runtime.blob",
    "LosscError": "lossc.errors",
    "L": "lossc.frontend.netspec:layers",
    "Net": "lossc.runtime.net",
    "NetSpec": "lossc.frontend.netspec",
    "P": "lossc.frontend.netspec:params",
    "Param": "lossc.lang.function",
    "Runtime": "lossc.loss_weight",
    "Schedule": "lossc.loss_weight",
    "Solver": "lossc.runtime.solver",
    "compile_loss": "lossc.runtime.loss",
    "get_solver": "lossc.runtime.solver",
    "layer": "lossc.lang.function",
    "loss": "lossc.lang.function",
}

#: Parts that users reach by name without an import of their own.
_MODULES = ("testing", "torch")

__all__ = [
    "L", "P", "TEST", "TRAIN", "Blob", "LosscError", "Net", "NetSpec", "Param", "Runtime", "Schedule", "Solver",
    "__version__", "compile_loss", "get_solver", "layer", "loss",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"lossc.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'lossc' has no attribute {name!r}")
    module, _, other = _PLACES[name].partition(":")
    value = getattr(import_module(module), other or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LANGUAGE})
