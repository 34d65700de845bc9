"""Which layers lead to which losses: losses with their normalisers, heads of weight 0, joints, the picture's parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lossc.explain.report import Alpha, Box, Edge, Loss, ZeroHead
from lossc.ir import IO, Conv, Gemm, Graph, LayerCall
from lossc.ir.expr import Const, Expr, Load, Op
from lossc.ir.printer import show_expr
from lossc.loss_weight import first_value
from lossc.pipeline import Request, build_graph

Ends = frozenset[str]


@dataclass(frozen=True)
class Found:
    """A joint before anything is measured: the blob, by its own and by its user's name, and who consumes it."""

    blob: str
    label: str
    shape: tuple[int, ...]
    consumers: tuple[str, ...]
    losses: tuple[str, ...]


def find_losses(graph: Graph, lowered: Graph) -> list[Loss]:
    """The net's losses, those of weight 0 included. ``lowered``: the graph after lower-forward, for the normalisers."""
    terms = {t.blob: t for t in graph.losses}
    out = []
    for call in graph.calls:
        for k, top in enumerate(call.tops):
            term = terms.get(top)
            if term is None and not (_is_zero_head(call, k)):
                continue
            kind = "constant" if term is None or not term.held else term.schedule.policy if term.schedule else "runtime"
            weight = _short(first_value(call.loss_weights[k]))
            label = graph.declared[top].label
            mode, normaliser, divisor = _normaliser(lowered, call.name, label)
            counts = kernels_of(graph, call.name)
            out.append(
                Loss(
                    label, call.name, call.layer.type, graph.file, call.line, weight, kind,
                    mode, normaliser, divisor, None, None, *counts,
                )
            )  # fmt: skip
    return out


def losses_of(request: Request) -> tuple[str, ...]:
    """The tops that are losses, those of weight 0 included."""
    graph, _ = build_graph(request, until="resolve-in-place")
    tops = [
        graph.label_of[top]
        for call in graph.calls
        for k, top in enumerate(call.tops)
        if call.loss_weights[k] or _is_zero_head(call, k)
    ]
    return tuple(dict.fromkeys(tops))


def _short(weight: float) -> float:
    """The number as it was written: files hold weights as float32."""
    return float(str(np.float32(weight))) if float(np.float32(weight)) == weight else weight


def _is_zero_head(call: LayerCall, k: int) -> bool:
    """Whether a top has weight 0 by the net's own words, or would be a loss if it had not."""
    return k == 0 and not call.loss_weights[k] and (call.layer.is_loss or bool(call.layer.param.loss_weight))


def kernels_of(graph: Graph, *layers: str) -> tuple[int, int]:
    """How many kernels the layers have in the forward and in the backward pass."""
    sections = [n.section for n in graph.nodes if n.layer in layers]
    return sections.count("forward"), sections.count("backward")


def _normaliser(lowered: Graph, layer: str, loss: str) -> tuple[str, str, float | None]:
    """(mode, derivation, value where it is a constant) of what a loss divides its sum by."""
    io: IO = lowered.options["io"][layer]
    mode = str(io.saved.get("mode", ""))
    texts, value = [], 1.0
    known = True
    for e in divisors(lowered, layer, loss):
        if isinstance(e, Const):
            # layers let a loss's sign be part of what they divide by
            scalar = e.scalar if e.scalar.op else replace(e.scalar, number=abs(e.scalar.number))
            texts.append(scalar.history)
            value *= scalar.value()
        else:
            texts.append(_counted(lowered, e))
            known = False
    return mode, " * ".join(texts), value if known else None


def divisors(lowered: Graph, layer: str, loss: str) -> list[Expr]:
    """What the outermost operations of a loss divide by, the innermost first."""
    top = next(t for c in lowered.calls if c.name == layer for t in c.tops if lowered.declared[t].label == loss)
    stores = [s for n in lowered.writers(top) for s in getattr(n.kernel, "stores", ()) if s.access.blob == top]
    if not stores:
        return []
    e: Expr = stores[0].value
    out: list[Expr] = []
    while isinstance(e, Op) and e.name in ("div", "mul", "neg"):
        if e.name == "div":
            out.insert(0, e.args[1])
        e = e.args[1] if e.name == "mul" and isinstance(e.args[0], Const) else e.args[0]
    return out


def _counted(lowered: Graph, e: Expr) -> str:
    """A divisor that depends on data: by the note of the kernel that computes it, or as it is."""
    if isinstance(e, Load) and (writers := lowered.writers(e.access.blob)) and writers[-1].note:
        return writers[-1].note
    return show_expr(e)


# ---- which layers lead where


def consumers(graph: Graph) -> dict[str, dict[str, Ends]]:
    """For each blob that gets a gradient: by consumer, the losses that it leads to; under "" the blob's own weight."""
    bottoms: Mapping[str, list[bool]] = graph.options["needs"].bottoms
    via: dict[str, dict[str, Ends]] = {}
    for t in graph.losses:
        via.setdefault(t.blob, {})[""] = frozenset({graph.declared[t.blob].label})
    for call in reversed(graph.calls):
        ends = frozenset().union(*(e for t in call.tops for e in via.get(t, {}).values()))
        for b, flag in zip(call.bottoms, bottoms[call.name], strict=True):
            if flag and ends:
                have = via.setdefault(b, {})
                have[call.name] = have.get(call.name, frozenset()) | ends
    return via


