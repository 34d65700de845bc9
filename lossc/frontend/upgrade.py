"""Brings nets and solvers of Caffe's older formats to the present one.

V0 is ``layers { layer { type: "conv" } }``, V1 is ``layers { type: CONVOLUTION }``; beside them there are inputs
outside of layers, image transforms inside data_param, and solvers with an enum as type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lossc.errors import PrototxtError, SolverError
from lossc.frontend.caffe_pb2 import LayerParameter, NetParameter, SolverParameter, V1LayerParameter
from lossc.frontend.names import suggestion

V1_TYPES = {
    "NONE": "", "ABSVAL": "AbsVal", "ACCURACY": "Accuracy", "ARGMAX": "ArgMax", "BNLL": "BNLL", "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss", "CONVOLUTION": "Convolution", "DATA": "Data",
    "DECONVOLUTION": "Deconvolution", "DROPOUT": "Dropout", "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss", "ELTWISE": "Eltwise", "EXP": "Exp", "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output", "HINGE_LOSS": "HingeLoss", "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData", "INFOGAIN_LOSS": "InfogainLoss", "INNER_PRODUCT": "InnerProduct", "LRN": "LRN",
    "MEMORY_DATA": "MemoryData", "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss", "MVN": "MVN",
    "POOLING": "Pooling", "POWER": "Power", "RELU": "ReLU", "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss", "SILENCE": "Silence", "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss", "SPLIT": "Split", "SLICE": "Slice", "TANH": "TanH",
    "WINDOW_DATA": "WindowData", "THRESHOLD": "Threshold",
}  # fmt: skip

V0_TYPES = {
    "accuracy": "ACCURACY", "bnll": "BNLL", "concat": "CONCAT", "conv": "CONVOLUTION", "data": "DATA",
    "dropout": "DROPOUT", "euclidean_loss": "EUCLIDEAN_LOSS", "flatten": "FLATTEN", "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT", "im2col": "IM2COL", "images": "IMAGE_DATA", "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT", "lrn": "LRN", "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING", "relu": "RELU", "sigmoid": "SIGMOID", "softmax": "SOFTMAX", "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT", "tanh": "TANH", "window_data": "WINDOW_DATA",
}  # fmt: skip

# The message that holds the settings of a V0 type.
_V0_PARAMS = {
    "conv": "convolution_param", "innerproduct": "inner_product_param", "pool": "pooling_param",
    "dropout": "dropout_param", "lrn": "lrn_param", "concat": "concat_param", "data": "data_param",
    "hdf5_data": "hdf5_data_param", "images": "image_data_param", "window_data": "window_data_param",
    "infogain_loss": "infogain_loss_param",
}  # fmt: skip

_SOURCES = ("data", "hdf5_data", "images", "window_data")

# A V0 setting: its present name, and the V0 types that have it.
_V0_FIELDS: dict[str, tuple[str, Sequence[str]]] = {
    "num_output": ("num_output", ("conv", "innerproduct")),
    "biasterm": ("bias_term", ("conv", "innerproduct")),
    "weight_filler": ("weight_filler", ("conv", "innerproduct")),
    "bias_filler": ("bias_filler", ("conv", "innerproduct")),
    "pad": ("pad", ("conv", "pool")),
    "kernelsize": ("kernel_size", ("conv", "pool")),
    "group": ("group", ("conv",)),
    "stride": ("stride", ("conv", "pool")),
    "pool": ("pool", ("pool",)),
    "dropout_ratio": ("dropout_ratio", ("dropout",)),
    "local_size": ("local_size", ("lrn",)),
    "alpha": ("alpha", ("lrn",)),
    "beta": ("beta", ("lrn",)),
    "k": ("k", ("lrn",)),
    "source": ("source", (*_SOURCES, "infogain_loss")),
    "batchsize": ("batch_size", _SOURCES),
    "rand_skip": ("rand_skip", ("data", "images")),
    "shuffle_images": ("shuffle", ("images",)),
    "new_height": ("new_height", ("images",)),
    "new_width": ("new_width", ("images",)),
    "concat_dim": ("concat_dim", ("concat",)),
    "det_fg_threshold": ("fg_threshold", ("window_data",)),
    "det_bg_threshold": ("bg_threshold", ("window_data",)),
    "det_fg_fraction": ("fg_fraction", ("window_data",)),
    "det_context_pad": ("context_pad", ("window_data",)),
    "det_crop_mode": ("crop_mode", ("window_data",)),
}

_V0_TRANSFORMS = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
_V0_AS_THEY_ARE = ("name", "type", "blobs", "blobs_lr", "weight_decay")
_V1_CHANGED = ("type", "param", "blob_share_mode", "blobs_lr", "weight_decay", "layer")
_TRANSFORMED = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}
_TRANSFORMS = ("scale", "mean_file", "crop_size", "mirror")

SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")  # in the order of the old enum


@dataclass(frozen=True)
class Origin:
    """Where a net comes from: the name of its file, the line of each layer in it, and the line of its first input."""

    file: str | None = None
    lines: Sequence[int | None] = ()
    input_line: int | None = None

    def line(self, index: int) -> int | None:
        """The line of the ``index``-th layer of the file."""
        return self.lines[index] if 0 <= index < len(self.lines) else None

    def error(self, index: int | None, message: str, fix: str | None = None, layer: str | None = None) -> PrototxtError:
        """An error at that layer, or at the net's inputs."""
        line = self.input_line if index is None else self.line(index)
        return PrototxtError(message, fix=fix, layer=layer, file=self.file, line=line)


