"""The gradient check as a C program that stands beside the net's C and needs no Python."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lossc.build.library import program_flags
from lossc.codegen.environment import render
from lossc.codegen.names import comment, literal, string
from lossc.errors import UsageError
from lossc.ir.checks import CheckLabel
from lossc.pipeline import Compiled, Request, compile_net
from lossc.targets import parse_target
from lossc.testing.check import POSITIVE, SAMPLES

if TYPE_CHECKING:
    from lossc.build.compiler import Compiler

#: Even between minus and plus this: variance 1.
_UNIT = math.sqrt(3.0)
#: What BatchNorm's sums are filled with: mean, variance, factor.
_MOVING = ((-1.0, 1.0), (0.5, 1.5), (1.0, 2.0))


def checker_files(request: Request, compiler: Compiler | None = None) -> dict[str, str]:
    """net.c and net.h of the net in float64, check_gradient.c, which compares its gradients with central differences,
    and a Makefile that builds and runs it; ``../runtime`` holds the headers.

    What it compares: the gradients of parameters that learn, and of inputs where the net computes them. Without a
    ``compiler`` the Makefile asks for ``cc`` and no threads. Raises as ``compile_net``, UsageError where the net has no
    gradient.
    """
    request = replace(
        request, dtype="float64", tuning=None, solver=None, keep=(), check_labels=True, check_finite=False
    )
    compiled = compile_net(request)
    program = compiled.program
    arrays = _arrays(compiled)
    if not any(array["checked"] for array in arrays):
        fix = "a net has gradients where it has a loss, and a parameter that learns or force_backward: true"
        raise UsageError("the net has no gradient that could be checked", fix=fix, file=request.source.file)
    view = {
        "net": comment(program.manifest["net"]),
        "phase": program.manifest["phase"],
        "prefix": program.manifest["prefix"],
        "axes": max(1, *(array["axes"] for array in arrays)),
        "arrays": arrays,
        "samples": SAMPLES,
    }
    flags = program_flags(parse_target(request.target, dtype="float64"), compiler)
    command = ("cc",) if compiler is None else compiler.command
    make = {"command": _for_make(command), "flags": _for_make(flags)}
    return {
        "net.c": program.source,
        "net.h": program.header,
        "check_gradient.c": render("check_gradient.c.j2", view),
        "Makefile": render("check_gradient.mk.j2", make),
    }


def _for_make(words: Sequence[str]) -> str:
    return shlex.join(words).replace("$", "$$").replace("#", "\\#")


def _arrays(compiled: Compiled) -> list[dict[str, Any]]:
    """All inputs and parameters as the template wants them."""
    manifest = compiled.program.manifest
    out = []
    for name in manifest["inputs"]:
        blob = manifest["blobs"][name]
        limits, whole = _input_limits(compiled, name)
        out.append(_array(name, blob["shape"], -1, blob["data"], blob["diff"], limits, whole))
    kinds = {layer["name"]: layer["type"] for layer in manifest["layers"]}
    for k, p in enumerate(manifest["params"]):
        strides = [math.prod(p["shape"][axis + 1 :]) for axis in range(len(p["shape"]))]
        diff = {"offset": p["diff"], "strides": strides} if p["lr_mult"] != 0 else None
        fan_in = math.prod(p["shape"][1:])
        limits = _MOVING[p["index"]] if kinds[p["layer"]] == "BatchNorm" else _even(1 / math.sqrt(fan_in))
        name = f"{p['layer']}/{p['index']}"
        out.append(_array(name, p["shape"], k, {"offset": 0, "strides": strides}, diff, limits))
    return out


def _array(
    name: str, shape: Sequence[int], param: int, data: Mapping[str, Any], diff: Mapping[str, Any] | None,
    limits: tuple[float, float], whole: bool = False,
) -> dict[str, Any]:  # fmt: skip
    place = diff or {"offset": 0, "strides": [0] * len(shape)}
    return {
        "name": string(name),
        "param": param,
        "checked": int(diff is not None),
        "data": data["offset"],
        "diff": place["offset"],
        "axes": len(shape),
        "shape": _numbers(shape),
        "data_step": _numbers(data["strides"]),
        "diff_step": _numbers(place["strides"]),
        "low": literal(limits[0], "f64"),
        "high": literal(limits[1], "f64"),
        "whole": int(whole),
    }


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) or "1"


def _even(deviation: float) -> tuple[float, float]:
    return -_UNIT * deviation, _UNIT * deviation


def _input_limits(compiled: Compiled, name: str) -> tuple[tuple[float, float], bool]:
    """Between what an input's values are drawn, and whether they are whole: labels from their range, yes and no for
    what else has no gradient, and values where the layers that read them are defined."""
    graph = compiled.graph
    root = graph.resolve(graph.data_of[name], 0, [])[0]
    labels = [n.kernel for n in graph.nodes if isinstance(n.kernel, CheckLabel)]
    classes = [k.classes for k in labels if graph.resolve(k.label.blob, 0, [])[0] == root]
    if classes:
        return (0.0, float(min(classes) - 1)), True
    layers = [layer for layer in compiled.program.manifest["layers"] if name in layer["bottoms"]]
    readers = [(layer, k) for layer in layers for k, bottom in enumerate(layer["bottoms"]) if bottom == name]
    if readers and not any(layer["propagates"][k] for layer, k in readers):
        return (0.0, 1.0), True
    return ((0.05, 1.0) if any(layer["type"] in POSITIVE for layer in layers) else _even(1.0)), False