def find_joints(graph: Graph) -> list[Found]:
    """The blobs whose consumers lead to different losses, in the order of the net."""
    via = consumers(graph)
    order = [graph.declared[t.blob].label for t in graph.losses]
    out = []
    for call in graph.calls:
        for top in call.tops:
            groups = via.get(top, {})
            if len(set(groups.values())) < 2 or top not in graph.options["needs"].wanted:
                continue
            ends = frozenset().union(*groups.values())
            blob, users = graph.declared[top], tuple(name or "loss_weight" for name in groups)
            losses = tuple(name for name in order if name in ends)
            out.append(Found(top, blob.label, blob.shape, tuple(reversed(users)), losses))
    return out


def find_zero_heads(request: Request, graph: Graph) -> list[ZeroHead]:
    """Heads whose loss has weight 0, with the layers that lead to nothing else."""
    zero = {t: graph.declared[t].label for c in graph.calls for k, t in enumerate(c.tops) if _is_zero_head(c, k)}
    produced = {t for c in graph.calls for t in c.tops}
    consumed = {b for c in graph.calls for b in c.bottoms}
    weighted = {t.blob for t in graph.losses}
    ends: dict[str, set[str]] = {t: {t} for t in (produced - consumed) | weighted | set(zero)}
    for call in reversed(graph.calls):
        mine = set().union(*(ends.get(t, set()) for t in call.tops))
        for b in call.bottoms:
            ends.setdefault(b, set()).update(mine)
    out = []
    for top, label in zero.items():
        layers = [c for c in graph.calls if c.tops and c.bottoms and _leads_only(c, ends, {top})]
        names = tuple(c.name for c in layers)
        forward, backward = kernels_of(graph, *names)
        removed = [f"no backward kernels for {', '.join(names)}" if not backward else ""]
        if forward:
            asked = "an output of the net" if top in {graph.data_of[o] for o in graph.outputs} else "used or kept"
            removed.append(f"forward stays, since {label} is {asked}")
        else:
            removed.append(f"no forward kernels either: nobody looks at {label}")
        kernels, flops = _saved(request, graph, top)
        if kernels > 0 or flops > 0:
            removed.append(f"saves {kernels} kernels" + (f", {flops:,} floating point operations" if flops else ""))
        why = "the weight 0 makes every gradient of the head 0, and adds 0 to the total"
        told = "; ".join(filter(None, removed))
        out.append(ZeroHead(label, names, forward, backward, kernels, flops, told, why))
    return out


def _saved(request: Request, graph: Graph, top: str) -> tuple[int, int]:
    """How many kernels, and floating point operations of contractions, the net has more with a weight at this top."""
    call = next(c for c in graph.calls if top in c.tops)
    name = call.name if sum(bool(w) for w in call.loss_weights) == 0 and len(call.tops) == 1 else graph.label_of[top]
    weighted, _ = build_graph(replace(request, loss_weights={**request.loss_weights, name: 1.0}))
    counts = []
    for each in (weighted, graph):
        kernels = [n.kernel for n in each.nodes if n.section in ("forward", "backward")]
        counts.append((len(kernels), sum(k.flops for k in kernels if isinstance(k, (Gemm, Conv)))))
    return counts[0][0] - counts[1][0], counts[0][1] - counts[1][1]


def _leads_only(call: LayerCall, ends: Mapping[str, set[str]], wanted: set[str]) -> bool:
    mine = set().union(*(ends.get(t, set()) for t in call.tops))
    return bool(mine & wanted) and mine <= wanted


# ---- the picture's parts


def picture_parts(graph: Graph, losses: list[Loss], alphas: list[Alpha]) -> tuple[list[Box], list[Edge]]:
    """The net's layers with their kernels, and the blobs between them."""
    bottoms: Mapping[str, list[bool]] = graph.options["needs"].bottoms
    weights: dict[str, list[str]] = {}
    for x in losses:
        weights.setdefault(x.layer, []).append(f"{x.weight:g}" if x.kind == "constant" else f"{x.weight:g} ({x.kind})")
    scales: dict[str, list[str]] = {}
    for a in alphas:
        if a.role == "gradient":
            scales.setdefault(a.layer, []).append(f"{a.derivation} = {a.value:.6g}")
    boxes, edges = [], []
    maker: dict[str, str] = {}
    for call in graph.calls:
        counts = kernels_of(graph, call.name)
        boxes.append(Box(call.name, call.layer.type, call.line, *counts, ", ".join(weights.get(call.name, []))))
        for b, flag in zip(call.bottoms, bottoms[call.name], strict=True):
            shape = graph.declared[b].shape
            alpha = "; ".join(dict.fromkeys(scales.get(call.name, []))) if flag else ""
            edges.append(Edge(maker[b], call.name, graph.declared[b].label, shape, flag, alpha))
        maker.update(dict.fromkeys(call.tops, call.name))
    return boxes, edges
