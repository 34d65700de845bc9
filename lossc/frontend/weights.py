"""Weights and solver states in Caffe's files: .caffemodel, .solverstate, and both as HDF5 (.h5).

Arrays go from file to NumPy as blocks of bytes. HDF5 is recognised by its signature when reading, by the ending .h5
when writing, and h5py is imported only then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from lossc.errors import UsageError, WeightsError
from lossc.frontend.caffe_pb2 import LayerParameter, NetParameter
from lossc.frontend.files import (
    HDF5_ERRORS,
    HDF5_SIGNATURE,
    check_size,
    hdf5_array,
    read_file,
    replacing,
    write_chunks,
)
from lossc.frontend.pb import blob_to_array, raw, raw_blob

Arrays = Mapping[str, Sequence[npt.ArrayLike]]

_Data = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class SolverStateData:
    """What a solver needs to go on.

    ``iter``: updates made. ``learned_net``: path of the weights written with it, empty for none. ``current_step``: rate
    drops made by multistep. ``history``: the solver's arrays, one per learned parameter, for AdaDelta and Adam two.
    ``progress``: what else lossc needs to go on exactly, in terms of JSON; Caffe writes none, and ignores it.
    """

    iter: int
    learned_net: str = ""
    current_step: int = 0
    history: list[np.ndarray] = field(default_factory=list)
    progress: dict[str, Any] = field(default_factory=dict)


def read_weights(path: str | PathLike[str], *, dtype: npt.DTypeLike = np.float32) -> dict[str, list[np.ndarray | None]]:
    """The parameters of each layer that has any, by the layer's name; shapes as stored (old files: always four axes).

    Reads .caffemodel of every format and .h5. Only in .h5 an array can be None: a parameter that the layer shares and
    that stands with its owner; such ones at the end are left out. Raises WeightsError.
    """
    data = read_file(path)
    if data == HDF5_SIGNATURE:
        return _read_hdf5_weights(fspath(path), dtype)
    net = _parse(raw().NetParameter, data)
    if net is None or not (net.layer or net.layers):
        raise _mistaken(data, fspath(path), "weights")
    if net.layer and net.layers:
        raise WeightsError("has layers of two formats", fix="save it anew", file=fspath(path))
    weights: dict[str, list[np.ndarray | None]] = {}
    for name, blobs in _blobs(net, fspath(path)):
        if name in weights:
            message = "two layers of this name have parameters"
            raise WeightsError(message, fix="give layers names of their own", layer=name, file=fspath(path))
        weights[name] = [_array(blob, f"blob {i}", dtype, fspath(path), name) for i, blob in enumerate(blobs)]
    return weights


def write_weights(path: str | PathLike[str], net: NetParameter, weights: Arrays, diffs: Arrays | None = None) -> None:
    """Write the layers of ``net`` with their parameters, whole or not at all.

    ``weights`` and ``diffs`` (gradients, of the same shapes) are arrays by the layer's name. float64 stays, all else
    becomes float32. As Caffe does, .h5 keeps a shared parameter only with its owner, the first layer that names it.
    Raises WeightsError where the file cannot be written, UsageError for layers that are not in the net.
    """
    unknown = {*weights, *(diffs or {})} - {layer.name for layer in net.layer}
    if unknown:
        raise UsageError(f"the net has no layer named {', '.join(sorted(unknown))}")
    data = {layer: [_numbers(each, layer) for each in arrays] for layer, arrays in weights.items()}
    diff = {layer: [_numbers(each, layer) for each in arrays] for layer, arrays in (diffs or {}).items()}
    for layer, arrays in diff.items():
        if [each.shape for each in arrays] != [each.shape for each in data.get(layer, ())]:
            raise UsageError("gradients and parameters differ in number or shape", layer=layer)
    if fspath(path).endswith(".h5"):
        _write_hdf5_weights(path, net, {"data": data} if diffs is None else {"data": data, "diff": diff})
        return
    check_size(path, sum(each.nbytes for arrays in (*data.values(), *diff.values()) for each in arrays))
    write_chunks(path, _net_chunks(net, data, diff))


def read_state(path: str | PathLike[str], *, dtype: npt.DTypeLike = np.float32) -> SolverStateData:
    """The state in a .solverstate file, or its .h5 form. Raises WeightsError."""
    data, name = read_file(path), fspath(path)
    if data == HDF5_SIGNATURE:
        return _read_hdf5_state(name, dtype)
    state = _parse(raw().SolverState, data)
    if state is None or not state.HasField("iter"):
        raise _mistaken(data, name, "state")
    if state.lossc_progress and not state.HasField("current_step"):
        raise WeightsError("is cut short", fix="write it again", file=name)
    history = [_array(blob, f"history {i}", dtype, name) for i, blob in enumerate(state.history)]
    progress = _progress(_string(state, "lossc_progress", name), name)
    return SolverStateData(state.iter, _string(state, "learned_net", name), state.current_step, history, progress)


def write_state(path: str | PathLike[str], state: SolverStateData) -> None:
    """Write a .solverstate file, or its .h5 form, whole or not at all. Raises WeightsError."""
    if fspath(path).endswith(".h5"):
        _write_hdf5_state(path, state)
        return
    check_size(path, sum(each.nbytes for each in state.history))
    write_chunks(path, _state_chunks(state))


def read_blob(path: str | PathLike[str], *, dtype: npt.DTypeLike = np.float32) -> np.ndarray:
    """The array in a .binaryproto file (an image mean, the matrix of InfogainLoss). Raises WeightsError."""
    data, name = read_file(path), fspath(path)
    blob = _parse(raw().BlobProto, data)
    if blob is None or not (blob.data or blob.double_data):
        fix = "name a .binaryproto file that holds one array"
        raise WeightsError("holds no array (a serialised BlobProto)", fix=fix, file=name)
    return _array(blob, "the array", dtype, name)


def write_blob(path: str | PathLike[str], values: npt.ArrayLike) -> None:
    """Write one array as a .binaryproto file. Raises WeightsError."""
    check_size(path, np.asarray(values).nbytes)
    write_chunks(path, [raw_blob(values).SerializeToString()])


def _parse(message: Any, data: bytes) -> Any:
    """The message in ``data``; None if it is none of that type."""
    try:
        return message.FromString(data)
    except (DecodeError, UnicodeDecodeError):  # the latter from protobuf in pure Python
        return None


def _mistaken(data: bytes, file: str, wanted: str) -> WeightsError:
    """What a file is that should hold ``wanted``, "weights" or "state"."""
    state, net = _parse(raw().SolverState, data), _parse(raw().NetParameter, data)
    fix = "give the .caffemodel" if wanted == "weights" else "give the .solverstate; weights are loaded by -weights"
    if data == HDF5_SIGNATURE:
        return WeightsError(f"is an HDF5 file without {wanted}", fix=fix, file=file)
    if _is_text(data):
        return WeightsError("is text, such as a prototxt, not a binary file", fix=fix, file=file)
    if state is not None and state.HasField("iter"):
        return WeightsError("is a solver's state, not weights", fix=fix, file=file)
    if net is not None and (net.layer or net.layers):
        return WeightsError("holds weights, not a solver's state", fix=fix, file=file)
    fix = "write or download it again"
    kind = "a .caffemodel" if wanted == "weights" else "a .solverstate"
    return WeightsError(f"is damaged, cut short, or not {kind} at all", fix=fix, file=file)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def _numbers(values: npt.ArrayLike, layer: str) -> np.ndarray:
    """As an array of the types that files hold: float64 stays, all else becomes float32."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise UsageError(f"a parameter is {array.dtype}, not an array of numbers", layer=layer)
    return array if array.dtype == np.float64 else array.astype(np.float32)


