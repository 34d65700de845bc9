"""Caffe's debug_info: how large the numbers of each layer are, for runs that do not learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from lossc.runtime.loglines import number

if TYPE_CHECKING:
    from lossc.runtime.net import Net

Lines = Iterator[tuple[str, str]]


def forward_lines(net: Net) -> Lines:
    """(place, text) of mean absolute values: each layer's tops, then its parameters. The net keeps all its blobs.

    Of a blob that is changed in place only the last version is there to be shown. Caffe's Split layers do not exist.
    """
    last = _last_writers(net)
    for index, layer in enumerate(net.manifest["layers"]):
        for top in layer["tops"]:
            if last[top] == index:
                yield "net.cpp:593", _line("Forward", layer, "top", top, "data", net.blobs[top].data)
        given = net.param.layer[index].param
        for k, blob in enumerate(net.params.get(layer["name"], ()) if layer["params"] else ()):
            name = given[k].name if k < len(given) and given[k].name else str(k)
            yield "net.cpp:605", _line("Forward", layer, "param", name, "data", blob.data)


def backward_lines(net: Net) -> Lines:
    """The same of gradients, from the last layer to the first, then the norms of all parameters.

    The gradient of a blob that several layers read is the sum of theirs, under each of them.
    """
    last = _last_writers(net)
    wanted = {loss["blob"] for loss in net.manifest["losses"]}
    for index, layer in reversed(list(enumerate(net.manifest["layers"]))):
        if wanted.isdisjoint(layer["tops"]):
            continue
        for bottom, reached in zip(layer["bottoms"], layer["propagates"], strict=True):
            if reached and net.manifest["blobs"][bottom]["has_diff"]:
                wanted.add(bottom)
                if last[bottom] < index:
                    yield "net.cpp:621", _line("Backward", layer, "bottom", bottom, "diff", net.blobs[bottom].diff)
        for k, blob in enumerate(net.params.get(layer["name"], ()) if layer["params"] else ()):
            yield "net.cpp:632", _line("Backward", layer, "param", str(k), "diff", blob.diff)
    owned = {place: net.params[p["layer"]][p["index"]] for place, p in enumerate(net.manifest["params"])}
    data = [blob.data for blob in owned.values()]
    diff = [blob.diff for blob in owned.values()]
    one, two = (f"({number(_norm(data, k))}, {number(_norm(diff, k))})" for k in (1, 2))
    yield "net.cpp:721", f"    [Backward] All net params (data, diff): L1 norm = {one}; L2 norm = {two}"


def _last_writers(net: Net) -> dict[str, int]:
    return {top: index for index, layer in enumerate(net.manifest["layers"]) for top in layer["tops"]}


def _line(way: str, layer: dict[str, Any], what: str, name: str, which: str, values: np.ndarray) -> str:
    mean = float(np.abs(values).mean(dtype=np.float64))
    return f"    [{way}] Layer {layer['name']}, {what} blob {name} {which}: {number(mean)}"


def _norm(arrays: list[np.ndarray], order: int) -> float:
    total = sum(float((np.abs(each).astype(np.float64) ** order).sum()) for each in arrays)
    return float(total ** (1 / order))