NOWHERE = Origin()


def upgrade_net(net: NetParameter, origin: Origin = NOWHERE) -> list[int | None]:
    """Bring ``net`` to the present format, in place.

    Returns, for each entry of ``net.layer``, its place among the layers as they were written; None for the Input layer
    made of net-level inputs. Raises PrototxtError for what has no counterpart, or contradicts itself.
    """
    if net.layer and net.layers:
        message = "the net has layers of both formats, layer { } and layers { }"
        raise origin.error(None, message, 'write all as layer { type: "..." }')
    kept: list[int | None] = list(range(len(net.layer) or len(net.layers)))
    if any(layer.HasField("layer") for layer in net.layers):
        kept = _merge_padding(net, origin)
        for index, layer in zip(kept, net.layers, strict=True):
            if layer.HasField("layer"):
                _upgrade_v0_layer(layer, index or 0, origin)
    for index, layer in enumerate(net.layer):
        _refuse_old_transforms(layer, index, origin)
    net.layer.extend(_upgrade_v1_layer(layer) for layer in net.layers)
    net.ClearField("layers")
    for index, layer in zip(kept, net.layer, strict=True):
        if layer.type == "BatchNorm":
            _freeze_batch_norm(layer, index or 0, origin)
    return [None, *kept] if _upgrade_inputs(net, origin) else kept


def upgrade_solver(solver: SolverParameter, file: str | None = None, line: int | None = None) -> None:
    """Replace the enum ``solver_type`` by the string ``type``, in place. Raises SolverError where both are given."""
    if not solver.HasField("solver_type"):
        return
    if solver.HasField("type"):
        fix = f'keep type: "{solver.type}"'
        raise SolverError("both type and the older solver_type are given", fix=fix, file=file, line=line)
    solver.type = SOLVER_TYPES[solver.solver_type]
    solver.ClearField("solver_type")


def _put(message: Any, name: str, value: Any) -> None:
    """Set a field of any kind; of a repeated one this is one more entry."""
    field = getattr(message, name)
    if hasattr(field, "append"):
        field.append(value)
    elif hasattr(field, "CopyFrom"):
        field.CopyFrom(value)
    else:
        setattr(message, name, value)


def _merge_padding(net: NetParameter, origin: Origin) -> list[int | None]:
    """V0 had layers that only pad; the convolution or pooling that reads one pads by itself now."""
    old = list(net.layers)
    producer: dict[str, int] = {}
    new: list[V1LayerParameter] = []
    kept: list[int | None] = []
    for index, layer in enumerate(old):
        copy = V1LayerParameter()
        copy.CopyFrom(layer)
        sources = [(i, old[producer[name]]) for i, name in enumerate(layer.bottom) if name in producer]
        for i, source in sources:
            if source.layer.type != "padding":
                continue
            if layer.layer.type not in ("conv", "pool") or len(layer.bottom) != 1:
                message = f'reads the padding layer "{source.layer.name}", but is no convolution or pooling of one blob'
                raise origin.error(index, message, "set pad in the layers that need it", layer.layer.name)
            if len(source.bottom) != 1 or len(source.top) != 1:
                message = "a padding layer has one bottom and one top"
                raise origin.error(old.index(source), message, layer=source.layer.name)
            copy.layer.pad = source.layer.pad
            copy.bottom[i] = source.bottom[0]
        producer.update((name, index) for name in layer.top)
        if layer.layer.type != "padding":
            new.append(copy)
            kept.append(index)
    net.ClearField("layers")
    net.layers.extend(new)
    return kept


