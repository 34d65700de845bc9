"""Data sources: what Caffe's data layers read, as batches written into NumPy views."""

from __future__ import annotations

from lossc.runtime.data.hdf5 import Hdf5Source, open_hdf5
from lossc.runtime.data.source import DataSource, open_source

__all__ = ["DataSource", "Hdf5Source", "open_hdf5", "open_source"]
