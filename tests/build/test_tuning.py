"""What lossc tune measured, as a file and in the cache."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lossc.build import tuning
from lossc.build.tuning import Entry, Tuning, choices, keep_tuning, kept_tuning, read_tuning, write_tuning
from lossc.errors import ArgumentError, DataError, OutputError, UsageError
from lossc.targets import parse_target, processor_name

TARGET = parse_target("avx2")
FOUND = Tuning(processor_name(), "avx2", "float32", {"gemm 1x2x3": Entry("gemm nn 1x1", 2), "conv": Entry("x", 1)})


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LOSSC_CACHE", str(tmp_path / "cache"))
    write_tuning(str(tmp_path / "tuned.json"), FOUND)
    return str(tmp_path / "tuned.json")


def test_a_file_comes_back(path: str) -> None:
    assert read_tuning(path, TARGET) == FOUND
    assert choices(path, TARGET) == choices(Path(path), TARGET) == {"conv": "x", "gemm 1x2x3": "gemm nn 1x1"}
    assert choices(False, TARGET) is None
    turned = replace(FOUND, entries=dict(reversed(FOUND.entries.items())))
    assert turned.text() == FOUND.text()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"threads": 2', '"threads": "2"'),
        lambda text: text.replace('"threads": 2', '"others": 2'),
        lambda text: text.replace('"gemm nn 1x1"', "1"),
        lambda text: text.replace('"entries"', '"more"'),
        lambda text: text.replace('"float32"', "null"),
        lambda text: text.encode("utf-16").decode("latin-1"),
    ],
)
def test_a_damaged_file_is_one_error(path: str, change) -> None:
    text = Path(path).read_text()
    assert change(text) != text
    Path(path).write_text(change(text))
    with pytest.raises(DataError, match=r"tuned\.json: is damaged, or not of `lossc tune`.*\n  fix: "):
        choices(path, TARGET)


def test_a_file_for_another_target_is_an_error(path: str) -> None:
    for target in (parse_target("avx512"), parse_target("avx2", dtype="float64")):
        with pytest.raises(UsageError, match="was measured for avx2, float32, and the net is for"):
            choices(path, target)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        choices(tmp_path / "none.json", TARGET)
    with pytest.raises(OutputError, match="cannot be written"):
        write_tuning(str(tmp_path / "none" / "tuned.json"), FOUND)
    with pytest.raises(ArgumentError, match="tuned is 1"):
        choices(1, TARGET)  # type: ignore[arg-type]


def test_the_cache_merges_and_keeps_targets_and_processors_apart(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept_tuning(TARGET) is None
    with pytest.raises(UsageError, match="nothing was tuned for avx2, float32 on this machine\n  fix: .*lossc tune"):
        choices(True, TARGET)
    keep_tuning(FOUND, TARGET)
    keep_tuning(replace(FOUND, entries={"conv": Entry("y", 4), "more": Entry("z", 1)}), TARGET)
    assert choices(True, TARGET) == {"conv": "y", "gemm 1x2x3": "gemm nn 1x1", "more": "z"}
    assert kept_tuning(parse_target("avx2", dtype="float64")) is None
    assert kept_tuning(parse_target("scalar")) is None
    monkeypatch.setattr(tuning, "processor_name", lambda: "another")
    assert kept_tuning(TARGET) is None


def test_the_file_is_plain_json(path: str) -> None:
    found = json.loads(Path(path).read_text())
    assert found["format"] == 1
    assert found["entries"]["conv"] == {"choice": "x", "threads": 1}
    assert (found["processor"], found["isa"], found["dtype"]) == (processor_name(), "avx2", "float32")
