"""The shape of a convolution, and C text for positions in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any


@dataclass(frozen=True)
class Window:
    """A convolution from `source` to `target` with `ic` and `oc` channels a group, and at least two spatial axes.

    Weights lie at group * w_group + oc * w_row + ic * w_channel + tap, with taps counted from the last one if turned.
    """

    n: int
    groups: int
    ic: int
    oc: int
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    source: str
    target: str
    source_strides: tuple[int, int]
    target_strides: tuple[int, int]
    w_group: int
    w_row: int
    w_channel: int
    flipped: bool = False
    frozen: bool = False  # the weights: what is made of them lasts
    bf16: bool = False  # operands are rounded, and two channels of the source make a step
    source_block: int = 0  # channels in a block, which lies position by position; 0: whole planes
    target_block: int = 0
    source_bf16: bool = False  # how it lies in memory
    target_bf16: bool = False
    tap_pairs: bool = False  # two taps of a row make a step where operands are rounded, instead of two channels

    @property
    def taps(self) -> int:
        return prod(self.kernel[:-1]) * self.row_taps

    @property
    def row_taps(self) -> int:
        """Taps of a row of the kernel, or pairs of them: of an odd number, the last one begins a tap earlier."""
        return -(-self.kernel[-1] // 2) if self.tap_pairs else self.kernel[-1]

    @property
    def steps(self) -> int:
        """Channels of the source in a group, or pairs of them, the last one's second filled up with zeros."""
        return -(-self.ic // 2) if self.bf16 and not self.tap_pairs else self.ic

    @property
    def channel_pairs(self) -> bool:
        """Whether pairs of channels have to be made of what is read before they are multiplied."""
        return self.bf16 and not self.source_bf16 and not self.tap_pairs

    @property
    def beside(self) -> float:
        """How much what is done beside the products weighs: one of pairs takes as long as two of numbers."""
        return 0.4 if self.bf16 else 1.0

    @property
    def positions(self) -> int:
        return prod(self.out_shape)

    def extent(self, axis: int) -> int:
        """Inputs that one output position spans."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def weights_at(self, head: str, group: str, channel: str = "ci") -> str:
        """C for the first tap that a row of the micro-kernel's a needs: of output `row0` and input channel `ci`, or
        the first channel of that pair."""
        step = self.w_channel * (2 if self.bf16 and not self.tap_pairs else 1)
        terms = [(group, self.w_group), ("row0", self.w_row), (channel, step)]
        return affine(terms, self.taps - 1 if self.flipped else 0, head=head)

    def inside(self) -> bool:
        """Whether no position touches the padding."""
        last = (
            (out - 1) * stride + self.extent(axis) - pad <= size
            for axis, (out, stride, pad, size) in enumerate(
                zip(self.out_shape, self.stride, self.pad, self.in_shape, strict=True)
            )
        )
        return all(pad <= 0 for pad in self.pad) and all(last)

    def turned(self) -> Window:
        """The convolution from target to source by which the gradient flows back; the stride must be 1."""
        return replace(
            self, ic=self.oc, oc=self.ic, in_shape=self.out_shape, out_shape=self.in_shape,
            pad=tuple(self.extent(a) - 1 - p for a, p in enumerate(self.pad)), source=self.target, target=self.source,
            source_strides=self.target_strides, target_strides=self.source_strides,
            w_row=self.w_channel, w_channel=self.w_row, flipped=True,
            source_block=self.target_block, target_block=self.source_block,
            source_bf16=self.target_bf16, target_bf16=self.source_bf16,
        )  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Where the output's positions lie in its planes, all others of which are 0: `stride` apart on each axis."""

    stride: tuple[int, int]
    height: int
    width: int


def spread_of(shape: Window) -> tuple[Window, Spread] | None:
    """The gradient of the data of a 1 x 1 convolution with a stride: pointwise products of dy, spread out."""
    plain = len(shape.kernel) == 2 and shape.taps == 1 and set(shape.pad) == {0} and max(shape.stride) > 1
    sizes = zip(shape.in_shape, shape.out_shape, shape.stride, strict=True)
    if not plain or any(out != (size - 1) // stride + 1 for size, out, stride in sizes):
        return None
    dense = replace(shape.turned(), out_shape=shape.out_shape, stride=(1, 1), dilation=(1, 1))
    return dense, Spread((shape.stride[0], shape.stride[1]), shape.in_shape[0], shape.in_shape[1])


def window(spec: Any) -> Window:
    """A ConvSpec's shape. A 1 x 1 convolution has no axes worth keeping apart: its plane is one long row."""
    ic, oc, taps = spec.ci // spec.groups, spec.co // spec.groups, prod(spec.kernel)
    in_shape, out_shape = tuple(spec.in_shape), tuple(spec.out_shape)
    kernel, stride, pad, dilation = (tuple(a) for a in (spec.kernel, spec.stride, spec.pad, spec.dilation))
    if taps == 1 and set(stride) == {1} and set(pad) == {0} and in_shape == out_shape:
        in_shape = out_shape = (prod(in_shape),)
        kernel, stride, pad, dilation = (1,), (1,), (0,), (1,)
    lead = (2 - len(kernel),) if len(kernel) < 2 else ()
    return Window(
        spec.n, spec.groups, ic, oc, lead + in_shape, lead + out_shape, lead + kernel, lead + stride,
        (0,) * len(lead) + pad, lead + dilation, spec.x, spec.y, tuple(spec.x_strides), tuple(spec.y_strides),
        oc * ic * taps, ic * taps, taps, frozen=spec.frozen == spec.w, bf16=spec.bf16,
        source_block=spec.x_block, target_block=spec.y_block, source_bf16=spec.x_bf16, target_bf16=spec.y_bf16,
    )  # fmt: skip


def affine(terms: Sequence[tuple[str, int]], constant: int = 0, head: str = "") -> str:
    """C for head + variable * factor + ... + constant; "0" stands for a variable that is always 0."""
    parts = [head] if head else []
    parts += [v if factor == 1 else f"{v} * {factor}" for v, factor in terms if factor and v != "0"]
    text = " + ".join(parts)
    if not text:
        return str(constant)
    return text if not constant else f"{text} {'+' if constant > 0 else '-'} {abs(constant)}"


@dataclass(frozen=True)
class Part:
    """One loop level of a task number: `count` parts of `step`; the last one is moved back to fit into `size`."""

    first: str  # variable of the first element that is new
    start: str  # variable of the part's start; the two are the same where the parts fit exactly
    size: int
    step: int

    @property
    def count(self) -> int:
        return -(-self.size // self.step)


def decode(parts: Sequence[Part], number: str = "u") -> tuple[list[str], dict[str, str]]:
    """C lines that split a task number, the innermost part last, and each variable's name ("0" if it is always 0)."""
    lines: list[str] = []
    names: dict[str, str] = {}
    below, outermost = 1, True
    for part in reversed(parts):
        if part.count == 1:
            names |= {part.first: "0", part.start: "0"}
    remaining = [part for part in parts if part.count > 1]
    for index, part in reversed(list(enumerate(remaining))):
        outermost = index == 0
        text = number if below == 1 else f"{number} / {below}"
        text = text if outermost else f"{text} % {part.count}"
        text = text if part.step == 1 else f"{text} * {part.step}"
        lines.append(f"const ptrdiff_t {part.first} = {text};")
        names |= {part.first: part.first, part.start: part.first}
        if part.size % part.step and part.start != part.first:
            limit = part.size - part.step
            clamp = f"{part.first} < {limit} ? {part.first} : {limit}"
            lines.append(f"const ptrdiff_t {part.start} = {clamp};  /* the last part overlaps its neighbour */")
            names[part.start] = part.start
        below *= part.count
    return lines, names


def outer_axes(shape: Window, z: str, taps: bool = True) -> list[dict[str, str]]:
    """C for the input coordinate of each axis before the last two, at output plane z and outer tap kz, or its first."""
    axes = []
    for a in range(len(shape.kernel) - 2):
        below_out, below_taps = prod(shape.out_shape[a + 1 : -2]), prod(shape.kernel[a + 1 : -2])
        out = "0" if z == "0" else f"{z} / {below_out} % {shape.out_shape[a]}"
        tap = f"kz / {below_taps} % {shape.kernel[a]}" if taps and shape.kernel[a] > 1 else "0"
        axes.append({"at": affine([(out, shape.stride[a]), (tap, shape.dilation[a])], -shape.pad[a])})
    return axes


def output_parts(shape: Window, images: int, rows: int, columns: int, tile: Part) -> list[Part]:
    """The loop levels of tasks over blocks of so many images, rows, and columns of a row of the output; ``tile``: the
    output channels' level."""
    height, width = shape.out_shape[-2:]
    return [
        Part("n1", "n0", shape.n, images) if images > 1 else Part("n", "n", shape.n, 1),
        Part("group", "group", shape.groups, 1),
        Part("z", "z", prod(shape.out_shape[:-2]), 1),
        Part("h1", "h0", height, rows),
        Part("w1", "w0", width, columns),
        tile,
    ]


def fills_vectors(shape: Window, rows: int, columns: int, lanes: int) -> bool:
    """Whether the positions that are new in each block of rows, or columns of a row, are whole vectors."""
    height, width = shape.out_shape[-2:]
    last = (height % rows * width) if width == columns else width % columns
    return rows * columns % lanes == 0 and last % lanes == 0
