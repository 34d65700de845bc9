"""Compiles generated contractions into one library and runs them on NumPy arrays."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lossc.codegen.contraction import Code
from lossc.resources import runtime_dir
from lossc.targets import Isa

WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
SPEED = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
QUICK = ["-Og", "-ffp-contract=off"]  # for results alone: the same bits, in half of -O1's time to compile
GUARD = 64  # elements before and after every output
REAL = {"f32": np.float32, "f64": np.float64}


def aligned(count: int, dtype: str, fill: float = np.nan) -> np.ndarray:
    """`count` elements that begin on a cache line."""
    size = REAL[dtype]().itemsize
    raw = np.full(count + 64 // size, fill, REAL[dtype])
    skip = -raw.ctypes.data % 64 // size
    return raw[skip : skip + count]


def bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16, to nearest, ties to even, as float32; NaN stays NaN."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = bits + (0x7FFF + (bits >> 16 & 1)).astype(np.uint32)
    return np.where(np.isnan(values), values, (rounded & np.uint32(0xFFFF0000)).view(np.float32))


def halves(values: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16, as the 16 bits that lie in memory."""
    return (bf16(values).view(np.uint32) >> 16).astype(np.uint16)


def floats(bits: np.ndarray) -> np.ndarray:
    """The float32 numbers of which these are the 16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


DECLARED = re.compile(
    r"(?:ptrdiff_t|int|float|double|v[fi]\d+|mf\d+)\s+(?:\*restrict\s+)?(\w+)(?:\[\w+\])?\s*(?==|;|\[)|,\s*(\w+)\s*="
)


def local_names(text: str) -> set[str]:
    """Names declared in the body of the last function of generated C."""
    body = text[text.index("{", text.rindex("\nstatic void")) :]
    return {match[1] or match[2] for match in DECLARED.finditer(body)}


class Library:
    """Functions by name, each called as ``run(name, arrays, threads)``."""

    def __init__(
        self,
        codes: dict[str, Code],
        isa: Isa,
        dtype: str,
        folder: Path,
        compiler: str = "gcc",
        openmp: bool = True,
        optimise: Sequence[str] = QUICK,
    ) -> None:
        self.codes, self.dtype = codes, dtype
        real = {"f32": "float", "f64": "double"}[dtype]
        parts = ['#include "simd.h"\n#include "threads.h"\n']
        for name, code in codes.items():
            args = [f"a[{i}]" for i in range(len(code.params))]
            args += ["shared"] if code.shared_scratch else []
            stride = self._thread_scratch(code)
            args += [f"local + lossc_thread_id() * {stride}"] if stride else []
            if before := code.prepared:
                parts += [
                    before.text,
                    f"void run_{before.name}(int threads, const {real} *w, {real} *packed);",
                    f"void run_{before.name}(int threads, const {real} *w, {real} *packed)\n{{\n    (void)threads;",
                    f"    LOSSC_PARALLEL(threads)\n    {before.name}(w, packed);\n}}\n",
                ]
            parts += [
                code.text,
                f"void run_{name}(int threads, void *const *a, {real} *shared, {real} *local);",
                f"void run_{name}(int threads, void *const *a, {real} *shared, {real} *local)\n{{",
                "    (void)threads; (void)shared; (void)local;",
                f"    LOSSC_PARALLEL(threads)\n    {name}({', '.join(args)});\n}}\n",
            ]
        source = folder / "codes.c"
        source.write_text("\n".join(parts))
        target = folder / "codes.so"
        flags = [*WARNINGS, *optimise, *isa.compiler_flags("gcc" if "gcc" in compiler else "clang")]
        flags += ["-fopenmp"] if openmp else []
        command = [compiler, *flags, f"-I{runtime_dir()}", "-shared", "-fPIC", str(source), "-o", str(target), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:4000]
        self.library = ctypes.CDLL(str(target))

    def _thread_scratch(self, code: Code) -> int:
        return -(-code.thread_scratch // 16) * 16

    def caller(self, name: str, arrays: Sequence[np.ndarray], threads: int):
        """A function without arguments that runs `name` on these arrays."""
        code = self.codes[name]
        assert len(arrays) == len(code.params), (name, code.params)
        types = [np.uint16 if "uint16_t" in param else REAL[self.dtype] for param in code.params]
        assert [a.dtype for a in arrays] == types, (name, code.params)
        pointers = (ctypes.c_void_p * max(1, len(arrays)))(*[a.ctypes.data for a in arrays])
        shared = aligned(code.shared_scratch + 16, self.dtype)
        local = aligned(self._thread_scratch(code) * threads + 16, self.dtype)
        function = getattr(self.library, f"run_{name}")
        at = (ctypes.c_void_p(shared.ctypes.data), ctypes.c_void_p(local.ctypes.data))

        def call() -> None:
            function(ctypes.c_int(threads), pointers, *at)

        call.keep = (shared, local, arrays, pointers)  # type: ignore[attr-defined]
        call.scratch = ((shared, code.shared_scratch), (local, self._thread_scratch(code) * threads))  # type: ignore[attr-defined]
        return call

    def prepare(self, name: str, operand: np.ndarray, threads: int = 1) -> np.ndarray:
        """What the function of `name` makes of its frozen operand; checks that nothing is written past it."""
        before = self.codes[name].prepared
        assert before is not None
        packed = aligned(before.size + GUARD, self.dtype)
        function = getattr(self.library, f"run_{before.name}")
        function(ctypes.c_int(threads), *(ctypes.c_void_p(a.ctypes.data) for a in (operand, packed)))
        assert np.isnan(packed[before.size :]).all(), f"{before.name} writes past its end"
        return packed

    def run(self, name: str, arrays: Sequence[np.ndarray], threads: int = 1) -> None:
        """Runs once; checks that nothing is written past the scratch buffers."""
        call = self.caller(name, arrays, threads)
        call()
        for buffer, size in call.scratch:
            assert np.isnan(buffer[size:]).all(), f"{name} writes past its scratch"


def assert_tidy(text: str) -> None:
    """Short lines, with nothing behind them and no tabs."""
    for line in text.splitlines():
        assert len(line) <= 120 and line == line.rstrip() and "\t" not in line, repr(line)
