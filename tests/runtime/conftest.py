"""A small net with data, dropout and a test net, and how to run things in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

INPUT_NET = """\
name: "mlp"
layer { name: "data" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""

DATA_NET = """\
name: "noisy"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
        transform_param { scale: 0.00390625 mirror: true } data_param { source: "digits.npz" batch_size: 7 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
        transform_param { scale: 0.00390625 } data_param { source: "digits.npz" batch_size: 5 } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param { num_output: 16 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "Dropout" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include { phase: TEST } }
"""

SOLVER = """\
net: "net.prototxt"
test_iter: 3
test_interval: 4
base_lr: 0.1
lr_policy: "multistep"
stepvalue: 3
stepvalue: 3
gamma: 0.5
momentum: 0.9
weight_decay: 0.001
clip_gradients: 1
display: 1
max_iter: 12
snapshot: 6
"""


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """The file of a net with Input layers: data [4, 3], label [4]; 5 hidden units, 3 classes."""
    path = tmp_path / "mlp.prototxt"
    path.write_text(INPUT_NET)
    return path


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """A folder with net.prototxt (data with mirroring, dropout), solver.prototxt and digits.npz (31 images)."""
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (31, 1, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", data=images, label=random.integers(0, 4, 31))
    (tmp_path / "net.prototxt").write_text(DATA_NET)
    (tmp_path / "solver.prototxt").write_text(f'{SOLVER}snapshot_prefix: "{tmp_path}/full"\n')
    return tmp_path


@pytest.fixture
def python() -> Callable[..., str]:
    """Runs a program text in a fresh interpreter; returns what it printed."""

    def run(text: str, *args: object) -> str:
        command = [sys.executable, "-c", text, *map(str, args)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(autouse=True)
def _headers(headers_compiled_once: None) -> None:
    """For all tests of this folder, which compile many small nets."""
