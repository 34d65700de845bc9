"""Losses in NumPy as the bodies of Caffe's Python layers: the forward pass keeps what the backward pass needs."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Body(Protocol):
    """One loss of fixed shape."""

    def forward(self, x: np.ndarray, y: np.ndarray) -> float:
        """The loss of scores ``x`` and targets or labels ``y``."""

    def backward(self) -> np.ndarray:
        """The gradient of the scores of the last forward pass."""


class Euclidean:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.diff = np.empty(shape, np.float32)

    def forward(self, x: np.ndarray, y: np.ndarray) -> float:
        np.subtract(x, y, out=self.diff)
        return float((self.diff * self.diff).sum() / x.shape[0] / 2)

    def backward(self) -> np.ndarray:
        return self.diff / np.float32(self.diff.shape[0])


class Softmax:
    """Mean cross-entropy of the softmax."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.rows = np.arange(shape[0])

    def forward(self, x: np.ndarray, y: np.ndarray) -> float:
        label = y.astype(np.int64)
        e = np.exp(x - x.max(1, keepdims=True))
        self.diff = e / e.sum(1, keepdims=True)
        here = self.diff[self.rows, label]
        loss, self.factor = self.weigh(here, np.log(here))
        self.diff[self.rows, label] -= 1
        return loss

    def backward(self) -> np.ndarray:
        return self.diff * self.factor[:, None]

    def weigh(self, here: np.ndarray, log: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss, and each row's factor in the gradient, from the labels' probabilities and their logarithms."""
        n = here.shape[0]
        return float(-log.mean()), np.full(n, 1.0 / n, np.float32)


class Focal(Softmax):
    """Mean of -(1 - p)^2 log p."""

    def weigh(self, here: np.ndarray, log: np.ndarray) -> tuple[float, np.ndarray]:
        apart = 1 - here
        loss = -(apart**2 * log).mean()
        return float(loss), (apart**2 - 2 * here * apart * log) / np.float32(here.shape[0])


BODIES: dict[str, type[Euclidean] | type[Softmax]] = {"euclidean": Euclidean, "softmax": Softmax, "focal": Focal}
