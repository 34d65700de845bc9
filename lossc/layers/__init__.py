"""Layers: one file a layer or close family. Each says its shapes and lowers itself to kernels."""
