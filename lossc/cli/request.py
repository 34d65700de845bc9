"""What compile, inspect and explain make of their arguments: one net to compile."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lossc.cli.options import loss_weights, net_file, stages
from lossc.errors import UsageError

if TYPE_CHECKING:
    from lossc.frontend.solver import SolverSource
    from lossc.pipeline import Request


def net_request(args: argparse.Namespace) -> tuple[Request, SolverSource | None]:
    """The request, and the solver whose update is part of it; a solver's net stands in where no net is given.

    Verbs without ``--keep``, ``--name``, ``--tuned``, ``--freeze`` or ``--bf16`` keep what is kept anyhow, use the
    net's name, no tuning, and freeze and round nothing.
    Raises LosscError's kinds.
    """
    from lossc.build.tuning import choices
    from lossc.frontend.net import read_net
    from lossc.frontend.solver import read_solver
    from lossc.pipeline import Request
    from lossc.runtime.feed import Feed
    from lossc.runtime.net import own_layers
    from lossc.targets import parse_target

    solver = read_solver(args.solver) if args.solver else None
    if solver is not None and args.phase != "train":
        raise UsageError("a solver's update belongs to phase train", fix="leave out --phase or --solver")
    if solver is not None and not (args.net or args.model):
        source = solver.train_net(stages=stages(args))
    else:
        source = read_net(net_file(args), phase=args.phase, level=args.level, stages=stages(args))
    kept = getattr(args, "keep", "")
    keep = "all" if kept == "all" else tuple(name for name in kept.split(",") if name)
    bf16 = getattr(args, "bf16", False)
    tuning = choices(getattr(args, "tuned", False), parse_target(args.target, dtype=args.dtype, bf16=bf16))
    param = solver.param if solver is not None else None
    request = Request(
        source, keep, args.target, args.dtype, param, Feed(source, args.data).shapes, getattr(args, "name", ""),
        args.threads or 0, loss_weights(args), own_layers(args.layer), check_labels=args.check_labels,
        check_finite=args.check_finite, winograd=args.winograd, tuning=tuning,
        freeze=getattr(args, "freeze", False), bf16=bf16, blocks=args.blocks,
    )  # fmt: skip
    return request, solver
