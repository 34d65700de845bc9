"""Gradient checks: the gradients that a net computes against central differences of its total loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from lossc.errors import UsageError
from lossc.frontend import read_net_text
from lossc.ir import Graph
from lossc.ir.interpret import Interpreter
from lossc.layers.base import Layer
from lossc.layers.net import import_net
from lossc.passes.pipeline import run_passes


class Differentiable(Protocol):
    """A net in float64 whose total loss is a function of named arrays. Randomness must repeat at each forward."""

    #: Name -> (values, settable in place; gradient as the last backward left it).
    arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def forward(self) -> float: ...
    def backward(self) -> None: ...


@dataclass(frozen=True)
class Partial:
    """One partial derivative: what the net says and what differences say."""

    name: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    #: The slopes to the left and right differ, and the analytic one lies between them.
    kink: bool = False

    @property
    def error(self) -> float:
        """|analytic - numeric|, relative where they are greater than 1; 0 for a subgradient at a kink."""
        if self.kink:
            return 0.0
        return abs(self.analytic - self.numeric) / max(1.0, abs(self.analytic), abs(self.numeric))

    def __str__(self) -> str:
        return f'd loss / d "{self.name}"{list(self.index)}: {self.analytic:.9g}, by differences {self.numeric:.9g}'


@dataclass(frozen=True)
class GradientReport:
    """All partial derivatives that were compared."""

    partials: tuple[Partial, ...]
    tolerance: float

    @property
    def failures(self) -> list[Partial]:
        """Those that disagree, worst first."""
        return sorted((p for p in self.partials if not p.error <= self.tolerance), key=lambda p: -p.error)

    @property
    def names(self) -> list[str]:
        """The arrays whose gradients were checked."""
        return list(dict.fromkeys(p.name for p in self.partials))

    def __str__(self) -> str:
        bad = self.failures
        head = f"{len(bad)} of {len(self.partials)} partial derivatives disagree (tolerance {self.tolerance:g})"
        return "\n  ".join([head, *map(str, bad[:10])])


def check_gradients(
    net: Differentiable,
    *,
    step: float = 1e-5,
    tolerance: float = 1e-6,
    samples: int = 200,
    seed: int = 0,
    kinks: bool = False,
) -> GradientReport:
    """Compares every gradient of ``net`` with central differences at the arrays' present values.

    ``step`` is relative to values greater than 1; of arrays with more than ``samples`` elements that many are drawn.
    Differences tell nothing at kinks (ReLU at 0) or where the loss is clipped: keep ``step`` away from them, or let
    ``kinks`` accept there any slope between that on the left and that on the right, as far as the loss is exact.
    """
    here = net.forward()
    net.backward()
    rng = np.random.default_rng(seed)
    gradients = {name: gradient.copy() for name, (_, gradient) in net.arrays.items()}
    partials = []
    for name, (values, _) in net.arrays.items():
        picks = np.arange(values.size)
        if values.size > samples:
            picks = np.sort(rng.choice(values.size, samples, replace=False))
        for k in picks:
            index = tuple(int(i) for i in np.unravel_index(k, values.shape))
            old = values[index]
            h = step * max(1.0, abs(float(old)))
            values[index] = old + h
            above = net.forward()
            values[index] = old - h
            below = net.forward()
            values[index] = old
            numeric = (above - below) / (2 * h)
            partial = Partial(name, index, float(gradients[name][index]), numeric)
            if kinks and not partial.error <= tolerance:
                low, high = sorted(((here - below) / h, (above - here) / h))
                rounding = 8 * np.finfo(np.float64).eps * abs(here) / h  # of the loss, seen through the step
                slack = tolerance * max(1.0, abs(low), abs(high)) + rounding
                if low - slack <= partial.analytic <= high + slack:
                    partial = replace(partial, kink=True)
            partials.append(partial)
    return GradientReport(tuple(partials), tolerance)


class _Repeating(Interpreter):
    """Draws the same random numbers at each forward."""

    def counter(self) -> int:
        return 1


class InterpretedNet:
    """A graph in the float64 interpreter.

    Arrays: the inputs that have a gradient, by name, and the parameters that learn, as ``LAYER/INDEX``.
    """

    def __init__(self, graph: Graph, inputs: Mapping[str, Any], *, seed: int = 0) -> None:
        """Inputs that are not given, and all parameters, are drawn from a normal distribution.

        Raises UsageError for an input that the net does not have.
        """
        self.interpreter = interpreter = _Repeating(graph, "f64")
        rng = np.random.default_rng(seed)
        self.arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]
        self.arrays = arrays = {}
        self._inputs: set[str] = set()
        if unknown := sorted(set(inputs) - set(graph.inputs)):
            raise UsageError(f'the net has no input "{unknown[0]}"', fix="inputs: " + ", ".join(graph.inputs))
        interpreter.run(["init"])
        for label in graph.inputs:
            values = interpreter[graph.data_of[label]]
            values[...] = inputs[label] if label in inputs else rng.standard_normal(values.shape)
            if label in graph.diff_of:
                self._inputs.add(label)
                arrays[label] = values, interpreter[graph.diff_of[label]]
        for p in graph.params:
            values = interpreter[p.blob]
            values[...] = rng.standard_normal(values.shape)
            if p.lr_mult != 0:
                arrays[f"{p.layer}/{p.index}"] = values, interpreter[p.blob + ".diff"]

    def forward(self) -> float:
        self.interpreter.run(["forward"])
        return float(self.interpreter["loss_total"])

    def backward(self) -> None:
        for name, (_, gradient) in self.arrays.items():
            if name not in self._inputs:
                gradient[...] = 0  # those of parameters add up
        self.interpreter.run(["backward"])


def check_net_gradients(
    prototxt: str,
    *,
    phase: str = "TRAIN",
    inputs: Mapping[str, Any] | None = None,
    layers: Mapping[str, type[Layer]] | None = None,
    optimise: bool = False,
    step: float = 1e-5,
    tolerance: float = 1e-6,
    samples: int = 200,
    seed: int = 0,
) -> GradientReport:
    """Gradient check of a net given as prototxt text, by the float64 interpreter.

    ``inputs`` gives the values of some inputs (labels must be given), ``layers`` adds layer types. With
    ``force_backward: true`` in the net its inputs are checked too. Raises what reading and compiling a net raise.
    """
    source = read_net_text(prototxt, phase=phase)
    graph = import_net(
        source.param, phase, file=source.file, line_of=source.line, layers=layers, tables=source.tables
    )
    run_passes(graph, optimise=optimise)
    net = InterpretedNet(graph, inputs or {}, seed=seed)
    return check_gradients(net, step=step, tolerance=tolerance, samples=samples, seed=seed)
