"""``lossc.testing.check_gradient``: whether the gradients of a loss, or of each layer of a net, are right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from lossc.errors import LosscError, ShapeError, UsageError
from lossc.frontend.caffe_pb2 import LayerParameter, NetParameter
from lossc.frontend.net import NetSource
from lossc.lang.function import Function, Trace
from lossc.pipeline import Request, build_graph, built_in_function
from lossc.runtime.loss import CompiledLoss, compile_loss
from lossc.runtime.net import Net
from lossc.testing.compiled import CompiledNet
from lossc.testing.gradient import GradientReport, check_gradients

Shape = tuple[int, ...]

#: Partial derivatives that are compared of each array.
SAMPLES = 40
#: Layers whose inputs must be positive for their gradient to mean anything.
POSITIVE = frozenset({"Log", "MultinomialLogisticLoss", "Power"})
#: Layers that hold no gradient to check, or whose input is not theirs to give.
_NOTHING = frozenset({"Accuracy", "ArgMax", "Silence", "Threshold"})


@dataclass(frozen=True)
class Trial:
    """One comparison: of what, at which kind of values, and its outcome; None where nothing could be compared."""

    what: str
    values: str
    report: GradientReport | None

    @property
    def failed(self) -> bool:
        return self.report is not None and bool(self.report.failures)

    def __str__(self) -> str:
        head = f"{self.what}, {self.values}"
        if self.report is None:
            return f"{head}: not finite, nothing to compare"
        partials = self.report.partials
        kinks = sum(p.kink for p in partials)
        if self.failed:
            return f"{head}: {self.report}"
        told = f", {kinks} of them at kinks or lost in rounding" if kinks else ""
        return f"{head}: {len(partials)} partial derivatives agree{told}"


def check_gradient(
    loss: Function | str,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: Mapping[str, Any] | None = None,
    step: float = 1e-5,
    tolerance: float = 1e-6,
    samples: int = SAMPLES,
    seed: int = 0,
    **parameters: Any,
) -> list[Trial]:
    """Compares the gradients of a loss, as its generated code computes them in float64, with central differences.

    ``loss``: what ``@lossc.loss`` made, or the name of a built-in loss. Without ``shapes`` small random ones are chosen
    that the loss accepts. The values are random, then awkward (ties and zeros, large, positive); labels are drawn from
    their range; ``inputs`` fixes those of some bottoms. At kinks any slope between the left one and the right one is
    accepted. Raises UsageError where no shapes are found, and what compiling raises.
    """
    function = built_in_function(loss) if isinstance(loss, str) else loss
    if function is None:
        raise UsageError(f"{loss} is not written as a function", fix="check it as a layer of a net: lossc check NET")
    rng = np.random.default_rng(seed)
    values = function.parameters(parameters)
    given = {k: np.shape(v) for k, v in (inputs or {}).items()} | {k: tuple(s) for k, s in (shapes or {}).items()}
    chosen, trace = _shapes(function, given, values, rng)
    chosen |= {x.attrs[0]: x.shape for x in trace.learned}
    classes = {x.attrs[0]: count for x, count, _ in trace.indices()}
    fn = compile_loss(loss, shapes=chosen, grad="all", dtype="float64", threads=1, **parameters)
    out = []
    told = ", ".join(f"{name}{list(shape)}" for name, shape in chosen.items())
    for kind, arrays in _values(chosen, classes, rng):
        arrays |= {k: np.array(v, np.float64) for k, v in (inputs or {}).items()}
        checked = _Called(fn, arrays)
        report = None
        if np.isfinite(checked.forward()) and checked.is_finite():
            report = check_gradients(
                checked, step=step, tolerance=tolerance, samples=samples, seed=seed, kinks=True
            )
        out.append(Trial(f"{function.name} {told}", kind, report))
    if all(trial.report is None for trial in out):
        raise UsageError(f"{function.name} is nowhere finite at the values tried", fix="give inputs={...}")
    return out


class _Called:
    """A compiled loss as a function of its arrays in place."""

    def __init__(self, fn: CompiledLoss, arrays: Mapping[str, np.ndarray]) -> None:
        self._fn, self._inputs = fn, [arrays[name] for name in fn.shapes]
        self.arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]
        self.arrays = {name: (arrays[name], np.zeros(arrays[name].shape)) for name in fn.wanted}

    def forward(self) -> float:
        return float(self._fn(*self._inputs).loss)

    def backward(self) -> None:
        for (_, gradient), now in zip(self.arrays.values(), self._fn(*self._inputs)[1:], strict=True):
            gradient[...] = now

    def is_finite(self) -> bool:
        self.backward()
        return all(np.isfinite(gradient).all() for _, gradient in self.arrays.values())


def _shapes(
    function: Function, given: Mapping[str, Shape], values: Mapping[str, Any], rng: np.random.Generator
) -> tuple[dict[str, Shape], Trace]:
    """Shapes for all bottoms that the function accepts, and its trace."""
    names = function.bottoms[: max(function.count[0], len(given))]
    n, c, h = (int(e) for e in rng.choice(np.arange(3, 8), 3, replace=False))
    error: LosscError | None = None
    for full in (*given.values(), (n, c), (n,), (n, c, h, 2)):
        point = (*full[:1], *full[2:])
        for labels in _subsets(names):
            shapes = {name: given.get(name, point if name in labels else full) for name in names}
            try:
                return shapes, Trace(function, list(shapes.values()), values)
            except ShapeError as problem:
                error = error or problem
            if len(given) == len(names):
                break
    assert error is not None
    raise error.__class__(
        f"no shapes were found that {function.name} accepts: {error.message}", fix="give them: --shape pred=4,3",
        file=error.file, line=error.line,
    )  # fmt: skip


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Which bottoms may hold one number per point only: none, one of them, two ..."""
    return [each for count in range(min(len(names), 4)) for each in combinations(names, count)]


