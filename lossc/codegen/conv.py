"""C code of a convolution and its two gradients over any number of spatial axes.

- Direct (``conv_direct``): x is broadcast from where it lies or from a strip with margins, vectors run over output
  channels. It serves the forward pass, and the gradient of the data where the stride is 1: that is a convolution of dy
  with turned weights. So is that of 1 x 1 kernels with a stride, whose results are spread out.
- Gather: an implicit matrix product with columns gathered per block (``conv_gather``), vectors along positions. It
  serves forward and gradients of stride 1, where output channels are too few for vectors.
- Scatter (``conv_scatter``): columns of the gradient are computed per block and added where they came from.
- Weights (``conv_weights``): taps of x are broadcast from where they lie, vectors run over output channels. Where x's
  channels lie in blocks, or dy's and the kernel is 1 x 1, ``conv_weights_blocks``: sums for pairs of channels.
- Winograd (``winograd``, ``winograd_weights``): all three directions for 3 x 3 and 5 x 5 kernels of stride 1, where
  enough channels make up for its transforms.
- Depthwise (``conv_depthwise``): all three directions where every channel is a group and channels lie in blocks on both
  sides. Vectors run along channels, each tap is one product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from lossc.codegen.contraction import Code, Epilogue, Isa, rivals, types_of
from lossc.codegen.conv_depthwise import depthwise_code, is_depthwise
from lossc.codegen.conv_direct import direct_code
from lossc.codegen.conv_direct_plan import direct_plan
from lossc.codegen.conv_gather import gather_code
from lossc.codegen.conv_scatter import scatter_code
from lossc.codegen.conv_weights import weights_code
from lossc.codegen.conv_window import Window, spread_of, window
from lossc.codegen.winograd import filterings, winograd_code, winograd_plan
from lossc.codegen.winograd_weights import winograd_weights_code, winograd_weights_plan
from lossc.errors import InternalError

GATHER_WASTE = 1.4  # how many more positions dx may have than dy before scattering is the faster way
GATHER_CHANNELS = 8  # of dx in a group, for which columns of dy are worth copying
WINOGRAD_CHANNELS = 16  # of either side in a group, from which transforms can pay
WINOGRAD_GAIN = 1.05  # by how much the estimate must be better, for more scratch


@dataclass(frozen=True)
class ConvSpec:
    """One convolution kernel: y (n, co, *out_shape) = x (n, ci, *in_shape) * w (co, ci / groups, *kernel).

    ``forward`` writes y, ``bwd_data`` x (the gradient dx, from y = dy), ``bwd_weights`` w (dw, from x and y = dy).
    ``x_strides`` and ``y_strides`` are (image, channel) in elements; planes are contiguous and row-major. ``x_block``
    and ``y_block``: 0, or the channels in a block that lies position by position: channel c at position p of an image
    is its element (c - c % block) * plane + p * block + c % block, whose channel stride is the plane's size; a
    multiple of the lanes, which divides the channels of a group, or all of them where each is a group. ``x_bf16`` and
    ``y_bf16``: such a blob lies in memory as bfloat16 (``uint16_t``, strides in elements all the same), for which its
    channels must be in blocks. ``x``, ``w``, ``y`` are parameter names. ``alpha`` is a C literal or an expression read
    once, ``alpha_args`` the parameters that it needs. ``accumulate`` adds to what the output holds, always or where the
    int parameter that it names is not 0. ``frozen`` is ``w`` where that is the same in every call. ``bf16``, forward
    alone: products of numbers rounded to bfloat16, in float32 sums: of x and w, or of what Winograd's algorithm makes
    of them, unless that is faster in float32.
    """

    name: str
    comment: str
    x: str
    w: str
    y: str
    direction: Literal["forward", "bwd_data", "bwd_weights"]
    n: int
    groups: int
    ci: int
    co: int
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    x_strides: tuple[int, int]
    y_strides: tuple[int, int]
    alpha: str = "1.0f"
    alpha_comment: str = ""
    accumulate: bool | str = False
    epilogue: Epilogue | None = None
    alpha_args: tuple[str, ...] = ()
    frozen: str = ""
    bf16: bool = False
    x_block: int = 0
    y_block: int = 0
    x_bf16: bool = False
    y_bf16: bool = False

    @property
    def halves(self) -> frozenset[str]:
        """The parameters that lie in memory as bfloat16."""
        return frozenset(name for name, half in ((self.x, self.x_bf16), (self.y, self.y_bf16)) if half)

    @property
    def key(self) -> str:
        """All that candidates and their times depend on but for ``winograd`` below, as text."""
        sizes = (self.in_shape, self.out_shape, self.kernel, self.stride, self.pad, self.dilation)
        shapes = zip(("in", "out", "kernel", "stride", "pad", "dilation"), sizes, strict=True)
        strides = f"x {self.x_strides[0]},{self.x_strides[1]} y {self.y_strides[0]},{self.y_strides[1]}"
        sides = (("x", self.x_block, self.x_bf16), ("y", self.y_block, self.y_bf16))
        for name, block, half in sides:
            lies = (" bf16" if half else "") + (" blocks" if block else "")
            strides += f" {name}{lies}" if lies else ""
        add = (" add" if self.accumulate else "") + (" frozen" if self.frozen else "") + (" bf16" if self.bf16 else "")
        return (
            f"conv {self.direction} n {self.n} groups {self.groups} ci {self.ci} co {self.co} "
            f"{' '.join(f'{name} {_times(each)}' for name, each in shapes)} {strides}{add}"
        )


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def conv_code(spec: ConvSpec, isa: Isa, dtype: str, *, winograd: int = 0, prefer: str = "") -> Code:
    """The C function of a convolution; every thread of the team calls it. ``winograd``: the largest tile of Winograd's
    algorithm that is allowed, 0 for none. ``prefer``: the candidate's name to take in place of the model's choice,
    where there is one of this name.

    Parameters of the function: the two inputs and the output (forward: x, w, y; bwd_data: y, w, x; bwd_weights:
    x, y, w), those of the epilogue and of alpha, then scratch where it is needed. Raises InternalError for shapes
    that contradict each other, and for channels in blocks where no algorithm can do with them.
    """
    axes = {len(a) for a in (spec.in_shape, spec.out_shape, spec.kernel, spec.stride, spec.pad, spec.dilation)}
    if axes != {len(spec.kernel)} or not spec.kernel or spec.ci % spec.groups or spec.co % spec.groups:
        raise InternalError(f"convolution {spec.name}: axes, channels and groups do not fit together")
    if (spec.bf16 or spec.halves) and (spec.direction != "forward" or dtype != "f32"):
        raise InternalError(f"convolution {spec.name}: numbers are rounded to bfloat16 in f32's forward pass alone")
    if spec.x_bf16 and not spec.bf16 and not is_depthwise(spec):
        raise InternalError(f"convolution {spec.name}: what lies in memory as bfloat16 is multiplied so")
    if (spec.x_bf16 and not spec.x_block) or (spec.y_bf16 and not spec.y_block):
        raise InternalError(f"convolution {spec.name}: only channels in blocks lie in memory as bfloat16")
    types = types_of(isa, dtype)
    shape = window(spec)
    if is_depthwise(spec):
        return depthwise_code(spec, shape, isa, types, prefer)
    blocked = max(spec.x_block, spec.y_block) > 0
    if blocked:
        _refuse_blocks(spec, shape)
    turned, spread = shape.turned() if spec.direction == "bwd_data" else shape, None
    if spec.direction == "bwd_data" and (found := spread_of(shape)) and (blocked or shape.ic >= GATHER_CHANNELS):
        turned, spread = found
    if spec.direction == "bwd_weights":
        code = weights_code(spec, shape, isa, types, prefer)
    elif blocked or spread:
        code = direct_code(spec, turned, isa, types, prefer, spread)
    elif spec.direction == "forward" or _gathers(shape):
        code = gather_code(spec, turned, isa, types, prefer)
    else:
        code = scatter_code(spec, shape, isa, types, prefer)
    forward = spec.direction == "forward"
    if not blocked and (forward or (spec.direction == "bwd_data" and all(s == 1 for s in shape.stride))):
        _, other = direct_plan(turned, isa, types, prefer)
        assert code.choice is not None
        choice = rivals(code.choice, other, 1.0, prefer)
        if choice.name == other.name:
            code = direct_code(spec, turned, isa, types, prefer)
        code = replace(code, choice=choice)
    among = filterings(turned, winograd)
    if among and dtype == "f32" and min(shape.ic, shape.oc) >= WINOGRAD_CHANNELS:
        weights = spec.direction == "bwd_weights"
        _, other = (winograd_weights_plan if weights else winograd_plan)(turned, isa, types, among, prefer)
        assert code.choice is not None
        choice = rivals(code.choice, other, WINOGRAD_GAIN, prefer)
        if choice.name == other.name:
            code = (winograd_weights_code if weights else winograd_code)(spec, turned, isa, types, among, prefer)
        code = replace(code, choice=choice)
    return code


def _refuse_blocks(spec: ConvSpec, shape: Window) -> None:
    """Raises InternalError where no algorithm computes what a spec with channels in blocks asks for."""
    strided = spec.direction == "bwd_data" and max(shape.stride) > 1 and not spread_of(shape)
    sides = ((spec.ci, spec.x_block), (spec.co, spec.y_block))
    uneven = any(block and channels // spec.groups % block for channels, block in sides)
    if uneven or strided or len(shape.kernel) > 2:
        raise InternalError(f"convolution {spec.name}: nothing computes it with its channels in blocks")


def _gathers(shape: Window) -> bool:
    """Whether dx is computed as a convolution of dy: no zeros between its elements, few around it."""
    unit_stride = all(s == 1 for s in shape.stride)
    return unit_stride and shape.ic >= GATHER_CHANNELS and prod(shape.in_shape) <= GATHER_WASTE * prod(shape.out_shape)
