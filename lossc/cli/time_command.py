"""``lossc time``: how long each layer takes, as Caffe's command; and each kernel, beside what the machine can do."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from lossc.cli.log import Logger
from lossc.cli.options import add, add_build, add_freeze, add_net, add_tuned, given_path, positive
from lossc.cli.request import net_request
from lossc.profile import PEERS

if TYPE_CHECKING:
    from lossc.profile.peaks import Peaks
    from lossc.profile.peer import PeerTiming
    from lossc.profile.timing import Timing

def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_net(parser, phase="train")
    add(parser, "solver", metavar="FILE", help="time this solver's update too; NET is its net unless given")
    add(parser, "iterations", type=positive, default=50, metavar="N", help="iterations (50)")
    text = "each kernel beside this machine's peaks, which are measured first, and how its algorithm was chosen"
    add(parser, "roofline", action="store_true", help=text)
    text = "time the net in PyTorch too, and show its layers beside lossc's"
    add(parser, "compare", choices=PEERS, help=text)
    text = "an interpreter that has PyTorch, for --compare (the one that runs lossc)"
    add(parser, "torch-python", type=given_path, default=sys.executable, metavar="PYTHON", help=text)
    add(parser, "json", action="store_true", help="print everything as JSON, and nothing else")
    add_build(parser, bf16=True)
    add_freeze(parser)
    add_tuned(parser)


def run(args: argparse.Namespace) -> int:
    from lossc.profile.peaks import measure_peaks
    from lossc.profile.peer import time_peer
    from lossc.profile.timing import time_net
    from lossc.targets import host_machine

    request, _ = net_request(args)
    request = replace(request, timed=True)
    log = Logger()

    def told(iteration: int, seconds: float) -> None:
        log("caffe.cpp:409", f"Iteration: {iteration} forward-backward time: {1e3 * seconds:.6g} ms.")

    threads, peer = args.threads or 0, None
    if args.compare:
        threads = threads or host_machine().threads
        peer = time_peer(request, args.compare, args.torch_python, args.iterations, threads)
    if not args.json:
        log("caffe.cpp:380", "*** Benchmark begins ***")
        log("caffe.cpp:381", f"Testing for {args.iterations} iterations.")
    timing = time_net(request, args.iterations, threads, args.data, told=None if args.json else told)
    wanted = args.roofline or args.json
    peaks = measure_peaks(request.built_for, timing.threads) if wanted else None
    if args.json:
        import json

        print(json.dumps(_report(timing, peaks, peer), indent=1))
        return 0
    _log_layers(log, timing)
    if peaks is not None:
        print("\n".join(_roofline(timing, peaks)))
    if peer is not None:
        print("\n".join(_beside(timing, peer)))
    return 0


def _log_layers(log: Logger, timing: Timing) -> None:
    """Caffe's lines: milliseconds of each layer, forward and backward, then of the passes.

    A kernel counts for the layer that it is named by; that of a layer that was fused into another's kernel shows 0.
    """
    log("caffe.cpp:412", "Average time per layer: ")
    for layer in timing.layers:
        for place, section in (("caffe.cpp:415", "forward"), ("caffe.cpp:418", "backward")):
            log(place, f"{layer:>10}\t{section}: {1e3 * timing.section(section, layer):.6g} ms.")
    log("caffe.cpp:423", f"Average Forward pass: {1e3 * timing.section('forward'):.6g} ms.")
    log("caffe.cpp:425", f"Average Backward pass: {1e3 * timing.section('backward'):.6g} ms.")
    log("caffe.cpp:427", f"Average Forward-Backward: {1e3 * _mean(timing.iterations):.6g} ms.")
    log("caffe.cpp:429", f"Total Time: {1e3 * sum(timing.iterations):.6g} ms.")
    log("caffe.cpp:430", "*** Benchmark ends ***")


def _roofline(timing: Timing, peaks: Peaks) -> list[str]:
    """A table for people: what each kernel did with its least time, then where the mean time went."""
    lines = [
        f"peaks of {peaks.threads} thread(s): {peaks.flops / 1e9:.0f} GFLOP/s; triad "
        f"{peaks.memory / 1e9:.1f} GB/s from memory, {peaks.l3 / 1e9:.1f} from L3, {peaks.l2 / 1e9:.1f} from L2",
        "roof: part of the time the machine needs at least, operands from memory; over 100% where caches hold them",
        "",
        f"{'kernel':32} {'mean ms':>9} {'least ms':>9} {'GFLOP/s':>8} {'GB/s':>7} {'roof':>5}  "
        "algorithm (runner-up; what it costs more)",
    ]  # fmt: skip
    for k in timing.kernels:
        least = max(k.least, 1e-9)
        about = k.about
        chosen = about["algorithm"]
        if about["tuned"]:
            chosen += f" (tuned; the model's: {about['second']}; {_cost(about['second_cycles'], about['cycles'])})"
        elif about["second"]:
            chosen += f" ({about['second']}; {_cost(about['second_cycles'], about['cycles'])})"
        lines.append(
            f"{about['name']:32} {1e3 * k.mean:9.4f} {1e3 * k.least:9.4f} {about['flops'] / least / 1e9:8.1f} "
            f"{about['bytes'] / least / 1e9:7.1f} {k.share(peaks):5.0%}  {chosen}"
        )
    total = sum(k.mean for k in timing.kernels)
    whole = _mean(timing.iterations)
    bound = sum(peaks.bound(k.about["flops"], k.about["bytes"]) for k in timing.kernels)
    lines += ["", f"{'where the time went':32} {'mean ms':>9} {'part':>9}"]
    lines += [f"{kind:32} {1e3 * s:9.4f} {s / whole:9.1%}" for kind, s in timing.kinds().items()]
    lines.append(f"{'outside kernels':32} {1e3 * (whole - total):9.4f} {(whole - total) / whole:9.1%}")
    lines.append(f"{'iteration':32} {1e3 * whole:9.4f} {1e3 * min(timing.iterations):9.4f} least")
    lines.append(f"{'roofline':32} {1e3 * bound:9.4f}")
    return lines


def _beside(timing: Timing, peer: PeerTiming) -> list[str]:
    """A table for people: each layer here and in the peer, then the passes and how many times faster lossc is."""
    lines = [
        f"{peer.peer} is PyTorch {peer.version}; mean ms, {timing.threads} thread(s); a layer that was fused shows 0",
        "",
        f"{'layer':32} {'forward':>9} {peer.peer:>9} {'backward':>9} {peer.peer:>9}",
    ]
    ours = {(s, n): timing.section(s, n) for s in ("forward", "backward") for n in timing.layers}
    for name in timing.layers:
        pairs = [(ours[s, name], peer.layer(s, name)) for s in ("forward", "backward")]
        if any(map(any, pairs)):
            lines.append(f"{name:32} " + " ".join(f"{1e3 * a:9.4f} {1e3 * b:9.4f}" for a, b in pairs))
    lines += ["", f"{'whole':32} {'lossc':>9} {peer.peer:>9} {'times faster':>13}"]
    wholes = {s: (timing.section(s), peer.section(s)) for s in ("forward", "backward")}
    wholes["iteration"] = (_mean(timing.iterations), _mean(peer.iterations))
    wholes["least iteration"] = (min(timing.iterations), min(peer.iterations))
    lines += [f"{name:32} {1e3 * a:9.4f} {1e3 * b:9.4f} {_times(a, b):>13}" for name, (a, b) in wholes.items()]
    return lines


def _times(ours: float, theirs: float) -> str:
    return f"{theirs / ours:.2f}" if ours else "-"


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


def _cost(second: float, first: float) -> str:
    return f"{second / first - 1:+.1%}" if first else "equal"


def _report(timing: Timing, peaks: Peaks | None, peer: PeerTiming | None) -> dict[str, Any]:
    """Everything, in SI units."""
    return {
        "threads": timing.threads,
        "loss": timing.loss,
        "iterations": list(timing.iterations),
        "layers": [
            {"name": n, "forward": timing.section("forward", n), "backward": timing.section("backward", n)}
            for n in timing.layers
        ],
        "kernels": [
            {**k.about, "mean": k.mean, "least": k.least, **({"roof": k.share(peaks)} if peaks else {})}
            for k in timing.kernels
        ],
        "kinds": timing.kinds(),
        "peaks": asdict(peaks) if peaks else None,
        "peer": _peer_report(timing, peer) if peer else None,
    }


def _peer_report(timing: Timing, peer: PeerTiming) -> dict[str, Any]:
    """``ratio``: how many times longer the peer's mean iteration takes; ``least_ratio``: its least one."""
    return {
        "name": peer.peer,
        "version": peer.version,
        "iterations": list(peer.iterations),
        "layers": [{"name": n, "forward": f, "backward": b} for n, (f, b) in peer.layers.items()],
        "ratio": _mean(peer.iterations) / _mean(timing.iterations),
        "least_ratio": min(peer.iterations) / min(timing.iterations),
    }
