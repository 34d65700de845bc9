"""Every golden case of built-in layers through generated code, with all blobs kept and with none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from test_golden_interpreter import loses_gradient

from lossc.layers.registry import LAYERS
from lossc.testing.compiled import net_mismatches, run_compiled
from lossc.testing.golden import find_cases, load_case, mismatches

HERE = Path(__file__).parent.parent / "golden"
LARGE = os.environ.get("LOSSC_GOLDEN")
FOLDERS = {f.name: f for f in find_cases(HERE)}
if LARGE:
    FOLDERS |= {f.name: f for f in find_cases(Path(LARGE) / "layers")}
NETS = [f for f in find_cases(Path(LARGE) / "nets") if (f / "case.npz").exists()] if LARGE else []


@pytest.mark.parametrize("keep", ["all", ()], ids=["all", "default"])
@pytest.mark.parametrize("folder", FOLDERS.values(), ids=lambda f: f.name)
def test_generated_code_agrees(folder: Path, keep: str | tuple[str, ...]) -> None:
    case = load_case(folder)
    if case.unknown_types:
        pytest.skip("not built in: " + ", ".join(case.unknown_types))
    bad = mismatches(case, run_compiled(case, keep=keep))
    if loses_gradient(case):
        bad = [line for line in bad if "diff" not in line]
    assert not bad


def _marked(folder: Path) -> Any:
    """A net of many layers takes a minute to compile and compare."""
    slow = (folder / "net.prototxt").read_text().count("layer {") > 100
    return pytest.param(folder, marks=pytest.mark.slow) if slow else folder


@pytest.mark.golden
@pytest.mark.parametrize("keep", ["all", ()], ids=["all", "default"])
@pytest.mark.parametrize("folder", [*map(_marked, NETS)] or [None], ids=lambda f: f.name if f else "none")
def test_nets_agree(folder: Path | None, keep: str | tuple[str, ...]) -> None:
    if folder is None:
        pytest.skip("LOSSC_GOLDEN does not name the folder of golden cases")
    types = {layer for layer in _types(folder)}
    if types - set(LAYERS):
        pytest.skip("not built in: " + ", ".join(sorted(types - set(LAYERS))))
    assert not net_mismatches(folder, keep=keep)


def _types(folder: Path) -> set[str]:
    from lossc.frontend import read_net

    phase = json.loads((folder / "case.json").read_text())["phase"]
    return {layer.type for layer in read_net(folder / "net.prototxt", phase=phase).param.layer}
