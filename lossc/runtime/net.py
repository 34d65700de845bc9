"""``lossc.Net``: a compiled net with pycaffe's manners."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from numbers import Real
from os import PathLike
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lossc.build.tuning import choices
from lossc.errors import ArgumentError, DataError, NumericError, UsageError, WeightsError
from lossc.frontend.caffe_pb2 import NetParameter, SolverParameter
from lossc.frontend.net import NetSource, read_net
from lossc.frontend.paths import path_text
from lossc.loss_weight import LossWeight, Runtime, Schedule
from lossc.pipeline import Compiled, Request, build, compile_net
from lossc.runtime.arguments import names_of, real_array, whole_number
from lossc.runtime.blob import Blob
from lossc.runtime.feed import Feed, Override
from lossc.runtime.loss_weights import LossWeights
from lossc.runtime.native import Native
from lossc.runtime.weights import match_weights
from lossc.targets import parse_target

if TYPE_CHECKING:
    import networkx as nx

    from lossc.explain.report import Report
    from lossc.lang.files import Custom


class Layer(NamedTuple):
    """A layer's type and its parameters."""

    type: str
    blobs: list[Blob]


_LABEL_FIX = "correct the label, give the layer below as many outputs as there are classes, or name an ignore_label"

#: OpenMP's libraries crash, rather than refuse, where a team cannot be made.
MOST_THREADS = 1024


def own_layers(layers: Any) -> dict[str, Custom]:
    """The layer types that a user names, see ``lang.files.collect``."""
    if layers is None:
        return {}
    from lossc.lang.files import collect

    return collect(layers)


