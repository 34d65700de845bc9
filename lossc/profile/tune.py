"""Measures the cost model's cheapest candidates for each product and convolution of a net, on this machine.

The candidates of all contractions are compiled into one library and run on operands of the real sizes, in alternation,
so that what else the machine does meets all of them. They run without epilogue, which costs each the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import numpy as np

from lossc.build.library import compile_library
from lossc.build.load import load_library
from lossc.build.tuning import Entry
from lossc.build.units import Kernel
from lossc.codegen.contraction import Code, types_of
from lossc.codegen.contractions import Contraction
from lossc.codegen.conv import ConvSpec
from lossc.codegen.gemm_plan import GemmSpec
from lossc.codegen.kernelgen import KernelWriter
from lossc.codegen.sharing import write_kernels
from lossc.codegen.team import wants_team
from lossc.errors import InternalError
from lossc.ir import Graph
from lossc.pipeline import Request, build_graph
from lossc.targets import Target, check_runnable

MARGIN = 0.03
"""The part of its time by which a candidate must beat the model's choice, in each of a measurement's parts."""

_PARTS = 2
_ROUNDS = 3  # of each part, at the least
_LEAST_SECONDS = 2e-4  # of calls that are timed together: a team takes some microseconds to start
_SHORTEST = 1e-7  # seconds of a call, where the clock shows less
_TOLERANCE = {"f32": 1e-3, "f64": 1e-9}  # of results, beside the largest: no rounding comes near it
_ROUNDED = 1.5e-2  # where candidates may round what they multiply to bfloat16, and their results: up to 8e-3 was seen
_PERIOD = 65521  # random numbers before operands repeat themselves: a prime, so that no two rows are the same
_ALIGN = 64

_HEAD = """#include <stdint.h>
#include "simd.h"
#include "threads.h"

"""
_END = """
typedef void candidate({real} *const *p, {real} *packed, {real} *shared, {real} *local);
static candidate *const candidates[] = {{
    {run}
}};
typedef void preparation({real} *const *p, {real} *packed);
static preparation *const preparations[] = {{
    {prepare}
}};

__attribute__((visibility("default"))) int lossc_tune_threads(int threads)
{{
    return threads > 0 ? threads : lossc_max_threads();
}}

__attribute__((visibility("default")))
void lossc_tune_prepare(int which, {real} *const *p, {real} *packed)
{{
    if (preparations[which]) {{
        LOSSC_PARALLEL(1)
        preparations[which](p, packed);
    }}
}}

__attribute__((visibility("default")))
void lossc_tune_run(int which, int threads, int times, {real} *const *p, {real} *packed, {real} *shared, {real} *local,
                    int64_t stride)
{{
    (void)threads;
    LOSSC_PARALLEL(threads)
    {{
        {real} *const own = local + lossc_thread_id() * stride;
        for (int t = 0; t < times; t++) {{
            candidates[which](p, packed, shared, own);
        }}
    }}
}}
"""
_CDEF = """int lossc_tune_threads(int threads);
void lossc_tune_prepare(int which, void *const *p, void *packed);
void lossc_tune_run(int which, int threads, int times, void *const *p, void *packed, void *shared, void *local,
                    int64_t stride);
"""


@dataclass(frozen=True)
class Measured:
    """A contraction: ``kernels``: the net's kernels that are it; ``seconds``: the least of each candidate by its
    name, the model's choice first; ``chosen``: the fastest where its gain is certain, else the model's choice."""

    key: str
    kernels: tuple[str, ...]
    threads: int
    seconds: Mapping[str, float]
    chosen: str

    @property
    def model(self) -> str:
        return next(iter(self.seconds))

    @property
    def saved(self) -> float:
        """The seconds of an iteration that the chosen candidate saves, in all of the net's kernels."""
        return len(self.kernels) * (self.seconds[self.model] - self.seconds[self.chosen])

    @property
    def entry(self) -> Entry:
        return Entry(self.chosen, self.threads)


@dataclass(frozen=True)
class _Job:
    """A contraction to measure: its candidates' C by their names, and whether its section of the net runs on a team."""

    contraction: Contraction
    kernels: tuple[str, ...]
    team: bool
    codes: Mapping[str, Code]


def tune(
    request: Request, candidates: int, seconds: float, told: Callable[[Measured], None] | None = None
) -> list[Measured]:
    """Measures up to ``candidates`` for each distinct contraction that has more than one, in the order of the net.

    ``seconds``: for each candidate; ``told`` hears of each contraction as soon as it is measured. Raises as
    ``compile_net``, CompilerError, UsageError where this machine cannot run the target's code, InternalError where
    candidates disagree.
    """
    target = request.built_for
    check_runnable(target)
    dtype = "f32" if request.dtype == "float32" else "f64"
    graph, _ = build_graph(request)
    jobs = _jobs(graph, target, dtype, candidates)
    if not jobs:
        return []
    ffi, lib = _library(jobs, target, dtype)
    team = lib.lossc_tune_threads(request.threads)
    measured, first = [], 0
    for job in jobs:
        measured.append(_measure(job, first, team if job.team else 1, seconds, dtype, ffi, lib))
        first += len(job.codes)
        if told is not None:
            told(measured[-1])
    return measured


