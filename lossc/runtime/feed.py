"""Data layers: what fills their tops before each forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lossc.errors import ArgumentError, DataError, LosscError, UsageError
from lossc.frontend.net import NetSource

#: Layer types that read a data source.
SOURCE_TYPES = frozenset(("Data", "HDF5Data"))


class Source(Protocol):
    """Batches in an order of their own; ``shapes`` are those of data and label, or of an HDF5Data layer's tops.

    A source may have ``get_state()`` and ``set_state(state)``, in terms of JSON: then resuming is exact.
    """

    shapes: Any

    def next(self, *tops: Any, **more: Any) -> None:
        """Writes the next batch into the tops' arrays; a Data layer always gives two, data, and label or None."""
        ...


#: What stands in for the sources that a net's file names: a path or source for all of them, or one for each layer.
Override = str | PathLike[str] | Source | Mapping[str, "str | PathLike[str] | Source"]


class Feed:
    """The data layers of a net with their sources.

    ``data`` takes the place of the sources that the net's file names. A folder: the file of the same name in it, or,
    where there is none, the folder itself. Raises DataError where a source cannot be read, UsageError where ``data``
    names no data layer. ``seed`` is that of random crops and mirroring.
    """

    def __init__(self, net: NetSource, data: Override | None = None, seed: int = 1) -> None:
        self._net = net
        self._seed = seed
        self.sources: dict[str, Source] = {}
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

    def _open(self, layer: Any, given: Any) -> Source:
        if given is not None and not isinstance(given, (str, PathLike)):
            if not (hasattr(given, "shapes") and callable(getattr(given, "next", None))):
                fix = "give a path, or an object with shapes and next(data, label)"
                raise ArgumentError(f"data is {given!r:.60}, which is no data source", fix=fix)
            source: Source = given
            return source
        from lossc.runtime.data import open_hdf5, open_source

        own = layer.hdf5_data_param if layer.type == "HDF5Data" else layer.data_param
        param = type(own)()
        param.CopyFrom(own)
        if given is not None:
            param.source = _replaced(param.source, Path(fspath(given)))
        folder = Path(self._net.file).parent
        if layer.type == "HDF5Data":
            if layer.HasField("transform_param"):
                fix = "remove transform_param: transform the data before they are written"
                raise DataError("HDF5Data does not transform data", fix=fix)
            return open_hdf5(param, list(layer.top), relative_to=folder, seed=self._seed)
        phase = "TRAIN" if self._net.phase == 0 else "TEST"
        return open_source(param, layer.transform_param, phase, relative_to=folder, seed=self._seed)

    @property
    def shapes(self) -> dict[str, list[tuple[int, ...]]]:
        """The shapes of each data layer's tops."""
        return {name: [tuple(s) for s in source.shapes] for name, source in self.sources.items()}

    def fill(self, tops: Mapping[str, list[np.ndarray]]) -> None:
        """The next batch of each source; ``tops`` are the layers' arrays. Raises DataError."""
        for name, source in self.sources.items():
            arrays = tops[name]
            try:
                source.next(*arrays) if len(arrays) > 1 else source.next(arrays[0], None)
            except LosscError as error:
                raise error.located(layer=name, file=self._net.file) from None

    @property
    def state(self) -> dict[str, Any]:
        """Where each source stands, by layer, in terms of JSON; assign it to go back there. Raises DataError."""
        return {name: s.get_state() for name, s in self.sources.items() if hasattr(s, "get_state")}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        for name, each in state.items():
            set_state = getattr(self.sources.get(name), "set_state", None)
            if set_state is not None:
                set_state(each)


def _replaced(source: str, given: Path) -> str:
    inside = given / Path(source).name
    return str(inside if source and given.is_dir() and inside.exists() else given)
