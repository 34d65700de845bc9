"""The command ``lossc explain``, and the page that it writes."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from explain_nets import AUX, fc, layer

from lossc.cli.main import main
from lossc.explain import explain_request
from lossc.explain.page import page
from lossc.frontend.net import read_net_text
from lossc.pipeline import Request

DATA = 'layer { name: "in" type: "Data" top: "data" top: "label" data_param { source: "d.npz" batch_size: 5 } }\n'
SOLVER = 'net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 max_iter: 100 snapshot: 1 iter_size: 2\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with input.prototxt, net.prototxt, solver.prototxt and data."""
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (23, 1, 3, 4)).astype(np.uint8)
    np.savez(tmp_path / "d.npz", data=images, label=random.integers(0, 4, 23))
    (tmp_path / "input.prototxt").write_text(AUX)
    (tmp_path / "net.prototxt").write_text('name: "aux"\n' + DATA + AUX[AUX.index('layer { name: "trunk1"') :])
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["explain", *words]) == 0
    return capfd.readouterr().out


def test_text_names_file_weight_and_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = run(capfd, "input.prototxt", "--target", "avx2")
    assert re.search(r"aux/loss +aux/loss +SoftmaxWithLoss +input.prototxt:\d+ +VALID: N 8 +0\.3", text)
    line = int(re.search(r"loss_weight 0\.3 / N 8 +0\.0375f +net\.c:(\d+)", text)[1])  # type: ignore[index]
    assert main(["inspect", "input.prototxt", "--target", "avx2", "--format", "c"]) == 0
    assert "0.0375f" in capfd.readouterr().out.split("\n")[line - 1]
    assert "What fold-loss-weight did: safe, since" in text and "Gradient of each loss" not in text
    assert "\x1b" not in text


