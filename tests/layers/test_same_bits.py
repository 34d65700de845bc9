"""LeNet's losses, gradients and updated parameters: the same bits for any number of threads, near ones on any ISA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.codegen import team
from lossc.targets import runnable_targets

NET = """name: "small"
layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 7 dim: 2 dim: 13 dim: 11 } shape { dim: 7 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 8 kernel_size: 3 stride: 2 group: 2 weight_filler { type: "msra" } } }
layer { name: "drop" type: "Dropout" bottom: "conv2" top: "drop" }
layer { name: "ip1" type: "InnerProduct" bottom: "drop" top: "ip1"
  inner_product_param { num_output: 37 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "tanh" type: "TanH" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
layer { name: "aux" type: "Reduction" bottom: "drop" top: "aux" loss_weight: 0.01 reduction_param { operation: SUMSQ } }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.005 clip_gradients: 3\n'


@pytest.fixture(scope="module", autouse=True)
def _teams_for_everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every section runs on a team, also where it is so short that one thread would do; builds stay apart for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(team, "TEAM_STEPS", 0)
        patch.setenv("LOSSC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def train(folder: Path, threads: int, target: str = "native") -> list[np.ndarray]:
    """Five steps: the losses, then every parameter and gradient."""
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER + "max_iter: 100\n")
    solver = lossc.get_solver(folder / "solver.prototxt", threads=threads, target=target)
    assert "LOSSC_TEAM(1," not in solver.net.source
    rng = np.random.default_rng(3)
    losses = []
    for _ in range(5):
        solver.net.blobs["data"].data[...] = rng.standard_normal((7, 2, 13, 11))
        solver.net.blobs["label"].data[...] = rng.integers(0, 5, 7)
        solver.step(1)
        losses.append(solver.net.loss)
    blobs = [b for layer in solver.net.params.values() for b in layer]
    return [np.array(losses), *(b.data.copy() for b in blobs), *(b.diff.copy() for b in blobs)]


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_any_number_of_threads(tmp_path: Path, threads: int) -> None:
    one, many = train(tmp_path, 1), train(tmp_path, threads)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, many, strict=True))
    assert len(set(one[0].tolist())) == 5


def test_run_to_run(tmp_path: Path) -> None:
    assert all(a.tobytes() == b.tobytes() for a, b in zip(train(tmp_path, 2), train(tmp_path, 2), strict=True))


@pytest.mark.parametrize("target", [t.isa.name for t in runnable_targets()[1:]])
def test_other_instruction_sets(tmp_path: Path, target: str) -> None:
    """The same net, start, data and dropout masks; sums are taken in another order, so only the last digits differ."""
    for a, b in zip(train(tmp_path, 2), train(tmp_path, 2, target), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
