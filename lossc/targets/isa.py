"""The vector instruction sets that generated code is written for. Each has one thin header, ``runtime/simd_NAME.h``."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Isa:
    """One instruction set.

    ``define`` is the macro that makes ``simd.h`` choose its header; ``registers`` counts the architecture's vector
    registers, which bounds the tile of a micro-kernel; ``cpu_flags`` are the names in Linux's /proc/cpuinfo that a
    processor must show to run it. ``header``: the set whose header it shares, if it has none of its own.
    """

    name: str
    lanes_f32: int
    registers: int
    arch: str | None  # None: any
    flags: tuple[str, ...] = ()
    cpu_flags: frozenset[str] = frozenset()
    header: str = ""

    @property
    def define(self) -> str:
        return f"LOSSC_ISA_{(self.header or self.name).upper()}"

    def lanes(self, dtype: str) -> int:
        """Elements of ``dtype`` ("float32" or "f32", "float64" or "f64") in a vector; at least 1."""
        return self.lanes_f32 if dtype in ("float32", "f32") else max(1, self.lanes_f32 // 2)

    def compiler_flags(self, kind: str) -> tuple[str, ...]:
        """What a compiler of this kind ("gcc", "clang" or "zig") must be told, the ISA's macro included."""
        # zig compiles for the processor at hand unless told otherwise; gcc and clang for the architecture's baseline.
        baseline = ("-mcpu=baseline",) if kind == "zig" else ()
        return (*baseline, *self.flags, f"-D{self.define}")


_AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
_AVX2_CPU = frozenset({"avx2", "fma", "f16c"})

AVX512 = Isa(
    name="avx512",
    lanes_f32=16,
    registers=32,
    arch="x86_64",
    # gcc and clang prefer 256-bit vectors on these processors unless told otherwise.
    flags=("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", *_AVX2_FLAGS, "-mprefer-vector-width=512"),
    cpu_flags=_AVX2_CPU | {"avx512f", "avx512dq", "avx512bw", "avx512vl"},
)
#: The same with instructions for pairs of bfloat16, which the same C uses where it is compiled for them.
AVX512_BF16 = replace(
    AVX512, name="avx512_bf16", header="avx512", flags=(*AVX512.flags, "-mavx512bf16"),
    cpu_flags=AVX512.cpu_flags | {"avx512_bf16"},
)  # fmt: skip
AVX2 = Isa(name="avx2", lanes_f32=8, registers=16, arch="x86_64", flags=_AVX2_FLAGS, cpu_flags=_AVX2_CPU)
NEON = Isa(name="neon", lanes_f32=4, registers=32, arch="aarch64")  # part of every AArch64 processor
SCALAR = Isa(name="scalar", lanes_f32=1, registers=16, arch=None)

ISAS: tuple[Isa, ...] = (AVX512, AVX2, NEON, SCALAR)
"""All that have a header, the widest first."""

ROUNDING: tuple[Isa, ...] = (AVX512_BF16,)
"""Those with instructions for bfloat16: "native" is one of them where a net's operands are rounded to it."""
