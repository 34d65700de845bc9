"""``lossc tune``: measures the candidates for a net's products and convolutions, and keeps the fastest ones' names."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lossc.cli.options import add, add_build, add_freeze, add_net, positive, tuning_file
from lossc.cli.request import net_request

if TYPE_CHECKING:
    from lossc.build.tuning import Tuning
    from lossc.profile.tune import Measured

CANDIDATES, SECONDS = 4, 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_net(parser, phase="train")
    add(parser, "solver", metavar="FILE", help="the net of this solver, unless NET is given")
    help = f"candidates to measure for each kernel, the cost model's cheapest ones ({CANDIDATES})"
    add(parser, "candidates", type=_candidates, default=CANDIDATES, metavar="K", help=help)
    add(parser, "seconds", type=_seconds, default=SECONDS, metavar="S", help=f"for each candidate ({SECONDS})")
    help = "write what was measured to this file too, for --tuned FILE"
    parser.add_argument("-o", "--output", type=tuning_file, metavar="FILE.json", help=help)
    add(parser, "json", action="store_true", help="print everything as JSON, and nothing else")
    add_build(parser, bf16=True)
    add_freeze(parser)


def run(args: argparse.Namespace) -> int:
    from lossc.build.tuning import Tuning, keep_tuning, write_tuning
    from lossc.profile.tune import tune

    request, _ = net_request(args)
    target = request.built_for

    def told(measured: Measured) -> None:
        print("\n".join(_rows(measured)), flush=True)

    if not args.json:
        print(f"{'kernel':32} {'threads':>7} {'ms':>9} {'gain':>6}  candidate", flush=True)
    # An update has no contractions, and all blobs kept or not the kernels have the same sizes.
    request = replace(request, solver=None)
    results = tune(request, args.candidates, args.seconds, None if args.json else told)
    tuning = Tuning.here(target, {m.key: m.entry for m in results})
    keep_tuning(tuning, target)
    if args.output:
        write_tuning(args.output, tuning)
    if args.json:
        import json

        print(json.dumps(_report(tuning, results), indent=1))
    else:
        print(_summary(results))
    return 0


def _rows(measured: Measured) -> list[str]:
    """The model's choice, and below it what is faster: the times of one call."""
    times = f" x{len(measured.kernels)}" if len(measured.kernels) > 1 else ""
    seconds = measured.seconds[measured.model]
    rows = [f"{measured.kernels[0] + times:32} {measured.threads:7} {1e3 * seconds:9.4f} {'':>6}  {measured.model}"]
    if measured.chosen != measured.model:
        best = measured.seconds[measured.chosen]
        rows.append(f"{'':32} {'':7} {1e3 * best:9.4f} {1 - best / seconds:6.1%}  {measured.chosen}")
    return rows


def _summary(results: list[Measured]) -> str:
    if not results:
        return "the net has no product or convolution with more than one candidate"
    changed = [m for m in results if m.chosen != m.model]
    before = sum(len(m.kernels) * m.seconds[m.model] for m in results)
    saved = sum(m.saved for m in results)
    return (
        f"{len(changed)} of {len(results)} kernels are faster than by the model's choice; expected of an iteration's "
        f"{1e3 * before:.3f} ms in them: {1e3 * saved:.3f} ms less ({saved / before:.1%}); use it with --tuned"
    )


def _report(tuning: Tuning, results: list[Measured]) -> dict[str, Any]:
    """Everything, in seconds."""
    return {
        "processor": tuning.processor,
        "isa": tuning.isa,
        "dtype": tuning.dtype,
        "kernels": [
            {
                "key": m.key,
                "kernels": list(m.kernels),
                "threads": m.threads,
                "candidates": [{"name": name, "seconds": least} for name, least in m.seconds.items()],
                "model": m.model,
                "chosen": m.chosen,
            }
            for m in results
        ],
        "saved": sum(m.saved for m in results),
    }


def _candidates(text: str) -> int:
    value = positive(text)
    if value < 2:
        raise ValueError
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


# argparse's message says: invalid ... value
_candidates.__name__ = "whole number of 2 or more"
_seconds.__name__ = "number of seconds"
