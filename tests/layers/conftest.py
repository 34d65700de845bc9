"""What the tests of layers share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _headers(headers_compiled_once: None) -> None:
    """For all tests of this folder, which compile many small nets."""
