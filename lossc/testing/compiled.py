"""Golden cases through the whole compiler: prototxt to C to a library, and back by ``lossc.Net``."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lossc.frontend import read_net_text
from lossc.frontend.caffe_pb2 import TEST, TRAIN
from lossc.runtime.net import Net
from lossc.testing.golden import Case, Outcome
from lossc.testing.gradient import GradientReport, check_gradients

PHASES = {"TRAIN": TRAIN, "TEST": TEST}


def run_compiled(case: Case, *, keep: str | tuple[str, ...] = (), **options: Any) -> Outcome:
    """One forward and one backward pass of a case by generated code.

    With ``keep="all"`` everything is compared that the case holds; else what a plain compile keeps: the loss, the net's
    outputs, the gradients of parameters, and those of inputs where the net asks for them. ``options`` go to ``Net``.
    """
    net = Net(case.net, PHASES[case.phase], keep=keep, **options)
    for name, array in case.inputs.items():
        net.blobs[name].data[...] = array
    for key, array in case.params.items():
        blob = _param(net, key)
        blob.data[...] = array.reshape(blob.shape)
    if keep == "all":
        net.forward()
        net.backward()
    else:
        net.forward_backward()
    got = Outcome(net.loss)
    table = net.manifest["blobs"]
    for name in case.wanted.data:
        got.data[name] = net.blobs[name].data if table[name]["data"] else case.wanted.data[name]
    for name in case.wanted.diffs:
        absent = keep != "all" and not table[name]["diff"]
        got.diffs[name] = case.wanted.diffs[name] if absent else net.blobs[name].diff
    for key, array in case.params.items():
        got.params[key] = _param(net, key).data.reshape(array.shape)
    for key, array in case.wanted.param_diffs.items():
        got.param_diffs[key] = _param(net, key).diff.reshape(array.shape)
    return got


def _param(net: Net, key: str) -> Any:
    layer, index = key.rsplit("/", 1)
    return net.params[layer][int(index)]


def fill_by_rule(net: Net, about: dict[str, Any]) -> None:
    """Fills inputs and parameters of a whole-net case: each array has a generator of its own, seeded by its name."""

    def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return _generator(name).standard_normal(shape).astype(np.float32)

    filled: set[int] = set()
    for layer, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            address = blob.data.__array_interface__["data"][0]
            if address in filled:
                continue
            filled.add(address)
            values = normal(f"{layer}/{index}", blob.shape)
            fan_in = int(np.prod(blob.shape[1:]))
            scale = np.float32(np.sqrt(2 / fan_in)) if len(blob.shape) > 1 else np.float32(0.01)
            blob.data[...] = values * scale
    for name, shape in about["inputs"].items():
        if name in about.get("integer_inputs", {}):
            net.blobs[name].data[...] = _generator(f"in/{name}").randint(0, about["integer_inputs"][name], shape)
        else:
            net.blobs[name].data[...] = normal(f"in/{name}", tuple(shape))


def _generator(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)


def net_mismatches(
    folder: Path, *, keep: str | tuple[str, ...] = (), phase: int | None = None, **options: Any
) -> list[str]:
    """What differs between a whole-net case and the compiled net: one line for each array.

    Large arrays are stored as sum, L2 norm and 64 elements; elements are compared against the root mean square.
    """
    about = json.loads((folder / "case.json").read_text())
    net = Net(folder / "net.prototxt", PHASES[about["phase"]] if phase is None else phase, keep=keep, **options)
    fill_by_rule(net, about)
    net.clear_param_diffs()
    net.forward_backward()
    wanted = dict(np.load(folder / "case.npz"))
    if (folder / "diff.npz").exists():
        wanted.update(np.load(folder / "diff.npz"))
    return list(_compare(net, wanted, about))


def _compare(net: Net, wanted: dict[str, np.ndarray], about: dict[str, Any]) -> Iterator[str]:
    rtol, atol = about["rtol"], about["atol"]
    for key, want in wanted.items():
        kind, _, rest = key.partition("/")
        if kind == "stat":
            continue
        name = rest if kind == "sample" else key
        got = _stored(net, name)
        if got is None:
            continue
        flat = np.asarray(got, np.float64).reshape(-1)
        if kind == "sample":
            norm = float(wanted["stat/" + name][1])
            have = flat[np.random.RandomState(0).randint(0, flat.size, 64)]
        else:
            norm, have = float(np.linalg.norm(want)), flat
        want = np.asarray(want, np.float64).reshape(-1)
        bad = np.abs(have - want) > atol * 1e-3 + rtol * (np.abs(want) + norm / np.sqrt(flat.size))
        if bad.any():
            at = int(bad.argmax())
            yield f"{name}[{at}]: got {have[at]:.9g}, wanted {want[at]:.9g} ({int(bad.sum())} of {bad.size} differ)"


def _stored(net: Net, name: str) -> np.ndarray | None:
    kind, _, rest = name.partition("/")
    if name == "loss":
        return np.asarray(net.loss)
    if kind == "pdiff":
        return _param(net, rest).diff
    place = net.manifest["blobs"].get(rest, {})
    if kind == "out" and place.get("data"):
        return net.blobs[rest].data
    if kind == "diff" and place.get("diff"):
        return net.blobs[rest].diff
    return None


class CompiledNet:
    """A float64 build of a net for gradient checks: the same templates, passes and kernels as in float32.

    Arrays: the inputs that have a gradient, by name, and the parameters that learn, as ``LAYER/INDEX``.
    """

    def __init__(self, net: Net, inputs: Mapping[str, Any], *, seed: int = 0) -> None:
        self.net = net
        rng = np.random.default_rng(seed)
        self.arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]
        self.arrays = arrays = {}
        for name in net.inputs:
            blob = net.blobs[name]
            blob.data[...] = inputs[name] if name in inputs else rng.standard_normal(blob.shape)
            if net.manifest["blobs"][name]["diff"]:
                arrays[name] = blob.data, blob.diff
        for entry in net.manifest["params"]:
            blob = net.params[entry["layer"]][entry["index"]]
            blob.data[...] = rng.standard_normal(blob.shape)
            if entry["lr_mult"] != 0:
                arrays[f"{entry['layer']}/{entry['index']}"] = blob.data, blob.diff

    def forward(self) -> float:
        self.net.native.passes = 0  # the counter of random numbers: dropout repeats
        self.net.forward()
        return self.net.loss

    def backward(self) -> None:
        self.net.clear_param_diffs()
        self.net.backward()


def check_compiled_gradients(
    prototxt: str,
    *,
    phase: str = "TRAIN",
    inputs: Mapping[str, Any] | None = None,
    step: float = 1e-5,
    tolerance: float = 1e-6,
    samples: int = 200,
    seed: int = 0,
) -> GradientReport:
    """Gradient check of generated code, in float64, of a net given as prototxt text.

    ``inputs`` gives the values of some inputs (labels must be given). With ``force_backward: true`` in the net its
    inputs are checked too. Raises what reading and compiling a net raise.
    """
    net = Net(read_net_text(prototxt, phase=phase), PHASES[phase], dtype="float64", threads=1)
    checked = CompiledNet(net, inputs or {}, seed=seed)
    return check_gradients(checked, step=step, tolerance=tolerance, samples=samples, seed=seed)
