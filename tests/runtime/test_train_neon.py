"""LeNet generated for NEON, built by a cross compiler and run by qemu-user, trains as it does on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "train_from_c"
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
ITERATIONS = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f"needs {COMPILER} and {EMULATOR}"
    ),
]


def compiled(folder: Path, *options: str) -> None:
    solver = ROOT / "examples" / "fashion_mnist" / "lenet_solver.prototxt"
    command = [sys.executable, "-m", "lossc.cli.main", "compile", "--solver", str(solver), "--name", "lenet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "-o", str(folder), *options], check=True, capture_output=True, env=environment)


def losses(command: list[str | Path], data: Path) -> np.ndarray:
    files = [data / f"train-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    done = subprocess.run([*command, *files, str(ITERATIONS)], capture_output=True, text=True, check=True)
    return np.array([float(line.split()[1]) for line in done.stdout.splitlines()])


def test_the_same_losses_but_for_rounding(tmp_path: Path) -> None:
    archive = ROOT / "examples" / "fashion_mnist" / "data" / "fashion_mnist_train.npz"
    subprocess.run([sys.executable, EXAMPLE / "make_idx.py", archive, tmp_path], check=True)
    compiled(tmp_path / "neon", "--target", "neon", "--source-only")
    flags = ["-std=c11", "-O2", "-ffp-contract=off", "-DLOSSC_ISA_NEON", "-static"]
    includes = [f"-I{tmp_path / 'neon'}", f"-I{tmp_path / 'neon' / 'runtime'}"]
    sources = [EXAMPLE / "train.c", tmp_path / "neon" / "net.c"]
    subprocess.run([COMPILER, *flags, *includes, *sources, "-o", tmp_path / "train-neon", "-lm"], check=True)
    compiled(tmp_path / "host")
    link = [f"-L{tmp_path / 'host'}", "-lnet", f"-Wl,-rpath,{tmp_path / 'host'}"]
    host = tmp_path / "train-host"
    subprocess.run(["gcc", "-std=c11", f"-I{tmp_path / 'host'}", EXAMPLE / "train.c", "-o", host, *link], check=True)
    here = losses([host], tmp_path)
    assert len(set(here.tolist())) == ITERATIONS
    np.testing.assert_allclose(losses([EMULATOR, tmp_path / "train-neon"], tmp_path), here, rtol=2e-5)
