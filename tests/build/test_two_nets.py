"""Nets compiled apart link into one C program: every symbol that one shows bears its name."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.cli.main import main

NET = """\
name: "{name}"
layer {{ name: "data" type: "Input" top: "data" top: "Data" top: "create" input_param {{
        shape {{ dim: 4 dim: 6 }} shape {{ dim: 4 dim: 6 }} shape {{ dim: 4 dim: {outputs} }} }} }}
layer {{ name: "sum" type: "Eltwise" bottom: "data" bottom: "Data" top: "sum" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "sum" top: "ip"
        inner_product_param {{ num_output: {outputs} weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "create" top: "loss" }}
"""
SOLVER = 'net: "{name}.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9\n'

PROGRAM = """\
#include <stdio.h>
#include "first/net.h"
#include "second/net.h"

int main(void)
{
    lossc_net *a = first_create(2, 1), *b = second_create(1, 1);
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < FIRST_DATA_SIZE; i++) {
            first_data(a)[i] = second_data_2(b)[i] = (float)(i % 5 - 2);
            first_data_2(a)[i] = second_data(b)[i] = 0.5f;
        }
        first_clear_param_diffs(a);
        second_clear_param_diffs(b);
        const double one = first_forward_backward(a), two = second_forward_backward(b);
        first_update(a);
        second_update(b);
        printf("%.9g %.9g\\n", one, two);
    }
    first_destroy(a);
    second_destroy(b);
    return 0;
}
"""


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_two_nets_run_in_one_program(compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOSSC_CC", compiler)
    for name, outputs in (("first", 3), ("second", 5)):
        Path(f"{name}.prototxt").write_text(NET.format(name=name, outputs=outputs))
        Path(f"{name}_solver.prototxt").write_text(SOLVER.format(name=name))
        assert main(["compile", "--solver", f"{name}_solver.prototxt", "-o", name]) == 0
    # As objects, with every symbol that is not static visible to the linker.
    for name in ("first", "second"):
        words = shlex.split(json.loads(Path(name, "manifest.json").read_text())["command"])
        words = [w for w in words if w not in ("-shared", "-fvisibility=hidden", "-lm")]
        words[words.index("libnet.so")] = "net.o"
        subprocess.run([*words, "-c"], cwd=name, check=True)
    Path("program.c").write_text(PROGRAM)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fopenmp"]
    parts = ["program.c", "first/net.o", "second/net.o", "-lm", "-o", "program"]
    if not json.loads(Path("first/manifest.json").read_text())["compiler"]["openmp"]:
        flags.remove("-fopenmp")
    subprocess.run([compiler, *flags, *parts], check=True)
    printed = subprocess.run(["./program"], check=True, capture_output=True, text=True).stdout
    assert printed.splitlines() == _expected()


def _expected() -> list[str]:
    """The losses of the same two nets in Python."""
    x = (np.arange(24) % 5 - 2).reshape(4, 6)
    half = np.full((4, 6), 0.5)
    losses = []
    for name, inputs in (("first", {"data": x, "Data": half}), ("second", {"data": half, "Data": x})):
        solver = lossc.get_solver(f"{name}_solver.prototxt", threads=2)
        solver.add_callback(lambda net=solver.net, inputs=inputs: _fill(net, inputs), lambda: None)
        losses.append([])
        for _ in range(3):
            solver.step(1)
            losses[-1].append(solver.net.loss)
    return [f"{one:.9g} {two:.9g}" for one, two in zip(*losses, strict=True)]


def _fill(net: lossc.Net, inputs: dict[str, np.ndarray]) -> None:
    for name, values in inputs.items():
        net.blobs[name].data[...] = values
