"""Fits weights from a file to the parameters of a net."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike, fspath

import numpy as np

from lossc.errors import WeightsError

Pairs = list[tuple[np.ndarray, np.ndarray]]


def match_weights(
    params: Mapping[str, Sequence[np.ndarray]],
    found: Mapping[str, Sequence[np.ndarray | None]],
    path: str | PathLike[str],
) -> Pairs:
    """(parameter, its values) for every layer that both sides have, the values in the parameter's shape.

    Old files give every array four axes: leading axes of 1 do not count. None stands for a shared parameter that is
    stored with its owner. Raises WeightsError, which lists all that does not fit.
    """
    pairs: Pairs = []
    wrong: list[str] = []
    for layer, mine in params.items():
        if layer not in found:
            continue
        theirs = list(found[layer])
        # Shared parameters at the end of a layer are left out of .h5 files.
        theirs += [None] * (len(mine) - len(theirs)) if fspath(path).endswith(".h5") else []
        if len(mine) != len(theirs):
            wrong.append(f'layer "{layer}": the net has {len(mine)} parameters, the file {len(theirs)}')
            continue
        for index, (target, values) in enumerate(zip(mine, theirs, strict=True)):
            if values is None:
                continue
            if not same_shape(target.shape, values.shape):
                shapes = f"{list(target.shape)} in the net, {list(values.shape)} in the file"
                wrong.append(f'layer "{layer}", parameter {index}: {shapes}')
            else:
                pairs.append((target, values.reshape(target.shape)))
    if wrong:
        count = f"{len(wrong)} parameters do" if len(wrong) > 1 else "a parameter does"
        listed = "\n    ".join(wrong)
        fix = "give layers that shall start anew another name, or take the weights of this very net"
        raise WeightsError(f"{count} not fit the net:\n    {listed}", fix=fix, file=fspath(path))
    return pairs


def same_shape(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes are the same but for leading axes of 1, which old files add."""
    return _significant(one) == _significant(other)


def _significant(shape: Sequence[int]) -> tuple[int, ...]:
    """Without leading axes of 1; of a single element nothing is left."""
    if math.prod(shape) == 1:
        return ()
    first = next(k for k, extent in enumerate(shape) if extent != 1)
    return tuple(shape[first:])
