"""Options that several verbs have. As with Caffe's command, long ones may start with one dash or two."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lossc.errors import UsageError

if TYPE_CHECKING:
    from lossc.loss_weight import LossWeight


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int32(text)
    if value < 1:
        raise ValueError
    return value


def int32(text: str) -> int:
    """A whole number that fits the fields of Caffe's messages, for argparse."""
    value = int(text)
    if not -(2**31) <= value < 2**31:
        raise ValueError
    return value


def tuning_file(text: str) -> str:
    """A path that ends in .json: a net's file behind ``--tuned`` is no tuning. For argparse."""
    if not text.endswith(".json"):
        raise ValueError
    return text


# argparse's message says: invalid ... value
tuning_file.__name__ = "tuning, FILE.json,"
positive.__name__ = "whole number of 1 or more"
int32.__name__ = "whole number of 32 bits"


def given_path(text: str) -> str:
    """A path that is not empty, as that of an unset variable in a script would be; for argparse."""
    if not text.strip(" ,"):
        raise ValueError
    return text


given_path.__name__ = "path (it is empty)"


def add(parser: Any, name: str, **options: Any) -> None:
    """An option ``--name``, also written ``-name``."""
    parser.add_argument(f"--{name}", f"-{name}", **options)


def add_net(parser: argparse.ArgumentParser, *, phase: str) -> None:
    """The net's file and what chooses its layers."""
    parser.add_argument("net", nargs="?", metavar="NET", help="the net's prototxt file")
    add(parser, "model", metavar="NET", help="the same, as Caffe has it")
    add(parser, "phase", default=phase, choices=("train", "test"), type=str.lower, help=f"default: {phase}")
    add(parser, "level", type=int32, default=0, metavar="N", help="the level of the net's state (0)")
    add(parser, "stage", default="", metavar="A,B", help="the stages of the net's state")
    add_data(parser)


def add_data(parser: argparse.ArgumentParser) -> None:
    add(parser, "data", metavar="PATH", help="read data here, in place of the sources that data layers name")


def add_build(parser: argparse.ArgumentParser, *, bf16: bool = False) -> None:
    """What code is made for; ``bf16``: of verbs for inference."""
    add(parser, "threads", type=positive, metavar="N", help="threads (one per core); results do not depend on it")
    help = "native (default), avx512, avx2, neon, scalar or avx512_bf16"
    add(parser, "target", default="native", metavar="ISA", help=help)
    add(parser, "dtype", default="float32", choices=("float32", "float64"), help="default: float32")
    add(parser, "layer", action="append", metavar="FILE", help="a Python file that defines layer types (repeatable)")
    weight = "a loss_weight that can be set between steps; VALUE: where it starts (the net's own)"
    help = "labels out of range go unnoticed, and are read past the end of rows"
    add(parser, "no-check-labels", dest="check_labels", action="store_false", help=help)
    help = "stop at the first number that is not finite, and name its layer, blob and index; slower"
    add(parser, "check-finite", action="store_true", help=help)
    help = "largest tile of Winograd's convolutions: 2 (the default), 4 (3x3 alone; rounds less exactly), 0: none"
    add(parser, "winograd", type=int, choices=(0, 2, 4), default=2, help=help)
    add(parser, "no-winograd", dest="winograd", action="store_const", const=0, help="the same as --winograd 0")
    help = "plain sums alone, in every convolution; today the same as --no-winograd"
    sums = parser.add_mutually_exclusive_group()
    add(sums, "exact", dest="winograd", action="store_const", const=0, help=help)
    help = "every image in planes, also between convolutions, where channels are in blocks otherwise"
    add(parser, "no-blocks", dest="blocks", action="store_false", help=help)
    if bf16:
        help = "round what products and convolutions of phase TEST multiply to bfloat16; sums stay float32"
        add(sums, "bf16", action="store_true", help=help)
    add(parser, "runtime-weight", action="append", default=[], metavar="LOSS[=VALUE]", help=weight)
    weight = "another loss_weight: a number, or a schedule such as step:0.3,gamma=0.1,stepsize=1000"
    add(parser, "loss-weight", action="append", default=[], metavar="LOSS=WEIGHT", help=weight)


def add_freeze(parser: argparse.ArgumentParser) -> None:
    help = "keep what passes make of the parameters, which is faster; PREFIX_params_changed tells of changes"
    add(parser, "freeze", action="store_true", help=help)


def add_tuned(parser: argparse.ArgumentParser) -> None:
    help = "use what `lossc tune` has measured for this processor, or what FILE.json, which it wrote, holds"
    add(parser, "tuned", nargs="?", const=True, default=False, type=tuning_file, metavar="FILE.json", help=help)


def loss_weights(args: argparse.Namespace) -> dict[str, LossWeight]:
    """What ``--runtime-weight`` and ``--loss-weight`` say, by layer or top. Raises UsageError."""
    from lossc.loss_weight import Runtime, parse_weight

    found: dict[str, LossWeight] = {}
    given = [("runtime-weight", text) for text in args.runtime_weight]
    given += [("loss-weight", text) for text in args.loss_weight]
    for option, text in given:
        name, _, value = text.partition("=")
        if not name or (option == "loss-weight" and not value):
            raise UsageError(f"--{option} {text}: no {'weight' if name else 'name'}", fix=f"--{option} LOSS=WEIGHT")
        if name in found:
            raise UsageError(f'two weights for "{name}"', fix="give one")
        weight = parse_weight(value) if value else Runtime()
        if option == "runtime-weight" and isinstance(weight, float):
            weight = Runtime(weight)
        found[name] = weight
    return found


def net_file(args: argparse.Namespace) -> str:
    """The net's file. Raises UsageError where none was given, or two."""
    return only_one(args.net, args.model, "net", "NET")


def only_one(positional: str | None, option: str | None, what: str, metavar: str) -> str:
    if positional and option:
        raise UsageError(f"two {what} files: {positional} and {option}", fix="give one")
    given = positional or option
    if not given:
        raise UsageError(f"no {what} file", fix=f"lossc COMMAND {metavar}; `lossc COMMAND --help` tells more")
    return given


def stages(args: argparse.Namespace) -> list[str]:
    return [stage for stage in args.stage.split(",") if stage]
