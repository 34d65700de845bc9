"""THE order of the passes. A newcomer reads this file to know the whole compiler."""

from __future__ import annotations

from pathlib import Path

from lossc.ir import Graph
from lossc.passes.backward import BuildBackward, SeedLoss
from lossc.passes.base import Pass, PassManager
from lossc.passes.block import BlockChannels
from lossc.passes.elide import ElideCopies
from lossc.passes.fold import FoldAccumulate, FoldLossWeight, SinkAlpha
from lossc.passes.fuse import FuseEpilogues, FuseMaps
from lossc.passes.heads import JoinHeads
from lossc.passes.join import JoinLoss
from lossc.passes.lower import InferShapes, LowerForward, ResolveInPlace
from lossc.passes.narrow import NarrowImages, NarrowMasks
from lossc.passes.prologue import FusePrologues
from lossc.passes.prune import PruneGradients, PruneZeroLoss
from lossc.passes.schedule import PlanMemory, Schedule
from lossc.passes.sweeps import JoinSweeps, Rematerialise

LOWER: tuple[Pass, ...] = (
    ResolveInPlace(),
    InferShapes(),
    LowerForward(),
    SeedLoss(),
    BuildBackward(),
)
OPTIMISE: tuple[Pass, ...] = (
    PruneGradients(),
    FoldLossWeight(),
    PruneZeroLoss(),
    FoldAccumulate(),
    SinkAlpha(),
    JoinLoss(),
    JoinHeads(),
    FuseMaps(),
    FuseEpilogues(),
    FusePrologues(),
    ElideCopies(),
    Rematerialise(),
    JoinSweeps(),
    NarrowMasks(),
    BlockChannels(),
    NarrowImages(),
)
PLACE: tuple[Pass, ...] = (
    Schedule(),
    PlanMemory(),
)
PASSES: tuple[Pass, ...] = LOWER + OPTIMISE + PLACE


def run_passes(
    graph: Graph, *, optimise: bool = True, until: str | None = None, dump: Path | None = None
) -> PassManager:
    """Runs the passes over a graph of layer calls, in place; returns the manager with its records.

    ``optimise=False`` stops after lowering: the graph then computes exactly what the layers say, step by step.
    """
    manager = PassManager(PASSES if optimise else LOWER + PLACE, dump)
    manager.run(graph, until)
    return manager