def _jobs(graph: Graph, target: Target, dtype: str, candidates: int) -> list[_Job]:
    writer = KernelWriter(graph, target.isa, dtype, lambda root, offset: root)
    _, calls = write_kernels(graph, writer, frozenset())
    sections = ("init", "forward", "backward", "update")
    teams = {section: wants_team(graph, graph.section(section)) for section in sections}
    jobs: dict[str, _Job] = {}
    for call in calls:
        function, team = call.function, teams[call.node.section]
        if function.contraction is None or function.choice is None:
            continue
        key, ranked = function.contraction.key, function.choice.ranked[:candidates]
        if known := jobs.get(key):
            jobs[key] = replace(known, kernels=(*known.kernels, call.name), team=known.team or team)
        elif len(ranked) > 1:
            codes = {}
            for index, (name, _) in enumerate(ranked):
                bare = replace(function.contraction, spec=_bare(function.contraction.spec, f"k{len(jobs)}_{index}"))
                codes[name] = bare.code(target.isa, dtype, name)
            jobs[key] = _Job(function.contraction, (call.name,), team, codes)
    return list(jobs.values())


def _bare(spec: GemmSpec | ConvSpec, name: str) -> GemmSpec | ConvSpec:
    """The spec without what is done to each finished vector, as a function of this name."""
    return replace(spec, name=name, alpha="1", alpha_args=(), epilogue=None, accumulate=bool(spec.accumulate))


def _library(jobs: Sequence[_Job], target: Target, dtype: str) -> tuple[Any, Any]:
    """The candidates' library as (ffi, lib): they are numbered in the order of the jobs."""
    real = types_of(target.isa, dtype).real
    text, line = _HEAD, _HEAD.count("\n") + 1
    places: list[Kernel] = []
    names: dict[str, list[str]] = {"run": [], "prepare": []}
    for job in jobs:
        halves = _halves(job.contraction.spec)
        names_at = ((name, f"p[{k}]") for k, (name, _) in enumerate(_sizes(job.contraction.spec)))
        operands = {name: f"(void *){place}" if name in halves else place for name, place in names_at}
        for number, code in enumerate(job.codes.values(), len(names["run"])):
            for verb, part in _functions(code, operands, number, real):
                names[verb].append(f"{verb}_{number}" if part else "0")
                if part:
                    places.append((names[verb][-1], line, line + part.count("\n") - 1))
                    text += part
                    line += part.count("\n")
    lists = {verb: ",\n    ".join(each) for verb, each in names.items()}
    text += _END.format(real=real, **lists)
    return load_library(compile_library(text, target=target, name="tune", kernels=places), _CDEF)


def _functions(code: Code, operands: Mapping[str, str], number: int, real: str) -> Iterator[tuple[str, str]]:
    """(verb, C): what prepares the candidate's frozen operand, empty where it has none, and what runs it."""
    before = code.prepared
    if before:
        head = f"static void prepare_{number}({real} *const *p, {real} *packed)"
        call = f"{before.name}({operands[before.operand]}, packed);"
        yield "prepare", f"{before.text.strip()}\n\n{head}\n{{\n    {call}\n}}\n"
        operands = {**operands, before.packed: "packed"}
    else:
        yield "prepare", ""
    arguments = [operands[param.split("*restrict ")[-1]] for param in code.params]
    arguments += ["shared"] * bool(code.shared_scratch) + ["local"] * bool(code.thread_scratch)
    head = f"static void run_{number}({real} *const *p, {real} *packed, {real} *shared, {real} *local)"
    body = f"(void)packed;\n    (void)shared;\n    (void)local;\n    {_name(code)}({', '.join(arguments)});"
    yield "run", f"{code.text.strip()}\n\n{head}\n{{\n    {body}\n}}\n"


def _name(code: Code) -> str:
    """The name of the function that is called: the last one."""
    return re.findall(r"^static void (\w+)\(", code.text, re.MULTILINE)[-1]


