"""The example and its guide: what they show is what happens."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import lossc
from lossc.testing import check_gradient

FOLDER = Path(__file__).parents[2] / "examples" / "custom_loss"
GUIDE = (FOLDER / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def training() -> ModuleType:
    spec = importlib.util.spec_from_file_location("custom_loss_train", FOLDER / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_c_shown_is_the_c_made(tmp_path: Path) -> None:
    (code,) = (block for block in blocks("python") if "MyEuclidean" in block)
    (tmp_path / "mine.py").write_text(f"import lossc\n{code}")
    fn = lossc.compile_loss(
        "MyEuclidean", shapes={"pred": (32, 10), "label": (32, 10)}, weight=0.3, isa="avx2",
        layers=tmp_path / "mine.py",
    )  # fmt: skip
    (shown,) = blocks("c")
    assert shown in fn.source


def test_own_backward_of_the_guide() -> None:
    first, own = blocks("python")[0], next(block for block in blocks("python") if ".backward\n" in block)
    scope: dict[str, object] = {}
    exec(first, scope)
    huber = scope["huber"]
    derived = [t for t in check_gradient(huber, delta=0.7, samples=5)]  # type: ignore[arg-type]
    exec(own, scope)
    given = check_gradient(huber, delta=0.7, samples=5)  # type: ignore[arg-type]
    assert not any(t.failed for t in (*derived, *given))
    assert {p.name for t in given if t.report for p in t.report.partials} == {"pred"}


@pytest.mark.parametrize("name, batch", [
    ("huber", "line_with_outliers"), ("triplet", "points_around_two_centres"), ("multi_task", "a_label_and_a_place"),
])  # fmt: skip
def test_the_nets_learn(training: ModuleType, name: str, batch: str) -> None:
    training.RNG = np.random.default_rng(0)
    first, last = training.train(name, getattr(training, batch), steps=150)
    assert last < 0.75 * first
