"""Helpers of the layer tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lossc.frontend import read_net_text
from lossc.ir import Graph
from lossc.ir.interpret import Interpreter
from lossc.layers.net import import_net
from lossc.passes.pipeline import run_passes


def lower(prototxt: str, phase: str = "TRAIN", **options: Any) -> Graph:
    """The graph of a net, lowered and not optimised, all blobs readable."""
    source = read_net_text(prototxt, phase=phase)
    graph = import_net(source.param, phase, file=source.file, line_of=source.line, tables=source.tables, **options)
    graph.options["keep"] = "all"
    run_passes(graph, optimise=False)
    return graph


def run(
    prototxt: str,
    inputs: Mapping[str, Any] | None = None,
    params: Mapping[tuple[str, int], Any] | None = None,
    *,
    phase: str = "TRAIN",
    dtype: str = "f64",
) -> dict[str, np.ndarray]:
    """One forward and backward pass: blobs by name, diffs as NAME.diff, and "loss"."""
    graph = lower(prototxt, phase)
    interpreter = Interpreter(graph, dtype)
    interpreter.run(["init"])
    for name, value in (inputs or {}).items():
        interpreter[graph.data_of[name]][...] = value
    for key, value in (params or {}).items():
        interpreter[graph.param_of[key]][...] = value
    interpreter.run(["forward", "backward"])
    out = {label: interpreter[name].copy() for label, name in graph.data_of.items()}
    out.update({f"{label}.diff": interpreter[name].copy() for label, name in graph.diff_of.items()})
    out["loss"] = interpreter["loss_total"].copy()
    return out
