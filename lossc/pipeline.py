"""The whole compiler on one page: a net's source to a graph, to C, to a library.

Only ``Request.key`` and the look-up of a finished build run on a warm start; everything that compiles is imported where
it is used, so that a net that was built before starts without networkx and Jinja.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lossc
from lossc.build.cache import default_cache
from lossc.build.compiler import find_compiler
from lossc.errors import GraphError, UsageError, count_of
from lossc.frontend.caffe_pb2 import TRAIN, SolverParameter
from lossc.frontend.names import suggestion
from lossc.frontend.net import NetSource
from lossc.loss_weight import LossWeight
from lossc.targets import Target, check_runnable, parse_target

if TYPE_CHECKING:
    import numpy as np

    from lossc.codegen.program import Program
    from lossc.ir import Graph
    from lossc.lang.files import Custom
    from lossc.lang.function import Function
    from lossc.passes.base import Pass, PassRecord

Shape = tuple[int, ...]

_TOO_DEEP = "hundreds of element-wise operations follow each other: fused, they are one expression that is too deep"
_KEEP_SOME = "keep blobs between layers (keep=, --keep), or make several layers of one function"


@dataclass(frozen=True)
class Request:
    """What to compile, and for what.

    ``keep``: names of blobs that stay readable, or "all"; outputs, inputs and parameters always do. ``target`` and
    ``dtype`` as in ``lossc.targets.parse_target``. ``solver``: compile its update too. ``data_shapes``: the shapes of
    the tops of layers that read data sources, by the layer's name. ``prefix``: of the C functions' names, by default
    the net's name. ``threads``: the team's size where the C function ``create`` is given 0; 0 means all cores.
    ``loss_weights``: what takes the place of the net's own ones, by layer or top: numbers, ``Runtime``, ``Schedule``.
    ``layers``: layer types beyond the built-in ones, by name (``lang.files.collect`` finds them).
    ``brought``: each call brings the memory of the inputs and of their gradients. ``check_labels``: labels out of range
    stop a pass before it writes anything. ``check_finite``: so does the first number that is not finite; this keeps
    every blob, and costs time. ``timed``: passes leave behind how long each kernel took, which costs a barrier for
    each. ``winograd``: the largest tile of Winograd's convolutions, in float32 where they are faster: 2, which rounds
    as plain sums do; 4, which rounds some 25 times less exactly; 0: none. ``tuning``: names of the candidates that
    measurements prefer, by contractions' keys (``build.tuning.choices``); the cost model chooses for all others.
    ``freeze``: parameters stay the same from pass to pass, what kernels make of them is made once and kept; the C
    function ``params_changed`` tells of a change. ``bf16``, for inference: the forward pass multiplies numbers
    rounded to bfloat16, in float32 sums; "native" then has the machine's instructions for them. ``blocks``: images
    between convolutions may have their channels in blocks (pass block-channels); without, all are in planes.
    """

    source: NetSource
    keep: str | tuple[str, ...] = ()
    target: str = "native"
    dtype: str = "float32"
    solver: SolverParameter | None = None
    data_shapes: Mapping[str, Sequence[Shape]] = field(default_factory=dict)
    prefix: str = ""
    threads: int = 0
    loss_weights: Mapping[str, LossWeight] = field(default_factory=dict)
    layers: Mapping[str, Custom] = field(default_factory=dict)
    brought: bool = False
    check_labels: bool = True
    check_finite: bool = False
    timed: bool = False
    winograd: int = 2
    tuning: Mapping[str, str] | None = None
    freeze: bool = False
    bf16: bool = False
    blocks: bool = True

    def __post_init__(self) -> None:
        if self.bf16 and (self.phase == "TRAIN" or self.solver is not None):
            fix = "take phase TEST (--phase test) and no solver, or leave bf16 out"
            raise UsageError("bf16 is for inference: training needs operands that are not rounded", fix=fix)
        if self.bf16 and self.dtype != "float32":
            raise UsageError(f"bf16 rounds operands of float32, not of {self.dtype}", fix="leave out one of the two")
        if self.freeze and self.solver is not None:
            raise UsageError("a solver changes parameters, which freeze forbids", fix="leave out one of the two")
        if self.winograd not in (0, 2, 4):
            raise UsageError(f"winograd is {self.winograd}", fix="give 0 (none), 2 or 4, the largest tile of outputs")

    @property
    def phase(self) -> str:
        return "TRAIN" if self.source.phase == TRAIN else "TEST"

    @property
    def built_for(self) -> Target:
        """What ``target``, ``dtype`` and ``bf16`` come to on this machine. Raises UsageError."""
        return parse_target(self.target, dtype=self.dtype, bf16=self.bf16)

    def key(self) -> str:
        """A checksum over everything that decides the library's content, lossc's own files included."""
        digest = hashlib.sha256()
        target = self.built_for
        compiler = find_compiler()
        parts: list[Any] = [
            _own_files(),
            (compiler.identity, compiler.version, compiler.command),
            (target.triple, target.name, target.dtype),
            self.source.param.SerializeToString(deterministic=True),
            (self.source.file, self.source.lines),
            _checksums(self.source.tables),
            (self.keep, self.prefix, self.threads, self.brought, self.check_labels, self.check_finite),
            (self.timed, self.winograd, self.freeze, self.bf16, self.blocks),
            sorted((name, [tuple(s) for s in shapes]) for name, shapes in self.data_shapes.items()),
            self.solver.SerializeToString(deterministic=True) if self.solver is not None else None,
            sorted(self.loss_weights.items(), key=lambda item: item[0]),
            sorted((name, custom.checksum) for name, custom in self.layers.items()),
            sorted(self.tuning.items()) if self.tuning is not None else None,
        ]
        for part in parts:
            text = repr(part)
            digest.update(f"{len(text)} {text}".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Compiled:
    """A net as a graph and as C; ``passes`` tells what each pass did."""

    graph: Graph
    program: Program
    passes: tuple[PassRecord, ...]


@dataclass(frozen=True)
class Built:
    """A net as a library. ``manifest`` says where everything lies in its memory (see ``codegen.program.generate``)."""

    library: Path
    manifest: dict[str, Any]


def built_in_function(name: str) -> Function | None:
    """The function that a built-in loss is written as; None for those that are classes. Raises UsageError."""
    from lossc.layers.registry import LAYERS

    if name not in LAYERS:
        raise UsageError(f'there is no loss "{name}"', fix=suggestion(name, LAYERS))
    return getattr(LAYERS[name], "function", None)


def passes_of(request: Request) -> tuple[Pass, ...]:
    """The passes that the request's net goes through, in order."""
    from lossc.passes.finite import FindNonFinite
    from lossc.passes.pipeline import LOWER, OPTIMISE, PLACE
    from lossc.solvers import LowerUpdate, SolverSettings

    update = () if request.solver is None else (LowerUpdate(SolverSettings.of(request.solver)),)
    checks = (FindNonFinite(),) if request.check_finite else ()
    return LOWER + update + OPTIMISE + checks + PLACE


