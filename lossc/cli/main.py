"""Entry of the command ``lossc``. Only the verb that was asked for is imported, so that help comes at once."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import lossc
from lossc.errors import LosscError, UsageError

#: Verb: what it does. Its module, lossc.cli.VERB_command, has ``add_arguments(parser)`` and ``run(args) -> int``.
VERBS = {
    "train": "train a net as a solver file says",
    "test": "run a net over data and print the means of its outputs",
    "compile": "write a net as C with header and library, for use without Python",
    "inspect": "show what the compiler makes of a net",
    "time": "time a net layer by layer, and kernel by kernel",
    "tune": "measure which way of computing each product and convolution is the fastest here",
    "explain": "show where each loss_weight went, and what the losses and their gradients are",
    "check": "compare the gradients of a loss, or of each layer of a net, with differences",
    "cache": "show or clear the cache of compiled nets",
}

#: A process that a signal ended has this exit status plus the signal's number.
_SIGNALLED = 128
_SIGINT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 after an error, 2 for a call that makes no sense."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if sys.stdout is None or sys.stderr is None:  # closed by the caller, who wants to hear nothing
        nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, it lives as long as the process
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    parser = _parser(argv)
    args = parser.parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warner()
            status = int(args.run(args))
            sys.stdout.flush()  # here, where what fails is still told
            return status
    except LosscError as error:
        print(f"lossc: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except MemoryError as error:
        print(f"lossc: not enough memory: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader, such as head, has seen enough; Python must not fail once more when it flushes at exit.
        _forget_output()
        return 0
    except OSError as error:
        _forget_output()
        where = f"{error.filename}: " if error.filename else "output: "
        print(f"lossc: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _SIGNALLED + _SIGINT


def _forget_output() -> None:
    """What is left to be written goes nowhere: Python would fail once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warner() -> Callable[..., None]:
    """What shows a warning like errors, and once, however often the net is read.

    The line of Python that it comes from tells users nothing.
    """
    shown: set[str] = set()

    def show(message: Warning | str, *about: Any, **more: Any) -> None:
        text = f"lossc: warning: {message}"
        if text not in shown:
            shown.add(text)
            print(text, file=sys.stderr)

    return show


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lossc", description="Compiles neural nets with losses to C that trains them."
    )
    parser.add_argument("--version", action="version", version=f"lossc {lossc.__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb, text in VERBS.items():
        sub = verbs.add_parser(verb, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        if verb in argv[:1]:
            module = import_module(f"lossc.cli.{verb}_command")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
