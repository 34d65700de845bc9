"""``lossc check``: gradients of a loss, or of each layer of a net, against differences in float64."""

from __future__ import annotations

import argparse
import ast
from typing import Any

from lossc.cli.options import add, add_data, positive, stages
from lossc.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "a net's prototxt file, or FILE.py:LOSS, or a built-in loss written as a function, such as HuberLoss"
    parser.add_argument("what", metavar="NET|FILE.py:LOSS|NAME", help=what)
    add(parser, "shape", action="append", default=[], metavar="BOTTOM=N,C", help="a bottom's shape (of a loss)")
    add(parser, "set", action="append", default=[], metavar="NAME=VALUE", help="a parameter (of a loss)")
    add(parser, "step", type=float, default=1e-5, metavar="H", help="step of the differences (1e-5)")
    add(parser, "threshold", type=float, default=1e-6, metavar="E", help="the error that is accepted (1e-6)")
    add(parser, "samples", type=positive, default=40, metavar="N", help="elements checked of each array (40)")
    add(parser, "seed", type=int, default=0, metavar="N", help="of the random values (0)")
    add(parser, "phase", default="train", choices=("train", "test"), type=str.lower, help="of a net (train)")
    add(parser, "level", type=int, default=0, metavar="N", help="the level of the net's state (0)")
    add(parser, "stage", default="", metavar="A,B", help="the stages of the net's state")
    add(parser, "layer", action="append", metavar="FILE", help="a Python file that defines layer types (repeatable)")
    add_data(parser)


def run(args: argparse.Namespace) -> int:
    """Prints one line a comparison; 1 where one failed."""
    failed = 0
    for trial in _trials(args):
        print(trial, flush=True)
        failed += trial.failed
    return 1 if failed else 0


def _trials(args: argparse.Namespace) -> Any:
    from lossc.testing.check import check_gradient, check_layers

    options = {"step": args.step, "tolerance": args.threshold, "samples": args.samples, "seed": args.seed}
    file, colon, name = args.what.rpartition(":")
    if colon and file.endswith(".py"):
        return check_gradient(_loss_in(file, name), shapes=_shapes(args.shape), **options, **_parameters(args.set))
    if args.what.endswith(".py"):
        return (
            trial
            for loss in _losses_in(args.what).values()
            for trial in check_gradient(loss, shapes=_shapes(args.shape), **options, **_parameters(args.set))
        )
    if args.what.isidentifier():
        return check_gradient(args.what, shapes=_shapes(args.shape), **options, **_parameters(args.set))
    from lossc.frontend.net import read_net
    from lossc.pipeline import Request
    from lossc.runtime.feed import Feed
    from lossc.runtime.net import own_layers

    source = read_net(args.what, phase=args.phase, level=args.level, stages=stages(args))
    request = Request(source, data_shapes=Feed(source, args.data).shapes, layers=own_layers(args.layer))
    return check_layers(request, **options)


def _losses_in(file: str) -> dict[str, Any]:
    from lossc.lang.files import collect
    from lossc.lang.function import Function

    found = {name: custom.what for name, custom in collect(file).items() if isinstance(custom.what, Function)}
    return {name: loss for name, loss in found.items() if loss.is_loss}


def _loss_in(file: str, name: str) -> Any:
    """A loss of a file, by the name of its function or of its layer type."""
    from lossc.frontend.names import suggestion

    losses = _losses_in(file)
    by_function = {loss.__name__: loss for loss in losses.values()}
    found = by_function.get(name, losses.get(name))
    if found is None:
        raise UsageError(f'defines no loss "{name}"', fix=suggestion(name, by_function), file=file)
    return found


def _shapes(given: list[str]) -> dict[str, tuple[int, ...]]:
    out = {}
    for text in given:
        name, _, extents = text.partition("=")
        try:
            out[name] = tuple(int(e) for e in extents.split(",") if e)
        except ValueError:
            raise UsageError(f"--shape {text} is no shape", fix="--shape pred=4,3") from None
    return out


def _parameters(given: list[str]) -> dict[str, Any]:
    out = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--set {text} is no parameter", fix="--set delta=0.5")
        try:
            out[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            out[name] = value
    return out
