"""A target: an instruction set on an operating system, and the element type that nets are compiled for."""

from __future__ import annotations

from dataclasses import dataclass

from lossc.targets.isa import Isa


@dataclass(frozen=True)
class Target:
    """What one build is made for. ``os`` is "linux" or "macos"; ``dtype`` "float32" or "float64"."""

    isa: Isa
    arch: str
    os: str
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """What ``parse_target`` takes: the instruction set's name."""
        return self.isa.name

    @property
    def lanes(self) -> int:
        """Elements of ``dtype`` in a vector."""
        return self.isa.lanes(self.dtype)

    @property
    def triple(self) -> str:
        """The architecture and system in the compilers' notation, such as ``x86_64-linux-gnu``."""
        return f"{self.arch}-apple-darwin" if self.os == "macos" else f"{self.arch}-linux-gnu"

    @property
    def library_suffix(self) -> str:
        """What a shared library's file name ends in."""
        return ".dylib" if self.os == "macos" else ".so"
