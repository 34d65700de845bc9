"""Runs a net that was compiled to be timed, and says where its time went."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossc.errors import DataError
from lossc.pipeline import Request, build
from lossc.profile.peaks import Peaks
from lossc.runtime.feed import Feed
from lossc.runtime.native import Native

#: Passes before the first that counts: memory is touched, caches and clocks settle.
_WARM = 2


@dataclass(frozen=True)
class Kernel:
    """One kernel: ``about`` is its entry of the manifest (see ``codegen.kerneltable``), the others are seconds."""

    about: dict[str, Any]
    mean: float
    least: float

    def share(self, peaks: Peaks) -> float:
        """The part of its roofline that it reaches, from its least time; above 1 where a cache holds its operands."""
        return peaks.bound(self.about["flops"], self.about["bytes"]) / self.least if self.least > 0 else 0.0


@dataclass(frozen=True)
class Timing:
    """Means over all iterations, in seconds: of each section's kernels, and of whole iterations."""

    kernels: tuple[Kernel, ...]
    layers: tuple[str, ...]
    threads: int
    loss: float
    iterations: tuple[float, ...]

    def section(self, section: str, layer: str | None = None) -> float:
        """The mean seconds of the kernels of one section, of all layers or of one."""
        chosen = (k for k in self.kernels if k.about["section"] == section and layer in (None, k.about["layer"]))
        return sum(k.mean for k in chosen)

    def kinds(self) -> dict[str, float]:
        """Mean seconds by kind of kernel, the largest first; the solver's update is a kind of its own."""
        found: dict[str, float] = {}
        for k in self.kernels:
            kind = "update" if k.about["section"] == "update" else k.about["kind"]
            found[kind] = found.get(kind, 0.0) + k.mean
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def time_net(request: Request, iterations: int, threads: int, data: str | None, seed: int = 1,
             told: Callable[[int, float], None] | None = None) -> Timing:
    """Times ``iterations`` iterations of a request that is ``timed``: all passes that it has, and the update.

    Inputs are noise, labels 0, data layers deliver one batch. ``told`` is called with each iteration's number and
    seconds. Raises LosscError's kinds.
    """
    native = Native(build(request), threads, seed)
    _fill(native, request, data, seed)
    table = native.manifest["kernels"]
    runs = [k for k, entry in enumerate(table) if entry["section"] != "init"]
    backward = any(entry["section"] == "backward" for entry in table)
    total, least = np.zeros(len(table)), np.full(len(table), np.inf)
    loss, times = float("nan"), []
    seconds = native.seconds()
    for iteration in range(-_WARM, iterations):
        start = time.perf_counter()
        if request.solver is not None:
            loss = native.step()
        else:
            loss = native.forward_backward() if backward else native.forward()
        if native.error is not None:
            raise DataError(native.error, file=request.source.file)
        elapsed = time.perf_counter() - start
        if iteration >= 0:
            total += seconds[: len(table)]
            least = np.minimum(least, seconds[: len(table)])
            times.append(elapsed)
            if told is not None:
                told(iteration + 1, elapsed)
    kernels = tuple(Kernel(table[k], float(total[k]) / iterations, float(least[k])) for k in runs)
    names = tuple(layer["name"] for layer in native.manifest["layers"])
    return Timing(kernels, names, native.threads, loss, tuple(times))


def _fill(native: Native, request: Request, data: str | None, seed: int) -> None:
    """Fills what the caller must: noise where a layer takes the blob first, else 0, which is a label of any loss."""
    rng = np.random.default_rng(seed)
    blobs, layers = native.manifest["blobs"], native.manifest["layers"]
    firsts = {layer["bottoms"][0] for layer in layers if layer["bottoms"]}
    for label in native.manifest["inputs"]:
        array = native.view(blobs[label]["data"])
        array[...] = rng.standard_normal(array.shape) if label in firsts else 0
    feed = Feed(request.source, data, seed)
    tops = {e["name"]: [native.view(blobs[t]["data"]) for t in e["tops"]] for e in layers if e["name"] in feed.sources}
    feed.fill(tops)