class Net:
    """A net, compiled for this machine.

    ``file``: a prototxt file, a NetParameter, or what ``read_net`` returned. ``phase``: lossc.TRAIN or lossc.TEST;
    ``level`` and ``stages`` as in Caffe. ``weights``: loaded at once. ``keep``: names of blobs that must stay readable
    besides inputs, outputs and parameters, or "all". ``threads``: None for one per core; results do not depend on it.
    ``target``: "native" or the name of an instruction set; ``dtype``: "float32" or "float64". ``seed`` decides fillers
    and dropout. ``data`` takes the place of the sources that data layers name: a path, a data source, or one of them by
    layer. ``solver``: a SolverParameter whose update is compiled too; solvers give it. ``loss_weights``: what takes the
    place of the net's own loss_weights, by layer or top: numbers, ``lossc.Runtime``, ``lossc.Schedule``. ``layers``:
    layer types of your own: a Python file, what ``@lossc.loss`` made, a Layer class, or a list of these.
    ``check_labels``: labels out of range are errors; without the check such labels are read past the end of rows.
    ``check_finite``: each pass stops at the first number that is not finite, at the cost of time and memory.
    ``winograd``: the largest tile of Winograd's convolutions: 2, 4 (3x3 alone, in float32; less exact), or 0 for none.
    ``tuned``: True uses what ``lossc tune`` has measured for this processor, a path what that wrote to a file; without
    it nothing of that is read. ``freeze``: passes keep what they make of the parameters, such as packed and transformed
    weights, which is faster for small batches and takes memory. Whoever reads ``params[...][k].data`` may change what
    it holds until the next pass; later changes through the same array go unnoticed until it is read again. ``blocks``:
    False leaves every image in planes, also between convolutions.

    Raises LosscError's kinds: PrototxtError, GraphError, DataError, WeightsError, UsageError, CompilerError; passes
    raise DataError for labels, NumericError for numbers that are not finite.
    """

    def __init__(
        self,
        file: str | PathLike[str] | NetParameter | NetSource,
        phase: int | str,
        weights: str | PathLike[str] | None = None,
        keep: str | Iterable[str] = (),
        threads: int | None = None,
        target: str = "native",
        dtype: str = "float32",
        seed: int = 1,
        level: int = 0,
        stages: Iterable[str] = (),
        data: Override | None = None,
        solver: SolverParameter | None = None,
        loss_weights: Mapping[str, LossWeight] | None = None,
        layers: Any = None,
        check_labels: bool = True,
        check_finite: bool = False,
        winograd: int = 2,
        tuned: bool | str | PathLike[str] = False,
        freeze: bool = False,
        bf16: bool = False,
        blocks: bool = True,
    ) -> None:
        if not isinstance(file, NetSource):
            level = whole_number("level", level, -(2**31), 2**31 - 1)
            file = read_net(file, phase=phase, level=level, stages=names_of("stages", stages))
        if threads is not None:
            fix = f"give 1 to {MOST_THREADS}, or None for one per core"
            threads = whole_number("threads", threads, 1, MOST_THREADS, fix)
        seed = whole_number("seed", seed, -(2**63), 2**64 - 1, "give a whole number of 64 bits")
        self._source = file
        self._feed = Feed(file, data, seed)
        #: What decides fillers, dropout and other random numbers.
        self.seed = seed
        kept = "all" if keep == "all" else names_of("keep", keep)
        if not isinstance(loss_weights, (Mapping, NoneType)):
            raise ArgumentError(f"loss_weights is {loss_weights!r:.60}", fix='give weights by name: {"loss": 0.5}')
        for loss, weight in (loss_weights or {}).items():
            if isinstance(weight, bool) or not isinstance(weight, (Real, Runtime, Schedule)):
                fix = "give a number, lossc.Runtime or lossc.Schedule"
                raise ArgumentError(f'the loss_weight of "{loss}" is {weight!r:.60}', fix=fix)
        self.request = Request(
            file, kept, target, dtype, solver, self._feed.shapes, loss_weights=dict(loss_weights or {}),
            layers=own_layers(layers), check_labels=check_labels, check_finite=check_finite,
            winograd=winograd, tuning=choices(tuned, parse_target(target, dtype=dtype, bf16=bool(bf16))),
            freeze=bool(freeze), bf16=bool(bf16), blocks=bool(blocks),
        )
        self.native = Native(build(self.request), threads or 0, seed)
        manifest = self.native.manifest
        #: Every blob by name, in the order of the net.
        self.blobs: dict[str, Blob] = {name: self._blob(name) for name in manifest["blobs"]}
        #: The parameters of each layer that has any; a shared one stands under each of its layers.
        self.params: dict[str, list[Blob]] = {
            layer["name"]: [self._param(*pair) for pair in zip(layer["params"], layer["param_shapes"], strict=True)]
            for layer in manifest["layers"]
            if layer["params"]
        }
        #: Names of the blobs that the caller fills, and of those that nothing consumes, the latter sorted.
        self.inputs: list[str] = [
            top for layer in manifest["layers"] if layer["type"] == "Input" for top in layer["tops"]
        ]
        self.outputs: list[str] = sorted(manifest["outputs"])
        #: The weight of each loss; those that were compiled as ``lossc.Runtime`` can be set.
        self.loss_weights = LossWeights(self.native)
        #: The total weighted loss of the last forward pass; NaN before the first.
        self.loss = float("nan")
        self._tops = {
            layer["name"]: [self.blobs[top].data for top in layer["tops"]]
            for layer in manifest["layers"]
            if layer["name"] in self._feed.sources
        }
        if weights is not None:
            self.copy_from(weights)

    # ---- what it is

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def manifest(self) -> dict[str, Any]:
        """What the compiler tells of the net: places of blobs, bytes, multiplications."""
        return self.native.manifest

    @property
    def param(self) -> NetParameter:
        """The net's description, with the layers of this phase only."""
        return self._source.param

    @property
    def blob_loss_weights(self) -> dict[str, float]:
        """The weight of each top that is a loss, as it is now."""
        return dict(self.loss_weights)

    @property
    def iter(self) -> int:
        """The iteration that the next step belongs to: schedules of loss_weights go by it. A solver moves it on."""
        return self.native.iter

    @iter.setter
    def iter(self, value: int) -> None:
        self.native.iter = whole_number("iter", value, 0, 2**62)

    @property
    def layer_dict(self) -> dict[str, Layer]:
        """The layers by name, in the order of the net."""
        return {e["name"]: Layer(e["type"], self.params.get(e["name"], [])) for e in self.manifest["layers"]}

    @cached_property
    def _compiled(self) -> Compiled:
        return compile_net(self.request)

    @property
    def source(self) -> str:
        """The net as C."""
        return self._compiled.program.source

    @property
    def header(self) -> str:
        """The header of ``source``: how a C program uses the net."""
        return self._compiled.program.header

    @property
    def graph(self) -> nx.MultiDiGraph:
        """A copy of the bipartite graph of blobs and kernels that ``source`` was written from."""
        return self._compiled.graph.networkx()

    def explain(self, *, gradients: bool = True) -> Report:
        """Where each loss_weight went, and what the compiler did on the way; printed, it is a text for people.

        After a forward pass it holds the values of the losses on that batch. With ``gradients`` also each loss's share
        of the gradient where heads join the trunk; that takes a second build of the net, and runs it on copies.
        """
        from lossc.explain import explain_net

        return explain_net(self, gradients=gradients)

    # ---- running

    def forward(self, blobs: Iterable[str] | None = None, **inputs: Any) -> dict[str, np.ndarray]:
        """One forward pass; returns the net's outputs, and the ``blobs`` named, as views on the net's memory.

        Keyword arguments are copied to the inputs of these names. Data layers deliver their next batch. Raises
        UsageError for inputs that are not known or do not fit, DataError where a label is out of range.
        """
        wanted = [*self.outputs, *names_of("blobs", blobs)]
        for name in wanted:
            self._known(name)
        for name, values in inputs.items():
            self._fill(name, values)
        self._feed.fill(self._tops)
        self.loss = self._checked(self.native.forward())
        return {name: self.blobs[name].data for name in wanted}

    def backward(self) -> None:
        """The backward pass of the last forward pass; gradients of parameters add to what is there."""
        self.native.backward()
        if self.request.check_finite and self.native.error is not None:
            self._checked(float("nan"))

    def forward_backward(self, **inputs: Any) -> float:
        """Both passes in one go; returns the total weighted loss. Raises as ``forward``."""
        for name, values in inputs.items():
            self._fill(name, values)
        self._feed.fill(self._tops)
        self.loss = self._checked(self.native.forward_backward())
        return self.loss

    def train_step(self) -> float:
        """Both passes on cleared gradients and the update, of a solver's net; returns the total weighted loss.

        Raises as ``forward``: then nothing was updated; UsageError where the net was not compiled with a solver.
        """
        if self.manifest["rate"] is None:
            message = "the net has no update: it was not compiled with a solver"
            raise UsageError(message, fix="take the net of lossc.get_solver(...)", file=self._source.file)
        self._feed.fill(self._tops)
        self.loss = self._checked(self.native.step())
        return self.loss

    def clear_param_diffs(self) -> None:
        """Sets the gradients of all parameters to 0."""
        self.native.clear_param_diffs()

    def _fill(self, name: str, values: Any) -> None:
        if name not in self.inputs:
            known = ", ".join(self.inputs) or "the net has none"
            raise UsageError(f'"{name}" is no input of the net', fix=f"inputs: {known}", file=self._source.file)
        blob, fix = self.blobs[name], "compiled nets have fixed shapes: change the net's input_param"
        blob.data[...] = real_array(f'input "{name}"', values, blob.shape, fix=fix, file=self._source.file)

    def _checked(self, loss: float) -> float:
        if loss == loss or (message := self.native.error) is None:
            return loss
        kind, fix = (DataError, _LABEL_FIX) if self.native.stopped_by == 1 else (NumericError, None)
        for index, layer in enumerate(self._source.param.layer):
            prefix = f'layer "{layer.name}": '
            if message.startswith(prefix):
                line = self._source.line(index)
                told = message.removeprefix(prefix)
                raise kind(told, fix=fix, layer=layer.name, file=self._source.file, line=line)
        raise kind(message, fix=fix, file=self._source.file)

    # ---- files

    def save(self, path: str | PathLike[str], diff: bool = False) -> None:
        """Writes the parameters (with ``diff`` their gradients too), as HDF5 where ``path`` ends in .h5.

        The file is written whole or not at all. Raises WeightsError, UsageError for an ending that says nothing.
        """
        from lossc.frontend.weights import write_weights

        name = path_text(path, "the file to write")
        if not name.endswith((".caffemodel", ".h5")):
            fix = f"name it {os.path.basename(name) or 'net'}.caffemodel, or .caffemodel.h5 for HDF5"
            raise UsageError("a file of weights ends in .caffemodel or .h5", fix=fix, file=name)

        data = {layer: [blob.data for blob in blobs] for layer, blobs in self.params.items()}
        diffs = {layer: [blob.diff for blob in blobs] for layer, blobs in self.params.items()} if diff else None
        write_weights(path, self._source.param, data, diffs)

    def copy_from(self, path: str | PathLike[str]) -> None:
        """Takes over the parameters of the layers that have the same name in a .caffemodel or .h5 file.

        Layers that only one side has are skipped, as in Caffe. Raises WeightsError, which lists all that does not fit;
        nothing is changed then.
        """
        from lossc.frontend.weights import read_weights

        found = read_weights(path, dtype=self.native.dtype)
        pairs = match_weights({n: [b.data for b in bs] for n, bs in self.params.items()}, found, path)
        if self.params and not pairs:
            theirs = ", ".join(list(found)[:5]) or "none"
            fix = f"layers are matched by name; those of the file that have parameters: {theirs}"
            raise WeightsError("holds parameters of no layer of the net", fix=fix, file=path_text(path))
        for target, values in pairs:
            target[...] = values

    def share_with(self, other: Net) -> None:
        """From now on this net uses the parameters of ``other``, by layers' names, without a copy.

        Raises UsageError where a shared layer's parameters have other shapes there, or another dtype.
        """
        if not isinstance(other, Net):
            raise ArgumentError(f"parameters are shared with a Net, not {other!r:.60}", fix="give another lossc.Net")
        if self.native.dtype != other.native.dtype:
            raise UsageError(f"{self.native.dtype} parameters cannot be shared with a {other.native.dtype} net")
        for layer in self.manifest["layers"]:
            theirs = other.params.get(layer["name"])
            if not layer["params"] or theirs is None:
                continue
            mine = [tuple(shape) for shape in layer["param_shapes"]]
            if mine != [blob.shape for blob in theirs]:
                shapes = f"{[list(s) for s in mine]} here, {[list(b.shape) for b in theirs]} in the other net"
                raise UsageError(f"parameters cannot be shared: {shapes}", layer=layer["name"], file=self._source.file)
            for index, blob in zip(layer["params"], theirs, strict=True):
                self.native.share_param(index, blob.data)

    # ---- state beyond parameters

    @property
    def progress(self) -> dict[str, Any]:
        """What makes going on exact: passes made (they decide random numbers) and state of data sources."""
        return {"passes": self.native.passes, "data": self._feed.state, "loss_weights": dict(self.loss_weights)}

    @progress.setter
    def progress(self, progress: Mapping[str, Any]) -> None:
        self.native.passes = int(progress.get("passes", 0))
        self._feed.state = progress.get("data", {})
        self.loss_weights.take_over(progress.get("loss_weights", {}))

    # ---- blobs

    def _known(self, name: str) -> None:
        if name not in self.blobs:
            from lossc.frontend.names import suggestion

            raise UsageError(f'the net has no blob "{name}"', fix=suggestion(name, self.blobs), file=self._source.file)

    def _blob(self, name: str) -> Blob:
        entry = self.manifest["blobs"][name]
        shape = tuple(entry["shape"])

        def part(which: str) -> np.ndarray:
            if entry[which] is not None:
                return self.native.view(entry[which])
            if which == "diff" and not entry["has_diff"] and self._keeps(name):
                return np.broadcast_to(self.native.dtype.type(0), shape)
            what = f'the {which} of blob "{name}" was not kept: the compiler fused it away, or its memory is used again'
            raise UsageError(what, fix=f'give lossc.Net keep=["{name}"] or keep="all"', file=self._source.file)

        return Blob(shape, lambda: part("data"), lambda: part("diff"))

    def _keeps(self, name: str) -> bool:
        return self.request.keep == "all" or name in self.request.keep

    def _param(self, index: int, shape: list[int]) -> Blob:
        return Blob(tuple(shape), lambda: self.native.param(index, shape), lambda: self.native.param_diff(index, shape))
