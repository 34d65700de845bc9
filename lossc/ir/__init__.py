"""The intermediate representation: blobs, expressions, kernels and the graph that holds them."""

from lossc.ir.blob import Access, Blob, Dim, Ref, View
from lossc.ir.builder import IO, Builder
from lossc.ir.checks import CheckFinite, CheckLabel
from lossc.ir.graph import Graph, LayerCall, LossTerm, Node, Param
from lossc.ir.kernels import Constant, Conv, Gemm, Geometry, Kernel, Map, Pool, Random, Store, make_map
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
