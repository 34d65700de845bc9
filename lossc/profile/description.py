"""A net as plain data, from which a peer, in a process of its own that has no lossc, builds the same net."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict

from lossc.layers.convolution import Convolution
from lossc.layers.pooling import Pooling
from lossc.pipeline import Request, build_graph


def describe(request: Request) -> dict[str, Any]:
    """Layers in Caffe's order with settings, windows, shapes and the keys of their parameters; inputs; outputs.

    Layers that share a parameter have the same key. ``noise`` tells inputs that may hold anything from labels;
    ``backward``: there is a loss; ``training``: the phase is TRAIN; ``solver``: its rate, momentum and decay, or None.
    Raises GraphError and its kinds.
    """
    graph, _ = build_graph(request, until="infer-shapes")
    layers, firsts = [], set()
    for call in (c for c in graph.calls if c.bottoms):
        param, shapes = call.layer.param, [graph.declared[b].shape for b in call.bottoms]
        firsts.update(call.bottoms[:1])
        options: dict[str, Any] = {}
        for field, value in param.ListFields():
            if field.name.endswith("_param"):
                options |= MessageToDict(value, preserving_proto_field_name=True)
        kept = [list(spec.shape) for spec in call.layer.params(*shapes)]
        shared = [p.name for p in param.param] + [""] * len(kept)
        layers.append({
            "name": call.name, "type": call.layer.type, "options": options, "window": _window(call.layer, shapes),
            "bottoms": list(param.bottom), "bottom_shapes": [list(s) for s in shapes],
            "tops": list(param.top), "top_shapes": [list(graph.declared[t].shape) for t in call.tops],
            "params": [f"{shared[k] or call.name}_{k}" for k in range(len(kept))], "param_shapes": kept,
            "weight": param.loss_weight[0] if param.loss_weight else 1.0,
        })  # fmt: skip
    inputs = [
        {"name": top, "shape": list(graph.declared[blob].shape), "noise": blob in firsts}
        for call in graph.calls if not call.bottoms
        for top, blob in zip(call.layer.param.top, call.tops, strict=True)
    ]  # fmt: skip
    solver = request.solver
    return {
        "layers": layers, "inputs": inputs, "outputs": list(graph.outputs), "training": request.phase == "TRAIN",
        "backward": any(layer["type"].endswith("Loss") for layer in layers),
        "solver": solver and {"rate": solver.base_lr, "momentum": solver.momentum, "decay": solver.weight_decay},
    }  # fmt: skip


def _window(layer: Any, shapes: list[tuple[int, ...]]) -> dict[str, list[int]] | None:
    if isinstance(layer, Pooling):
        g = layer.geometry(*shapes[0][2:])
    elif isinstance(layer, Convolution):
        g = layer.geometry(len(shapes[0]) - 2)
    else:
        return None
    return {"kernel": list(g.kernel), "stride": list(g.stride), "pad": list(g.pad), "dilation": list(g.dilation)}
