"""SGD with momentum (Caffe's SGDSolver) as maps: one sweep over each parameter."""

from __future__ import annotations

from dataclasses import dataclass

from lossc.errors import SolverError
from lossc.ir import Blob, Builder, Graph, Param, Ref, Scalar
from lossc.ir.expr import Expr, expr, op, sqrt, total, where
from lossc.solvers.settings import SolverSettings


@dataclass(frozen=True)
class LowerUpdate:
    """A solver -> for each parameter one map: clip, normalise, regularise, momentum, step.

    g = clip * diff / iter_size + decay w;  h = momentum h + rate lr_mult g;  w -= h;  diff = h (as Caffe leaves it).
    """

    settings: SolverSettings
    name: str = "lower-update"

    def run(self, graph: Graph) -> bool:
        if self.settings.type != "SGD":
            raise SolverError(f'solver type "{self.settings.type}" is not built in', fix='type: "SGD"')
        s = self.settings
        graph.options["solver"] = s
        graph.add_blob(Blob("solver.rate", (), "state"))
        b = Builder(graph, "solver", "update")
        clip = _clip(graph, b, s.clip_gradients) if s.clip_gradients >= 0 else None
        history = []
        for p in graph.params:
            blob = graph.blobs[p.blob]
            h = graph.add_blob(Blob(p.blob + ".history", blob.shape, "state"))
            history.append(h.name)
            if p.lr_mult != 0:
                _update(graph, p, Ref.whole(h), s, clip)
        graph.options["history"] = history
        return True


def _flat(graph: Graph, name: str) -> Ref:
    return graph.whole(name).reshape(graph.blobs[name].size)


def _clip(graph: Graph, b: Builder, clip: float) -> Expr:
    """clip / norm where the norm of all gradients together exceeds ``clip``, else 1."""
    squares: Expr | None = None
    for k, p in enumerate(graph.params):
        part = b.temp(f"square{k}", ())
        g = expr(_flat(graph, p.blob + ".diff")["i"])
        b.map((part[""], total(g * g, "i")), note="gradient norm")
        squares = expr(part[""]) if squares is None else squares + part[""]
    if squares is None:
        return expr(1.0)
    length, scale = b.temp("norm", ()), b.temp("clip", ())
    graph.options["gradient_norm"] = length.blob
    graph.observe(length.blob)
    b.map((length[""], sqrt(squares)), note="gradient norm")
    norm, limit = expr(length[""]), Scalar(clip, "clip_gradients")
    b.map((scale[""], where(op("gt", norm, limit), limit / norm if clip else expr(0.0), 1.0)), note="clip")
    return expr(scale[""])


def _update(graph: Graph, p: Param, history: Ref, s: SolverSettings, clip: Expr | None) -> None:
    w, diff = (_flat(graph, n)["i"] for n in (p.blob, p.blob + ".diff"))
    h = history.reshape(history.size)["i"]
    g = expr(diff)
    if clip is not None:
        g = clip * g
    if s.iter_size > 1:
        g = (Scalar(1.0) / Scalar(s.iter_size, "iter_size")) * g
    decay = Scalar(s.weight_decay, "weight_decay") * Scalar(p.decay_mult, "decay_mult" if p.decay_mult != 1 else "")
    if decay.value():
        sign = where(op("gt", w, 0.0), 1.0, where(op("lt", w, 0.0), -1.0, 0.0))
        g = g + decay * (expr(w) if s.regularization == "L2" else sign)
    rate = expr(graph.whole("solver.rate")[""]) * Scalar(p.lr_mult, "lr_mult" if p.lr_mult != 1 else "")
    step = rate * g
    if s.momentum:
        step = expr(Scalar(s.momentum, "momentum")) * h + step
    Builder(graph, p.layer, "update").map((h, step), (w, expr(w) - step), (diff, step), note=f"parameter {p.index}")
