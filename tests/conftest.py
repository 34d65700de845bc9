"""What all tests share: an isolated cache, few threads, and the golden cases' folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Compiled code makes a first example slow, so no test may depend on an example's time.
settings.register_profile("lossc", deadline=None, print_blob=True)
settings.load_profile("lossc")

# Set before any OpenMP runtime is loaded: several test processes share the cores, where spinning threads starve others.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_configure(config: pytest.Config) -> None:
    """Keeps what the tests compile apart from the user's cache, but from one run to the next."""
    if getattr(config, "cache", None) is not None:
        os.environ["LOSSC_CACHE"] = str(config.cache.mkdir("lossc"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of the golden cases, outputs of the real Caffe; tests that use it are marked ``golden``."""
    folder = os.environ.get("LOSSC_GOLDEN")
    if not folder:
        pytest.skip("LOSSC_GOLDEN does not name the folder of the golden cases")
    return Path(folder)
