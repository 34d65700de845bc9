"""Reads nets: text to a NetParameter of the present format that holds the layers of one phase, with their lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lossc.errors import PrototxtError, UsageError
from lossc.frontend import caffe_pb2
from lossc.frontend.caffe_pb2 import LayerParameter, NetParameter, NetState
from lossc.frontend.paths import path_text
from lossc.frontend.places import Place
from lossc.frontend.rules import included
from lossc.frontend.text import parse, read_text
from lossc.frontend.upgrade import NOWHERE, Origin, upgrade_net

# Types whose layers own parameters. Two of one name cannot be told apart in a file of weights.
LEARNED_TYPES = frozenset(
    ("BatchNorm", "Bias", "Convolution", "Deconvolution", "Embed", "InnerProduct", "LSTM", "PReLU", "Parameter", "RNN")
)


@dataclass(frozen=True)
class NetSource:
    """A net as it was written, reduced to the layers of one phase.

    ``param``: present format, only ``layer`` holds layers; its ``state`` and each layer's ``phase`` are set.
    ``file``: its file as the user named it. ``lines``: of each layer in the file, where known.
    """

    param: NetParameter
    file: str
    lines: tuple[int | None, ...]

    @property
    def name(self) -> str:
        """The net's own name; empty where it has none."""
        return self.param.name

    @property
    def phase(self) -> int:
        """caffe_pb2.TRAIN or caffe_pb2.TEST."""
        return self.param.state.phase

    @cached_property
    def tables(self) -> dict[int, dict[str, np.ndarray]]:
        """The arrays in the files that layers name, by the layer's index and the field. Raises WeightsError."""
        from lossc.frontend.tables import read_tables

        return read_tables(self)

    def line(self, index: int) -> int | None:
        """The line in ``file`` where the ``index``-th layer starts."""
        return self.lines[index]


def read_net(
    source: str | PathLike[str] | NetParameter,
    *,
    phase: int | str = caffe_pb2.TRAIN,
    level: int = 0,
    stages: Iterable[str] = (),
    file: str | None = None,
) -> NetSource:
    """Read a net from a prototxt file, or take a NetParameter (left as it is), in any of Caffe's formats.

    ``phase`` ("TRAIN", "TEST" or caffe_pb2's numbers), ``level`` and ``stages`` decide which layers are in the net; the
    stages of the net's own state count too. ``file`` is the name to show instead of the source's.
    Raises PrototxtError.
    """
    state = NetState(phase=phase_number(phase), level=level, stage=_strings(stages))
    if isinstance(source, NetParameter):
        net = NetParameter()
        net.CopyFrom(source)
        return _finish(net, state, Origin(file or "<NetParameter>"))
    name = path_text(source, "a net's prototxt file")
    return read_net_text(read_text(name), file or name, phase=phase, level=level, stages=state.stage)


def read_net_text(
    text: str,
    file: str = "<string>",
    *,
    phase: int | str = caffe_pb2.TRAIN,
    level: int = 0,
    stages: Iterable[str] = (),
) -> NetSource:
    """As read_net, of a prototxt text; ``file`` is the name to show."""
    state = NetState(phase=phase_number(phase), level=level, stage=_strings(stages))
    net = NetParameter()
    places = parse(text, net, file=file)
    return _finish(net, state, origin_of(places, file))


def finish_net(net: NetParameter, state: NetState, origin: Origin = NOWHERE) -> NetSource:
    """Upgrade ``net`` (in place), keep the layers that are in it under ``state``, and check their names.

    ``state`` is taken as it is: what the net says of its own state does not count any more. Raises PrototxtError.
    """
    file = origin.file or "<NetParameter>"
    written = upgrade_net(net, origin)
    lines = [origin.input_line if index is None else origin.line(index) for index in written]
    if not net.layer:
        raise PrototxtError("the net has no layers", fix='write some: layer { name: "..." type: "..." }', file=file)
    kept: list[LayerParameter] = []
    kept_lines: list[int | None] = []
    for layer, line in zip(net.layer, lines, strict=True):
        if not layer.type:
            fix = 'add type: "...", such as type: "InnerProduct"'
            raise PrototxtError("has no type", fix=fix, layer=layer.name or None, file=file, line=line)
        try:
            if included(layer, state):
                _refuse_infinite(layer)
                kept.append(layer)
                kept_lines.append(line)
        except PrototxtError as error:
            raise error.located(file=file, line=line) from None
    if not kept:
        phase = caffe_pb2.Phase.Name(state.phase)
        message = f"no layer is left in phase {phase}, level {state.level}, stages {list(state.stage)}"
        raise PrototxtError(message, fix="look at the include and exclude rules, or choose another phase", file=file)
    _refuse_ambiguous_names(kept, kept_lines, file)
    filtered = NetParameter()
    filtered.CopyFrom(net)
    filtered.ClearField("layer")
    filtered.layer.extend(kept)
    filtered.state.CopyFrom(state)
    for layer in filtered.layer:
        if not layer.HasField("phase"):
            layer.phase = state.phase
    return NetSource(filtered, file, tuple(kept_lines))


