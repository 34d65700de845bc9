"""debug_info: the lines of the real Caffe, and what they say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import lossc

NEW = "display: 2 debug_info: true iter_size: 2 test_initialization: false"
LINE = re.compile(r"\] (    \[(?:Forward|Backward)\] .*): (\S+)$")


def mean_abs(values: np.ndarray) -> str:
    return f"{float(np.abs(values).mean(dtype=np.float64)):g}"


def test_lines_tell_means_of_what_the_net_holds(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(noisy)
    text = (noisy / "solver.prototxt").read_text()
    (noisy / "solver.prototxt").write_text(text.replace("display: 1", NEW))
    lines: list[tuple[str, str]] = []
    solver = lossc.get_solver("solver.prototxt", log=lambda place, text: lines.append((place, text)))
    wanted: list[str] = []

    def look() -> None:
        net = solver.net
        wanted.append(f"    [Forward] Layer data, top blob data data: {mean_abs(net.blobs['data'].data)}")
        wanted.append(f"    [Forward] Layer drop1, top blob ip1 data: {mean_abs(net.blobs['ip1'].data)}")
        wanted.append(f"    [Forward] Layer ip2, param blob 1 data: {mean_abs(net.params['ip2'][1].data)}")
        wanted.append(f"    [Backward] Layer loss, bottom blob ip2 diff: {mean_abs(net.blobs['ip2'].diff)}")
        wanted.append(f"    [Backward] Layer ip1, param blob 0 diff: {mean_abs(net.params['ip1'][0].diff)}")

    solver.add_callback(lambda: None, look)
    solver.step(1)
    texts = [text for _, text in lines]
    assert len(wanted) == 5 and all(text in texts for text in wanted)
    # Twice an iteration, for iter_size; layers from first to last, then back; no gradients of labels and data.
    about = [re.sub(r"( data| diff)?: .*", "", text) for text in texts if text.startswith("    [")]
    once = [
        "    [Forward] Layer data, top blob data", "    [Forward] Layer data, top blob label",
        "    [Forward] Layer ip1, param blob 0", "    [Forward] Layer ip1, param blob 1",
        "    [Forward] Layer drop1, top blob ip1", "    [Forward] Layer ip2, top blob ip2",
        "    [Forward] Layer ip2, param blob 0", "    [Forward] Layer ip2, param blob 1",
        "    [Forward] Layer loss, top blob loss", "    [Backward] Layer loss, bottom blob ip2",
        "    [Backward] Layer ip2, bottom blob ip1", "    [Backward] Layer ip2, param blob 0",
        "    [Backward] Layer ip2, param blob 1", "    [Backward] Layer ip1, param blob 0",
        "    [Backward] Layer ip1, param blob 1", "    [Backward] All net params (data, diff)",
    ]  # fmt: skip
    assert about == [*once, *once]
    before = len(lines)
    solver.step(1)  # not displayed
    assert not [text for _, text in lines[before:] if "ward]" in text]
    solver.test_all()
    tested = [text for _, text in lines[before:] if "[Forward] Layer accuracy, top blob accuracy data" in text]
    assert len(tested) == 3


@pytest.mark.golden
def test_the_lines_of_caffe(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    shutil.copytree(golden / "logs" / "debug_info", folder)
    monkeypatch.chdir(folder)
    # The first pass comes before any update: the solver's type does not matter.
    Path("solver.prototxt").write_text(Path("solver.prototxt").read_text().replace('"Adam"', '"SGD"'))
    lines: list[str] = []
    solver = lossc.get_solver("solver.prototxt", log=lambda place, text: lines.append(f"{place}] {text}"))
    solver.load_weights("init.caffemodel")
    solver.step(1)
    log = (folder / "train.log").read_text().splitlines()
    end = next(k for k, line in enumerate(log) if "[Backward] All net params" in line)
    caffes = dict(match.groups() for line in log[:end] if (match := LINE.search(line)))
    ours: dict[str, str] = {}
    for line in lines:
        if match := LINE.search(line):
            ours.setdefault(match[1], match[2])
    # Caffe's Split layers, and parts of gradients that they add up, are its own.
    shared = {name for name in ours if name in caffes}
    parts = {name for name in caffes if "_split" in name or "top blob ip1" in name and "ip1," in name}
    parts |= {name for name in caffes if "relu1, bottom" in name}
    assert len(shared) >= 20 and caffes.keys() - parts == shared
    for name in shared:
        assert float(ours[name]) == pytest.approx(float(caffes[name]), rel=2e-5), name
    total = next(line for line in lines if "All net params" in line)
    wanted = re.findall(r"[\d.]+(?=[,)])", log[end].split("L1 norm")[1])
    assert [float(v) for v in re.findall(r"[\d.]+(?=[,)])", total.split("L1 norm")[1])] == pytest.approx(
        [float(v) for v in wanted], rel=2e-5
    )
