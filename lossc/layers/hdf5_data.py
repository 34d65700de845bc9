"""HDF5Data: arrays of any shape from HDF5 files."""

from __future__ import annotations

from lossc.layers.data import Data


class HDF5Data(Data):
    """One top for each dataset, which has the top's name; ``shapes`` are the tops' shapes, batch included."""

    type = "HDF5Data"
    tops = (1, None)
