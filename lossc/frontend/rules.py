"""Which layers are in a net: include and exclude rules against phase, level and stages."""

from __future__ import annotations

from lossc.errors import PrototxtError
from lossc.frontend.caffe_pb2 import LayerParameter, NetState, NetStateRule


def meets(state: NetState, rule: NetStateRule) -> bool:
    """Does everything that ``rule`` states agree with ``state``? An empty rule always does."""
    stages = set(state.stage)
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or rule.min_level <= state.level)
        and (not rule.HasField("max_level") or rule.max_level >= state.level)
        and stages.issuperset(rule.stage)
        and stages.isdisjoint(rule.not_stage)
    )


def included(layer: LayerParameter, state: NetState) -> bool:
    """Is ``layer`` in a net of that state? Raises PrototxtError where it has rules of both kinds."""
    if layer.include and layer.exclude:
        raise PrototxtError(
            "has both include and exclude rules",
            fix="keep one kind: several rules of it are joined by or",
            layer=layer.name,
        )
    if layer.include:
        return any(meets(state, rule) for rule in layer.include)
    return not any(meets(state, rule) for rule in layer.exclude)
