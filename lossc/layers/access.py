"""Names of axes in the accesses that layers make."""

from __future__ import annotations

from lossc.ir import Access, Ref

#: Names of a blob's axes in maps over all of it.
AXES = "nchwabdefgijklmopqrstuvxyz"


def full(ref: Ref) -> Access:
    """The access that runs over every axis of a blob."""
    return ref[AXES[: ref.ndim]]
