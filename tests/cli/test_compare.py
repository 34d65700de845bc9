"""lossc time --compare: the net in PyTorch, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lossc.cli.main import main
from lossc.frontend.net import read_net
from lossc.pipeline import Request
from lossc.profile.description import describe

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
LENET = str(MODELS / "lenet.prototxt")
INPUTS = ("data", "label")
#: Answers as torch_net.py does, and leaves behind what it was called with.
FAKE = """#!/bin/sh
printf '%s\\n' "$@" > {log}
echo "some warning"
echo '{{"version": "9.9", "iterations": [0.25, 0.35], "layers": [{layer}]}}'
"""
LAYER = {"name": "conv1", "forward": 0.125, "backward": 0.0625}
ABSENT = "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torch'\" >&2\nexit 1\n"
UNABLE = "#!/bin/sh\necho 'layer \"x\": Tile has no counterpart' >&2\nexit 1\n"


def _fake(log: Path) -> str:
    return FAKE.format(log=log, layer=json.dumps(LAYER))


def _script(folder: Path, text: str) -> str:
    path = folder / "python"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_the_table_shows_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "arguments"
    python = _script(tmp_path, _fake(log))
    options = ["--iterations", "2", "--threads", "1", "--compare", "torch", "--torch-python", python]
    assert main(["time", LENET, *options]) == 0
    out = capsys.readouterr().out
    assert "torch is PyTorch 9.9" in out
    assert re.search(r"^conv1 +\d+\.\d+ +125\.0000 +\d+\.\d+ +62\.5000$", out, re.M)
    assert re.search(r"^iteration +\d+\.\d+ +300\.0000 +\d+\.\d\d$", out, re.M)
    assert re.search(r"^least iteration +\d+\.\d+ +250\.0000 +\d+\.\d\d$", out, re.M)
    assert log.read_text().splitlines()[2:] == ["eager", "--threads", "1", "--iterations", "2"]


def test_the_report_holds_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = _script(tmp_path, _fake(tmp_path / "arguments"))
    options = ["--iterations", "2", "--threads", "1", "--compare", "torch-channels-last", "--torch-python", python]
    assert main(["time", LENET, "--json", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    peer = report["peer"]
    assert (peer["name"], peer["version"], peer["iterations"]) == ("torch-channels-last", "9.9", [0.25, 0.35])
    assert peer["least_ratio"] == pytest.approx(0.25 / min(report["iterations"]))
    assert peer["layers"] == [LAYER]


@pytest.mark.parametrize(
    ("text", "message"),
    [(ABSENT, "has no PyTorch"), (UNABLE, 'cannot run this net: layer "x": Tile has no counterpart')],
)
def test_what_the_peer_cannot_do_is_one_error(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["time", LENET, "--compare", "torch", "--torch-python", _script(tmp_path, text)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert ("fix: pip install torch" in captured.err) == (text == ABSENT)


def test_an_interpreter_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", LENET, "--compare", "torch", "--torch-python", "/no/python"]) == 2
    assert "cannot run /no/python" in capsys.readouterr().err


def test_descriptions_tell_what_a_peer_needs() -> None:
    about = describe(Request(read_net(MODELS / "mnist_siamese.prototxt", phase="train")))
    layers = {layer["name"]: layer for layer in about["layers"]}
    assert layers["conv2"]["params"] == layers["conv2_p"]["params"] == ["conv2_w_0", "conv2_b_1"]
    assert layers["conv2"]["window"] == {"kernel": [5, 5], "stride": [1, 1], "pad": [0, 0], "dilation": [1, 1]}
    assert layers["pool1"]["bottom_shapes"][0][1:] == [20, 24, 24]
    assert layers["pool1"]["top_shapes"][0][1:] == [20, 12, 12]
    assert [(e["name"], e["noise"]) for e in about["inputs"]] == [("pair_data", True), ("sim", False)]
    assert (about["training"], about["backward"], about["solver"]) == (True, True, None)
    deployed = describe(Request(read_net(MODELS / "lenet.prototxt", phase="test", stages=["deploy"])))
    assert (deployed["training"], deployed["backward"]) == (False, False)


@pytest.mark.slow
def test_pytorch_runs_the_net(capsys: pytest.CaptureFixture[str]) -> None:
    """``LOSSC_TORCH_PYTHON`` names an interpreter that has PyTorch; by default this one."""
    python = os.environ.get("LOSSC_TORCH_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import torch"], capture_output=True).returncode:
        pytest.skip(f"{python} has no PyTorch; LOSSC_TORCH_PYTHON names another interpreter")
    options = ["--json", "--iterations", "2", "--threads", "1", "--compare", "torch", "--torch-python", python]
    assert main(["time", LENET, *options]) == 0
    report = json.loads(capsys.readouterr().out)
    peer = report["peer"]
    assert [e["name"] for e in peer["layers"]] == [e["name"] for e in report["layers"] if e["name"] not in INPUTS]
    assert all(e["forward"] > 0 and e["backward"] > 0 for e in peer["layers"])
    assert len(peer["iterations"]) == 2
