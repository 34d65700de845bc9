"""What the losses and their gradients are on the last batch: the net once more, with one loss switched on at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from lossc.explain.report import Joint, Loss, Share
from lossc.explain.structure import Found, divisors, find_joints
from lossc.ir import Graph, Map
from lossc.ir.expr import Const, Load
from lossc.ir.interpret import Interpreter
from lossc.loss_weight import Runtime
from lossc.pipeline import build
from lossc.runtime.loss_weights import LossWeights
from lossc.runtime.native import Native

if TYPE_CHECKING:
    from lossc.runtime.net import Net

#: How the parameters all together are called where the blobs stand at which heads join.
PARAMETERS = "all parameters"


@dataclass(frozen=True)
class Measured:
    """Unweighted values of the losses, weighted sum, weights; divisors that depend on data, and shares of gradients."""

    values: dict[str, float]
    total: float
    weights: dict[str, float]
    divisors: dict[str, float] = field(default_factory=dict)
    joints: tuple[Joint, ...] = ()
    warnings: tuple[str, ...] = ()


def values_of(net: Net, losses: Iterable[str]) -> dict[str, float]:
    """The unweighted values of those losses, by their tops, that the net keeps readable."""
    kept = {name for name, place in net.manifest["blobs"].items() if place["data"]}
    return {name: float(net.blobs[name].data.sum(dtype=np.float64)) for name in losses if name in kept}


def measure(net: Net, graph: Graph, lowered: Graph, losses: Sequence[Loss]) -> Measured:
    """Runs the last forward pass again, and one backward pass for each loss alone.

    The net itself stays as it is: a second build, whose weights can be set at run time, works on copies of its inputs
    and parameters. Raises DataError where a label is out of range, and what building a net raises.
    """
    if changed := _changed_input(graph):
        text = f"gradients were not measured: {changed} is changed in place, so that the last batch is gone"
        return Measured(values_of(net, [x.loss for x in losses]), net.loss, dict(net.loss_weights), warnings=(text,))
    joints = find_joints(graph)
    probe = _Probe(net, losses, joints)
    active = [x.loss for x in losses if x.loss in probe.weights]
    values, total = probe.forward(losses)
    gradients = {name: probe.gradients(name, joints) for name in active}
    found = [*joints, Found("", PARAMETERS, (), (), tuple(active))] if active else []
    table = tuple(_joint(f, k, gradients) for k, f in enumerate(found))
    counted = _divisors(net, lowered, losses)
    return Measured(values, total, probe.weights, counted, table, tuple(_still(table, active)))


class _Probe:
    """The net with every loss_weight settable, joints and losses readable."""

    def __init__(self, net: Net, losses: Sequence[Loss], joints: Sequence[Found]) -> None:
        weighted = [x for x in losses if x.loss in net.loss_weights]
        keep = net.request.keep
        if keep != "all":
            keep = tuple(dict.fromkeys([*keep, *(j.label for j in joints), *(x.loss for x in losses)]))
        layers = [x.layer for x in weighted]
        settable = {
            x.layer if layers.count(x.layer) == 1 else x.loss: Runtime(net.loss_weights[x.loss]) for x in weighted
        }
        request = replace(net.request, keep=keep, solver=None, loss_weights=settable, check_finite=False)
        self.native = Native(build(request), net.native.threads, net.seed)
        self.weights = {x.loss: net.loss_weights[x.loss] for x in weighted}
        self._passes = max(net.native.passes - 1, 0)
        self._params = [net.native.param(k, p["shape"]).copy() for k, p in enumerate(net.manifest["params"])]
        blobs = self.native.manifest["blobs"]
        for name in self.native.manifest["inputs"]:
            self.native.view(blobs[name]["data"])[...] = net.blobs[name].data

    def _start(self, weights: dict[str, float]) -> None:
        """As the last forward pass started: same parameters (a pass moves those of BatchNorm), same random numbers."""
        for k, values in enumerate(self._params):
            self.native.param(k, values.shape)[...] = values
        self.native.passes = self._passes
        settable = LossWeights(self.native)
        for name in self.weights:
            settable[name] = weights.get(name, 0.0)

    def forward(self, losses: Sequence[Loss]) -> tuple[dict[str, float], float]:
        """(unweighted value of each loss, weighted sum)."""
        from lossc.errors import DataError

        self._start(self.weights)
        total = self.native.forward()
        if error := self.native.error:
            raise DataError(error)
        blobs = self.native.manifest["blobs"]
        return {x.loss: float(self.native.view(blobs[x.loss]["data"]).sum(dtype=np.float64)) for x in losses}, total

    def gradients(self, loss: str, joints: Sequence[Found]) -> list[np.ndarray]:
        """The gradient of one weighted loss at each joint, and of all parameters in a row."""
        self._start({loss: self.weights[loss]})
        self.native.clear_param_diffs()
        self.native.forward_backward()
        manifest = self.native.manifest
        out = []
        for j in joints:
            place = manifest["blobs"][j.label]["diff"]
            out.append(np.array(self.native.view(place), np.float64).reshape(-1) if place else np.zeros(1))
        params = [np.array(self.native.param_diff(k, p["shape"]), np.float64) for k, p in enumerate(manifest["params"])]
        return [*out, np.concatenate([np.zeros(1), *(p.reshape(-1) for p in params)])]


def _joint(found: Found, k: int, gradients: dict[str, list[np.ndarray]]) -> Joint:
    mine = {name: gradients[name][k] for name in found.losses if name in gradients}
    norms = {name: float(np.linalg.norm(g)) for name, g in mine.items()}
    total = sum(norms.values())
    shares = []
    for name, g in mine.items():
        cosines = {
            other: float(g @ h / (norms[name] * norms[other])) if norms[name] and norms[other] else None
            for other, h in mine.items()
            if other != name
        }
        shares.append(Share(name, norms[name], norms[name] / total if total else 0.0, cosines))
    return Joint(found.label, found.shape, found.consumers, tuple(shares))


def _still(joints: Sequence[Joint], losses: Sequence[str]) -> list[str]:
    """Warnings for losses whose gradient is exactly 0, or not finite, where heads join or everywhere."""
    out = []
    for name in losses:
        norms = {j.blob: s.norm for j in joints for s in j.shares if s.loss == name}
        if not norms.pop(PARAMETERS, 0.0) and not any(norms.values()):
            out.append(f"{name} never moved anything: its gradient is exactly 0 at every parameter and every joint")
            continue
        still = [blob for blob, norm in norms.items() if norm == 0]
        if still:
            out.append(f"{name} does not move the trunk: its gradient is exactly 0 at {', '.join(still)}")
        wild = [blob for blob, norm in norms.items() if not np.isfinite(norm)]
        if wild:
            out.append(f"the gradient of {name} is not finite at {', '.join(wild)}")
    return out


def _changed_input(graph: Graph) -> str | None:
    """An input that a later layer changes in place."""
    for call in graph.calls:
        for top in call.tops:
            label = graph.declared[top].label
            if getattr(call.layer, "is_input", False) and graph.data_of[label] != top:
                return label
    return None


def _divisors(net: Net, lowered: Graph, losses: Sequence[Loss]) -> dict[str, float]:
    """The normalisers that depend on data, where maps compute them from the net's inputs alone."""
    out: dict[str, float] = {}
    open_ones = [x for x in losses if x.divisor is None]
    if not open_ones:
        return out
    memory = Interpreter(lowered, net.manifest["dtype"])
    for name in net.manifest["inputs"]:
        memory[lowered.data_of[name]][...] = net.blobs[name].data
    for x in open_ones:
        value = 1.0
        for e in divisors(lowered, x.layer, x.loss):
            if isinstance(e, Const):
                value *= abs(e.scalar.value())
            elif isinstance(e, Load) and _run(lowered, memory, e.access.blob):
                value *= float(memory[e.access.blob])
            else:
                break
        else:
            out[x.loss] = value
    return out


def _run(graph: Graph, memory: Interpreter, blob: str) -> bool:
    """Computes a blob; False where that needs more than maps over inputs."""
    needed, nodes = {graph.root(blob)}, []
    for node in reversed(graph.section("forward")):
        if needed & {graph.root(w) for w in node.kernel.writes()}:
            needed |= {graph.root(r) for r in node.kernel.reads()}
            nodes.append(node)
    if not all(isinstance(n.kernel, Map) for n in nodes) or any(graph.blobs[b].role == "param" for b in needed):
        return False
    for node in reversed(nodes):
        node.kernel.numpy(memory)
    return True
