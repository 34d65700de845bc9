"""Losses of installed packages, which name them under the entry point group ``lossc.layers``."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
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


PROJECT = """
[build-system]
requires = ["{backend}"]
build-backend = "{module}"

[project]
name = "wheel-losses"
version = "1.0"

[project.entry-points."lossc.layers"]
wheel-losses = "wheel_losses"
"""
PROGRAM = """
import numpy as np
import lossc

net = lossc.Net("net.prototxt", lossc.TRAIN, layers="wheel-losses")
print(net.forward_backward(x=np.ones((2, 3))), lossc.__file__)
"""
PROTOTXT = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "l" type: "Installed" bottom: "x" top: "l" lossc_param { scale: 2 } }
"""


@pytest.mark.parametrize("backend, module", [("hatchling", "hatchling.build"), ("setuptools", "setuptools.build_meta")])
def test_a_package_that_pip_builds_and_installs(tmp_path: Path, backend: str, module: str) -> None:
    """A project with one module becomes a wheel, is installed, and its loss is found by its type, in Python and by the
    command."""
    for needed in ("pip", backend, *(["wheel"] if backend == "setuptools" else [])):  # older setuptools need wheel
        if find_spec(needed) is None:
            pytest.skip(f"the package is built by {needed}, which is not installed")
    project, site, cache = tmp_path / "project", tmp_path / "site", tmp_path / "cache"
    (project / "wheel_losses").mkdir(parents=True)
    (project / "wheel_losses" / "__init__.py").write_text(LOSS)
    (project / "pyproject.toml").write_text(PROJECT.format(backend=backend, module=module))
    pip = ["install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(site), str(project)]
    done = subprocess.run([sys.executable, "-m", "pip", *pip], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (about,) = site.glob("wheel_losses-1.0.dist-info")
    assert "wheel_losses" in (about / "entry_points.txt").read_text()
    (tmp_path / "net.prototxt").write_text(PROTOTXT)
    top = Path(lossc.__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(top)]), "LOSSC_CACHE": str(cache)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    found = run("-c", PROGRAM)
    assert found.stdout.split()[:1] == ["12.0"], found.stderr
    inspected = run("-m", "lossc.cli.main", "inspect", "net.prototxt", "--layer", "wheel-losses")
    assert inspected.returncode == 0 and "l[] = 2 * sum_cn(x[n,c])" in inspected.stdout, inspected.stderr
    unnamed = run("-m", "lossc.cli.main", "inspect", "net.prototxt")
    assert unnamed.returncode == 1 and 'unknown layer type "Installed"' in unnamed.stderr
    assert "Traceback" not in unnamed.stderr
