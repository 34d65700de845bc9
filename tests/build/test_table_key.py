"""A file that a layer names decides what is built: another content is another build."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lossc import TRAIN, Net

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 2 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 2 } } }
layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "t" top: "y" lossc_param { class_weight_file: "w.npy" } }
"""


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    losses = []
    for weight in (1.0, 3.0):
        np.save(tmp_path / "w.npy", np.array([weight, weight]))
        net = Net(tmp_path / "net.prototxt", TRAIN)
        losses.append(net.forward(x=np.zeros((2, 2)), t=np.zeros(2))["y"].copy())
    np.testing.assert_allclose(losses, [np.log(2), 3 * np.log(2)], rtol=1e-6)