def test_data_give_values_and_shares(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = json.loads(run(capfd, "net.prototxt", "--iterations", "3", "--json", "--threads", "1"))
    assert content["total"] == pytest.approx(sum(x["weighted"] for x in content["losses"]), rel=1e-6)
    assert [j["blob"] for j in content["joints"]] == ["trunk1", "trunk2", "all parameters"]
    assert sum(s["share"] for s in content["joints"][0]["shares"]) == pytest.approx(1)
    again = json.loads(run(capfd, "net.prototxt", "--data", ".", "--json", "--iterations=3"))
    assert again["losses"] == content["losses"]


def test_a_solver_trains_and_leaves_no_files(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(p.name for p in folder.iterdir())
    losses = [
        json.loads(run(capfd, "--solver", "solver.prototxt", "--iterations", n, "--json"))["total"] for n in ("1", "40")
    ]
    assert losses[1] < losses[0]
    assert sorted(p.name for p in folder.iterdir()) == before
    report = json.loads(run(capfd, "--solver", "solver.prototxt", "--json"))
    assert report["total"] is None and report["file"] == "net.prototxt"


def test_diff_shows_what_a_weight_of_another_kind_changes(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = run(capfd, "input.prototxt", "--diff", "aux/loss")
    assert text.startswith("--- net.c, aux/loss as it is\n+++ net.c, aux/loss runtime\n@@")
    assert re.search(r"^-.*0\.0375f\);.*loss_weight 0\.3 / N 8", text, re.MULTILINE)
    text = run(capfd, "input.prototxt", "--diff", "aux/loss", "--loss-weight", "aux/loss=exp:0.3,gamma=0.5")
    assert "+++ net.c, aux/loss exp\n" in text and "schedule_weights" in text


def test_calls_that_make_no_sense(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "input.prototxt", "--iterations", "2"]) == 2
    assert "nothing fills the input data" in capfd.readouterr().err
    assert main(["explain", "input.prototxt", "--diff", "aux/los"]) == 2
    assert "aux/loss" in capfd.readouterr().err
    assert main(["explain", "input.prototxt", "--html", "missing/page.html"]) == 2
    assert "cannot write missing/page.html" in capfd.readouterr().err
    assert main(["explain"]) == 2


class Outline(HTMLParser):
    """Checks that tags nest, and collects text and tags."""

    VOID = frozenset(("meta", "br"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_whole_and_stands_alone(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(capfd, "net.prototxt", "--iterations", "2", "--html", "page.html") == ""
    text = (folder / "page.html").read_text()
    outline = Outline()
    outline.feed(text)
    assert not outline.open
    assert not any(tag in ("link", "script", "img") or "src" in attrs or "href" in attrs for tag, attrs in outline.tags)
    boxes = [attrs for tag, attrs in outline.tags if tag == "g" and attrs.get("class") in ("layer", "loss")]
    assert len(boxes) == 10 and sum(b["class"] == "loss" for b in boxes) == 3
    backward = [attrs for tag, attrs in outline.tags if tag == "path" and attrs.get("class") == "backward"]
    forward = [attrs for tag, attrs in outline.tags if tag == "path" and attrs.get("class") == "forward"]
    assert (len(forward), len(backward)) == (11, 8)
    assert "loss_weight 0.3 / N 5 = 0.06" in outline.text and "Gradient of each loss at trunk1 [5, 9]" in outline.text
    marked = re.search(r"<mark>(.*?)</mark>", text)
    assert marked and "0.060000002f" in marked[1]


def test_boxes_and_labels_of_a_picture_do_not_overlap() -> None:
    trunk = "a/trunk/with_a_name_longer_than_boxes"
    wide = f'layer {{ name: "x" type: "Input" top: "{trunk}" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}\n'
    wide += "".join(fc(f"branch{k}", trunk, 3) for k in range(7))
    wide += layer("Eltwise", "sum", " ".join(f"branch{k}" for k in range(7)) + f" {trunk}", "sum", "loss_weight: 1")
    drawn = page(explain_request(Request(read_net_text(wide, "net.prototxt"))))
    found = re.findall(r'<rect x="([\d.-]+)" y="([\d.-]+)" width="([\d.]+)" height="([\d.]+)"', drawn)
    boxes = [tuple(map(float, each)) for each in found]
    assert len(boxes) == 9
    labels = re.findall(r'<text class="forward" x="([\d.-]+)" y="([\d.-]+)">(.*?)</text>', drawn)
    assert len(labels) == 15
    boxes += [(float(x), float(y) - 9, 6.6 * len(text), 11) for x, y, text in labels]  # of 11 px, monospaced
    width = float(re.search(r'<svg[^>]* width="(\d+)"', drawn)[1])  # type: ignore[index]
    assert all(x + w <= width for x, _, w, _ in boxes)
    for k, (x, y, w, h) in enumerate(boxes):
        assert x >= 0 and y >= 0
        for u, v, s, t in boxes[k + 1 :]:
            assert x + w <= u or u + s <= x or y + h <= v or v + t <= y


def test_names_from_the_net_are_escaped() -> None:
    odd = AUX.replace("aux/fc", "a<b>&x").replace("aux/loss", "</pre><i>")
    text = page(explain_request(Request(read_net_text(odd, "<net>.prototxt"))))
    outline = Outline()
    outline.feed(text)
    assert not outline.open and not {"i", "b"} & {tag for tag, _ in outline.tags}
    assert "a<b>&x" in outline.text and "</pre><i>" in outline.text


def test_the_example_of_the_readme(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(root / "examples" / "two_heads")
    content = json.loads(run(capfd, "two_heads.prototxt", "--json", "--target", "avx2"))
    told = (root / "README.md").read_text()
    for a in content["alphas"]:
        assert f"{a['derivation']}  " in told and f" {a['literal']} " in told
    assert [x["loss"] for x in content["losses"]] == ["aux/loss", "loss", "probe/loss"]
    assert content["zero_heads"][0]["removed"] in told
    assert {x["line"] for x in content["losses"]} == {29, 51, 59}
