"""Trajectories of solvers, and snapshots, against the real Caffe."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossc
from lossc.frontend import read_net
from lossc.layers.registry import LAYERS
from lossc.runtime.feed import SOURCE_TYPES

pytestmark = pytest.mark.golden

_FOLDER = Path(os.environ.get("LOSSC_GOLDEN", "")) / "solvers"
CASES = sorted(p.parent.name for p in _FOLDER.glob("*/case.json")) if os.environ.get("LOSSC_GOLDEN") else []
SOLVER_TYPES = frozenset({"SGD"})


@pytest.fixture
def case(request: pytest.FixtureRequest, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the case's folder as working directory; skips what needs layers or solvers that are not built in."""
    folder = tmp_path / request.param
    shutil.copytree(golden / "solvers" / request.param, folder)
    types = {layer.type for layer in read_net(folder / "net.prototxt").param.layer}
    if missing := sorted(types - LAYERS.keys()):
        pytest.skip(f"needs layers that are not built in: {', '.join(missing)}")
    solver = re.search(r'^\s*type: "(\w+)"', (folder / "solver.prototxt").read_text(), re.MULTILINE)
    if solver and solver[1] not in SOLVER_TYPES:
        pytest.skip(f"needs a solver that is not built in: {solver[1]}")
    monkeypatch.chdir(folder)
    return folder


def load(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    with np.load(folder / "case.npz") as file, np.load(folder / "history.npz") as history:
        about = json.loads((folder / "case.json").read_text())
        return about, {k: file[k] for k in file.files}, {k: history[k] for k in history.files}


def parameters(arrays: dict[str, np.ndarray], prefix: str) -> Iterator[tuple[str, int, np.ndarray]]:
    for key, array in arrays.items():
        if key.startswith(f"{prefix}/"):
            layer, index = key.removeprefix(f"{prefix}/").rsplit("/", 1)
            yield layer, int(index), array


def advance(solver: lossc.Solver, arrays: dict[str, np.ndarray], iteration: int) -> float:
    for name in solver.net.inputs:
        solver.net.blobs[name].data[...] = arrays[f"in/{name}/{iteration}"]
    solver.step(1)
    return solver.net.loss


def check(solver: lossc.Solver, arrays: dict[str, np.ndarray], prefix: str, about: dict[str, Any]) -> None:
    for layer, index, wanted in parameters(arrays, prefix):
        got = solver.net.params[layer][index].data
        np.testing.assert_allclose(got, wanted, about["rtol"], about["atol"], err_msg=f"{prefix}/{layer}/{index}")


def check_history(solver: lossc.Solver, history: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    keys = sorted(history, key=lambda key: int(key.rsplit("/", 1)[-1]))
    assert len(keys) == len(solver.history)
    for key, mine in zip(keys, solver.history, strict=True):
        np.testing.assert_allclose(mine, history[key], about["rtol"], about["atol"], err_msg=f"history {key}")


@pytest.mark.parametrize("case", [name for name in CASES if not name.startswith("resume")], indirect=True)
def test_trajectory(case: Path) -> None:
    about, arrays, history = load(case)
    solver = lossc.get_solver("solver.prototxt", log=lambda place, text: None)
    for layer, index, values in parameters(arrays, "param0"):
        solver.net.params[layer][index].data[...] = values
    feeds_itself = not SOURCE_TYPES.isdisjoint(layer.type for layer in solver.net.param.layer)
    for k in range(about["iterations"]):
        loss = (solver.step(1), solver.net.loss)[1] if feeds_itself else advance(solver, arrays, k)
        assert loss == pytest.approx(float(arrays["loss"][k]), rel=about["rtol"], abs=about["atol"])
        assert np.float32(solver.rate) == arrays["lr"][k]
        if f"param@{k + 1}" in {key.split("/")[0] for key in arrays}:
            check(solver, arrays, f"param@{k + 1}", about)
    check(solver, arrays, "param", about)
    check_history(solver, history, about)


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("resume")], indirect=True)
def test_resuming_from_caffes_snapshot(case: Path) -> None:
    about, arrays, history = load(case)
    solver = lossc.get_solver("solver.prototxt", log=lambda place, text: None)
    (state,) = case.glob("*.solverstate*")
    solver.restore(state.name)
    assert solver.iter == about["resume_at"]
    for k in range(about["resume_at"], about["iterations"]):
        loss = advance(solver, arrays, k)
        assert loss == pytest.approx(float(arrays["loss"][k]), rel=about["rtol"], abs=about["atol"])
    check(solver, arrays, "param", about)
    check_history(solver, history, about)
