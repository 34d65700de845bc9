"""LeNet on all of Fashion-MNIST: the losses and the accuracy that the real Caffe reaches from the same start."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossc

# Where Debian's package dataset-fashion-mnist puts the four files.
DATA = Path(os.environ.get("LOSSC_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
SOLVER = Path(__file__).resolve().parents[2] / "examples" / "fashion_mnist" / "lenet_full_solver.prototxt"

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not DATA.is_dir(), reason="LOSSC_FASHION_MNIST does not name the folder of Fashion-MNIST"),
]


def fill(net: lossc.Net) -> None:
    """Random parameters that depend on nothing but the parameter's name, as in the golden nets."""
    for layer, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            random = np.random.RandomState(zlib.crc32(f"{layer}/{index}".encode()) & 0xFFFFFFFF)
            values = random.standard_normal(blob.shape).astype(np.float32)
            fan_in = np.prod(blob.shape[1:])
            blob.data[...] = values * np.float32(np.sqrt(2 / fan_in) if len(blob.shape) > 1 else 0.01)


@pytest.fixture
def wanted(golden: Path) -> dict[str, Any]:
    about = json.loads((golden / "nets" / "fashion_mnist_lenet" / "case.json").read_text())
    run: dict[str, Any] = about["fill_rule_run"]
    return run


@pytest.fixture
def losses() -> list[float]:
    return []


@pytest.fixture
def solver(wanted: dict[str, Any], losses: list[float]) -> lossc.Solver:
    solver = lossc.get_solver(SOLVER, data=DATA, log=lambda place, text: None)
    solver.param.test_initialization = False
    fill(solver.net)
    solver.add_callback(lambda: None, lambda: losses.append(solver.net.loss))
    return solver


def test_first_losses_are_caffes(solver: lossc.Solver, losses: list[float], wanted: dict[str, Any]) -> None:
    solver.step(15)
    assert losses == pytest.approx(wanted["loss_first_100"][:15], rel=1e-5)


@pytest.mark.slow
def test_whole_training_reaches_caffes_accuracy(
    solver: lossc.Solver, losses: list[float], wanted: dict[str, Any]
) -> None:
    solver.step(2000)
    outputs = solver.test_all()[0]
    assert float(outputs["accuracy"]) == pytest.approx(wanted["test_accuracy_10000"], abs=0.005)
    assert float(outputs["loss"]) == pytest.approx(wanted["test_loss_10000"], abs=0.015)
    assert np.mean(losses[-100:]) == pytest.approx(0.3, abs=0.03)
