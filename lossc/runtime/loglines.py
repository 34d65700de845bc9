"""Caffe's log lines: numbers as C++ streams print them, outputs with their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

#: Called with the place that Caffe's line comes from, such as "solver.cpp:239", and the text.
Log = Callable[[str, str], None]


def number(value: float) -> str:
    """Six significant digits without trailing zeros: what a C++ stream makes of a float."""
    return f"{float(value):g}"


def output_lines(
    which: str, values: Mapping[str, np.ndarray], weights: Mapping[str, float], dtype: np.dtype
) -> Iterator[str]:
    """One line for each element of each output: ``    Train net output #3: loss = 2.3 (* 1 = 2.3 loss)``."""
    count = 0
    for name, array in values.items():
        for value in np.asarray(array).reshape(-1):
            text = f"{number(value)}{weighted(value, weights.get(name, 0.0), dtype)}"
            yield f"    {which} net output #{count}: {name} = {text}"
            count += 1


def weighted(value: float, weight: float, dtype: np.dtype) -> str:
    """The suffix of a loss's value; nothing where its weight is 0."""
    if not weight:
        return ""
    return f" (* {number(weight)} = {number(dtype.type(weight) * dtype.type(value))} loss)"


#: What losses become where no probability of a label can be told from 0: the value, and where it comes from.
_CLIPPED = {
    "SoftmaxWithLoss": (-126 * np.log(0.5), "-log(FLT_MIN)"),
    "MultinomialLogisticLoss": (-np.log(1e-20), "-log(1e-20)"),
}


def saturation(layer_type: str, name: str, value: float) -> str | None:
    """What to say of a loss that has reached the value at which Caffe clips it; None where it has not."""
    worst, why = _CLIPPED.get(layer_type, (0.0, ""))
    if not worst or not np.isclose(value, worst, rtol=1e-5, atol=0):
        return None
    return (
        f'"{name}" is {number(value)} = {why}: the probability of every label underflowed, and is clipped there. The '
        "scores have grown too far apart: lower the learning rate, or scale the inputs; check_finite (--check-finite) "
        "tells whether numbers overflow, and where first"
    )


class Smoothed:
    """Caffe's average_loss: the mean of the last n losses, updated in the net's dtype.

    While fewer than n are known it is the mean of those; then each new one takes the oldest one's place.
    """

    def __init__(self, size: int, dtype: np.dtype) -> None:
        self._size = max(size, 1)
        self._type = dtype.type
        self._losses: list[np.floating] = []
        self._next = 0
        self.value = self._type(0)

    def add(self, loss: float) -> float:
        new = self._type(loss)
        known = len(self._losses)
        with np.errstate(all="ignore"):
            if known < self._size:
                self._losses.append(new)
                self.value = (self.value * self._type(known) + new) / self._type(known + 1)
            else:
                self.value += (new - self._losses[self._next]) / self._type(self._size)
                self._losses[self._next] = new
                self._next = (self._next + 1) % self._size
        return float(self.value)


def mean_of(sums: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    return {name: total / total.dtype.type(count) for name, total in sums.items()}


def add_to(sums: dict[str, np.ndarray], values: Mapping[str, np.ndarray], order: Sequence[str]) -> None:
    """Adds values to sums, element by element, in the values' dtype."""
    for name in order:
        sums[name] = sums[name] + values[name] if name in sums else np.array(values[name])
