"""The example's data: real, balanced, and what its nets read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lossc.frontend.net import read_net
from lossc.frontend.solver import read_solver
from lossc.runtime.data import open_source

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fashion_mnist"


@pytest.mark.parametrize(("phase", "batch", "count"), [("TRAIN", 64, 2000), ("TEST", 100, 500)])
def test_data_layers_read_the_subset(phase, batch, count, monkeypatch, tmp_path):
    """From any working directory: the sources lie beside the net."""
    monkeypatch.chdir(tmp_path)
    layers = read_net(EXAMPLE / "lenet.prototxt", phase=phase).param.layer
    data = [layer for layer in layers if layer.type == "Data"]
    assert len(data) == 1
    assert ("Accuracy" in {layer.type for layer in layers}) == (phase == "TEST")
    stream = open_source(data[0].data_param, data[0].transform_param, phase, relative_to=EXAMPLE)
    assert stream.shapes == ((batch, 1, 28, 28), (batch,))
    assert len(stream) == count
    images, labels = np.empty((batch, 1, 28, 28), np.float32), np.empty(batch, np.float32)
    seen = []
    for _ in range(-(-count // batch)):
        stream.next(images, labels)
        seen += labels.tolist()
        assert images.min() == 0
        assert 0.9 < images.max() < 1
    assert np.bincount(np.array(seen[:count], int)).tolist() == [count // 10] * 10


@pytest.mark.parametrize(("name", "iterations"), [("lenet_solver", 500), ("lenet_full_solver", 2000)])
def test_solvers_name_the_net(name, iterations):
    param = read_solver(EXAMPLE / f"{name}.prototxt").param
    assert Path(param.net).samefile(EXAMPLE / "lenet.prototxt")
    assert param.max_iter == iterations
