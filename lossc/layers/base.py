"""What a layer is: shapes, parameters, and how it lowers itself to kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lossc.errors import GraphError, ShapeError
from lossc.ir import IO, Builder, Ref
from lossc.layers.extras import Extra, read_extras
from lossc.layers.fillers import fill

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ParamSpec:
    """A learnable array: shape, Caffe's FillerParameter, and the lr_mult it has where the net gives none."""

    shape: Shape
    filler: Any
    lr_mult: float = 1.0


#: Settings of every layer. ``loss_weight``: what becomes of the weights of its tops that have one, each as in
#: ``loss_weight.parse_weight``: "runtime", or a schedule such as "step:gamma=0.1,stepsize=1000".
COMMON: Mapping[str, Extra] = {"loss_weight": Extra("texts", ())}


class Layer:
    """Base of all layers. A layer never sees its loss_weight: the passes deal with it, for every layer alike.

    Class attributes: ``type`` (Caffe's name); ``bottoms`` and ``tops``, the least and the greatest number of each
    (None: any number). ``param`` is Caffe's LayerParameter, ``phase`` "TRAIN" or "TEST".
    """

    type: ClassVar[str]
    bottoms: ClassVar[tuple[int, int | None]] = (1, 1)
    tops: ClassVar[tuple[int, int | None]] = (1, 1)
    #: A layer derived from Caffe's LossLayer: its first top has loss_weight 1 where none is given.
    is_loss: ClassVar[bool] = False
    #: False where Caffe has no gradient at all for the layer (Accuracy, Silence's tops, data layers).
    has_gradient: ClassVar[bool] = True
    #: True where the layer can work in place (its top may have its bottom's name).
    in_place: ClassVar[bool] = False
    #: The settings that ``lossc_param { name: value }`` may give this layer type, by name.
    extras: ClassVar[Mapping[str, Extra]] = {}
    #: Arrays from the files that the layer names, by the field that names them.
    tables: Mapping[str, np.ndarray] = {}

    def __init__(self, param: Any, phase: str) -> None:
        self.param = param
        self.phase = phase
        self.name: str = param.name
        self._extras = read_extras({**COMMON, **self.extras}, param.lossc_param, self.type)

    def extra(self, name: str) -> Any:
        """The value of one of ``extras``: from the layer's lossc_param, or the default."""
        return self._extras[name]

    def table(self, field: str) -> np.ndarray:
        """The array in the file that ``field`` names. Raises GraphError where it was not read beforehand."""
        if field not in self.tables:
            raise GraphError(f"the file that {field} names was not read", layer=self.name)
        return self.tables[field]

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        """The shapes of the tops. Raises ShapeError."""
        raise NotImplementedError

    def params(self, *bottoms: Shape) -> Sequence[ParamSpec]:
        """The learnable arrays, in Caffe's order."""
        return ()

    def forward(self, b: Builder, io: IO) -> None:
        """Emits the kernels that compute ``io.tops``."""
        raise NotImplementedError

    def backward(self, b: Builder, io: IO) -> None:
        """Emits the kernels that add to ``io.bottom_diffs`` and ``io.param_diffs`` (None: not wanted)."""
        raise NotImplementedError

    def initialize(self, b: Builder, param: Ref, filler: Any) -> None:
        """Emits the kernels that give a parameter its first values."""
        fill(b, param, filler)

    def propagates_to(self, bottom: int) -> bool:
        """Whether a gradient for that bottom exists (a label has none)."""
        return self.has_gradient

    def counts_as_learned(self) -> bool:
        """Whether the layers above run backward for this one's sake even where all its parameters have lr_mult 0."""
        return False

    def axis(self, axis: int, ndim: int, what: str = "axis") -> int:
        """A canonical axis number; -1 is the last. Raises ShapeError."""
        if not -ndim <= axis < ndim:
            raise ShapeError(f"{what} {axis} is out of range for a blob of {ndim} axes", layer=self.name)
        return axis % ndim

    def need(self, condition: bool, message: str, fix: str | None = None) -> None:
        """Raises ShapeError with this layer's name unless the condition holds."""
        if not condition:
            raise ShapeError(message, layer=self.name, fix=fix)


class LossLayer(Layer):
    """A layer of Caffe's LossLayer family: scores and labels in, a scalar out, weight 1 where none is given."""

    bottoms = (2, 2)
    is_loss = True

    def propagates_to(self, bottom: int) -> bool:
        return bottom == 0

    def infer_shapes(self, *bottoms: Shape) -> Sequence[Shape]:
        return [()]


def check_counts(layer: Layer, bottoms: int, tops: int) -> None:
    """Raises GraphError where a layer has too few or too many bottoms or tops."""
    for what, count, (least, most) in (("bottom", bottoms, layer.bottoms), ("top", tops, layer.tops)):
        if count < least or (most is not None and count > most):
            wanted = str(least) if least == most else f"at least {least}" if most is None else f"{least} to {most}"
            plural = "" if wanted == "1" else "s"
            fix = f"{'add' if count < least else 'remove'} what is {'missing' if count < least else 'too much'}"
            raise GraphError(f"{layer.type} takes {wanted} {what}{plural}, {count} given", fix=fix, layer=layer.name)