def build_graph(request: Request, *, until: str | None = None) -> tuple[Graph, tuple[PassRecord, ...]]:
    """The net's graph after all passes, or after the one named ``until``, and what each pass did.

    Raises GraphError and its kinds for nets that do not fit together, UsageError for names that are not known.
    """
    from lossc.layers.function import custom_layers
    from lossc.layers.net import import_net
    from lossc.passes.base import PassManager

    source, passes = request.source, passes_of(request)
    names = [p.name for p in passes]
    if until is not None and until not in names:
        raise UsageError(f'there is no pass "{until}"', fix=suggestion(until, names))
    shapes = {name: list(each) for name, each in request.data_shapes.items()}
    graph = import_net(
        source.param,
        request.phase,
        file=source.file,
        line_of=source.line,
        data_shapes=shapes,
        layers=custom_layers(request.layers),
        loss_weights=request.loss_weights,
        tables=source.tables,
    )
    _check_keep(request, [top for call in graph.calls for top in call.tops])
    graph.options["keep"] = "all" if request.check_finite else request.keep
    graph.options["check_labels"] = request.check_labels
    graph.options["brought"] = request.brought
    graph.options["winograd"] = request.winograd
    graph.options["freeze"] = request.freeze
    graph.options["bf16"] = request.bf16
    graph.options["blocks"] = request.blocks
    manager = PassManager(passes)
    try:
        manager.run(graph, until)
    except RecursionError:
        raise GraphError(_TOO_DEEP, fix=_KEEP_SOME, file=source.file) from None
    return graph, tuple(manager.records)


