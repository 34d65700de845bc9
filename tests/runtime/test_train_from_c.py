"""A C program that trains by net.h gives the losses of the Python solver, bit for bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lossc
from lossc.build import find_compiler

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "train_from_c"
ITERATIONS = 8

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the program and the two idx files, made by the example's Makefile."""
    build = tmp_path_factory.mktemp("train") / "build"
    lossc_command = f"env PYTHONPATH={ROOT} {sys.executable} -m lossc.cli.main"
    compiler = " ".join(find_compiler().command)
    goals = [str(build / "train"), str(build / "train-images-idx3-ubyte")]
    variables = [f"BUILD={build}", f"LOSSC={lossc_command}", f"PYTHON={sys.executable}", f"CC={compiler}"]
    done = subprocess.run(["make", *variables, *goals], cwd=EXAMPLE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return build


def test_losses_are_those_of_the_python_solver(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    solver = lossc.get_solver("examples/fashion_mnist/lenet_solver.prototxt", threads=2, log=lambda place, text: None)
    losses = []
    solver.add_callback(lambda: None, lambda: losses.append(solver.net.loss))
    solver.step(ITERATIONS)
    wanted = [f"{k} {loss:.9g}" for k, loss in enumerate(losses)]
    assert len(set(losses)) == ITERATIONS
    files = [str(build / f"train-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
    for threads in ("1", "2"):
        command = [str(build / "train"), *files, str(ITERATIONS), threads]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={})
        assert done.stdout.splitlines() == wanted, f"{threads} threads"


def test_damaged_files_are_refused(build: Path, tmp_path: Path) -> None:
    images, labels = build / "train-images-idx3-ubyte", tmp_path / "labels"
    content = (build / "train-labels-idx1-ubyte").read_bytes()
    for wrong, message in ((content[:100], "shorter"), (content[:8] + b"\x0b" + content[9:], "holds the label 11")):
        labels.write_bytes(wrong)
        done = subprocess.run([build / "train", images, labels, "2"], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and message in done.stderr
