"""check-finite: a check behind every kernel, for builds that look for the first number that is not finite."""

from __future__ import annotations

from dataclasses import dataclass

from lossc.ir import Access, CheckFinite, Graph, Map, Node, Ref
from lossc.ir.expr import Const

_KINDS = {"diff": "gradient", "param_diff": "gradient", "param": "parameter"}


@dataclass(frozen=True)
class FindNonFinite:
    """k -> k; check_finite of what k has written. Inputs and parameters are checked before the first kernel."""

    name: str = "check-finite"

    def run(self, graph: Graph) -> bool:
        if any(isinstance(n.kernel, CheckFinite) for n in graph.nodes):
            return False
        labels = _labels(graph)
        first = next((n.id for n in graph.nodes if n.section == "forward"), None)
        for blob, layer in _given(graph):
            self._check(graph, Ref.whole(graph.blobs[blob]), layer, "forward", first, labels)
        nodes = graph.nodes
        for node, following in zip(nodes, [*nodes[1:], None], strict=True):
            if node.section in ("forward", "backward"):
                for written in _written(graph, node):
                    self._check(graph, written, node.layer, node.section, following.id if following else None, labels)
        return True

    def _check(
        self, graph: Graph, values: Ref, layer: str, section: str, before: int | None, labels: dict[str, str]
    ) -> None:
        blob = graph.blobs[values.blob]
        if blob.dtype == "real":
            what = _KINDS.get(blob.role, "value")
            label = labels.get(blob.name, blob.name)
            graph.add(CheckFinite(values, what, label), layer, section, "is it finite?", before=before)


def _labels(graph: Graph) -> dict[str, str]:
    """What users call each blob: data and gradient alike by the top's name, parameters as LAYER/INDEX."""
    labels = dict(graph.label_of)
    labels |= {name: label for label, name in graph.diff_of.items()}
    for p in graph.params:
        labels |= {p.blob: f"{p.layer}/{p.index}", f"{p.blob}.diff": f"{p.layer}/{p.index}"}
    return labels


def _given(graph: Graph) -> list[tuple[str, str]]:
    """What is there before the first kernel, inputs and parameters, each with its layer."""
    inputs = [(t, c.name) for c in graph.calls for t in c.tops if t in graph.blobs and graph.blobs[t].role == "input"]
    return inputs + [(p.blob, p.layer) for p in graph.params]


def _written(graph: Graph, node: Node) -> list[Ref]:
    """What a kernel writes, values before gradients; fills with constants are left out."""
    kernel, found = node.kernel, []
    filled = {s.access for s in kernel.stores if isinstance(s.value, Const)} if isinstance(kernel, Map) else set()
    for out in kernel.outputs():
        if isinstance(out, Access):
            if out not in filled:
                shape, strides = tuple(d.extent for d, _ in out.strides), tuple(s for _, s in out.strides)
                found.append(Ref(out.blob, shape, strides, out.offset))
        else:
            found.append(out)
    return sorted(found, key=lambda r: graph.blobs[r.blob].role in _KINDS)
