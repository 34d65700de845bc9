"""The backward pass as more kernels of the same graph: seed-loss and build-backward."""

from __future__ import annotations

from dataclasses import dataclass, field

from lossc.errors import GraphError, LosscError
from lossc.ir import IO, Blob, Builder, Graph, LayerCall, Ref, View
from lossc.passes.lower import weight_of

LABELS = "nchwabdefgijklmopqrstuvxyz"


def diff_name(blob: str) -> str:
    return blob + ".diff"


def ensure_diff(graph: Graph, blob: str, layer: str) -> Ref:
    """The blob's diff; at first use it is made, and filled with zeros since every writer adds.

    Where a blob is a window on another one that nothing else consumes, so is its diff.
    """
    name = diff_name(blob)
    if name in graph.blobs:
        return graph.whole(name)
    data = graph.blobs[blob]
    view = None
    if data.view is not None and _alone(graph, blob, data.view.parent) and _wanted(graph, data.view.parent):
        parent = ensure_diff(graph, data.view.parent, layer)
        view = View(parent.blob, data.view.offset, data.view.strides)
    graph.add_blob(Blob(name, data.shape, "diff", label=data.label, view=view))
    ref = graph.whole(name)
    if view is None:
        Builder(graph, layer, "backward").fill(ref[LABELS[: ref.ndim]], 0.0)
    return ref


def _alone(graph: Graph, blob: str, parent: str) -> bool:
    """One layer consumes the parent, and it carries no loss."""
    readers = [c for c in graph.calls if parent in c.bottoms]
    weighted = any(t.blob == parent for t in graph.losses)
    once = len(readers) == 1 and readers[0].bottoms.count(parent) == 1
    return once and not weighted and blob in readers[0].tops and len(_views_of(graph, parent, readers[0].tops)) > 0


def _views_of(graph: Graph, parent: str, tops: list[str]) -> list[str]:
    regions = [(v.offset, v.strides) for t in tops if (v := graph.blobs[t].view) is not None and v.parent == parent]
    return list(tops) if len(set(regions)) == len(tops) else []


def _wanted(graph: Graph, blob: str) -> bool:
    return blob in graph.options["needs"].wanted


@dataclass
class Needs:
    """Caffe's Net::Init rules: which layers run backward, and which bottoms and parameters get a gradient."""

    active: dict[str, bool] = field(default_factory=dict)
    bottoms: dict[str, list[bool]] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)

    @staticmethod
    def of(graph: Graph) -> Needs:
        needs = Needs()
        blob_needs: dict[str, bool] = {}
        rates = {p.blob: p.lr_mult for p in graph.params}
        force = graph.options.get("force_backward", False)
        for c in graph.calls:
            given = list(c.layer.param.propagate_down)
            for k, flag in enumerate(given):
                if flag and not c.layer.propagates_to(k):
                    raise _no_gradient(graph, c, k)
            needs.bottoms[c.name] = [bool(given[i]) if given else blob_needs[b] for i, b in enumerate(c.bottoms)]
            learned = any(rates[p] != 0 for p in c.params) or c.layer.counts_as_learned()
            needs.active[c.name] = learned or any(blob_needs[b] for b in c.bottoms)
            blob_needs.update(dict.fromkeys(c.tops, needs.active[c.name]))
        under: set[str] = {t.blob for t in graph.losses}
        for c in reversed(graph.calls):
            flags = needs.bottoms[c.name]
            if force:  # Caffe sets these after its own rule, so that a label below a plain layer stays a label
                flags = [f or c.layer.propagates_to(i) for i, f in enumerate(flags)]
            if not (needs.active[c.name] or any(flags)) or not any(t in under for t in c.tops):
                needs.active[c.name], needs.bottoms[c.name] = False, [False] * len(flags)
                continue
            needs.active[c.name], needs.bottoms[c.name] = True, flags
            chosen = [b for b, f in zip(c.bottoms, flags, strict=True) if f]
            under.update(chosen)
            needs.wanted.update(chosen)
        return needs


@dataclass(frozen=True)
class SeedLoss:
    """A top with a loss_weight -> its diff starts as that weight (what Caffe keeps in the top's diff)."""

    name: str = "seed-loss"

    def run(self, graph: Graph) -> bool:
        graph.options["needs"] = needs = Needs.of(graph)
        for term in graph.losses:
            if needs.active[term.layer]:
                ref = ensure_diff(graph, term.blob, term.layer)
                Builder(graph, term.layer, "backward").add(ref[LABELS[: ref.ndim]], weight_of(graph, term), note="seed")
        return bool(graph.losses)


@dataclass(frozen=True)
class BuildBackward:
    """Layers in reverse -> the kernels that carry gradients from tops to bottoms and parameters."""

    name: str = "build-backward"

    def run(self, graph: Graph) -> bool:
        needs: Needs = graph.options["needs"]
        for call in reversed(graph.calls):
            if needs.active[call.name]:
                try:
                    _layer_backward(graph, call, needs.bottoms[call.name])
                except LosscError as error:
                    raise error.located(layer=call.name, file=graph.file, line=call.line) from None
        for label in graph.data_of:
            if graph.diff_of.get(label) not in graph.blobs:
                graph.diff_of.pop(label, None)
        if graph.options.get("force_backward"):
            graph.observe(*(graph.diff_of[i] for i in graph.inputs if i in graph.diff_of))
        keep = graph.options.get("keep", ())
        for label in graph.data_of if keep == "all" else keep:
            graph.observe(graph.data_of[label], *([graph.diff_of[label]] if label in graph.diff_of else []))
        return True


def _no_gradient(graph: Graph, call: LayerCall, bottom: int) -> GraphError:
    return GraphError(
        f'{call.layer.type} cannot backpropagate to bottom {bottom}, "{graph.blobs[call.bottoms[bottom]].label}"',
        fix="stop there: one propagate_down per bottom, false for this one",
        layer=call.name,
        file=graph.file,
        line=call.line,
    )


def _layer_backward(graph: Graph, call: LayerCall, flags: list[bool]) -> None:
    io: IO = graph.options["io"][call.name]
    rates = {p.blob: p.lr_mult for p in graph.params}
    force = graph.options.get("force_backward", False)
    for k, flag in enumerate(flags):
        if flag and not call.layer.propagates_to(k):
            raise _no_gradient(graph, call, k)
    if not call.layer.has_gradient:
        return
    io.top_diffs = [ensure_diff(graph, t, call.name) for t in call.tops]
    io.bottom_diffs = [
        ensure_diff(graph, b, call.name) if f else None for b, f in zip(call.bottoms, flags, strict=True)
    ]
    io.param_diffs = [
        graph.whole(p + ".diff").reshape(*r.shape) if rates[p] != 0 or force else None
        for p, r in zip(call.params, io.params, strict=True)
    ]
    if any(d is not None for d in (*io.bottom_diffs, *io.param_diffs)):
        call.layer.backward(Builder(graph, call.name, "backward"), io)
