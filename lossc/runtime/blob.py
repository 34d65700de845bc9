"""Blobs as pycaffe's users know them: arrays ``data`` and ``diff`` over the net's own memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Get = Callable[[], np.ndarray]


class Blob:
    """Values and gradient of one blob or parameter. Both are NumPy views on the net's memory, not copies.

    Reading what was not kept raises UsageError, which names the fix. ``num``, ``channels``, ``height`` and ``width``
    are the first four axes, 1 where there are fewer, as in Caffe.
    """

    def __init__(self, shape: tuple[int, ...], data: Get, diff: Get) -> None:
        self.shape = shape
        self._data = data
        self._diff = diff

    @property
    def data(self) -> np.ndarray:
        return self._data()

    @property
    def diff(self) -> np.ndarray:
        return self._diff()

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def num(self) -> int:
        return self._axis(0)

    @property
    def channels(self) -> int:
        return self._axis(1)

    @property
    def height(self) -> int:
        return self._axis(2)

    @property
    def width(self) -> int:
        return self._axis(3)

    def _axis(self, axis: int) -> int:
        return self.shape[axis] if axis < len(self.shape) else 1

    def __repr__(self) -> str:
        return f"<lossc.Blob of shape {self.shape}>"
