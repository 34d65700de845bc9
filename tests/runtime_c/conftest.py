"""Fixtures of the tests of the C headers: drivers, and the instruction sets."""

from __future__ import annotations

import os

import pytest
from c_drivers import Drivers

from lossc.targets import ISAS, Isa


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Drivers:
    """Compiles drivers; see ``Drivers.__call__``."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "runtime_c"
    folder.mkdir(exist_ok=True)
    return Drivers(folder)


@pytest.fixture(params=ISAS, ids=lambda isa: isa.name)
def isa(request: pytest.FixtureRequest) -> Isa:
    """Each instruction set in turn."""
    return request.param
