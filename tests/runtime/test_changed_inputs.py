"""Inputs that a layer changes in place, and settings that end up as negative constants in the C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.errors import UsageError
from lossc.frontend import read_net_text

NET = """force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 5 } } }
layer { name: "p" type: "Power" bottom: "x" top: "x" power_param { power: 2 } }
layer { name: "s" type: "Reduction" bottom: "x" top: "s" loss_weight: 1 }
"""


@pytest.mark.parametrize("keep", [(), "all"])
def test_an_input_may_be_changed_in_place(keep: str | tuple[str, ...]) -> None:
    """As in Caffe one memory holds what the caller fills before a pass and what the last layer left after it."""
    net = lossc.Net(read_net_text(NET), lossc.TRAIN, keep=keep)
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    for scale in (1, 2):
        net.blobs["x"].data[...] = scale * x
        net.forward()
        net.backward()
        assert net.loss == pytest.approx(285 * scale**2)
        np.testing.assert_array_equal(net.blobs["x"].data, (scale * x) ** 2)
        np.testing.assert_allclose(net.blobs["x"].diff, 2 * scale * x)
    net.forward(x=x)
    assert net.loss == pytest.approx(285)


POLICIES = ('"inv" gamma: 0.5 power: -1', '"poly" power: -1', '"sigmoid" gamma: 0.5 stepsize: 1')


@pytest.mark.parametrize("policy", POLICIES)
def test_rates_with_negative_constants(tmp_path: Path, policy: str) -> None:
    (tmp_path / "net.prototxt").write_text(
        """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 2 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" loss_weight: 1
                inner_product_param { num_output: 1 } }"""
    )
    (tmp_path / "solver.prototxt").write_text(f'net: "net.prototxt" base_lr: 0.1 max_iter: 9 lr_policy: {policy}')
    solver = lossc.get_solver(tmp_path / "solver.prototxt")
    solver.step(3)
    k = 2  # the rate of the last of the three steps
    wanted = {"inv": 0.1 * (1 + 0.5 * k), "poly": 0.1 / (1 - k / 9), "sigmoid": 0.1 / (1 + np.exp(-0.5 * (k - 1)))}
    assert solver.rate == pytest.approx(wanted[policy.split('"')[1]], rel=1e-6)


@pytest.mark.parametrize("threads", [0, -1, 10**6])
def test_teams_that_cannot_be_made(threads: int) -> None:
    with pytest.raises(UsageError, match="threads is"):
        lossc.Net(read_net_text(NET), lossc.TRAIN, threads=threads)
