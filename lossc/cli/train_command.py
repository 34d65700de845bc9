"""``lossc train``: Caffe's training command."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from lossc.cli.log import Logger
from lossc.cli.options import add, add_build, add_data, add_tuned, given_path, loss_weights, only_one, positive
from lossc.errors import SolverError

if TYPE_CHECKING:
    from lossc.runtime.solver import Solver


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="SOLVER", help="the solver's prototxt file")
    add(parser, "solver", metavar="SOLVER", help="the same, as Caffe has it")
    add_data(parser)
    start = parser.add_mutually_exclusive_group()
    add(start, "weights", type=given_path, metavar="FILE,...", help="start from these weights (.caffemodel or .h5)")
    text = "go on from this snapshot (.solverstate or .solverstate.h5)"
    add(start, "snapshot", type=given_path, metavar="FILE", help=text)
    add(parser, "iterations", type=positive, metavar="N", help="in place of the solver's max_iter")
    add_build(parser)
    add_tuned(parser)
    parser.epilog = "Ctrl-C stops after the running iteration and writes a snapshot; SIGHUP writes one and goes on."


def run(args: argparse.Namespace) -> int:
    from lossc.frontend.solver import read_solver
    from lossc.runtime.solver import Solver

    source = read_solver(only_one(args.file, args.solver, "solver", "SOLVER"))
    if args.iterations:
        source.param.max_iter = args.iterations
    if not source.param.HasField("max_iter"):
        fix = "add max_iter: 10000, for example, or give --iterations"
        raise SolverError("max_iter, the number of iterations, is missing", fix=fix, file=source.file)
    log = Logger()
    solver = Solver(
        source, threads=args.threads, target=args.target, dtype=args.dtype, data=args.data, log=log,
        loss_weights=loss_weights(args), layers=args.layer, check_labels=args.check_labels,
        check_finite=args.check_finite, winograd=args.winograd, tuned=args.tuned, blocks=args.blocks,
    )  # fmt: skip
    log("lossc", _summary(solver))
    for path in filter(None, (args.weights or "").split(",")):
        solver.load_weights(path)
    if args.snapshot:
        log("caffe.cpp:235", f"Resuming from {args.snapshot}")
        solver.restore(args.snapshot)
    with _signals(solver), _progress(solver, log):
        log("caffe.cpp:239", "Starting Optimization")
        solver.solve()
        log("caffe.cpp:250", "Optimization Done.")
    return 0


def _summary(solver: Solver) -> str:
    net = solver.net
    size = net.manifest["bytes"]
    params, memory = size["params"] / 2**20, (size["arena"] + size["scratch_shared"]) / 2**20
    what = f"{net.name or 'The net'} for {net.manifest['isa']}, {net.manifest['dtype']}, {net.native.threads} threads"
    return f"{what}: {params:.1f} MiB of parameters, {memory:.1f} MiB of memory"


@contextmanager
def _signals(solver: Solver) -> Iterator[None]:
    """The first SIGINT asks for a stop, the second one ends the process; SIGHUP asks for a snapshot."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        solver.request("stop")

    before = {signal.SIGINT: signal.signal(signal.SIGINT, stop)}
    if hasattr(signal, "SIGHUP"):
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda number, frame: solver.request("snapshot"))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(solver: Solver, log: Logger) -> Iterator[None]:
    """A bar below the log lines, where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=solver.param.max_iter, completed=solver.iter, text="")

        def show() -> None:
            speed = progress.tasks[0].speed
            text = f"loss {solver.loss:.4g}  rate {solver.rate:.3g}  {speed or 0:.0f} iter/s"
            progress.update(task, completed=solver.iter, text=text)

        solver.add_callback(show, lambda: None)
        log.console = progress.console
        try:
            yield
        finally:
            show()
            log.console = None
