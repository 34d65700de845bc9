"""Snapshots of a solver, and going on from them: names, contents and checks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lossc.errors import SolverError, WeightsError
from lossc.runtime.weights import same_shape

if TYPE_CHECKING:
    from lossc.frontend.weights import SolverStateData


def snapshot_paths(prefix: str, iteration: int, hdf5: bool) -> tuple[str, str]:
    """The files of weights and state: ``PREFIX_iter_N.caffemodel`` and ``.solverstate``, or both with ``.h5``."""
    ending = ".h5" if hdf5 else ""
    stem = f"{prefix}_iter_{iteration}"
    return f"{stem}.caffemodel{ending}", f"{stem}.solverstate{ending}"


def check_prefix(prefix: str, file: str, line: int | None) -> None:
    """Raises SolverError, before any training, where no snapshot could be written."""
    folder = os.path.dirname(prefix) or "."
    if not os.path.isdir(folder):
        message = f'snapshot_prefix "{prefix}": there is no folder {folder}'
        raise SolverError(message, fix=f"mkdir -p {folder}", file=file, line=line)
    if not os.access(folder, os.W_OK | os.X_OK):
        message = f'snapshot_prefix "{prefix}": the folder {folder} cannot be written'
        raise SolverError(message, fix="name a folder that can", file=file, line=line)


def load_state(path: str | PathLike[str], shapes: Sequence[tuple[int, ...]], dtype: np.dtype) -> SolverStateData:
    """The state in a file, its history checked against the solver's. Raises WeightsError."""
    from lossc.frontend.weights import read_state

    state = read_state(path, dtype=dtype)
    name, fix = fspath(path), "take a state that this solver type wrote for this net"
    if len(state.history) != len(shapes):
        message = f"holds {len(state.history)} history arrays, the solver has {len(shapes)}"
        raise WeightsError(message, fix=fix, file=name)
    pairs = zip(state.history, shapes, strict=True)
    wrong = [
        f"history {k}: {list(array.shape)} in the file, {list(shape)} in the solver"
        for k, (array, shape) in enumerate(pairs)
        if not same_shape(array.shape, shape)
    ]
    if wrong:
        raise WeightsError("does not fit the solver:\n    " + "\n    ".join(wrong), fix=fix, file=name)
    return state


def learned_net(state: SolverStateData, path: str | PathLike[str]) -> str | None:
    """The file of weights that a state names: as it is written there, or else beside the state. None for none.

    Raises WeightsError where neither exists.
    """
    if not state.learned_net or os.path.exists(state.learned_net):
        return state.learned_net or None
    beside = Path(path).parent / os.path.basename(state.learned_net)
    if beside.exists():
        return str(beside)
    message = f"the weights written with it, {state.learned_net}, are not there"
    raise WeightsError(message, fix="put them beside the state", file=fspath(path))