def _string(message: Any, name: str, file: str) -> str:
    text = getattr(message, name)
    if not isinstance(text, str):  # protobuf hands out bytes that are no text as bytes
        raise WeightsError(f"is damaged: a {name} is not text", fix="write or download it again", file=file)
    return text


def _progress(text: str, file: str) -> dict[str, Any]:
    try:
        progress = json.loads(text or "{}")
    except ValueError:
        progress = None
    if not isinstance(progress, dict):
        raise WeightsError("is damaged: lossc_progress is no JSON object", fix="write or download it again", file=file)
    return progress


def _blobs(net: Any, file: str) -> Iterator[tuple[str, Any]]:
    """Names and blobs of layers that have blobs."""
    for layer in net.layer or net.layers:
        if layer.DESCRIPTOR.name == "V1LayerParameter" and layer.HasField("layer"):
            layer = layer.layer
        if layer.blobs:
            yield _string(layer, "name", file), layer.blobs


def _array(blob: Any, what: str, dtype: npt.DTypeLike, file: str, layer: str | None = None) -> np.ndarray:
    try:
        return blob_to_array(blob, dtype=dtype)
    except WeightsError as error:
        error.message = f"{what}: {error.message}"
        error.fix = "the file is damaged: write or download it again"
        raise error.located(layer=layer, file=file) from None


def _net_chunks(net: NetParameter, data: _Data, diff: _Data) -> Iterator[bytes]:
    """A serialised NetParameter, layer by layer: serialised pieces of a message, joined, are the message."""
    yield NetParameter(name=net.name).SerializeToString()
    for layer in net.layer:
        plain = LayerParameter()
        plain.CopyFrom(layer)
        plain.ClearField("blobs")
        full = raw().LayerParameter.FromString(plain.SerializeToString())
        values = data.get(layer.name, [])
        for i, each in enumerate(values):
            full.blobs.append(raw_blob(each, diff[layer.name][i] if layer.name in diff else None))
        yield raw().NetParameter(layer=[full]).SerializeToString()


