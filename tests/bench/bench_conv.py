"""Speed of generated convolutions as a part of the FMA peak, which is measured in alternation in the same run.

Where Winograd's algorithm would be chosen, a second line is its; its rate counts the plain algorithm's operations.
Another line is of x and y with their channels in blocks, where that can be.

    python tests/bench/bench_conv.py [--isa avx512] [--threads 1 2] [--only SUBSTRING]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from math import prod
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "codegen"), str(Path(__file__).resolve().parents[2])]

from contraction_bench import arguments, measure, save  # noqa: E402

from lossc.codegen.conv import ConvSpec, conv_code  # noqa: E402
from lossc.errors import InternalError  # noqa: E402
from lossc.ir.blob import BLOCK  # noqa: E402

# name: images, groups, input and output channels, size, kernel, stride, pad
SHAPES = {
    "lenet1": (64, 1, 1, 20, 28, 5, 1, 0),
    "lenet2": (64, 1, 20, 50, 12, 5, 1, 0),
    "alexnet1": (4, 1, 3, 96, 227, 11, 4, 0),
    "alexnet2": (8, 2, 96, 256, 27, 5, 1, 2),
    "alexnet3": (8, 1, 256, 384, 13, 3, 1, 1),
    "vgg1_1": (1, 1, 3, 64, 224, 3, 1, 1),
    "vgg1_2": (1, 1, 64, 64, 224, 3, 1, 1),
    "vgg3": (2, 1, 256, 256, 56, 3, 1, 1),
    "vgg5": (4, 1, 512, 512, 14, 3, 1, 1),
    "googlenet_7x7": (4, 1, 3, 64, 224, 7, 2, 3),
    "inception3a_3x3": (8, 1, 96, 128, 28, 3, 1, 1),
    "inception3a_5x5": (8, 1, 16, 32, 28, 5, 1, 2),
    "inception4_1x1": (8, 1, 512, 192, 14, 1, 1, 0),
    "inception5_1x1": (8, 1, 832, 384, 7, 1, 1, 0),
    "inception5_3x3": (8, 1, 192, 384, 7, 3, 1, 1),
    "resnet2_64_256": (8, 1, 64, 256, 56, 1, 1, 0),
    "resnet2_256_64": (8, 1, 256, 64, 56, 1, 1, 0),
    "resnet3_128_512": (8, 1, 128, 512, 28, 1, 1, 0),
    "resnet3_512_128": (8, 1, 512, 128, 28, 1, 1, 0),
    "resnet4_256_1024": (8, 1, 256, 1024, 14, 1, 1, 0),
    "resnet4_1024_256": (8, 1, 1024, 256, 14, 1, 1, 0),
    "resnet5_2048_512": (8, 1, 2048, 512, 7, 1, 1, 0),
    "resnet2_3x3": (8, 1, 64, 64, 56, 3, 1, 1),
    "resnet4_3x3": (8, 1, 256, 256, 14, 3, 1, 1),
    "resnet3_down": (8, 1, 256, 512, 56, 1, 2, 0),
    "resnet4_down": (8, 1, 512, 1024, 28, 1, 2, 0),
    "resnet5_down": (8, 1, 1024, 2048, 14, 1, 2, 0),
    "resnet_stride": (8, 1, 128, 256, 28, 3, 2, 1),
    "deconv_k4s2": (4, 1, 32, 64, 64, 4, 2, 1),
    "depthwise": (8, 128, 128, 128, 28, 3, 1, 1),
}


def spec(name: str, direction: str) -> ConvSpec:
    n, groups, ci, co, size, kernel, stride, pad = SHAPES[name]
    out = (size + 2 * pad - kernel) // stride + 1
    return ConvSpec(
        f"{name}_{direction}", f"{direction} {ci}->{co}", "src", "weights", "dst", direction, n, groups, ci, co,
        (size,) * 2, (out,) * 2, (kernel,) * 2, (stride,) * 2, (pad,) * 2, (1, 1), (ci * size**2, size**2),
        (co * out**2, out**2),
    )  # fmt: skip


def main() -> None:
    options, records = arguments(__doc__), []
    for name in SHAPES:
        for direction in ("forward", "bwd_data", "bwd_weights"):
            s = spec(name, direction)
            if options.only not in s.name:
                continue
            x, y = s.n * s.ci * prod(s.in_shape), s.n * s.co * prod(s.out_shape)
            w = s.co * s.ci // s.groups * prod(s.kernel)
            sizes = {"forward": (x, w, y), "bwd_data": (y, w, x), "bwd_weights": (x, y, w)}[direction]
            flops = 2 * y * (w // s.co)
            plain = conv_code(s, options.isa, options.dtype)
            records.append(measure(s.name, plain, flops, sizes, options))
            fast = conv_code(s, options.isa, options.dtype, winograd=4)
            if fast != plain:
                records.append({**measure(s.name, fast, flops, sizes, options), "winograd": 4})
            if s.ci // s.groups % BLOCK == s.co // s.groups % BLOCK == 0:
                s = replace(s, name=f"{s.name}_blocks", x_block=BLOCK, y_block=BLOCK)
                try:
                    blocked = conv_code(s, options.isa, options.dtype)
                except InternalError:  # nothing computes it
                    continue
                records.append({**measure(s.name, blocked, flops, sizes, options), "blocks": BLOCK})
    save(records, options)


if __name__ == "__main__":
    main()
