"""What a backward pass does after gradients of parameters were marked to be renewed."""

from __future__ import annotations

import numpy as np
import pytest

import lossc
from lossc.frontend.net import read_net_text

NET = """
layer { name: "in" type: "Input" top: "x" top: "y"
        input_param { shape { dim: 3 dim: 2 dim: 9 dim: 9 } shape { dim: 3 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "scale" scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "scale" top: "ip" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "ip2" type: "InnerProduct" bottom: "scale" top: "ip2" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" }
layer { name: "loss2" type: "EuclideanLoss" bottom: "ip2" bottom: "y" top: "loss2" loss_weight: 0.5 }
"""


def gradients(net):
    return [blob.diff.copy() for blobs in net.params.values() for blob in blobs]


@pytest.fixture
def net():
    made = lossc.Net(read_net_text(NET, "net.prototxt"), lossc.TRAIN, seed=3)
    rng = np.random.default_rng(0)
    made.blobs["x"].data[...] = rng.standard_normal((3, 2, 9, 9))
    made.blobs["y"].data[...] = rng.standard_normal((3, 5))
    return made


def test_renewed_gradients_equal_cleared_ones(net):
    net.clear_param_diffs()
    net.forward_backward()
    expected = gradients(net)
    for blobs in net.params.values():
        for blob in blobs:
            blob.diff[...] = np.nan
    net.native.renew_param_diffs()
    net.forward_backward()
    for got, want in zip(gradients(net), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_only_the_first_pass_renews(net):
    net.native.renew_param_diffs()
    net.forward_backward()
    once = gradients(net)
    net.forward()
    net.backward()
    for got, want in zip(gradients(net), once, strict=True):
        np.testing.assert_allclose(got, 2 * want, rtol=1e-6)


def test_clearing_takes_the_mark_back(net):
    net.native.renew_param_diffs()
    net.clear_param_diffs()
    net.forward_backward()
    once = gradients(net)
    net.native.renew_param_diffs()
    net.clear_param_diffs()
    for blobs in net.params.values():
        for blob in blobs:
            blob.diff[...] = 1.0
    net.forward_backward()
    for got, want in zip(gradients(net), once, strict=True):
        np.testing.assert_allclose(got, want + 1.0, rtol=1e-5, atol=1e-6)


def test_contractions_alone_write(net):
    """The gradient of the weights that two layers share is written by the first of them and added to by the second."""
    calls = [line for line in net.source.splitlines() if "!net->renew" in line]
    assert len(calls) == 2 and "ip2_backward" in calls[0] and "conv_backward" in calls[1], calls
