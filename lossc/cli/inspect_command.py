"""``lossc inspect``: the graph after any pass, and the C."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lossc.cli.options import add, add_build, add_freeze, add_net, add_tuned
from lossc.cli.request import net_request
from lossc.errors import LosscError, UsageError

if TYPE_CHECKING:
    from lossc.ir import Graph
    from lossc.passes.base import PassRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_net(parser, phase="train")
    add(parser, "after", metavar="PASS", help="the graph as it is after this pass (the last one)")
    add(parser, "format", default="text", choices=("text", "dot", "svg", "c"), help="default: text")
    add(parser, "passes", action="store_true", help="list the passes, what they changed and how long they took")
    add(parser, "keep", default="", metavar="A,B", help='blobs that stay readable besides outputs; "all" for every one')
    add(parser, "solver", metavar="FILE", help="with this solver's update")
    add_build(parser, bf16=True)
    add_freeze(parser)
    add_tuned(parser)


def run(args: argparse.Namespace) -> int:
    from lossc.frontend.solver import located
    from lossc.pipeline import build_graph, compile_net

    request, solver = net_request(args)
    _ = request.built_for  # an unknown name: the graph does not depend on it, so nothing else would notice
    if args.format == "c" and not args.passes:
        if args.after:
            raise UsageError("the C is written after the last pass", fix="leave out --after, or take another --format")
        with located(solver):
            sys.stdout.write(compile_net(request).program.source)
        return 0
    with located(solver):
        graph, records = build_graph(request, until=args.after)
    sys.stdout.write(_table(records) if args.passes else _drawn(graph, args.format))
    return 0


def _drawn(graph: Graph, form: str) -> str:
    from lossc.ir.printer import to_dot, to_text

    if form == "text":
        return _ended(to_text(graph))
    dot = _ended(to_dot(graph))
    return _svg(dot) if form == "svg" else dot


def _ended(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"


def _svg(dot: str) -> str:
    import shutil
    import subprocess

    program = shutil.which("dot")
    if program is None:
        fix = "apt install graphviz, or take --format dot"
        raise LosscError("drawing needs graphviz's program dot, which is not in PATH", fix=fix)
    done = subprocess.run([program, "-Tsvg"], input=dot, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LosscError(f"graphviz failed: {done.stderr.strip()}", fix="take --format dot")
    return done.stdout


def _table(records: Sequence[PassRecord]) -> str:
    width = max(len(record.name) for record in records)
    lines = [f"{'PASS':<{width}}  CHANGED        MS"]
    lines += [f"{r.name:<{width}}  {'yes' if r.changed else 'no':<7}  {r.ms:8.2f}" for r in records]
    return "\n".join(lines) + "\n"