def compile_net(request: Request) -> Compiled:
    """The net as C text, with its manifest. Raises as ``build_graph``."""
    from lossc.codegen.program import generate

    graph, records = build_graph(request)
    target = request.built_for
    dtype = "f32" if request.dtype == "float32" else "f64"
    try:
        program = generate(
            graph, target.isa, dtype, prefix=request.prefix, threads=request.threads, timed=request.timed,
            choices=request.tuning,
        )  # fmt: skip
    except RecursionError:
        raise GraphError(_TOO_DEEP, fix=_KEEP_SOME, file=request.source.file) from None
    _warn_of_tuning(program.manifest)
    return Compiled(graph, program, records)


def build(request: Request) -> Built:
    """The net as a library that this process can load: from the cache, or compiled now.

    Raises as ``compile_net``, CompilerError where the C compiler fails, UsageError where this machine cannot run the
    target's code.
    """
    target = request.built_for
    check_runnable(target)
    cache, key = default_cache(), request.key()
    if known := cache.get("requests", key):
        entry = json.loads(known)
        if library := cache.file(entry["library"]):
            _warn_of_tuning(entry["manifest"])
            return Built(library, entry["manifest"])
    from concurrent.futures import ThreadPoolExecutor

    from lossc.build.library import compile_library
    from lossc.build.load import prepare_net

    program = compile_net(request).program
    kernels = list(dict.fromkeys((place.name, place.first, place.last) for place in program.functions))
    with ThreadPoolExecutor(1) as beside:
        beside.submit(prepare_net, program.manifest["prefix"])
        library = compile_library(
            program.source, target=target, extra_files={"net.h": program.header}, kernels=kernels, cache=cache
        )
    entry = {"library": library.name, "manifest": program.manifest}
    cache.put("requests", key, json.dumps(entry).encode())
    return Built(library, json.loads(json.dumps(program.manifest)))


def _warn_of_tuning(manifest: Mapping[str, Any]) -> None:
    """Says so where measurements that were asked for cannot be used: whoever asked counts on them."""
    tuning = manifest.get("tuning")
    if tuning is None or not tuning["open"] or (tuning["measured"] and not tuning["missing"]):
        return
    if missing := tuning["missing"]:
        first = missing[0]
        text = f"the cost model chooses for {count_of(len(missing), 'kernel')}, since there is no candidate as tuned"
        text += f' ({first["kernel"]}: "{first["choice"]}")'
    else:
        text = "no kernel of the net was tuned: the cost model chooses"
    phase = manifest["phase"]
    fix = f"measure with `lossc tune NET --phase {phase.lower()}` and the same options"
    text = f"net {manifest['net']}, phase {phase}: {text}\n  fix: {fix}"
    warnings.warn_explicit(text, UserWarning, "lossc", 0)


def _check_keep(request: Request, blobs: list[str]) -> None:
    for name in () if request.keep == "all" else request.keep:
        if name not in blobs:
            message = f'keep names the blob "{name}", which the net does not have'
            raise UsageError(message, fix=suggestion(name, blobs), file=request.source.file)


def _checksums(tables: Mapping[int, Mapping[str, np.ndarray]]) -> list[tuple[int, str, tuple[int, ...], str]]:
    """What the files hold that layers name."""
    named = ((at, name, array) for at, each in tables.items() for name, array in each.items())
    return sorted((at, name, a.shape, hashlib.sha256(a.tobytes()).hexdigest()) for at, name, a in named)


@lru_cache(maxsize=1)
def _own_files() -> str:
    """Version of lossc, and size and time of each of its files: after any change in them everything is built anew."""
    from lossc.resources import runtime_dir, templates_dir

    digest = hashlib.sha256(lossc.__version__.encode())
    for folder in (os.path.dirname(lossc.__file__), runtime_dir(), templates_dir()):
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(f for f in folders if f not in ("__pycache__", "cli", "runtime", "testing"))
            for name in sorted(names):
                status = os.stat(os.path.join(parent, name))
                digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
