"""Layers without bottoms: Input, Data, DummyData."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from lossc.errors import count_of
from lossc.ir import IO, Builder
from lossc.layers.base import Layer, Shape
from lossc.layers.fillers import ConstantFiller, fill, is_constant


class Source(Layer):
    """Base of layers whose tops the caller fills before each pass; nothing is computed."""

    bottoms = (0, 0)
    has_gradient = False
    is_input = True

    def forward(self, b: Builder, io: IO) -> None:
        pass


class Input(Source):
    """Blobs that the caller fills. ``input_param`` has one shape for all tops, or one per top."""

    type = "Input"
    tops = (1, None)

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        shapes = [tuple(s.dim) for s in self.param.input_param.shape]
        tops = len(self.param.top)
        self.need(
            len(shapes) in (1, tops),
            f"{count_of(len(shapes), 'shape')} for {count_of(tops, 'top')}",
            "input_param { shape { dim: ... } }: one for all tops, or one per top",
        )
        return shapes if len(shapes) == tops else shapes * tops


class Data(Source):
    """Images and, with a second top, labels from a data source. ``shapes`` are the tops' shapes, batch included."""

    type = "Data"
    tops: ClassVar[tuple[int, int | None]] = (1, 2)
    shapes: Sequence[Shape] = ()

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        self.need(
            len(self.shapes) >= len(self.param.top),
            "the shapes of its tops are not known before its data source has been opened",
            f'give data_shapes={{"{self.name}": [shape of each top]}}, or an Input layer',
        )
        return [tuple(s) for s in self.shapes[: len(self.param.top)]]


class DummyData(Layer):
    """Tops filled by fillers: constant ones once, random ones afresh at each forward."""

    type = "DummyData"
    bottoms = (0, 0)
    tops = (1, None)
    has_gradient = False

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        p, tops = self.param.dummy_data_param, len(self.param.top)
        legacy = (p.num, p.channels, p.height, p.width)
        self.need(
            not (len(p.shape) and any(legacy)),
            "has shape and num, channels, height, width at once",
            "dummy_data_param { shape { dim: ... } } says it all",
        )
        if any(legacy):
            for name, sizes in zip(("num", "channels", "height", "width"), legacy, strict=True):
                given = f"{count_of(len(sizes), 'value')} of {name} for {count_of(tops, 'top')}"
                self.need(len(sizes) in (1, tops), given, "give one per top")
            return [tuple(sizes[k if len(sizes) > 1 else 0] for sizes in legacy) for k in range(tops)]
        given = f"{count_of(len(p.shape), 'shape')} for {count_of(tops, 'top')}"
        self.need(len(p.shape) in (1, tops), given, "give one, or one per top")
        shapes = [tuple(s.dim) for s in p.shape]
        return shapes if len(shapes) == tops else shapes * tops

    def _fillers(self) -> list[Any]:
        p, tops = self.param.dummy_data_param, len(self.param.top)
        given = list(p.data_filler) or [ConstantFiller()]
        count = f"{count_of(len(given), 'data_filler')} for {count_of(tops, 'top')}"
        self.need(len(given) in (1, tops), count, "give one, or one per top")
        return given if len(given) == tops else given * tops

    def forward(self, b: Builder, io: IO) -> None:
        for top, filler in zip(io.tops, self._fillers(), strict=True):
            if not is_constant(filler):
                fill(b, top, filler)
                continue
            b.graph.blobs[top.blob] = replace(b.graph.blobs[top.blob], role="state")
            fill(Builder(b.graph, b.layer, "init"), top, filler)
