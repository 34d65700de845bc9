"""Losses of installed packages, which name them under the entry point group ``lossc.layers``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.errors import GraphError, UsageError
from lossc.frontend.net import read_net_text
from lossc.lang.files import collect

LOSS = """
import lossc


@lossc.loss("Installed")
def installed(pred, *, scale=1.0):
    return scale * pred.sum()
"""


def install(site: Path, module: str, text: str) -> None:
    """A package as an installer leaves it: its module, and its metadata with the entry point."""
    (site / f"{module}.py").write_text(text)
    about = site / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[lossc.layers]\n{module} = {module}\n")


def net(setting: str) -> lossc.Net:
    text = f"""
        name: "n" force_backward: true
        layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
        layer {{ name: "l" type: "Installed" bottom: "x" top: "l" {setting} }}
    """
    return lossc.Net(read_net_text(text, "net.prototxt"), lossc.TRAIN, layers="installed_losses", keep=["x"])


def test_a_loss_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "installed_losses", LOSS)
    monkeypatch.syspath_prepend(tmp_path)
    for setting in (
        "lossc_param { scale: 2 }",
        "lossc_param { param_str: \"{'scale': 2}\" }",
        'python_param { param_str: \'{"scale": 2.0}\' }',
    ):
        made = net(setting)
        assert made.forward_backward(x=np.ones((2, 3))) == 12.0
        np.testing.assert_array_equal(made.blobs["x"].diff, np.full((2, 3), 2.0))
    for setting, message in (("scal: 2", 'no setting "scal"'), ('param_str: "2"', "is no dictionary")):
        with pytest.raises(GraphError, match=message):
            net(f"lossc_param {{ {setting} }}")


def test_a_package_that_fails_when_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "broken_losses", "import a_module_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r'"broken_losses".*ModuleNotFoundError.*a_module_that_nobody_has') as caught:
        collect("broken_losses")
    assert "reinstall" in str(caught.value.fix)
