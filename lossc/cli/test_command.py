"""``lossc test``: a net over data in phase TEST, as Caffe's command."""

from __future__ import annotations

import argparse

from lossc.cli.log import Logger
from lossc.cli.options import add, add_build, add_net, add_tuned, given_path, loss_weights, net_file, positive, stages
from lossc.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_net(parser, phase="test")
    text = "the trained weights (.caffemodel or .h5)"
    add(parser, "weights", required=True, type=given_path, metavar="FILE,...", help=text)
    add(parser, "iterations", type=positive, default=50, metavar="N", help="batches (50)")
    add_build(parser, bf16=True)
    add_tuned(parser)


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from lossc.runtime.loglines import add_to, mean_of, number, weighted
    from lossc.runtime.net import Net

    file = net_file(args)
    net = Net(
        file, args.phase, threads=args.threads, target=args.target, dtype=args.dtype, level=args.level,
        stages=stages(args), data=args.data, loss_weights=loss_weights(args),
        layers=args.layer, check_labels=args.check_labels, check_finite=args.check_finite, winograd=args.winograd,
        tuned=args.tuned, freeze=True, bf16=args.bf16, blocks=args.blocks,
    )  # fmt: skip
    if net.inputs:
        fix = "test a net whose Data layers read some; Input layers are for programs that fill them"
        raise UsageError(f"nothing fills the input {net.inputs[0]}", fix=fix, file=file)
    for path in filter(None, args.weights.split(",")):
        net.copy_from(path)
    log, kind = Logger(), net.native.dtype.type
    log("caffe.cpp:281", f"Running for {args.iterations} iterations.")
    sums: dict[str, np.ndarray] = {}
    loss = kind(0)
    for batch in range(args.iterations):
        outputs = net.forward()
        add_to(sums, outputs, net.outputs)
        loss += kind(net.loss)
        for name in net.outputs:
            for value in outputs[name].reshape(-1):
                log("caffe.cpp:304", f"Batch {batch}, {name} = {number(value)}")
    log("caffe.cpp:309", f"Loss: {number(loss / kind(args.iterations))}")
    for name, mean in mean_of(sums, args.iterations).items():
        weight = net.blob_loss_weights.get(name, 0.0)
        for value in np.asarray(mean).reshape(-1):
            log("caffe.cpp:321", f"{name} = {number(value)}{weighted(value, weight, net.native.dtype)}")
    return 0
