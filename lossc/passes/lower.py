"""From layer calls to kernels: resolve-in-place, infer-shapes, lower-forward."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lossc.errors import GraphError, LosscError, ShapeError, count_of
from lossc.ir import IO, Blob, Builder, Graph, LayerCall, LossTerm, Param, Scalar
from lossc.ir.blob import Role
from lossc.ir.expr import Expr, expr, total
from lossc.loss_weight import LossWeight, Runtime, Schedule, first_value

#: Blobs beyond this many elements would overflow the 64-bit byte counts of generated code long before memory ends.
MOST_ELEMENTS = 2**40
LABELS = "nchwabdefgijklmopqrstuvxyz"


@dataclass(frozen=True)
class ResolveInPlace:
    """A top named like its bottom -> a blob of its own (``conv1@relu1``), so that every blob is written once."""

    name: str = "resolve-in-place"

    def run(self, graph: Graph) -> bool:
        if graph.data_of:
            return False
        now: dict[str, str] = {}
        read: set[str] = set()  # what a layer has read or a loss_weight rests on: it must not change any more
        changed = False
        for call in graph.calls:
            fresh_bottoms = [now[b] for b in call.bottoms]
            for k, top in enumerate(call.tops):
                if top not in now:
                    now[top] = call.tops[k] = _apart(top)
                    graph.diff_of[top] = now[top] + ".diff"
                    graph.label_of[now[top]] = top
                    continue
                if now[top] in read:
                    raise GraphError(
                        f'top blob "{top}" is produced by multiple sources: it was used before it is changed in place',
                        layer=call.name,
                        file=graph.file,
                        line=call.line,
                        fix="give the layer's top a name of its own",
                    )
                now[top] = f"{top}@{call.name}"
                graph.label_of[now[top]] = top
                call.tops[k] = now[top]
                changed = True
            read.update(fresh_bottoms)
            read.update(t for t, w in zip(call.tops, call.loss_weights, strict=True) if w)
            call.bottoms = fresh_bottoms
        graph.data_of = now
        consumed = {b for c in graph.calls for b in c.bottoms}
        produced = [t for c in graph.calls for t in c.tops]
        labels = {name: label for label, name in now.items()}
        graph.outputs = [labels[t] for t in produced if t in labels and t not in consumed]
        return changed


def _apart(name: str) -> str:
    """A blob's name in the graph: its own, unless it looks like one the compiler makes (ip.w, ip.diff, ip@relu)."""
    return f"{name}@blob" if "." in name or "@" in name or name == "loss_total" else name


@dataclass(frozen=True)
class InferShapes:
    """Layer calls -> blobs with shapes, parameters with owners (sharing by name is settled here), weighted tops."""

    name: str = "infer-shapes"

    def run(self, graph: Graph) -> bool:
        owners: dict[str, tuple[Param, tuple[int, ...]]] = {}
        for call in graph.calls:
            try:
                shapes = [graph.blobs[b].shape for b in call.bottoms]
                is_input = getattr(call.layer, "is_input", False)
                for top, shape in zip(call.tops, call.layer.infer_shapes(*shapes), strict=True):
                    shape = tuple(int(e) for e in shape)
                    _check_size(top, shape)
                    label = graph.label_of[top]
                    # An input that is changed in place: users fill, and find, the last version (see LowerForward).
                    filled = is_input and graph.data_of.get(label, top) == top
                    changed = graph.data_of.get(label) == top and label in graph.inputs
                    role: Role = "input" if filled or changed else "activation"
                    blob = Blob(top, shape, role, label=label)
                    graph.declared[top] = graph.add_blob(blob)
                    if is_input:
                        graph.inputs.append(label)
                _add_params(graph, call, shapes, owners)
                for top, weight in zip(call.tops, call.loss_weights, strict=True):
                    if weight:
                        graph.losses.append(_loss_term(graph, call.name, top, weight))
            except LosscError as error:
                error.fix = error.fix or _shape_fix(graph, call)
                raise error.located(layer=call.name, file=graph.file, line=call.line) from None
        return True


