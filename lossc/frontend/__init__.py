"""Caffe's files in and out: prototxt of every age, solver files, weights and solver states."""

from __future__ import annotations

from lossc.frontend.extension import to_text
from lossc.frontend.names import closest, suggestion, unknown_layer_type
from lossc.frontend.net import NetSource, read_net, read_net_text, resolve_path
from lossc.frontend.solver import SolverSource, read_solver, read_solver_text

__all__ = [
    "NetSource",
    "SolverSource",
    "closest",
    "read_net",
    "read_net_text",
    "read_solver",
    "read_solver_text",
    "resolve_path",
    "suggestion",
    "to_text",
    "unknown_layer_type",
]
