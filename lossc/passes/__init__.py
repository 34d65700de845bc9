"""Passes over the graph: one file a pass; ``pipeline.py`` holds the order."""
