"""--check-finite and --no-check-labels on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossc.cli.main import main

NET = """
layer { name: "d" type: "DummyData" top: "x" top: "t" dummy_data_param {
  shape { dim: 2 dim: 3 } shape { dim: 2 }
  data_filler { type: "constant" value: %s } data_filler { type: "constant" value: %s } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 3
  weight_filler { type: "constant" value: 1e30 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "t" top: "loss" }
"""
SOLVER = 'net: "%s" base_lr: 0.1 lr_policy: "fixed" max_iter: 2 snapshot_after_train: false'


def files(folder: Path, value: str, label: str) -> str:
    (folder / "net.prototxt").write_text(NET % (value, label))
    (folder / "solver.prototxt").write_text(SOLVER % (folder / "net.prototxt"))
    return str(folder / "solver.prototxt")


def test_training_stops_at_the_first_number_that_is_not_finite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solver = files(tmp_path, "1e30", "1")
    assert main(["train", solver]) == 0
    assert main(["train", solver, "--check-finite", "--threads", "1"]) != 0
    error = capsys.readouterr().err
    assert f'{tmp_path}/net.prototxt:5: layer "ip": in forward, the value of "ip" is inf at [0, 0]' in error
    assert "Traceback" not in error


def test_labels_are_checked_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solver = files(tmp_path, "1", "1.5")
    assert main(["train", solver]) != 0
    assert 'layer "loss": blob "t" holds the label 1.5 at index 0' in capsys.readouterr().err
    assert main(["train", solver, "-no-check-labels"]) == 0


def test_the_compiled_net_has_the_checks(tmp_path: Path) -> None:
    files(tmp_path, "1", "1")
    net = str(tmp_path / "net.prototxt")
    for option, label, finite in (
        ("", True, False),
        ("--no-check-labels", False, False),
        ("--check-finite", True, True),
    ):
        out = tmp_path / f"out{option}"
        assert main(["compile", net, "-o", str(out), "--source-only", *filter(None, [option])]) == 0
        text = (out / "net.c").read_text()
        assert ("failed = LOSSC_BAD_LABEL" in text) == label
        assert ("failed = LOSSC_NOT_FINITE" in text) == finite