def _state_chunks(state: SolverStateData) -> Iterator[bytes]:
    message = raw().SolverState
    progress = json.dumps(state.progress) if state.progress else None
    # What only ours have comes first, and current_step ends the file: cut short, it never passes for a whole one.
    head = message(iter=state.iter, learned_net=state.learned_net or None, lossc_progress=progress)
    yield head.SerializeToString()
    for values in state.history:
        yield message(history=[raw_blob(values)]).SerializeToString()
    yield message(current_step=state.current_step).SerializeToString()


def _read_hdf5_weights(file: str, dtype: npt.DTypeLike) -> dict[str, list[np.ndarray | None]]:
    """data/LAYER/INDEX; a layer's name may hold slashes."""
    import h5py

    found: dict[str, dict[int, np.ndarray]] = {}

    def visit(name: str, item: Any) -> None:
        layer, _, index = name.rpartition("/")
        if isinstance(item, h5py.Group):
            return
        if not layer or not index.isdecimal() or int(index) >= 1000:
            fix = "parameters stand in data/LAYER/0, data/LAYER/1 ..."
            raise WeightsError(f'"data/{name}" is no parameter of a layer', fix=fix, file=file)
        try:
            found.setdefault(layer, {})[int(index)] = hdf5_array(item, dtype)
        except WeightsError as error:
            raise error.located(layer=layer, file=file) from None

    try:
        with h5py.File(file, "r") as root:
            group = root.get("data")
            if not isinstance(group, h5py.Group):
                if "iter" in root and "history" in root:
                    raise WeightsError("is a solver's state, not weights", fix="give the .caffemodel.h5", file=file)
                raise _mistaken(HDF5_SIGNATURE, file, "weights")
            group.visititems(visit)
    except HDF5_ERRORS as error:
        raise WeightsError(f"is damaged: {error}", fix="write or download it again", file=file) from None
    return {layer: [arrays.get(i) for i in range(max(arrays) + 1)] for layer, arrays in found.items()}


def _write_hdf5_weights(path: str | PathLike[str], net: NetParameter, kinds: dict[str, _Data]) -> None:
    import h5py

    for layer in net.layer:
        if kinds["data"].get(layer.name) and not set(layer.name.split("/")).isdisjoint(("", ".")):
            fix = "give it another name, or save as .caffemodel"
            raise WeightsError("no HDF5 group can have this name", fix=fix, layer=layer.name, file=fspath(path))
    with replacing(path) as temporary, h5py.File(temporary, "x") as root:
        owned: set[str] = set()
        for layer in net.layer:
            names = [spec.name for spec in layer.param]
            for kind, arrays in kinds.items():
                group = root.require_group(f"{kind}/{layer.name}")
                for i, values in enumerate(arrays.get(layer.name, ())):
                    if kind == "diff" or not (i < len(names) and names[i] in owned):
                        group[str(i)] = values
            owned.update(filter(None, names))


def _read_hdf5_state(file: str, dtype: npt.DTypeLike) -> SolverStateData:
    import h5py

    try:
        with h5py.File(file, "r") as root:
            if "iter" not in root or not isinstance(root.get("history"), h5py.Group):
                if isinstance(root.get("data"), h5py.Group):
                    fix = "give the .solverstate.h5; weights are loaded by -weights"
                    raise WeightsError("holds weights, not a solver's state", fix=fix, file=file)
                raise _mistaken(HDF5_SIGNATURE, file, "state")
            history = root["history"]
            arrays = [hdf5_array(history[str(i)], dtype) for i in range(len(history))]
            count = int(hdf5_array(root["iter"], np.int64).reshape(()))
            step = int(hdf5_array(root["current_step"], np.int64).reshape(())) if "current_step" in root else 0
            learned = bytes(root["learned_net"][()]).decode() if "learned_net" in root else ""
            progress = bytes(root["lossc_progress"][()]).decode() if "lossc_progress" in root else ""
    except WeightsError as error:
        raise error.located(file=file) from None
    except HDF5_ERRORS as error:
        raise WeightsError(f"is damaged: {error}", fix="write or download it again", file=file) from None
    return SolverStateData(count, learned, step, arrays, _progress(progress, file))


def _write_hdf5_state(path: str | PathLike[str], state: SolverStateData) -> None:
    import h5py

    with replacing(path) as temporary, h5py.File(temporary, "x") as root:
        root["iter"] = np.array([state.iter], np.int32)
        root["current_step"] = np.array([state.current_step], np.int32)
        if state.learned_net:
            # Caffe reads a string of C: fixed length, ending in a zero byte, which NumPy's strings do not have.
            text = state.learned_net.encode()
            kind = h5py.h5t.C_S1.copy()
            kind.set_size(len(text) + 1)
            space = h5py.h5s.create(h5py.h5s.SCALAR)
            h5py.h5d.create(root.id, b"learned_net", kind, space).write(
                space, space, np.array(text, f"S{len(text) + 1}"), kind
            )
        if state.progress:
            root["lossc_progress"] = json.dumps(state.progress)
        history = root.create_group("history")
        for i, values in enumerate(state.history):
            history[str(i)] = _numbers(values, f"history {i}")
