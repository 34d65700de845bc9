"""Which layer types use which of Caffe's settings: one that a layer does not use is an error, not silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lossc.errors import GraphError

#: The layer types that use a message of LayerParameter.
USED_BY: dict[str, tuple[str, ...]] = {
    "accuracy_param": ("Accuracy",),
    "argmax_param": ("ArgMax",),
    "batch_norm_param": ("BatchNorm",),
    "bias_param": ("Bias",),
    "clip_param": ("Clip",),
    "concat_param": ("Concat",),
    "contrastive_loss_param": ("ContrastiveLoss",),
    "convolution_param": ("Convolution", "Deconvolution", "Im2col"),
    "crop_param": ("Crop",),
    "data_param": ("Data",),
    "dropout_param": ("Dropout",),
    "dummy_data_param": ("DummyData",),
    "eltwise_param": ("Eltwise",),
    "elu_param": ("ELU",),
    "embed_param": ("Embed",),
    "exp_param": ("Exp",),
    "flatten_param": ("Flatten",),
    "hdf5_data_param": ("HDF5Data",),
    "hdf5_output_param": ("HDF5Output",),
    "hinge_loss_param": ("HingeLoss",),
    "image_data_param": ("ImageData",),
    "infogain_loss_param": ("InfogainLoss",),
    "inner_product_param": ("InnerProduct",),
    "input_param": ("Input",),
    "log_param": ("Log",),
    "loss_param": ("InfogainLoss", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss"),
    "lrn_param": ("LRN",),
    "memory_data_param": ("MemoryData",),
    "mvn_param": ("MVN",),
    "parameter_param": ("Parameter",),
    "pooling_param": ("Pooling",),
    "power_param": ("Power",),
    "prelu_param": ("PReLU",),
    "python_param": ("Python",),
    "recurrent_param": ("LSTM", "RNN"),
    "reduction_param": ("Reduction",),
    "relu_param": ("ReLU",),
    "reshape_param": ("Reshape",),
    "scale_param": ("Scale",),
    "sigmoid_param": ("Sigmoid",),
    "slice_param": ("Slice",),
    "softmax_param": ("Softmax", "SoftmaxWithLoss"),
    "spp_param": ("SPP",),
    "swish_param": ("Swish",),
    "tanh_param": ("TanH",),
    "threshold_param": ("Threshold",),
    "tile_param": ("Tile",),
    "transform_param": ("Data", "ImageData", "MemoryData", "WindowData"),
    "window_data_param": ("WindowData",),
}

#: Where a setting stands that somebody seems to have meant.
_MEANT = {
    ("Accuracy", "loss_param"): "write accuracy_param { ignore_label: ... }",
    ("Accuracy", "softmax_param"): "write accuracy_param { axis: ... }",
    ("InfogainLoss", "softmax_param"): "write infogain_loss_param { axis: ... }",
}


def check_options(param: Any, phase: str) -> None:
    """Raises GraphError for what a LayerParameter of a net for ``phase`` gives though its type does not use it.

    Whole messages, and the fields that no neighbour gives a meaning to. A field of a message that the type does use may
    still mean nothing beside others (``engine``, ``bias_filler`` without a bias; see also ``idle``), which many
    published nets rely on.
    """
    for field, value in param.ListFields():
        users = USED_BY.get(field.name)
        if users is None or param.type in users:
            continue
        given = ", ".join(inner.name for inner, _ in value.ListFields())
        uses = f"{users[0]} uses it" if len(users) == 1 else f"{', '.join(users[:-1])} and {users[-1]} use it"
        raise GraphError(
            f"{field.name}{f' {{ {given} }}' if given else ''} has no effect on {param.type}",
            fix=_MEANT.get((param.type, field.name), f"remove it; {uses}"),
        )
    if param.blobs:
        raise GraphError("blobs have no effect in a net's description", fix="give parameters' values in a weights file")
    own = param.DESCRIPTOR.fields_by_name["phase"].enum_type.values_by_number[param.phase].name
    if param.HasField("phase") and own != phase:
        message = f"phase: {own} has no effect on a layer of a net for phase {phase}"
        raise GraphError(message, fix=f"include {{ phase: {own} }} keeps the layer out of other phases")
    for message in (param.loss_param, param.accuracy_param):
        if message.HasField("ignore_label") and int(np.float32(message.ignore_label)) != message.ignore_label:
            text = f"ignore_label {message.ignore_label} has no effect: no label in float32 is it"
            raise GraphError(text, fix="whole numbers up to 16777216 can be labels")


def idle(param: Any) -> Iterator[GraphError]:
    """What to warn of: settings without effect that published nets have."""
    loss = param.loss_param
    if loss.HasField("normalize") and loss.HasField("normalization"):
        mode = loss.NormalizationMode.Name(loss.normalization)
        yield GraphError(
            f"normalize: {str(loss.normalize).lower()} has no effect beside normalization: {mode}",
            fix="remove normalize",
        )
    if engine := param.softmax_param.engine:
        name = param.softmax_param.Engine.Name(engine)
        yield GraphError(f"engine: {name} has no effect: every layer is generated code", fix="remove engine")
