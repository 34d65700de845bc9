"""Data layers: what fills their tops before each forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lossc.errors import LosscError, UsageError
from lossc.frontend.net import NetSource

#: Layer types that read a data source.
SOURCE_TYPES = frozenset(("Data",))


class DataSource(Protocol):
    """Batches in an order of their own. ``shapes`` are those of data and label; setting ``position`` goes there."""

    shapes: Any
    position: Any

    def next(self, data: np.ndarray, label: np.ndarray | None) -> None: ...


#: What stands in for the sources that a net's file names: a path or source for all of them, or one for each layer.
Override = str | PathLike[str] | DataSource | Mapping[str, "str | PathLike[str] | DataSource"]


class Feed:
    """The data layers of a net with their sources.

    ``data`` takes the place of the sources that the net's file names. A folder: the file of the same name in it, or,
    where there is none, the folder itself. Raises DataError where a source cannot be read, UsageError where ``data``
    names no data layer.
    """

    def __init__(self, net: NetSource, data: Override | None = None) -> None:
        self._net = net
        self.sources: dict[str, DataSource] = {}
        layers = {layer.name: (k, layer) for k, layer in enumerate(net.param.layer) if layer.type in SOURCE_TYPES}
        if isinstance(data, Mapping) and (unknown := [name for name in data if name not in layers]):
            known = ", ".join(layers) or "the net has none"
            message = f'data names "{unknown[0]}", which is no data layer'
            raise UsageError(message, fix=f"data layers: {known}", file=net.file)
        for name, (index, layer) in layers.items():
            given = data.get(name) if isinstance(data, Mapping) else data
            try:
                self.sources[name] = self._open(layer, given)
            except LosscError as error:
                error.fix = error.fix or "make the data first, or name their place with --data (data= in Python)"
                raise error.located(layer=name, file=net.file, line=net.line(index)) from None

    def _open(self, layer: Any, given: Any) -> DataSource:
        if given is not None and not isinstance(given, (str, PathLike)):
            source: DataSource = given
            return source
        from lossc.runtime.data import open_source

        param = type(layer.data_param)()
        param.CopyFrom(layer.data_param)
        if given is not None:
            param.source = _replaced(param.source, Path(fspath(given)))
        phase = "TRAIN" if self._net.phase == 0 else "TEST"
        opened: DataSource = open_source(param, layer.transform_param, phase, relative_to=self._net.file)
        return opened

    @property
    def shapes(self) -> dict[str, list[tuple[int, ...]]]:
        """The shapes of each data layer's tops."""
        return {name: [tuple(s) for s in source.shapes] for name, source in self.sources.items()}

    def fill(self, tops: Mapping[str, list[np.ndarray]]) -> None:
        """The next batch of each source; ``tops`` are the layers' arrays. Raises DataError."""
        for name, source in self.sources.items():
            arrays = tops[name]
            try:
                source.next(arrays[0], arrays[1] if len(arrays) > 1 else None)
            except LosscError as error:
                raise error.located(layer=name, file=self._net.file) from None

    @property
    def positions(self) -> dict[str, Any]:
        """Where each source stands, by layer; assign it to go back there."""
        return {name: source.position for name, source in self.sources.items()}

    @positions.setter
    def positions(self, positions: Mapping[str, Any]) -> None:
        for name, position in positions.items():
            if name in self.sources:
                self.sources[name].position = position


def _replaced(source: str, given: Path) -> str:
    inside = given / Path(source).name
    return str(inside if source and given.is_dir() and inside.exists() else given)