def _shape_fix(graph: Graph, call: LayerCall) -> str:
    """What can be done where a layer does not say it: change it, or what it is given."""
    given = ", ".join(f'"{graph.label_of[b]}" {list(graph.blobs[b].shape)}' for b in call.bottoms)
    return f"change the layer's settings, or the layers that make its bottoms: {given}"


def _check_size(name: str, shape: tuple[int, ...]) -> None:
    if any(e < 0 for e in shape):
        fix = "make the bottom larger, or the kernel and what else is subtracted smaller"
        raise ShapeError(f'blob "{name}" would have a negative size: {list(shape)}', fix=fix)
    if math.prod(shape) > MOST_ELEMENTS:
        raise ShapeError(f'blob "{name}" of shape {list(shape)} is too large', fix=f"at most {MOST_ELEMENTS} elements")
    if math.prod(shape) == 0:
        raise ShapeError(f'blob "{name}" would be empty: {list(shape)}', fix="every axis needs at least one element")


def _add_params(
    graph: Graph, call: LayerCall, shapes: list[tuple[int, ...]], owners: dict[str, tuple[Param, tuple[int, ...]]]
) -> None:
    specs, given = call.layer.params(*shapes), call.layer.param.param
    if len(given) > len(specs):
        entries = count_of(len(given), "param entry", "param entries")
        raise GraphError(f"{entries} for {count_of(len(specs), 'parameter')}", fix="remove the surplus ones")
    for k, spec in enumerate(specs):
        entry = given[k] if k < len(given) else None
        name = entry.name if entry is not None else ""
        lr = entry.lr_mult if entry is not None and entry.HasField("lr_mult") else None
        decay = entry.decay_mult if entry is not None and entry.HasField("decay_mult") else None
        _check_size(f"{call.name}/{k}", spec.shape)
        if entry is not None and name in owners:
            owner, shape = owners[name]
            permissive = entry.share_mode == entry.PERMISSIVE
            fits = math.prod(shape) == math.prod(spec.shape) if permissive else shape == spec.shape
            if not fits:
                raise ShapeError(
                    f'shared parameter "{name}": shape {list(spec.shape)} here, {list(shape)} in layer "{owner.layer}"',
                    fix="equal counts may be shared with share_mode: PERMISSIVE" if not permissive else None,
                )
            graph.param_of[call.name, k] = owner.blob
            call.params.append(owner.blob)
            _merge(graph, owner, lr, decay, call.name)
            owners[name] = (next(p for p in graph.params if p.blob == owner.blob), shape)
            continue
        blob = graph.add_blob(Blob(f"{call.name}.{'wb'[k] if k < 2 else k}", tuple(spec.shape), "param"))
        graph.add_blob(Blob(blob.name + ".diff", blob.shape, "param_diff"))
        graph.observe(blob.name, blob.name + ".diff")
        param = Param(blob.name, call.name, k, -1.0 if lr is None else lr, -1.0 if decay is None else decay, name)
        if lr is None and spec.lr_mult != 1.0:
            param = Param(blob.name, call.name, k, spec.lr_mult, param.decay_mult, name)
        graph.params.append(param)
        graph.param_of[call.name, k] = blob.name
        call.params.append(blob.name)
        if name:
            owners[name] = (param, tuple(spec.shape))
        call.layer.initialize(Builder(graph, call.name, "init"), graph.whole(blob.name), spec.filler)


def _merge(graph: Graph, owner: Param, lr: float | None, decay: float | None, layer: str) -> None:
    """lr_mult and decay_mult given by one sharer count for all; given twice they must agree."""
    values = []
    for what, mine, theirs in (("lr_mult", lr, owner.lr_mult), ("decay_mult", decay, owner.decay_mult)):
        if mine is not None and theirs != -1.0 and mine != theirs:
            there = f'{theirs:g} in layer "{owner.layer}"'
            raise GraphError(f'shared parameter "{owner.name}": {what} {mine:g} here, {there}')
        values.append(theirs if mine is None else mine)
    at = next(i for i, p in enumerate(graph.params) if p.blob == owner.blob)
    graph.params[at] = Param(owner.blob, owner.layer, owner.index, values[0], values[1], owner.name)


