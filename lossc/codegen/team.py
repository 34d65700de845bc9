"""Whether a section's work is worth a team of threads: decided once, from what its kernels compute."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from lossc.ir import Conv, Gemm, Graph, Map, Node, Pool, Random
from lossc.ir.expr import Op, Reduce, walk

#: Element-wise steps, at a full vector's speed, below which one thread is done as soon as a team, which must wake up
#: and meet at each kernel's end: three to four microseconds. A busy machine pays more for a team.
TEAM_STEPS = 100_000
#: Multiplications and additions of a contraction that cost as much as one such step.
_FLOPS = 2
#: Steps that one value of these costs.
_COSTS = {  # fmt: skip
    "exp": 10, "expm1": 10, "log": 12, "log1p": 14, "tanh": 20, "sigmoid": 16, "softplus": 24, "erf": 24,
    "pow": 50,
}


def wants_team(graph: Graph, nodes: Iterable[Node]) -> bool:
    """Whether the kernels together have work for more than one thread. Results do not depend on it."""
    return sum(_steps(graph, node) for node in nodes) >= TEAM_STEPS


def _steps(graph: Graph, node: Node) -> int:
    kernel = node.kernel
    if isinstance(kernel, Map):
        nodes = dict.fromkeys(e for s in kernel.stores for e in walk(s.value))
        costs = sum(prod(d.extent for d in e.arg.varies) for e in nodes if isinstance(e, Reduce))
        costs += sum(_COSTS.get(e.name, 1) * prod(d.extent for d in e.varies) for e in nodes if isinstance(e, Op))
        return costs + sum(prod(d.extent for d in s.access.dims) for s in kernel.stores)
    if isinstance(kernel, (Gemm, Conv)):
        return kernel.flops // _FLOPS
    if isinstance(kernel, Pool):
        return kernel.y.size * prod(kernel.geometry.kernel)
    if isinstance(kernel, Random):
        return 8 * kernel.out.size
    return sum(graph.blobs[b].size for b in kernel.reads())
