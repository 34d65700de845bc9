"""``lossc compile --checker``: a C program that compares a net's gradients with differences, without Python."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lossc.build import find_compiler
from lossc.cli.main import main

WARNINGS = "-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror"
NET = """
name: "mixed"
force_backward: true
layer { name: "in" type: "Input" top: "data" top: "label" top: "target" top: "same" input_param {
  shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 } shape { dim: 4 dim: 5 } shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "pool" type: "Pooling" bottom: "bn" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool" }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 5 }
        param { lr_mult: 1 } param { lr_mult: 0 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" loss_weight: 0.7 }
layer { name: "far" type: "%s" bottom: "fc" bottom: "target" top: "far" loss_weight: 0.3 }
layer { name: "pairs" type: "ContrastiveLoss" bottom: "fc" bottom: "target" bottom: "same" top: "pairs" }
"""
OWN = """
import lossc


@lossc.loss("Far")
def far(pred, target):
    return ((pred - target) ** 2).sum()


@far.backward
def _(top_diff, pred, target):
    return top_diff * (pred - target), -2 * top_diff * (pred - target)
"""


def checked(folder: Path, net: str, *options: str, make: tuple[str, ...] = ()) -> tuple[int, str]:
    """The exit status and the lines of the emitted program."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    find_compiler()
    (folder / "net.prototxt").write_text(net)
    assert main(["compile", str(folder / "net.prototxt"), "-o", str(folder / "out"), "--checker", *options]) == 0
    command = ["make", "-s", "-C", str(folder / "out" / "check"), *make]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    built = (folder / "out" / "check" / "check_gradient").exists()
    assert built, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_all_gradients_of_a_net_agree(tmp_path: Path) -> None:
    status, text = checked(tmp_path, NET % "EuclideanLoss")
    assert status == 0, text
    found = {m[1]: (int(m[2]), int(m[3])) for m in re.finditer(r"(\S+): (\d+) of (\d+) derivatives compared", text)}
    assert found == {
        "data": (40, 432), "target": (20, 20), "conv/0": (40, 108), "conv/1": (4, 4), "scale/0": (4, 4),
        "scale/1": (4, 4), "fc/0": (40, 80),
    }  # fmt: skip
    assert "all agree" in text


def test_a_wrong_backward_is_found_and_named(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    status, text = checked(tmp_path, NET % "Far", "--layer", str(tmp_path / "own.py"))
    assert status != 0 and "all agree" not in text
    assert re.search(r'WRONG: d loss / d "data"\[\d, \d, \d, \d\] is \S+, by differences \S+: off by', text), text
    assert 'WRONG: d loss / d "fc/0"[' in text
    assert re.search(r"^target: 20 of 20 derivatives compared, 0 at kinks, 0 wrong", text, re.MULTILINE), text
    program = tmp_path / "out" / "check" / "check_gradient"
    done = subprocess.run([program, "--samples", "3", "--seed", "5"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "data: 3 of 432 derivatives compared" in done.stdout
    again = subprocess.run([program, "--samples", "3", "--seed", "5"], capture_output=True, text=True, check=False)
    assert again.stdout == done.stdout
    huge = subprocess.run([program, "--threshold", "1e6"], capture_output=True, text=True, check=False)
    assert huge.returncode == 0
    for words in (["--sample", "3"], ["--samples"], ["--samples", "no"], ["--samples", "0"]):
        assert subprocess.run([program, *words], capture_output=True, check=False).returncode == 2, words


@pytest.mark.parametrize("isa", ["scalar", "native"])
def test_without_warnings(tmp_path: Path, isa: str) -> None:
    """With a solver at hand, too: its update is no part of the check."""
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed"')
    net = NET.replace("force_backward: true", "") % "EuclideanLoss"
    options = ("--solver", str(tmp_path / "solver.prototxt"), "--target", isa, "--source-only")
    status, text = checked(tmp_path, net, *options, make=(f"CC={find_compiler().command[0]} {WARNINGS}",))
    assert status == 0 and "warning" not in text, text
    assert "data:" not in text and "conv/0:" in text


def test_a_net_without_gradients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.prototxt").write_text("""
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "t" type: "TanH" bottom: "x" top: "t" }
    """)
    assert main(["compile", str(tmp_path / "net.prototxt"), "-o", str(tmp_path / "out"), "--checker"]) == 2
    assert "no gradient that could be checked" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
