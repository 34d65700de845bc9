"""``lossc explain``: where each loss_weight went, and what the losses and their gradients are."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lossc.cli.options import add, add_build, add_net, positive
from lossc.cli.request import net_request
from lossc.errors import UsageError

if TYPE_CHECKING:
    from lossc.explain.report import Report

#: Batches that are run where data or weights are given, but no number.
ITERATIONS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_net(parser, phase="train")
    add(parser, "solver", metavar="FILE", help="with this solver's update; NET is its net unless given")
    add(parser, "weights", default="", metavar="FILE,...", help="weights to start from; runs the net")
    text = f"batches to run, which with --solver train (0; {ITERATIONS} where --data or --weights is given)"
    add(parser, "iterations", type=positive, metavar="N", help=text)
    add(parser, "json", action="store_true", help="print JSON for programs")
    add(parser, "html", metavar="FILE", help="write one page with the picture of the net, the tables and the C")
    text = "show what this loss's weight changes in net.c when it is set at run time (or as --loss-weight says)"
    add(parser, "diff", metavar="LOSS", help=text)
    add_build(parser)


def run(args: argparse.Namespace) -> int:
    from lossc.explain import explain_request

    if args.diff:
        return _diff(args)
    iterations = args.iterations or (ITERATIONS if args.data or args.weights else 0)
    report = _measured(args, iterations) if iterations else explain_request(net_request(args)[0])
    if args.html:
        _write_page(report, Path(args.html))
    if args.json:
        json.dump(report.to_json(), sys.stdout, indent=1)
        print()
    elif not args.html:
        _show(report)
    return 0


def _show(report: Report) -> None:
    from lossc.explain.text import plain_text, print_rich

    if sys.stdout.isatty():
        print_rich(report)
    else:
        sys.stdout.write(plain_text(report))


def _write_page(report: Report, path: Path) -> None:
    from lossc.explain.page import page

    try:
        path.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}", fix="name another file") from error
    print(f"wrote {path}", file=sys.stderr)


def _diff(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from lossc.explain.diff import weight_diff

    request, _ = net_request(args)
    chosen = request.loss_weights.get(args.diff)
    others = {name: w for name, w in request.loss_weights.items() if name != args.diff}
    sys.stdout.write(weight_diff(replace(request, loss_weights=others), args.diff, chosen))
    return 0


def _measured(args: argparse.Namespace, iterations: int) -> Report:
    """The report after some batches, or iterations of training."""
    from dataclasses import replace

    from lossc.explain import explain_net
    from lossc.explain.measure import values_of
    from lossc.explain.structure import losses_of
    from lossc.runtime.net import Net

    request, _ = net_request(args)
    inputs = [top for layer in request.source.param.layer if layer.type == "Input" for top in layer.top]
    if inputs:
        fix = "explain a net whose data layers read some, or call net.explain() in Python after a forward pass"
        raise UsageError(f"nothing fills the input {inputs[0]}", fix=fix, file=request.source.file)
    keep, solver = losses_of(request), request.solver
    net = Net(
        request.source, args.phase, None, keep, args.threads, args.target, args.dtype,
        solver.random_seed if solver is not None and solver.random_seed >= 0 else 1,
        data=args.data, solver=solver, loss_weights=request.loss_weights, layers=request.layers,
        check_labels=args.check_labels, check_finite=args.check_finite, winograd=args.winograd,
        blocks=args.blocks,
    )  # fmt: skip
    given = [*(solver.weights if solver is not None else ()), args.weights]
    for path in filter(None, (each.strip() for paths in given for each in paths.split(","))):
        net.copy_from(path)
    history = []
    for _ in range(iterations):
        if solver is None:
            net.forward()
        else:
            net.clear_param_diffs()
            for _ in range(solver.iter_size):
                net.forward_backward()
            net.native.update()
        history.append(values_of(net, keep))
    return explain_net(net, request=replace(request, keep=()), history=history)
