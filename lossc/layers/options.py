"""Which layer types use which of Caffe's settings: one that a layer does not use is an error, not silence."""

from __future__ import annotations

from typing import Any

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


def check_options(param: Any) -> None:
    """Raises GraphError for a message of the LayerParameter that layers of its type do not use.

    Whole messages only: a field of a message that the type does use may still mean nothing beside others (``engine``,
    ``bias_filler`` without a bias; see also ``overruled``), which many published nets rely on.
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


def overruled(param: Any) -> GraphError | None:
    """What to warn of: a setting that another one beside it takes the effect of, as published nets have them."""
    loss = param.loss_param
    if loss.HasField("normalize") and loss.HasField("normalization"):
        mode = loss.NormalizationMode.Name(loss.normalization)
        return GraphError(
            f"normalize: {str(loss.normalize).lower()} has no effect beside normalization: {mode}",
            fix="remove normalize",
        )
    return None