def _values(
    shapes: Mapping[str, Shape], classes: Mapping[str, int], rng: np.random.Generator
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Kinds of values, with arrays of them."""
    kinds = {
        "random values": lambda shape: rng.standard_normal(shape),
        "ties and zeros": lambda shape: rng.integers(-1, 2, shape).astype(np.float64),
        "large values": lambda shape: 20 * rng.standard_normal(shape),
        "positive values": lambda shape: rng.uniform(0.05, 1.0, shape),
    }
    for kind, draw in kinds.items():
        drawn = {
            name: rng.integers(0, classes[name], shape) if name in classes else draw(shape)
            for name, shape in shapes.items()
        }
        yield kind, {name: np.array(values, np.float64) for name, values in drawn.items()}


# ---- layers of a net


def check_layers(
    request: Request, *, step: float = 1e-5, tolerance: float = 1e-6, samples: int = SAMPLES, seed: int = 0
) -> Iterator[Trial]:
    """The same for each layer of a net by itself, with the shapes that it has there and at most two items.

    Gradients go to all bottoms that have one and to all parameters that learn. A layer that is no loss is followed by
    the squared distance from random values.
    """
    graph, _ = build_graph(request, until="infer-shapes")
    seen: set[bytes] = set()
    for call, param in zip(graph.calls, request.source.param.layer, strict=True):
        shapes = [graph.declared[b].shape for b in call.bottoms]
        alike = LayerParameter()
        alike.CopyFrom(param)
        for name in ("name", "bottom", "top", "param", "blobs"):
            alike.ClearField(name)
        key = alike.SerializeToString(deterministic=True) + repr(shapes).encode()
        if not shapes or not call.layer.has_gradient or param.type in _NOTHING or key in seen:
            continue
        seen.add(key)
        for few in (True, False):
            small = [(min(s[0], 2), *s[1:]) if s and few else s for s in shapes]
            try:
                net = _alone(request, call.layer, param, small)
            except ShapeError:
                if few:
                    continue
                raise
            checked = CompiledNet(net, _inputs(call.layer, param.type, small, seed), seed=seed)
            checked.arrays = {name: pair for name, pair in checked.arrays.items() if not name.startswith("goal")}
            report = check_gradients(
                checked, step=step, tolerance=tolerance, samples=samples, seed=seed, kinks=True
            )
            told = ", ".join(str(list(s)) for s in small)
            yield Trial(f'layer "{param.name}" ({param.type})', f"bottoms {told}", report)
            break


def _alone(request: Request, layer: Any, param: Any, shapes: list[Shape]) -> Net:
    """A float64 net of one layer on inputs ``bottom0`` ..., with a loss on its tops."""
    net = NetParameter(name="check", force_backward=True)
    net.state.CopyFrom(request.source.param.state)
    for k, shape in enumerate(shapes):
        _add_input(net, f"bottom{k}", shape)
    own = net.layer.add()
    own.CopyFrom(param)
    for field in ("bottom", "top", "propagate_down"):
        own.ClearField(field)
    own.bottom.extend(f"bottom{k}" for k in range(len(shapes)))
    own.top.extend(f"top{k}" for k in range(len(param.top)))
    if not layer.is_loss and not any(param.loss_weight):
        ends = Request(_source(net, request), layers=request.layers)
        graph, _ = build_graph(ends, until="infer-shapes")
        tops = [graph.declared[top].shape for top in own.top]
        del own.loss_weight[:]
        own.loss_weight.extend(0.0 if shape else 1.0 for shape in tops)
        for k, shape in enumerate(tops):
            if shape:
                _add_input(net, f"goal{k}", shape)
                pair = [f"top{k}", f"goal{k}"]
                net.layer.add(name=f"far{k}", type="EuclideanLoss", bottom=pair, top=[f"far{k}"])
    source = _source(net, request)
    return Net(source, source.phase, dtype="float64", threads=1, layers=request.layers)


def _add_input(net: NetParameter, name: str, shape: Shape) -> None:
    net.layer.add(name=name, type="Input", top=[name]).input_param.shape.add(dim=shape).SetInParent()


def _source(net: NetParameter, request: Request) -> NetSource:
    for each in net.layer:
        each.phase = request.source.param.state.phase
    return NetSource(net, request.source.file, (None,) * len(net.layer))


def _inputs(layer: Any, kind: str, shapes: list[Shape], seed: int) -> dict[str, np.ndarray]:
    """Labels, and values from where the layer is defined."""
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for k, shape in enumerate(shapes):
        if not layer.propagates_to(k):
            out[f"bottom{k}"] = rng.integers(0, _classes(shapes[0]), shape).astype(np.float64)
        elif kind in POSITIVE:
            out[f"bottom{k}"] = np.asarray(rng.uniform(0.05, 1.0, shape))
    return out


def _classes(shape: Shape) -> int:
    """How many labels a layer may see for scores of a shape."""
    return shape[1] if len(shape) > 1 else 2