def _measure(job: _Job, first: int, threads: int, seconds: float, dtype: str, ffi: Any, lib: Any) -> Measured:
    """Checks that all candidates give the same, then times them."""
    names, codes = list(job.codes), list(job.codes.values())
    memory = _Memory(job.contraction.spec, codes, threads, np.dtype(np.float32 if dtype == "f32" else np.float64))
    pointers = [ffi.from_buffer(array) for array in memory.operands]
    addresses = ffi.new("void *[]", [ffi.cast("void *", p) for p in pointers])
    scratch = (memory.packed, memory.shared, memory.local)
    packed, shared, local = (ffi.cast("void *", ffi.from_buffer(array)) for array in scratch)

    clock = time.thread_time if threads == 1 else time.perf_counter  # of one thread, what others take does not count

    def run(index: int, times: int) -> float:
        """Seconds of one call, its frozen operand prepared before."""
        lib.lossc_tune_prepare(first + index, addresses, packed)
        start = clock()
        lib.lossc_tune_run(first + index, threads, times, addresses, packed, shared, local, memory.stride)
        return (clock() - start) / times

    tolerance = _ROUNDED if job.contraction.spec.bf16 else _TOLERANCE[dtype]
    run(0, 1)
    expected = memory.result()
    for index, name in enumerate(names):
        memory.clear()
        run(index, 1)
        if not _largest(memory.result() - expected) <= tolerance * _largest(expected):
            raise InternalError(f'{job.contraction.key}: "{name}" gives other results than "{names[0]}"')
    times = max(1, ceil(_LEAST_SECONDS / max(run(0, 1), _SHORTEST)))
    parts = [_least(run, len(names), times, seconds * len(names) / _PARTS) for _ in range(_PARTS)]
    least = [min(part[index] for part in parts) for index in range(len(names))]
    best = least.index(min(least))
    certain = all(part[best] < (1 - MARGIN) * part[0] for part in parts)
    chosen = names[best if certain else 0]
    return Measured(job.contraction.key, job.kernels, threads, dict(zip(names, least, strict=True)), chosen)


def _largest(values: np.ndarray) -> float:
    """The largest magnitude, without a copy of what may be as large as the memory allows."""
    return float(max(values.max(), -values.min()))


def _least(run: Callable[[int, int], float], count: int, times: int, seconds: float) -> list[float]:
    """The least time of each candidate, called in alternation for so many seconds."""
    least = [float("inf")] * count
    stop, rounds = time.perf_counter() + seconds, 0
    while rounds < _ROUNDS or time.perf_counter() < stop:
        least = [min(known, run(index, times)) for index, known in enumerate(least)]
        rounds += 1
    return least


class _Memory:
    """Operands of a contraction, in the order of ``_sizes``, one of them the result, and room for intermediates."""

    def __init__(self, spec: GemmSpec | ConvSpec, codes: Sequence[Code], threads: int, dtype: np.dtype[Any]) -> None:
        noise = np.random.default_rng(1).standard_normal(_PERIOD).astype(dtype)
        sizes, result, halves = dict(_sizes(spec)), _result(spec), _halves(spec)
        self.operands = []
        for name, size in sizes.items():
            array = _aligned(size, np.dtype(np.uint16) if name in halves else dtype)
            if name == result:
                self._result = array
            else:
                array[:] = np.resize(_high_halves(noise) if name in halves else noise, array.size)
            self.operands.append(array)
        prepared = (code.prepared.size for code in codes if code.prepared)
        self.packed = _aligned(max(prepared, default=0) + 1, dtype)
        self.shared = _aligned(max(code.shared_scratch for code in codes) + 1, dtype)
        line = _ALIGN // dtype.itemsize
        self.stride = -(-max(code.thread_scratch for code in codes) // line) * line
        self.local = _aligned(self.stride * threads + 1, dtype)

    def clear(self) -> None:
        self._result[:] = 0

    def result(self) -> np.ndarray:
        """A copy, as reals."""
        if self._result.dtype == np.uint16:
            return (self._result.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return self._result.copy()


def _halves(spec: GemmSpec | ConvSpec) -> frozenset[str]:
    return spec.halves if isinstance(spec, ConvSpec) else frozenset()


def _high_halves(values: np.ndarray) -> np.ndarray:
    """Of float32 numbers: bfloat16, rounded towards zero."""
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _sizes(spec: GemmSpec | ConvSpec) -> Iterator[tuple[str, int]]:
    """Elements from the first to the last of each operand, by the parameter's name."""
    if isinstance(spec, GemmSpec):
        operands = ((spec.a, spec.m, spec.k, spec.a_strides), (spec.b, spec.k, spec.n, spec.b_strides),
                    (spec.c, spec.m, spec.n, spec.c_strides))  # fmt: skip
        for name, rows, columns, (row, column) in operands:
            yield name, (rows - 1) * row + (columns - 1) * column + 1
        return
    yield spec.w, spec.co * spec.ci // spec.groups * prod(spec.kernel)
    for name, channels, shape, (image, channel) in (
        (spec.x, spec.ci, spec.in_shape, spec.x_strides), (spec.y, spec.co, spec.out_shape, spec.y_strides),
    ):  # fmt: skip
        yield name, (spec.n - 1) * image + (channels - 1) * channel + prod(shape)


def _result(spec: GemmSpec | ConvSpec) -> str:
    if isinstance(spec, GemmSpec):
        return spec.c
    return {"forward": spec.y, "bwd_data": spec.x, "bwd_weights": spec.w}[spec.direction]


def _aligned(count: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Zeros that begin on a cache line."""
    raw = np.zeros(count + _ALIGN // dtype.itemsize, dtype)
    skip = -raw.ctypes.data % _ALIGN // dtype.itemsize
    return raw[skip : skip + count]