def _upgrade_v0_layer(layer: V1LayerParameter, index: int, origin: Origin) -> None:
    """From V0 to V1, in place."""
    old = layer.layer
    if old.HasField("type"):
        if old.type not in V0_TYPES:
            fix = suggestion(old.type, V0_TYPES, "the types of this oldest format are")
            raise origin.error(index, f'unknown layer type "{old.type}"', fix, old.name)
        layer.type = V1LayerParameter.LayerType.Value(V0_TYPES[old.type])
    layer.name = old.name
    layer.blobs.extend(old.blobs)
    layer.blobs_lr.extend(old.blobs_lr)
    layer.weight_decay.extend(old.weight_decay)
    for field, value in old.ListFields():
        if field.name in _V0_AS_THEY_ARE:
            continue
        if field.name in _V0_TRANSFORMS:
            _put(layer.transform_param, _V0_TRANSFORMS[field.name], value)
            continue
        if field.name == "hdf5_output_param" and old.type == "hdf5_output":
            layer.hdf5_output_param.CopyFrom(value)
            continue
        name, types = _V0_FIELDS.get(field.name, ("", ()))
        if old.type not in types:
            raise origin.error(index, f'{field.name} means nothing to the type "{old.type}"', "remove it", old.name)
        _put(getattr(layer, _V0_PARAMS[old.type]), name, value)
    layer.ClearField("layer")


def _upgrade_v1_layer(old: V1LayerParameter) -> LayerParameter:
    new = LayerParameter()
    for field, value in old.ListFields():
        if field.name in _V1_CHANGED:
            continue
        if hasattr(value, "extend"):
            getattr(new, field.name).extend(value)
        else:
            _put(new, field.name, value)
    if old.type:
        new.type = V1_TYPES[V1LayerParameter.LayerType.Name(old.type)]
    _spread(new, "name", old.param)
    _spread(new, "share_mode", old.blob_share_mode)
    _spread(new, "lr_mult", old.blobs_lr)
    _spread(new, "decay_mult", old.weight_decay)
    if new.type in _TRANSFORMED and new.HasField(_TRANSFORMED[new.type]):
        settings = getattr(new, _TRANSFORMED[new.type])
        for name in _TRANSFORMS:
            if settings.HasField(name):
                setattr(new.transform_param, name, getattr(settings, name))
                settings.ClearField(name)
    return new


def _spread(layer: LayerParameter, name: str, values: Iterable[Any]) -> None:
    """V1 lists one property of all parameters; now each parameter lists its properties."""
    for index, value in enumerate(values):
        if len(layer.param) <= index:
            layer.param.add()
        setattr(layer.param[index], name, value)


def _refuse_old_transforms(layer: LayerParameter, index: int, origin: Origin) -> None:
    """Caffe passes over transforms in data_param where the layer is of the present format."""
    name = _TRANSFORMED.get(layer.type)
    if name and layer.HasField(name):
        old = [each for each in _TRANSFORMS if getattr(layer, name).HasField(each)]
        if old:
            message = f"{', '.join(old)} of {name} has no effect in a layer {{ }}"
            raise origin.error(index, message, "move it into transform_param { }", layer.name)


def _upgrade_inputs(net: NetParameter, origin: Origin) -> bool:
    """Make one Input layer of the net-level inputs. Returns whether there are any."""
    inputs, shapes, dims = list(net.input), list(net.input_shape), list(net.input_dim)
    net.ClearField("input")
    net.ClearField("input_shape")
    net.ClearField("input_dim")
    if shapes and dims:
        raise origin.error(None, "both input_shape and input_dim are given", "keep input_shape")
    if len(shapes or inputs) != len(inputs) or (not shapes and len(dims) != 4 * len(inputs)):
        given = f"{len(shapes)} input_shape" if shapes else f"{len(dims)} input_dim"
        message = f"{len(inputs)} input, but {given}"
        raise origin.error(None, message, "give one input_shape per input, or four input_dim per input")
    if not inputs:
        return False
    layer = LayerParameter(name="input", type="Input", top=inputs)
    for i in range(len(inputs)):
        layer.input_param.shape.add(dim=shapes[i].dim if shapes else dims[4 * i : 4 * i + 4])
    layers = [layer, *net.layer]
    net.ClearField("layer")
    net.layer.extend(layers)
    return True


def _freeze_batch_norm(layer: LayerParameter, index: int, origin: Origin) -> None:
    """BatchNorm's three blobs are statistics: forward moves them, a solver must not."""
    if len(layer.param) == 3:
        for spec in layer.param:
            spec.lr_mult = spec.decay_mult = 0
    elif any(spec.lr_mult for spec in layer.param):
        message = "BatchNorm's blobs are statistics and cannot be learned"
        raise origin.error(index, message, "give three param { lr_mult: 0 }, or none", layer.name)
