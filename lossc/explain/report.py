"""What ``lossc explain`` finds out, as plain data; its JSON form is described by the fields here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

#: Of the JSON form: raised where a field is renamed or removed, not where one is added.
FORMAT = 1


@dataclass(frozen=True)
class Loss:
    """A loss. ``loss``: its top, by which all other tables name it.

    ``mode``: Caffe's NormalizationMode where the layer has one; ``normaliser``: how the divisor comes about, and
    ``divisor`` its value where known (None: it depends on data that were not given). ``kind``: "constant", "runtime" or
    the policy of a schedule. ``value``: unweighted; ``weighted``: ``weight * value``; None where the net did not run.
    ``forward`` and ``backward``: kernels of the layer in each pass.
    """

    loss: str
    layer: str
    type: str
    file: str
    line: int | None
    weight: float
    kind: str
    mode: str
    normaliser: str
    divisor: float | None
    value: float | None
    weighted: float | None
    forward: int
    backward: int


@dataclass(frozen=True)
class Alpha:
    """A place in the C where the weight of one or more losses stands.

    ``role``: "gradient"; "total" for the sum that the forward pass returns; "seed" where the weight is stored as the
    loss's own diff, which happens only if that diff must stay readable. ``literal``: the number as it is written
    there; of a weight that can change, the expression that reads it. ``line``: in net.c. ``function``: the C function.
    """

    losses: tuple[str, ...]
    role: str
    layer: str
    section: str
    kernel: str
    derivation: str
    value: float
    literal: str
    function: str
    file: str
    line: int


@dataclass(frozen=True)
class Step:
    """What a pass did to a layer's kernels, and why nobody can see a difference."""

    by: str
    layer: str
    section: str
    what: str
    why: str


@dataclass(frozen=True)
class ZeroHead:
    """A head whose loss has weight 0.

    ``layers``: those that lead to nothing else; ``forward`` and ``backward``: kernels that they still have. ``saved``:
    kernels that the whole net would have more if the weight were not 0; ``saved_flops``: the floating point operations
    of the contractions among them.
    """

    loss: str
    layers: tuple[str, ...]
    forward: int
    backward: int
    saved: int
    saved_flops: int
    removed: str
    why: str


@dataclass(frozen=True)
class Share:
    """One loss's part in a joint's gradient. ``norm``: L2, weighted as in training; ``share``: of the sum of norms.

    ``cosines``: of the angle to each other loss's gradient there, None where one of the two is 0.
    """

    loss: str
    norm: float
    share: float
    cosines: dict[str, float | None]


@dataclass(frozen=True)
class Joint:
    """A blob whose consumers lead to different losses; or, without a shape, the parameters all together."""

    blob: str
    shape: tuple[int, ...]
    consumers: tuple[str, ...]
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class Edge:
    """A blob from the layer that makes it to one that uses it. ``gradient``: whether one flows back.

    ``alpha``: what the gradient along the edge is scaled with, where a loss_weight was folded there.
    """

    source: str
    target: str
    blob: str
    shape: tuple[int, ...]
    gradient: bool
    alpha: str


@dataclass(frozen=True)
class Box:
    """A layer in the picture: its kernels in each pass, and what weight its losses have."""

    layer: str
    type: str
    line: int | None
    forward: int
    backward: int
    weight: str


@dataclass(frozen=True)
class Report:
    """All that is known of a net's losses. ``total``: the weighted sum, None where the net did not run."""

    net: str
    file: str
    phase: str
    target: str
    dtype: str
    losses: tuple[Loss, ...]
    total: float | None
    alphas: tuple[Alpha, ...]
    zero_heads: tuple[ZeroHead, ...]
    joints: tuple[Joint, ...]
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    boxes: tuple[Box, ...] = field(repr=False)
    edges: tuple[Edge, ...] = field(repr=False)
    #: The C that ``alphas`` point into.
    source: str = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """The report in terms of JSON, without the C. Numbers that are not finite become strings ("nan", "inf")."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "source"}
        plain = {name: [asdict(x) for x in each] if _rows(each) else each for name, each in content.items()}
        return {"format": FORMAT, **_plain(plain)}

    def __str__(self) -> str:
        from lossc.explain.text import plain_text

        return plain_text(self)


def _rows(value: Any) -> bool:
    return isinstance(value, tuple) and all(hasattr(x, "__dataclass_fields__") for x in value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
