"""Nets that make no sense: each gets one message that names file, line, layer and the fix."""

from __future__ import annotations

import pytest
from layer_nets import lower

from lossc.errors import GraphError

IMAGE = "2 4 5 6"

#: Layer text (bottoms x, perhaps z) -> (shapes of x and z, words that the message must hold).
CASES = {
    'type: "Convolution" bottom: "x" convolution_param { num_output: 2 }': ((IMAGE,), "has no kernel_size"),
    'type: "Convolution" bottom: "x" convolution_param { kernel_size: 2 }': ((IMAGE,), "num_output must be at least 1"),
    'type: "Convolution" bottom: "x" convolution_param { num_output: 2 kernel_size: 9 }': (
        (IMAGE,),
        "kernel of 9 does not fit into 5",
    ),
    'type: "Convolution" bottom: "x" convolution_param { num_output: 2 kernel_size: 2 group: 3 }': (
        (IMAGE,),
        "4 channels cannot be split into 3 groups",
    ),
    'type: "Convolution" bottom: "x" convolution_param { num_output: 3 kernel_size: 2 group: 2 }': (
        (IMAGE,),
        "num_output 3 cannot be split into 2 groups",
    ),
    'type: "Convolution" bottom: "x" convolution_param { num_output: 2 kernel_size: 2 kernel_h: 2 kernel_w: 2 }': (
        (IMAGE,),
        "kernel_size and kernel_h or kernel_w at once",
    ),
    'type: "Convolution" bottom: "x" convolution_param { num_output: 2 kernel_h: 2 kernel_w: 2 }': (
        ("2 3 4",),
        "need two spatial axes",
    ),
    'type: "Convolution" bottom: "x" convolution_param { num_output: 2 kernel_size: 2 stride: 0 }': (
        (IMAGE,),
        "strides must be at least 1",
    ),
    'type: "Convolution" bottom: "x" convolution_param { num_output: 2 kernel_h: 2 }': (
        (IMAGE,),
        "kernel sizes must be",
    ),
    'type: "Convolution" bottom: "x" convolution_param { num_output: 2 kernel_size: 2 dilation: 0 }': (
        (IMAGE,),
        "dilations must be at least 1",
    ),
    'type: "Convolution" bottom: "x" convolution_param { num_output: 2 kernel_size: [2, 2, 2] }': (
        (IMAGE,),
        "3 values of kernel_size for 2 spatial axes",
    ),
    'type: "Convolution" bottom: "x" convolution_param { num_output: 2 kernel_size: 2 axis: 4 }': ((IMAGE,), "axis 4"),
    'type: "Convolution" bottom: "x" bottom: "z" convolution_param { num_output: 2 kernel_size: 2 }': (
        (IMAGE, IMAGE),
        "2 bottoms need as many tops",
    ),
    'type: "Pooling" bottom: "x"': ((IMAGE,), "needs kernel_size, or kernel_h and kernel_w"),
    'type: "Pooling" bottom: "x" pooling_param { kernel_size: 2 }': (("2 3 4",), "must have 4 axes"),
    'type: "Pooling" bottom: "x" pooling_param { pool: STOCHASTIC kernel_size: 2 }': ((IMAGE,), "STOCHASTIC"),
    'type: "Pooling" bottom: "x" pooling_param { kernel_size: 2 pad: 2 }': (
        (IMAGE,),
        "must be smaller than the kernel",
    ),
    'type: "Pooling" bottom: "x" pooling_param { kernel_size: 2 global_pooling: true }': ((IMAGE,), "whole plane"),
    'type: "Pooling" bottom: "x" pooling_param { stride: 2 global_pooling: true }': ((IMAGE,), "pad 0 and stride 1"),
    'type: "Pooling" bottom: "x" pooling_param { kernel_size: 2 kernel_h: 2 kernel_w: 2 }': (
        (IMAGE,),
        "one of the two",
    ),
    'type: "Pooling" bottom: "x" pooling_param { kernel_size: 2 stride: 1 stride_h: 2 stride_w: 2 }': (
        (IMAGE,),
        "has stride and stride_h or stride_w at once",
    ),
    'type: "Pooling" bottom: "x" pooling_param { kernel_size: 2 stride: 0 }': ((IMAGE,), "strides must be at least 1"),
    'type: "Pooling" bottom: "x" pooling_param { kernel_size: 7 round_mode: FLOOR }': ((IMAGE,), "does not fit into 5"),
    'type: "Pooling" bottom: "x" top: "m" pooling_param { pool: AVE kernel_size: 2 }': (
        (IMAGE,),
        "only MAX has a second",
    ),
    'type: "Dropout" bottom: "x" dropout_param { dropout_ratio: 1 }': ((IMAGE,), "dropout_ratio 1"),
    'type: "Dropout" bottom: "x" dropout_param { dropout_ratio: -0.1 }': ((IMAGE,), "dropout_ratio -0.1"),
    'type: "Softmax" bottom: "x" softmax_param { axis: 4 }': ((IMAGE,), "axis 4 is out of range"),
    'type: "SoftmaxWithLoss" bottom: "x" bottom: "z"': ((IMAGE, "2 4"), "8 labels [2, 4] for 60 predictions"),
    'type: "SigmoidCrossEntropyLoss" bottom: "x" bottom: "z"': ((IMAGE, "2 4"), "one target per score"),
    'type: "EuclideanLoss" bottom: "x" bottom: "z"': ((IMAGE, "4 60"), "as many items and values per item"),
    'type: "Accuracy" bottom: "x" bottom: "z" accuracy_param { top_k: 5 }': (("3 4", "3"), "top_k 5 must be in 1..4"),
    'type: "Accuracy" bottom: "x" bottom: "z"': (("3 4", "4"), "4 labels [4] for 3 predictions"),
    'type: "Accuracy" bottom: "x" bottom: "z" loss_weight: 1': (("3 4", "3"), "has no gradient"),
    'type: "Eltwise" bottom: "x" bottom: "z"': ((IMAGE, "2 4 5 1"), "must have one shape"),
    'type: "Eltwise" bottom: "x" bottom: "z" eltwise_param { coeff: 1 }': ((IMAGE, IMAGE), "1 coeff for 2 bottoms"),
    'type: "Eltwise" bottom: "x" bottom: "z" eltwise_param { operation: MAX coeff: 1 coeff: 2 }': (
        (IMAGE, IMAGE),
        "with operation SUM only",
    ),
    'type: "Reduction" bottom: "x" reduction_param { axis: -5 }': ((IMAGE,), "axis -5 is out of range"),
    'type: "Concat" bottom: "x" bottom: "z"': ((IMAGE, "2 4 5 7"), "all axes but 1 must agree"),
    'type: "Concat" bottom: "x" bottom: "z" concat_param { axis: 1 concat_dim: 1 }': ((IMAGE, IMAGE), "at once"),
    'type: "Slice" bottom: "x" top: "m" top: "n"': ((IMAGE,), "cannot be cut into 3 equal parts"),
    'type: "Slice" bottom: "x" top: "m" slice_param { slice_point: 4 }': ((IMAGE,), "must rise strictly"),
    'type: "Slice" bottom: "x" top: "m" slice_param { slice_point: 1 slice_point: 2 }': (
        (IMAGE,),
        "2 slice_points for 2",
    ),
    'type: "Slice" bottom: "x" top: "m" slice_param { axis: 1 slice_dim: 1 }': ((IMAGE,), "at once"),
    'type: "Flatten" bottom: "x" flatten_param { axis: 3 end_axis: 1 }': ((IMAGE,), "stands before axis 3"),
    'type: "Reshape" bottom: "x" reshape_param { shape { dim: -1 dim: -1 } }': ((IMAGE,), "more than one -1"),
    'type: "Reshape" bottom: "x" reshape_param { shape { dim: 7 dim: -1 } }': ((IMAGE,), "does not divide"),
    'type: "Reshape" bottom: "x" reshape_param { shape { dim: 7 } }': ((IMAGE,), "top [7] has 7 elements"),
    'type: "Reshape" bottom: "x" reshape_param { shape { dim: -2 } }': ((IMAGE,), "negative dim"),
    'type: "Reshape" bottom: "x" reshape_param { axis: 3 num_axes: 2 shape { dim: 6 } }': ((IMAGE,), "exceed"),
    'type: "Reshape" bottom: "x" reshape_param { axis: -1 shape { dim: 0 } }': ((IMAGE,), "has no axis 4"),
    'type: "Reshape" bottom: "x" reshape_param { axis: 6 }': ((IMAGE,), "axis 6 is out of range"),
    'type: "InnerProduct" bottom: "x"': ((IMAGE,), "num_output must be at least 1"),
    'type: "InnerProduct" bottom: "x" inner_product_param { num_output: 2 weight_filler { type: "gausian" } }': (
        (IMAGE,),
        'did you mean "gaussian"?',
    ),
    'type: "InnerProduct" bottom: "x" inner_product_param { num_output: 2 weight_filler { type: "bilinear" } }': (
        (IMAGE,),
        "bilinear filler: needs 4 axes",
    ),
    'type: "InnerProduct" bottom: "x" inner_product_param { num_output: 2 weight_filler { type: "uniform" min: 2 } }': (
        (IMAGE,),
        "min 2 is above max 1",
    ),
    'type: "InnerProduct" bottom: "x" inner_product_param { num_output: 2 bias_filler { type: "gaussian" std: -1 } }': (
        (IMAGE,),
        "std -1 is negative",
    ),
    'type: "Input" top: "m" top: "n" input_param { shape { dim: 1 } shape { dim: 1 } }': ((), "2 shapes for 3 tops"),
    'type: "Input"': ((), "0 shapes for 1 top"),
    'type: "HingeLoss" bottom: "x" bottom: "z"': (("3 4", "3 4"), "one label per item"),
    'type: "MultinomialLogisticLoss" bottom: "x" bottom: "z"': (("3 4", "4"), "one label per item"),
    'type: "ContrastiveLoss" bottom: "x" bottom: "z"': (("3 4", "3 4"), "takes 3 to 4 bottoms, 2 given"),
    'type: "ContrastiveLoss" bottom: "x" bottom: "x" bottom: "z"': ((IMAGE, "2"), "features must be N x C"),
    'type: "ContrastiveLoss" bottom: "x" bottom: "x" bottom: "z"  ': (("3 4", "4"), "one similarity per pair"),
    'type: "InfogainLoss" bottom: "x" bottom: "z"': (("3 4", "3"), "needs the matrix H as third bottom"),
    'type: "InfogainLoss" bottom: "x" bottom: "z" bottom: "x"': (("3 4", "3"), "H must be 4 x 4, not [3, 4]"),
    'type: "InfogainLoss" bottom: "x" bottom: "z" bottom: "x" loss_param { normalize: true }': (
        ("3 3", "3"),
        "does not know normalize",
    ),
    'type: "Clip" bottom: "x" clip_param { min: 2 max: 1 }': ((IMAGE,), "min 2 is above max 1"),
    'type: "Clip" bottom: "x"': ((IMAGE,), "needs min and max"),
    'type: "Exp" bottom: "x" exp_param { base: -2 }': ((IMAGE,), "base -2 must be positive"),
    'type: "Log" bottom: "x" log_param { base: 1 }': ((IMAGE,), "base 1 must be positive and not 1"),
    'type: "PReLU" bottom: "x"': (("5",), "needs a channel axis"),
    'type: "BatchNorm" bottom: "x"': (("5",), "needs a channel axis"),
    'type: "LRN" bottom: "x"': (("3 5",), "must have 4 axes"),
    'type: "LRN" bottom: "x" lrn_param { local_size: 4 }': (("2 3 5 5",), "local_size is 4"),
    'type: "MVN" bottom: "x"': (("5",), "needs a batch and a channel axis"),
    'type: "Scale" bottom: "x" scale_param { axis: 3 num_axes: 2 }': ((IMAGE,), "axes 3 to 4 exceed the 4 axes"),
    'type: "Scale" bottom: "x" scale_param { num_axes: -2 }': ((IMAGE,), "num_axes -2 is negative"),
    'type: "Scale" bottom: "x" bottom: "z"': ((IMAGE, "5"), "second bottom [5] must equal axes 1..1"),
    'type: "Bias" bottom: "x" bottom: "z" bias_param { axis: 3 }': ((IMAGE, "6 7"), "axes 3 to 4 exceed"),
    'type: "Tile" bottom: "x" tile_param { axis: 1 }': ((IMAGE,), "tiles must be at least 1"),
    'type: "ArgMax" bottom: "x" argmax_param { top_k: 7 axis: 3 }': ((IMAGE,), "top_k 7 must be in 1..6"),
    'type: "ArgMax" bottom: "x" loss_weight: 1': ((IMAGE,), "has no gradient"),
    'type: "Data"': ((), "shapes of its tops are not known"),
    'type: "DummyData" dummy_data_param { shape { dim: 1 } num: 1 }': ((), "at once"),
    'type: "DummyData" dummy_data_param { num: 1 num: 2 num: 3 channels: 1 height: 1 width: 1 }': (
        (),
        "3 values of num for 1 top",
    ),
    'type: "DummyData" top: "m" top: "n" dummy_data_param { shape { dim: 1 } shape { dim: 1 } }': (
        (),
        "2 shapes for 3",
    ),
    'type: "DummyData" dummy_data_param { shape { dim: 1 } data_filler { } data_filler { } }': (
        (),
        "2 data_fillers for 1",
    ),
}


@pytest.mark.parametrize("text", CASES)
def test_message(text: str) -> None:
    shapes, words = CASES[text]
    net = ""
    for name, shape in zip("xz", shapes, strict=False):
        dims = " ".join(f"dim: {d}" for d in shape.split())
        net += f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'
    with pytest.raises(GraphError) as caught:
        lower(net + f'layer {{ name: "culprit" top: "y" {text} }}')
    message = str(caught.value)
    assert words in message
    assert message.startswith(f'<string>:{len(shapes) + 1}: layer "culprit": ')
    assert message.count('layer "culprit"') == 1
