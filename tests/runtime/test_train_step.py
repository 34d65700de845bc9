"""A training step in one go gives the bits of its parts, whatever the order of updates."""

from __future__ import annotations

import numpy as np
import pytest

import lossc
from lossc.codegen.steporder import step_order
from lossc.errors import DataError, UsageError
from lossc.frontend.net import read_net_text
from lossc.frontend.solver import read_solver
from lossc.pipeline import Request, build_graph

NET = """
name: "n"
layer { name: "in" type: "Input" top: "x" top: "label"
        input_param { shape { dim: 4 dim: 2 dim: 9 dim: 9 } shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "ip" type: "InnerProduct" bottom: "bn" top: "ip" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "ip2" type: "InnerProduct" bottom: "bn" top: "ip2" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "loss2" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss2" loss_weight: 0.5 }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.001 max_iter: 9 random_seed: 5
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path


def solver(folder, more=""):
    (folder / "solver.prototxt").write_text(SOLVER + more)
    made = lossc.get_solver(folder / "solver.prototxt")
    rng = np.random.default_rng(0)
    made.net.blobs["x"].data[...] = rng.standard_normal((4, 2, 9, 9))
    made.net.blobs["label"].data[...] = rng.integers(0, 5, 4)
    return made


def numbers(made):
    blobs = [blob for blobs in made.net.params.values() for blob in blobs]
    return [part.copy() for blob in blobs for part in (blob.data, blob.diff)]


@pytest.mark.parametrize("more", ["", "clip_gradients: 0.1", 'regularization_type: "L1"'])
def test_bits_of_the_parts(folder, more):
    parts, whole = solver(folder, more), solver(folder, more)
    parts.add_callback(lambda: None, lambda: None)  # somebody looks: passes and update are made one by one
    for made in (parts, whole):
        made.step(4)
    assert parts.loss == whole.loss and parts.iter == whole.iter == 4
    for a, b in zip(numbers(parts), numbers(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_refused_batch_updates_nothing(folder):
    made = solver(folder)
    made.step(1)
    before = [blob.data.copy() for blobs in made.net.params.values() for blob in blobs]
    made.net.blobs["label"].data[2] = 9
    with pytest.raises(DataError, match="label 9"):
        made.step(1)
    after = [blob.data for blobs in made.net.params.values() for blob in blobs]
    assert made.iter == 1
    for name, a, b in zip(range(len(after)), before, after, strict=True):
        if name not in (2, 3, 4):  # BatchNorm's statistics
            np.testing.assert_array_equal(a, b)


def test_a_net_without_a_solver_says_so():
    with pytest.raises(UsageError, match="not compiled with a solver"):
        lossc.Net(read_net_text(NET, "net.prototxt"), lossc.TRAIN).train_step()


def graph_of(folder, more="", **options):
    (folder / "solver.prototxt").write_text(SOLVER + more)
    param = read_solver(folder / "solver.prototxt").param
    return build_graph(Request(read_net_text(NET, "net.prototxt"), solver=param, **options))[0]


def test_updates_come_as_soon_as_they_can(folder):
    names = [(n.layer, n.section) for n in step_order(graph_of(folder))]
    shared = [k for k, name in enumerate(names) if name == ("ip", "update")]
    last = max(k for k, name in enumerate(names) if name in (("ip", "backward"), ("ip2", "backward")))
    assert shared[0] < last < shared[1]  # the bias's; the weights', which both gradients of the data read before
    weights = [k for k, name in enumerate(names) if name == ("conv", "update")][-1]  # behind the bias's
    assert shared[1] < names.index(("conv", "backward")) < weights


@pytest.mark.parametrize(("more", "options"), [("clip_gradients: 1", {}), ("", {"check_finite": True})])
def test_updates_that_wait_for_all_gradients(folder, more, options):
    sections = [n.section for n in step_order(graph_of(folder, more, **options))]
    assert sections == sorted(sections)