@dataclass(frozen=True)
class LowerForward:
    """Each layer -> the kernels of its forward pass; then the weighted sum of all losses."""

    name: str = "lower-forward"

    def run(self, graph: Graph) -> bool:
        graph.params = [
            Param(
                p.blob,
                p.layer,
                p.index,
                1.0 if p.lr_mult == -1.0 else p.lr_mult,
                1.0 if p.decay_mult == -1.0 else p.decay_mult,
                p.name,
            )
            for p in graph.params
        ]
        ios: dict[str, IO] = {}
        for call in graph.calls:
            params = [graph.whole(p) for p in call.params]
            shapes = [graph.blobs[b].shape for b in call.bottoms]
            specs = call.layer.params(*shapes)
            params = [r.reshape(*s.shape) for r, s in zip(params, specs, strict=True)]
            io = IO([graph.whole(b) for b in call.bottoms], [graph.whole(t) for t in call.tops], params)
            ios[call.name] = io
            try:
                _take_inputs(graph, call)
                call.layer.forward(Builder(graph, call.name, "forward"), io)
            except LosscError as error:
                raise error.located(layer=call.name, file=graph.file, line=call.line) from None
        graph.options["io"] = ios
        _total(graph)
        graph.observe(*(graph.data_of[o] for o in graph.outputs))
        graph.observe(*(graph.data_of[i] for i in graph.inputs))
        return True


def _take_inputs(graph: Graph, call: LayerCall) -> None:
    """An input that a later layer changes in place: one memory for users, as in Caffe; the net starts from a copy."""
    for top in call.tops:
        blob = graph.declared[top]
        last = graph.data_of.get(blob.label, top)
        if blob.label in graph.inputs and getattr(call.layer, "is_input", False) and last != top:
            labels = LABELS[: len(blob.shape)]
            pair = graph.whole(top)[labels], graph.whole(last)[labels]
            Builder(graph, call.name, "forward").map(pair, note="input")


def _loss_term(graph: Graph, layer: str, top: str, weight: LossWeight) -> LossTerm:
    """A weighted top; for a weight that can change also the blob that holds it, and its first value."""
    first = Scalar(first_value(weight), "loss_weight", source=graph.declared[top].label)
    if not isinstance(weight, (Runtime, Schedule)):
        return LossTerm(layer, top, first)
    blob = graph.add_blob(Blob(graph.fresh_name(f"{layer}.loss_weight"), (), "state", label="loss_weight"))
    Builder(graph, layer, "init").fill(graph.whole(blob.name)[""], first, note="loss_weight")
    return LossTerm(layer, top, first, blob.name, weight if isinstance(weight, Schedule) else None)


def weight_of(graph: Graph, term: LossTerm) -> Expr:
    """The term's weight in kernels: a constant, or a load of the number that can change."""
    return expr(graph.whole(term.held)[""]) if term.held else expr(term.weight)


def _total(graph: Graph) -> None:
    """total = sum of loss_weight * sum(top), what Caffe's forward returns."""
    b = Builder(graph, "total", "forward")
    graph.add_blob(Blob("loss_total", (), "state", label="loss_total"))
    graph.observe("loss_total")
    value: Expr | None = None
    for term in graph.losses:
        ref = graph.whole(term.blob)
        if ref.size > 1:
            part = b.temp("sum", ())
            labels = LABELS[: ref.ndim]
            b.map((part[""], total(expr(ref[labels]), labels)))
            ref = part
        weighted = weight_of(graph, term) * expr(ref.reshape()[""])
        value = weighted if value is None else value + weighted
    b.map((graph.whole("loss_total")[""], value if value is not None else expr(0.0)), note="weighted total")
