"""Arrays from files that layers name: InfogainLoss's matrix, weights of classes."""

from __future__ import annotations

from collections.abc import Iterator
from os.path import basename

import numpy as np

from lossc.errors import WeightsError
from lossc.frontend.caffe_pb2 import LayerParameter
from lossc.frontend.extension import values_of
from lossc.frontend.net import NetSource, resolve_path


def read_tables(source: NetSource) -> dict[int, dict[str, np.ndarray]]:
    """The arrays by the layer's index and the field that names the file, as float64.

    Fields: ``source`` of an InfogainLoss, and every text in ``lossc_param`` under a name that ends in ``_file``. Files
    are .npy, or else .binaryproto; where they lie: see ``resolve_path``. Raises WeightsError with the layer's line.
    """
    found: dict[int, dict[str, np.ndarray]] = {}
    for index, layer in enumerate(source.param.layer):
        for field, name in _named(layer):
            try:
                found.setdefault(index, {})[field] = read_array(resolve_path(name, source.file))
            except WeightsError as error:
                message = f"{field} {basename(name)}: {error.message}"
                raise WeightsError(
                    message, fix=error.fix, layer=layer.name, file=source.file, line=source.line(index)
                ) from None
    return found


def read_array(path: str) -> np.ndarray:
    """The array in a .npy or .binaryproto file, as float64. Raises WeightsError."""
    if not path.endswith(".npy"):
        from lossc.frontend.weights import read_blob

        return read_blob(path, dtype=np.float64)
    try:
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            raise ValueError(f"it holds {getattr(array, 'dtype', 'no array')}, not numbers")
    except FileNotFoundError:
        raise WeightsError("no such file", fix="check the name and the working directory", file=path) from None
    except (OSError, ValueError, EOFError) as error:
        raise WeightsError(f"cannot be read: {error}", fix="write it with numpy.save", file=path) from None
    return np.asarray(array, np.float64)


def _named(layer: LayerParameter) -> Iterator[tuple[str, str]]:
    if layer.type == "InfogainLoss" and layer.infogain_loss_param.source:
        yield "source", layer.infogain_loss_param.source
    for entry in layer.lossc_param.entry:
        values = values_of(entry)
        if entry.name.endswith("_file") and len(values) == 1 and isinstance(values[0], str) and values[0]:
            yield entry.name, values[0]
