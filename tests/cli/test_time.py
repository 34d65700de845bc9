"""lossc time: Caffe's lines, the table of kernels, and the counts that rooflines are drawn from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lossc.cli.main import main
from lossc.frontend.net import read_net
from lossc.pipeline import Request, build_graph, compile_net

NET = """
name: "timed"
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 8 dim: 3 dim: 10 dim: 10 } shape { dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "%s" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" max_iter: 1'


@pytest.fixture
def net(tmp_path: Path) -> str:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return str(path)


def test_lines_are_caffes(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", "-model", net, "-iterations", "3"]) == 0
    text = capsys.readouterr().err
    assert len(re.findall(r"Iteration: \d forward-backward time: \S+ ms\.", text)) == 3
    for layer in ("data", "conv", "pool", "ip", "loss"):
        for section in ("forward", "backward"):
            assert re.search(rf"\] +{layer}\t{section}: [\d.e-]+ ms\.\n", text)
    for line in ("Average Forward pass", "Average Backward pass", "Average Forward-Backward", "Total Time"):
        assert re.search(rf"\] {line}: [\d.e-]+ ms\.\n", text)


def test_the_report_adds_up(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solver = tmp_path / "solver.prototxt"
    solver.write_text(SOLVER % net)
    assert main(["time", "--solver", str(solver), "--json", "--iterations", "4", "--threads", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["threads"] == 2
    assert len(report["iterations"]) == 4
    assert {k["section"] for k in report["kernels"]} == {"forward", "backward", "update"}
    assert all(0 < k["least"] <= k["mean"] for k in report["kernels"])
    whole = sum(report["iterations"]) / 4
    assert sum(k["mean"] for k in report["kernels"]) <= whole
    assert sum(report["kinds"].values()) == pytest.approx(sum(k["mean"] for k in report["kernels"]))
    forward = sum(k["mean"] for k in report["kernels"] if k["section"] == "forward" and k["layer"] == "conv")
    assert {e["name"]: e["forward"] for e in report["layers"]}["conv"] == pytest.approx(forward)
    conv = next(k for k in report["kernels"] if k["kind"] == "conv forward")
    assert conv["algorithm"].startswith("conv gather 3x3 ")
    assert conv["second"] != conv["algorithm"]
    assert conv["second_cycles"] >= conv["cycles"] > 0


def test_the_table_names_every_kernel_and_the_peaks(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", net, "--phase", "test", "--roofline", "--iterations", "2", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    for word in ("peaks of 1 thread", "conv_forward", "conv gather 3x3", "gemm n", "where the time went", "roofline"):
        assert word in out


def test_work_of_kernels(net: str) -> None:
    request = Request(read_net(net, phase="train"), timed=True)
    table = {k["name"]: k for k in compile_net(request).program.manifest["kernels"]}
    products, outputs = 8 * 6 * 8 * 8 * 3 * 3 * 3, 8 * 6 * 8 * 8
    assert table["conv_forward"]["flops"] == 2 * products + outputs  # the bias is added by the epilogue
    assert table["conv_forward"]["bytes"] == 4 * (8 * 3 * 10 * 10 + 6 * 3 * 3 * 3 + 6 + outputs)
    assert table["pool_forward"]["bytes"] == 4 * (outputs + outputs // 4) + outputs // 4  # one byte says which


def test_only_timed_nets_take_times(net: str) -> None:
    source = read_net(net, phase="train")
    plain, timed = Request(source), Request(source, timed=True)
    assert plain.key() != timed.key()
    assert "lossc_lap" not in compile_net(plain).program.source
    runs = [node for node in build_graph(timed)[0].nodes if node.section != "init"]
    # One call before each of the two sections, and one after each kernel.
    assert compile_net(timed).program.source.count("lossc_lap(") == len(runs) + 2
