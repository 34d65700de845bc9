"""Every golden case of built-in layers, run by the interpreter with and without optimisations."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lossc.frontend import read_net
from lossc.testing.golden import Case, find_cases, load_case, mismatches, run_interpreter

HERE = Path(__file__).parent.parent / "golden"
LARGE = os.environ.get("LOSSC_GOLDEN")
CASES = find_cases(HERE) + (find_cases(Path(LARGE) / "layers") if LARGE else [])


@pytest.mark.golden
def test_golden_folder_is_named() -> None:
    if not LARGE:
        pytest.skip("LOSSC_GOLDEN does not name the folder of all golden cases: only those in tests/golden are run")
    assert len(CASES) > len(find_cases(HERE))


def loses_gradient(case: Case) -> bool:
    """Whether a Flatten stands on a Reshape: Caffe then loses the gradient below, since both share diffs, each its way.

    Ours is the derivative: test_gradients.py has such a net.
    """
    layers = read_net(case.net, phase=case.phase).param.layer
    reshaped = {top for layer in layers if layer.type == "Reshape" for top in layer.top}
    return any(layer.type == "Flatten" and reshaped & set(layer.bottom) for layer in layers)


@pytest.mark.parametrize("optimise", [False, True], ids=["lowered", "optimised"])
@pytest.mark.parametrize("folder", CASES, ids=lambda f: f.name)
def test_interpreter_agrees(folder: Path, optimise: bool) -> None:
    case = load_case(folder)
    if case.unknown_types:
        pytest.skip("not built in: " + ", ".join(case.unknown_types))
    bad = mismatches(case, run_interpreter(case, optimise=optimise))
    if loses_gradient(case):
        bad = [line for line in bad if "diff" not in line]
    assert not bad
