"""Blobs, references into them, and iteration dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lossc.errors import InternalError

Dtype = Literal["real", "bf16", "u8"]
Role = Literal["input", "activation", "diff", "param", "param_diff", "state", "scratch"]

#: Bytes of an element, where that is not the size of a real.
WIDTHS: dict[Dtype, int] = {"bf16": 2, "u8": 1}

#: Roles whose memory lives from one call to the next.
PERSISTENT: frozenset[str] = frozenset({"input", "param", "param_diff", "state"})


#: Channels in a block, where a blob's channels are stored in blocks: as many as any vector's lanes, or a multiple.
BLOCK = 16


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


@dataclass(frozen=True, order=True)
class Dim:
    """An iteration dimension: a name that is unique in its kernel, and how far it runs."""

    name: str
    extent: int


@dataclass(frozen=True)
class View:
    """Where a blob lies in another one: element offset and a stride for each axis of the blob."""

    parent: str
    offset: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Blob:
    """An array of the net: ``data`` or ``diff`` of a Caffe blob, a parameter, or a temporary.

    ``label`` is the name users know it by (several versions of an in-place blob share one). ``dtype``: how its elements
    lie in memory, "real" being what the net computes in; "bf16" rounds whatever is stored.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    label: str = ""
    view: View | None = None
    dtype: Dtype = "real"

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def persistent(self) -> bool:
        return self.role in PERSISTENT


@dataclass(frozen=True)
class Access:
    """Affine addressing: element ``offset + sum(index[dim] * stride)`` of a blob, in the blob's own row-major order."""

    blob: str
    offset: int
    strides: tuple[tuple[Dim, int], ...]

    @property
    def dims(self) -> tuple[Dim, ...]:
        return tuple(d for d, _ in self.strides)

    def stride(self, dim: Dim) -> int:
        return next((s for d, s in self.strides if d == dim), 0)

    def with_dims(self, mapping: dict[Dim, tuple[tuple[Dim, int], ...]]) -> Access:
        """Each dimension replaced by others; ``mapping[d] = ((d1, f1), ...)`` says index d = sum of f_i * index d_i."""
        out: list[tuple[Dim, int]] = []
        for d, s in self.strides:
            out += [(n, s * f) for n, f in mapping[d]] if d in mapping else [(d, s)]
        return replace(self, strides=tuple(out))

    @property
    def points(self) -> int:
        """How many index tuples it has (elements, where no two coincide)."""
        return math.prod(d.extent for d in self.dims)


@dataclass(frozen=True)
class Ref:
    """A strided part of a blob, as layers and kernels handle it. Strides are in the blob's own row-major order."""

    blob: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @staticmethod
    def whole(blob: Blob) -> Ref:
        return Ref(blob.name, blob.shape, contiguous(blob.shape))

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, labels: str) -> Access:
        """``ref["nci"]``: an access whose axes run over dimensions n, c and i. Axes of extent 1 take no part."""
        if len(labels) != len(self.shape):
            raise InternalError(f"{self.blob} has {len(self.shape)} axes, labels {labels!r}")
        pairs = [(Dim(n, e), s) for n, e, s in zip(labels, self.shape, self.strides, strict=True) if e != 1]
        return Access(self.blob, self.offset, tuple(pairs))

    def reshape(self, *shape: int) -> Ref:
        """The same elements in row-major order under another shape; must be possible without a copy."""
        if math.prod(shape) != self.size:
            raise InternalError(f"cannot reshape {self.shape} to {shape}")
        strides = restride(self.shape, self.strides, shape)
        if strides is None:
            raise InternalError(f"{self.blob}: {self.shape} with strides {self.strides} has no view {shape}")
        return replace(self, shape=tuple(shape), strides=strides)

    def narrow(self, axis: int, start: int, stop: int) -> Ref:
        """Elements start..stop of one axis."""
        shape = (*self.shape[:axis], stop - start, *self.shape[axis + 1 :])
        return replace(self, shape=shape, offset=self.offset + start * self.strides[axis])

    def collapse(self, axis: int, end: int | None = None) -> Ref:
        """Three axes: all before ``axis``, the axes ``axis..end`` (one axis by default), all behind."""
        end = axis + 1 if end is None else end
        parts = (self.shape[:axis], self.shape[axis:end], self.shape[end:])
        return self.reshape(*(math.prod(p) for p in parts))

    def transpose(self, *order: int) -> Ref:
        return replace(
            self, shape=tuple(self.shape[i] for i in order), strides=tuple(self.strides[i] for i in order)
        )

    def blocked(self) -> Ref:
        """(N, C, space...) as it lies in a blob whose channels are stored in blocks: (N, C / BLOCK, BLOCK, space...).

        A block of channels lies position by position. Images and blocks begin where they would without.
        """
        n, c, *space = self.shape
        image, channel, *steps = self.strides
        return replace(
            self,
            shape=(n, c // BLOCK, BLOCK, *space),
            strides=(image, channel * BLOCK, 1, *(step * BLOCK for step in steps)),
        )

    @property
    def is_contiguous(self) -> bool:
        real = [(e, s) for e, s in zip(self.shape, self.strides, strict=True) if e != 1]
        return [s for _, s in real] == list(contiguous([e for e, _ in real]))


def restride(shape: Sequence[int], strides: Sequence[int], new: Sequence[int]) -> tuple[int, ...] | None:
    """Strides that show the same elements, in the same order, under shape ``new``; None if that needs a copy."""
    if math.prod(shape) == 0:
        return contiguous(new)
    old = [(e, s) for e, s in zip(shape, strides, strict=True) if e != 1]
    out = [1] * len(new)
    i = j = 0
    wanted = [(k, e) for k, e in enumerate(new) if e != 1]
    while i < len(old) and j < len(wanted):
        have, want, i1, j1 = old[i][0], wanted[j][1], i + 1, j + 1
        while have != want:
            if have < want:
                if i1 == len(old):
                    return None
                have, i1 = have * old[i1][0], i1 + 1
            else:
                if j1 == len(wanted):
                    return None
                want, j1 = want * wanted[j1][1], j1 + 1
        for k in range(i, i1 - 1):
            if old[k][1] != old[k + 1][1] * old[k + 1][0]:
                return None
        stride = old[i1 - 1][1]
        for k in range(j1 - 1, j - 1, -1):
            out[wanted[k][0]] = stride
            stride *= wanted[k][1]
        i, j = i1, j1
    return tuple(out)
