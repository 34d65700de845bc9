"""From Caffe's NetParameter to a graph of layer calls."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lossc.errors import GraphError, UsageError, count_of
from lossc.ir import Graph, LayerCall
from lossc.layers.base import Layer, Shape, check_counts
from lossc.layers.data import Data
from lossc.layers.options import check_options, idle
from lossc.layers.registry import LAYERS
from lossc.loss_weight import LossWeight, Runtime, Schedule, check_finite, own_value, parse_weight

#: Warnings given so far, for the filters of ``warnings``: a net is read for each phase, and told of once.
_WARNED: dict[Any, Any] = {}


def import_net(
    net: Any,
    phase: str,
    *,
    file: str = "",
    line_of: Callable[[int], int | None] = lambda index: None,
    data_shapes: Mapping[str, list[Shape]] | None = None,
    layers: Mapping[str, type[Layer]] | None = None,
    loss_weights: Mapping[str, LossWeight] | None = None,
    tables: Mapping[int, Mapping[str, np.ndarray]] | None = None,
) -> Graph:
    """A graph that holds the net's layers as calls, nothing lowered yet.

    ``net`` is a NetParameter, filtered for its phase and upgraded; ``data_shapes`` gives the tops' shapes of layers
    that read data sources, by layer name; ``layers`` adds layer types; ``loss_weights`` takes the place of the weights
    that the net gives, by layer or top; ``tables`` are arrays from files that layers name, by the layer's index and the
    field (see NetSource.tables). Raises GraphError with file, line and layer, and warns of settings without effect.
    """
    known = {**LAYERS, **(layers or {})}
    graph = Graph(net.name or "net", file)
    graph.options["force_backward"] = net.force_backward
    graph.options["phase"] = phase
    graph.options["data_shapes"] = dict(data_shapes or {})
    available: dict[str, str] = {}
    for index, param in enumerate(net.layer):
        line = line_of(index)
        try:
            graph.calls.append(_import_layer(param, phase, line, known, available))
        except GraphError as error:
            raise error.located(layer=param.name, file=file, line=line) from None
        for found in idle(param):
            text = str(found.located(layer=param.name, file=file, line=line))
            warnings.warn_explicit(text, UserWarning, "lossc", 0, registry=_WARNED)
        layer = graph.calls[-1].layer
        layer.tables = (tables or {}).get(index, {})
        if isinstance(layer, Data):
            layer.shapes = graph.options["data_shapes"].get(param.name, ())
        name = _unique(param.name, graph)
        graph.calls[-1].name = name
        graph.lines[name] = line
        graph.layer_types[name] = param.type
    for name, weight in (loss_weights or {}).items():
        _change_weight(graph, name, weight)
    return graph


def _change_weight(graph: Graph, name: str, weight: LossWeight) -> None:
    """Another weight for a top, found by its own name or as the one loss of a layer."""
    tops = [(call, k) for call in graph.calls for k, top in enumerate(call.tops) if top == name]
    of_layer = [(call, k) for call in graph.calls for k in range(len(call.tops)) if call.name == name]
    weighted = [(call, k) for call, k in of_layer if call.loss_weights[k]]
    found = weighted or of_layer or tops[-1:]
    if len(found) > 1:  # a layer's name that is also that of one of its tops means the top
        found = [(call, k) for call, k in found if call.tops[k] == name] or found
    if not found:
        names = [n for call in graph.calls for n in (call.name, *call.tops)]
        near = difflib.get_close_matches(name, names, 1)
        hint = f'did you mean "{near[0]}"?' if near else "name a layer that is a loss, or a top"
        raise UsageError(f'loss_weights names "{name}", which the net does not have', fix=hint, file=graph.file)
    if len(found) > 1:
        raise UsageError(
            f'loss_weights names the layer "{name}", which has {len(found)} tops that could be meant',
            fix="name one of the tops: " + ", ".join(call.tops[k] for call, k in found),
            file=graph.file,
        )
    call, k = found[0]
    if not call.layer.has_gradient:
        raise GraphError(
            f"{call.layer.type} has no gradient, so its top cannot be a loss",
            layer=call.name,
            file=graph.file,
            line=call.line,
            fix="name another layer in loss_weights",
        )
    if not isinstance(weight, (Runtime, Schedule)):
        check_finite(weight)
        weight = float(weight)
    call.loss_weights[k] = own_value(weight, call.loss_weights[k])


def _unique(name: str, graph: Graph) -> str:
    taken = {c.name for c in graph.calls[:-1]}
    if name not in taken:
        return name
    k = 2
    while f"{name}@{k}" in taken:
        k += 1
    return f"{name}@{k}"


def _import_layer(
    param: Any, phase: str, line: int | None, known: Mapping[str, type[Layer]], available: dict[str, str]
) -> LayerCall:
    if param.type not in known:
        near = difflib.get_close_matches(param.type, known, 1)
        hint = f'did you mean "{near[0]}"?' if near else "known types: " + ", ".join(sorted(known))
        raise GraphError(f'unknown layer type "{param.type}"', fix=hint)
    if known[param.type] is LAYERS.get(param.type):
        check_options(param, phase)
    layer = known[param.type](param, phase)
    check_counts(layer, len(param.bottom), len(param.top))
    for bottom in param.bottom:
        if bottom not in available:
            near = difflib.get_close_matches(bottom, available, 1)
            hint = f'did you mean "{near[0]}"?' if near else "a layer's bottoms must be tops of layers before it"
            raise GraphError(f'unknown bottom blob "{bottom}"', fix=hint)
    for k, top in enumerate(param.top):
        in_place = k < len(param.bottom) and param.bottom[k] == top
        if in_place and not layer.in_place:
            raise GraphError(f'{param.type} cannot work in place on "{top}"', fix="give the top a name of its own")
        if top in available and not in_place:
            fix = "two layers write it: give one top another name"
            raise GraphError(f'top blob "{top}" is produced by multiple sources (first: "{available[top]}")', fix=fix)
        if list(param.top).count(top) > 1:
            raise GraphError(f'top blob "{top}" is named twice', fix="give each top a name of its own")
        available[top] = param.name
    if len(param.propagate_down) not in (0, len(param.bottom)):
        wrong = count_of(len(param.propagate_down), "propagate_down value")
        raise GraphError(f"{wrong} for {count_of(len(param.bottom), 'bottom')}", fix="give one per bottom")
    weights = _loss_weights(layer, param)
    return LayerCall(param.name, layer, list(param.bottom), list(param.top), [], weights, line)


def _loss_weights(layer: Layer, param: Any) -> list[LossWeight]:
    """The weight of each top: a constant, or what the layer's lossc_param makes of it."""
    weights: list[LossWeight] = list(_constant_weights(layer, param))
    changing: tuple[str, ...] = layer.extra("loss_weight")
    weighted = [k for k, weight in enumerate(weights) if weight]
    if changing and len(changing) != len(weighted):
        values, tops = count_of(len(changing), "value"), count_of(len(weighted), "top")
        message = f"{values} of lossc_param's loss_weight for {tops} with a weight"
        raise GraphError(message, fix="give one for each top whose loss_weight is not 0")
    for k, text in zip(weighted, changing, strict=False):
        try:
            weights[k] = own_value(parse_weight(text), weights[k])
        except UsageError as error:
            raise GraphError(error.message, fix=error.fix) from None
    return weights


def _constant_weights(layer: Layer, param: Any) -> list[float]:
    given, tops = list(param.loss_weight), len(param.top)
    if not given:
        return [1.0 if layer.is_loss and k == 0 else 0.0 for k in range(tops)]
    if len(given) == 1 and tops == 2 and layer.is_loss:
        given = [given[0], 0.0]
    if len(given) != tops:
        message = f"{count_of(len(given), 'loss_weight')} for {count_of(tops, 'top')}"
        raise GraphError(message, fix="give one per top, or none")
    if any(given) and not layer.has_gradient:
        raise GraphError(f"{layer.type} has no gradient, so its top cannot be a loss", fix="remove its loss_weight")
    return given