def origin_of(places: Place, file: str) -> Origin:
    """Where the layers of a net stand, by the places of the net's text."""
    layers = places.fields.get("layer") or places.fields.get("layers") or []
    return Origin(file, [place.line for place in layers], places.line_of("input"))


def phase_number(phase: int | str) -> caffe_pb2.Phase:
    """caffe_pb2.TRAIN or TEST, of either or of their names. Raises UsageError."""
    name = phase.upper() if isinstance(phase, str) else None if isinstance(phase, bool) else phase
    for known in (caffe_pb2.TRAIN, caffe_pb2.TEST):
        if name == known or name == caffe_pb2.Phase.Name(known):
            return known
    raise UsageError(f"there is no phase {phase!r}", fix='phases are "TRAIN" and "TEST"')


def resolve_path(name: str, relative_to_file: str | PathLike[str] | None = None) -> str:
    """The path of a file that another file names.

    As in Caffe it is taken relative to the working directory; where nothing is there, relative to the folder of the
    file that names it. ``name`` comes back as it is where neither exists.
    """
    if relative_to_file is None or not name or Path(name).is_absolute() or Path(name).exists():
        return name
    beside = Path(relative_to_file).parent / name
    return str(beside) if beside.exists() else name


def _finish(net: NetParameter, state: NetState, origin: Origin) -> NetSource:
    """The caller's phase and level count; stages of the net's own state stay."""
    state.stage.extend(stage for stage in net.state.stage if stage not in state.stage)
    return finish_net(net, state, origin)


def _refuse_infinite(layer: LayerParameter) -> None:
    """Raises PrototxtError for a number that is not finite. A Clip without a bound on one side is the exception."""
    for path, number in _numbers(layer, ""):
        if math.isnan(number) or (math.isinf(number) and not path.startswith("clip_param.")):
            raise PrototxtError(f"{path} is {number}", fix="give a finite number", layer=layer.name or None)


def _numbers(message: Any, prefix: str) -> Iterator[tuple[str, float]]:
    """Every float of a message with its path; arrays of weights (blobs) are left out."""
    for field, value in message.ListFields():
        if field.name == "blobs":
            continue
        many = hasattr(value, "append") or hasattr(value, "add")
        for each in value if many else (value,):
            if isinstance(each, float):
                yield prefix + field.name, each
            elif hasattr(each, "ListFields"):
                yield from _numbers(each, f"{prefix}{field.name}.")


def _strings(stages: Iterable[str]) -> list[str]:
    return [stages] if isinstance(stages, str) else list(stages)


def _refuse_ambiguous_names(layers: list[LayerParameter], lines: list[int | None], file: str) -> None:
    """Layers may share a name, as many nets' ReLUs do, unless that leaves open which one is meant."""
    first: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        for other in first.setdefault(layer.name, []) if layer.name else ():
            twin = layers[other]
            same_top = set(layer.top) & set(twin.top)
            if same_top or (_learns(layer) and _learns(twin)):
                where = f" in line {lines[other]}" if lines[other] else ""
                why = f'both write "{min(same_top)}"' if same_top else "both have parameters"
                message = f"another layer of this name stands{where}, and {why}"
                fix = "give it a name of its own, or rules that put the two in different phases"
                raise PrototxtError(message, fix=fix, layer=layer.name, file=file, line=lines[index])
        if layer.name:
            first[layer.name].append(index)


def _learns(layer: LayerParameter) -> bool:
    scale = layer.type == "Scale" and (len(layer.bottom) == 1 or layer.scale_param.bias_term)
    bias = layer.type == "Bias" and len(layer.bottom) > 1
    return bool(layer.param or layer.blobs or scale or (layer.type in LEARNED_TYPES and not bias))
