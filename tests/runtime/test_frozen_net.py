"""Nets that keep what they make of their parameters: the same numbers, and changes are noticed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.build import find_compiler
from lossc.cli.main import main
from lossc.errors import UsageError
from lossc.frontend.solver import read_solver

NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 16 dim: 9 dim: 9 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
        convolution_param { num_output: 8 kernel_size: 5 stride: 2 group: 2 weight_filler { type: "msra" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv2" top: "ip"
        inner_product_param { num_output: 70 weight_filler { type: "msra" } } }
"""


@pytest.fixture()
def net(tmp_path: Path) -> str:
    file = tmp_path / "net.prototxt"
    file.write_text(NET)
    return str(file)


def filled(file: str, **options: object) -> lossc.Net:
    net = lossc.Net(file, lossc.TEST, seed=3, **options)  # type: ignore[arg-type]
    net.blobs["data"].data[...] = np.random.default_rng(1).standard_normal(net.blobs["data"].shape)
    return net


def output(net: lossc.Net) -> np.ndarray:
    return net.forward()["ip"].copy()


def same(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.abs(left - right).max() <= 1e-5 * np.abs(right).max())


@pytest.mark.parametrize("threads", [1, 3])
def test_outputs_are_the_same(net, threads):
    frozen, plain = filled(net, freeze=True, threads=threads), filled(net)
    expected = output(plain)
    assert frozen.manifest["bytes"]["prepared"] > 0 == plain.manifest["bytes"]["prepared"]
    assert same(output(frozen), expected)
    np.testing.assert_array_equal(output(frozen), output(filled(net, freeze=True, threads=2)))


def test_changes_through_params_are_noticed(net):
    frozen, plain = filled(net, freeze=True), filled(net)
    before = output(frozen)
    for layer in frozen.params:
        for each in (frozen, plain):
            each.params[layer][0].data[...] *= 1.5
        assert same(output(frozen), output(plain)), layer
    assert not same(output(frozen), before)


def test_an_array_that_was_read_earlier_changes_nothing_until_it_is_read_again(net):
    frozen = filled(net, freeze=True)
    weights = frozen.params["conv1"][0].data
    before = output(frozen)
    weights *= 2
    np.testing.assert_array_equal(output(frozen), before)
    assert frozen.params["conv1"][0].data is not None
    assert not same(output(frozen), before)


def test_loaded_and_shared_parameters_are_noticed(net, tmp_path):
    frozen, other = filled(net, freeze=True), lossc.Net(net, lossc.TEST, seed=9)
    other.blobs["data"].data[...] = frozen.blobs["data"].data
    before, expected = output(frozen), output(other)
    assert not same(before, expected)
    other.save(tmp_path / "net.caffemodel")
    frozen.copy_from(tmp_path / "net.caffemodel")
    assert same(output(frozen), expected)
    third = filled(net, freeze=True)
    assert same(output(third), before)
    third.share_with(other)
    assert same(output(third), expected)


def test_a_solver_forbids_it(net, tmp_path):
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f'net: "{net}" base_lr: 0.1 lr_policy: "fixed"\n')
    with pytest.raises(UsageError, match="a solver changes parameters"):
        lossc.Net(net, lossc.TRAIN, solver=read_solver(str(solver)).param, freeze=True)
    assert main(["compile", "--solver", str(solver), "--freeze", "-o", str(tmp_path / "out")]) != 0


PROGRAM = """#include <stdio.h>
#include "net.h"
int main(void)
{
    lossc_net *net = small_create(2, 3);
    float sums[3];
    for (int k = 0; net && k < 3; k++) {
        for (int i = 0; i < SMALL_DATA_SIZE; i++)
            small_data(net)[i] = (float)(i % 7) - 3.0f;
        if (k == 1) {
            for (int i = 0; i < small_param_size(0); i++)
                small_param(net, 0)[i] *= 2.0f;
        } else if (k == 2) {
            small_params_changed(net);
        }
        (void)small_forward(net);
        sums[k] = small_ip(net)[0];
    }
    printf("%d %d\\n", sums[0] == sums[1], sums[1] == sums[2]);
    small_destroy(net);
    return 0;
}
"""


def test_a_c_program_tells_of_changes(net, tmp_path):
    out = tmp_path / "out"
    assert main(["compile", net, "--phase", "test", "--freeze", "-o", str(out)]) == 0
    (out / "main.c").write_text(PROGRAM)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-I.", "main.c", "-L.", "-lnet", "-Wl,-rpath,.", "-o", "main"]
    subprocess.run([*find_compiler().command, *flags], cwd=out, check=True)
    done = subprocess.run([str(out / "main")], cwd=out, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]
