"""For users and tests: gradient checks, golden cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossc.testing.check import check_gradient as check_gradient

__all__ = ["check_gradient"]


def __getattr__(name: str) -> Any:
    """``check_gradient`` brings the whole compiler with it, which the other modules here need not."""
    if name not in __all__:
        raise AttributeError(f"module 'lossc.testing' has no attribute {name!r}")
    from lossc.testing import check

    return getattr(check, name)
