"""Solvers: their settings, and the update of every parameter as kernels."""

from lossc.solvers.settings import SolverSettings
from lossc.solvers.sgd import LowerUpdate

__all__ = ["LowerUpdate", "SolverSettings"]
