"""Data sources: what Caffe's Data layer reads, as batches written into NumPy views."""

from __future__ import annotations

from lossc.runtime.data.source import DataSource, open_source

__all__ = ["DataSource", "open_source"]
