"""What became of every loss_weight: ``lossc explain`` and ``Net.explain``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lossc.explain.alphas import find_alphas
from lossc.explain.report import FORMAT, Loss, Report, Step
from lossc.explain.structure import find_losses, find_zero_heads, picture_parts
from lossc.pipeline import Compiled, Request, build_graph, compile_net

if TYPE_CHECKING:
    from lossc.explain.measure import Measured
    from lossc.ir import Graph
    from lossc.runtime.net import Net

__all__ = ["FORMAT", "Report", "explain_net", "explain_request"]


def explain_request(request: Request) -> Report:
    """What the compiler makes of a net, without running it. Raises as ``compile_net``."""
    return _report(request, compile_net(request), _lowered(request), None, ())


def explain_net(
    net: Net, *, gradients: bool = True, request: Request | None = None, history: Sequence[Mapping[str, float]] = ()
) -> Report:
    """What the compiler made of a net, and after a forward pass its losses on that batch.

    ``gradients``: measure each loss's share of the gradient too, in a second build. ``request``: what the C of the
    report is made from, the net's own request by default. ``history``: the losses' values in the iterations so far, as
    ``measure.values_of`` gives them: a loss that stays the same in all of them while another changes is warned of.
    Raises DataError where a label is out of range.
    """
    from lossc.explain.measure import Measured, measure, values_of

    request = request or net.request
    compiled, lowered = compile_net(request), _lowered(request)
    measured = None
    if not math.isnan(net.loss) or net.native.passes:
        losses = find_losses(compiled.graph, lowered)
        if gradients:
            measured = measure(net, compiled.graph, lowered, losses)
        else:
            measured = Measured(values_of(net, [x.loss for x in losses]), net.loss, dict(net.loss_weights))
    return _report(request, compiled, lowered, measured, _constant(history))


def _lowered(request: Request) -> Graph:
    return build_graph(request, until="lower-forward")[0]


def _report(
    request: Request, compiled: Compiled, lowered: Graph, measured: Measured | None, warnings: Sequence[str]
) -> Report:
    graph = compiled.graph
    losses = find_losses(graph, lowered)
    if measured is not None:
        losses = [_with_value(x, measured, request.dtype) for x in losses]
    alphas = find_alphas(compiled)
    boxes, edges = picture_parts(graph, losses, alphas)
    if losses and not graph.losses:
        warnings = [*warnings, "no loss has a weight other than 0: nothing can be learned"]
    return Report(
        net=graph.name,
        file=request.source.file,
        phase=request.phase,
        target=request.built_for.name,
        dtype=request.dtype,
        losses=tuple(losses),
        total=measured.total if measured is not None else None,
        alphas=tuple(alphas),
        zero_heads=tuple(find_zero_heads(request, graph)),
        joints=measured.joints if measured is not None else (),
        steps=tuple(Step(r.by, r.layer, r.section, r.what, r.why) for r in graph.remarks),
        warnings=(*warnings, *(measured.warnings if measured is not None else ())),
        boxes=tuple(boxes),
        edges=tuple(edges),
        source=compiled.program.source,
    )


def _with_value(loss: Loss, measured: Measured, dtype: str) -> Loss:
    value = measured.values.get(loss.loss)
    real = np.dtype(dtype).type
    weight = loss.weight if loss.kind == "constant" else measured.weights[loss.loss]
    weighted = None if value is None else float(real(weight) * real(value))
    divisor = measured.divisors.get(loss.loss, loss.divisor)
    return replace(loss, weight=weight, value=value, weighted=weighted, divisor=divisor)


def _constant(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Warnings for losses that stayed the same while others did not."""
    if len(history) < 2:
        return []
    same = [name for name in history[0] if len({h[name] for h in history}) == 1]
    if len(same) == len(history[0]):
        return []
    times = f"{len(history)} iterations"
    return [f"{name} never moved: it was {history[0][name]:g} in all of {times}" for name in same]
