"""The intermediate representation: blobs, expressions, kernels and the graph that holds them.

Its parts are imported when they are first used: a net or a loss that was built before needs no graph, nor networkx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossc.ir.blob import Access, Blob, Dim, Ref, View
    from lossc.ir.builder import IO, Builder
    from lossc.ir.checks import CheckFinite, CheckLabel
    from lossc.ir.graph import Graph, LayerCall, LossTerm, Node, Param
    from lossc.ir.kernels import Constant, Conv, Gemm, Geometry, Kernel, Map, Random, Store, make_map
    from lossc.ir.pool import Pool
    from lossc.ir.remark import Remark
    from lossc.ir.scalar import Scalar

__all__ = [
    "IO",
    "Access",
    "Blob",
    "Builder",
    "CheckFinite",
    "CheckLabel",
    "Constant",
    "Conv",
    "Dim",
    "Gemm",
    "Geometry",
    "Graph",
    "Kernel",
    "LayerCall",
    "LossTerm",
    "Map",
    "Node",
    "Param",
    "Pool",
    "Random",
    "Ref",
    "Remark",
    "Scalar",
    "Store",
    "View",
    "make_map",
]

_PLACES = {
    **dict.fromkeys(("Access", "Blob", "Dim", "Ref", "View"), "blob"),
    **dict.fromkeys(("IO", "Builder"), "builder"),
    **dict.fromkeys(("CheckFinite", "CheckLabel"), "checks"),
    **dict.fromkeys(("Graph", "LayerCall", "LossTerm", "Node", "Param"), "graph"),
    **dict.fromkeys(
        ("Constant", "Conv", "Gemm", "Geometry", "Kernel", "Map", "Random", "Store", "make_map"), "kernels"
    ),
    **dict.fromkeys(("Pool",), "pool"),
    **dict.fromkeys(("Remark",), "remark"),
    **dict.fromkeys(("Scalar",), "scalar"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    return value
