"""Layers that are functions in the language: traced on the net's shapes, differentiated, lowered."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lossc.errors import GraphError, UsageError
from lossc.ir import IO, Builder
from lossc.lang.files import Custom
from lossc.lang.function import Function, Trace
from lossc.lang.lower import Lowering, Output
from lossc.layers.base import Layer, ParamSpec, Shape
from lossc.layers.extras import Extra

#: The setting of ``lossc_param`` that holds all parameters as one dictionary, as PythonParameter's field does.
_TEXT = "param_str"


@dataclass(frozen=True)
class _Filler:
    """What a ``Param`` starts with, as a FillerParameter."""

    value: float
    std: float
    sparse: int = -1

    @property
    def mean(self) -> float:
        return self.value

    @property
    def type(self) -> str:
        return "gaussian" if self.std else "constant"


class FunctionLayer(Layer):
    """A layer whose forward is ``function``; its parameters come from ``lossc_param`` or ``param_str``."""

    function: ClassVar[Function]

    def __init__(self, param: Any, phase: str) -> None:
        super().__init__(param, phase)
        given = {name: self.extra(name) for name in self.function.defaults}
        text = param.python_param.param_str or ("" if _TEXT in given else self.extra(_TEXT))
        self.values = self.function.parameters({**given, **(_literal(text) if text else {})})
        self._trace: Trace | None = None

    @property
    def trace(self) -> Trace:
        assert self._trace is not None
        return self._trace

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        self._trace = Trace(self.function, bottoms, self.values)
        tops = [t.shape for t in self.trace.tops]
        self.need(len(tops) == len(self.param.top), f"{self.type} gives {len(tops)} tops, {len(self.param.top)} named")
        return tops

    def params(self, *bottoms: Shape) -> Sequence[ParamSpec]:
        learned = self.function.learned.values()
        return [ParamSpec(p.shape_for(bottoms), _Filler(p.init, p.std)) for p in learned]

    def propagates_to(self, bottom: int) -> bool:
        return bool(self.trace.gradients[bottom])

    def forward(self, b: Builder, io: IO) -> None:
        trace = self.trace
        refs = dict(zip(trace.inputs, (*io.bottoms, *io.params), strict=True))
        for label, classes, _ in trace.indices():
            b.check_label(refs[label], classes)
        lowering = io.saved["lowering"] = Lowering(refs)
        back = [g for pairs in trace.gradients for _, g in pairs]
        lowering.learn([*trace.tops, *back])
        outputs = [Output(ref, top, top) for ref, top in zip(io.tops, trace.tops, strict=True)]
        shared = lowering.kept(b, lowering.shared_totals(trace.tops, back))
        lowering.emit(b, [*outputs, *shared])
        lowering.remember(shared)

    def backward(self, b: Builder, io: IO) -> None:
        lowering: Lowering = io.saved["lowering"]
        for diff, ref in zip(self.trace.top_diffs, io.top_diffs, strict=True):
            lowering.place(diff, ref)
        outputs = []
        diffs = (*io.bottom_diffs, *io.param_diffs)
        for x, pairs, diff_of_x in zip(self.trace.inputs, self.trace.gradients, diffs, strict=True):
            if diff_of_x is not None:
                lowering.place_diff(x, diff_of_x)
                outputs += [Output(lowering.diff_of(part), g, part, accumulate=True) for part, g in pairs]
        if outputs:
            lowering.emit(b, outputs)


def _literal(text: str) -> dict[str, Any]:
    """Parameters as the Python or JSON dictionary of ``param_str``. Raises GraphError."""
    for read in (ast.literal_eval, json.loads):
        try:
            found = read(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(found, dict) and all(isinstance(name, str) for name in found):
            return found
    raise GraphError(f"param_str {text!r} is no dictionary", fix="param_str: \"{'delta': 0.5}\"")


def _extra(default: Any) -> Extra:
    """A setting of ``lossc_param``: by the type of a parameter's default; without one, numbers."""
    if default is None:
        return Extra("numbers")
    return Extra("number") if default is Function.REQUIRED else Extra.of(default)


def layer_of(function: Function) -> type[FunctionLayer]:
    """The layer class of a function."""
    least, most = function.count
    members = {
        "__doc__": function.__doc__, "__module__": function.call.__module__, "function": function,
        "type": function.name, "bottoms": (least, most), "tops": (1, 1 if function.is_loss else None),
        "is_loss": function.is_loss,
        "extras": {_TEXT: Extra.of(""), **{name: _extra(value) for name, value in function.defaults.items()}},
    }  # fmt: skip
    return type(function.name, (FunctionLayer,), members)


def custom_layers(customs: Mapping[str, Custom]) -> dict[str, type[Layer]]:
    """The layer classes of layer types from outside. Raises UsageError for the name of a built-in one."""
    from lossc.layers.registry import LAYERS

    out: dict[str, type[Layer]] = {}
    for name, custom in customs.items():
        if name in LAYERS:
            known = isinstance(custom.what, Function)
            place = {"file": custom.what.file, "line": custom.what.line} if known else {}
            raise UsageError(f'"{name}" is the name of a built-in layer', fix="give yours another name", **place)
        out[name] = layer_of(custom.what) if isinstance(custom.what, Function) else custom.what
    return out
