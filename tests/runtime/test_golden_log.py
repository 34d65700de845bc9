"""A whole run of the command: every line and every figure of the log against the real Caffe's."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.frontend.weights import read_state, read_weights

pytestmark = pytest.mark.golden

# What the run itself logs, after Caffe's start-up: without prefix and without the times.
_FIRST = "Solving "
_NUMBER = re.compile(r"(?<![\w#])[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?(?!\w)")
_SPEED = re.compile(r" \([^()]* iter/s, [^()]*\)")


@pytest.fixture
def folder(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run's folder as working directory."""
    shutil.copytree(golden / "logs" / "train", tmp_path / "run")
    for name in ("snap_iter_10.caffemodel", "snap_iter_10.solverstate"):
        (tmp_path / "run" / name).rename(tmp_path / "run" / f"caffes_{name}")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def run(folder: Path, resume: str | None = None) -> list[str]:
    """The log's texts of a run like the one that made ``folder``."""
    lines: list[str] = []
    solver = lossc.get_solver("solver.prototxt", log=lambda place, text: lines.append(text))
    if resume is None:
        solver.load_weights("init.caffemodel")
    else:
        solver.restore(resume)
    solver.solve()
    return lines


def texts(lines: list[str]) -> list[str]:
    """From the start of training on, without times; a line that both the solver and the command print counts once."""
    start = next(k for k, line in enumerate(lines) if line.startswith(_FIRST))
    return [_SPEED.sub("", line) for line in lines[start:]]


def caffes(log: Path) -> list[str]:
    lines = [line.split("] ", 1)[1] for line in log.read_text().splitlines() if re.match(r"[IE]\d+ .*\] ", line)]
    return texts(lines)[:-1]


def compare(got: list[str], wanted: list[str]) -> None:
    """The same lines, numbers apart; numbers agree to 2 units of the sixth digit, and in float32."""
    assert [_NUMBER.sub("#", line) for line in got] == [_NUMBER.sub("#", line) for line in wanted]
    for mine, theirs in zip(got, wanted, strict=True):
        numbers = [[float(n) for n in _NUMBER.findall(line)] for line in (mine, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], rel=2e-5), f"{mine!r} is not {theirs!r}"


def test_training_log_and_snapshots(folder: Path) -> None:
    compare(texts(run(folder)), caffes(folder / "train.log"))
    mine, theirs = read_weights("snap_iter_10.caffemodel"), read_weights("caffes_snap_iter_10.caffemodel")
    assert mine.keys() == theirs.keys()
    for layer, arrays in theirs.items():
        for one, other in zip(mine[layer], arrays, strict=True):
            assert one is not None and other is not None
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    states = [read_state(name) for name in ("snap_iter_10.solverstate", "caffes_snap_iter_10.solverstate")]
    assert (states[0].iter, states[0].current_step, states[0].learned_net) == (10, 2, "snap_iter_10.caffemodel")
    assert (states[1].iter, states[1].current_step) == (10, 2)
    for one, other in zip(states[0].history, states[1].history, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_log_of_resuming_from_caffes_snapshot(folder: Path) -> None:
    compare(texts(run(folder, "snap_iter_5.solverstate")), caffes(folder / "resume.log"))
