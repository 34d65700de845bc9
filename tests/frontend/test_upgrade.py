"""Older formats: each net equals the one written today."""

from __future__ import annotations

import pytest

from lossc.errors import PrototxtError
from lossc.frontend import read_net_text
from lossc.frontend.caffe_pb2 import LayerParameter, V1LayerParameter
from lossc.frontend.upgrade import V0_TYPES, V1_TYPES


def same(old: str, new: str) -> None:
    assert read_net_text(old).param == read_net_text(new).param


def fails(text: str) -> PrototxtError:
    with pytest.raises(PrototxtError) as caught:
        read_net_text(text, "n.prototxt")
    assert caught.value.file == "n.prototxt"
    return caught.value


def test_every_old_type_has_a_new_one():
    assert set(V1_TYPES) == set(V1LayerParameter.LayerType.keys())
    assert set(V0_TYPES.values()) <= set(V1_TYPES)
    assert len(set(V1_TYPES.values())) == len(V1_TYPES)


def test_v1_settings_exist_today_with_the_same_type():
    today = LayerParameter.DESCRIPTOR.fields_by_name
    for field in V1LayerParameter.DESCRIPTOR.fields:
        if field.name.endswith("_param"):
            assert today[field.name].message_type is field.message_type


def test_v1():
    same(
        """layers { name: "c" type: CONVOLUTION bottom: "x" top: "y" blobs_lr: 1 blobs_lr: 2 weight_decay: 1
             weight_decay: 0 param: "w" blob_share_mode: PERMISSIVE loss_weight: 0.5 include { phase: TRAIN }
             convolution_param { num_output: 2 kernel_size: 3 pad: 1 } }
           layers { name: "l" type: SOFTMAX_LOSS bottom: "y" bottom: "t" top: "l" loss_param { ignore_label: 3 } }""",
        """layer { name: "c" type: "Convolution" bottom: "x" top: "y"
             param { name: "w" share_mode: PERMISSIVE lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
             loss_weight: 0.5 include { phase: TRAIN }
             convolution_param { num_output: 2 kernel_size: 3 pad: 1 } }
           layer { name: "l" type: "SoftmaxWithLoss" bottom: "y" bottom: "t" top: "l"
             loss_param { ignore_label: 3 } }""",
    )


def test_v1_blobs_come_along():
    net = read_net_text('layers { name: "b" type: POWER blobs { num: 1 channels: 1 height: 1 width: 2 data: [3, 4] } }')
    assert list(net.param.layer[0].blobs[0].data) == [3, 4]


@pytest.mark.parametrize("kind", ["data", "image_data", "window_data"])
def test_transforms_move_out(kind):
    new_type = {"data": "Data", "image_data": "ImageData", "window_data": "WindowData"}[kind]
    same(
        f'layers {{ type: {kind.upper()} {kind}_param {{ source: "s" scale: 0.1 mirror: true crop_size: 3 '
        'mean_file: "m" } transform_param { scale: 9 } }',
        f'layer {{ type: "{new_type}" {kind}_param {{ source: "s" }} '
        'transform_param { scale: 0.1 mirror: true crop_size: 3 mean_file: "m" } }',
    )
    error = fails(f'\nlayer {{ name: "d" type: "{new_type}" {kind}_param {{ scale: 0.1 }} }}')
    assert (error.line, error.layer) == (2, "d")
    assert f"scale of {kind}_param has no effect" in error.message


def test_v0():
    same(
        """name: "n" force_backward: true
           layers { layer { name: "d" type: "data" source: "db" batchsize: 4 scale: 0.5 meanfile: "m" cropsize: 3
                            mirror: true rand_skip: 2 } top: "x" top: "t" }
           layers { layer { name: "c" type: "conv" num_output: 6 kernelsize: 3 group: 2 stride: 2 pad: 1 biasterm: false
                            weight_filler { type: "xavier" } blobs_lr: 1 weight_decay: 2 } bottom: "x" top: "c" }
           layers { layer { name: "p" type: "pool" pool: AVE kernelsize: 2 stride: 2 } bottom: "c" top: "p" }
           layers { layer { name: "n" type: "lrn" local_size: 3 alpha: 0.2 beta: 0.5 k: 2 } bottom: "p" top: "n" }
           layers { layer { name: "o" type: "dropout" dropout_ratio: 0.3 } bottom: "n" top: "n" }
           layers { layer { name: "i" type: "images" source: "s" shuffle_images: true new_height: 5 } top: "i" }
           layers { layer { name: "w" type: "window_data" det_fg_threshold: 0.7 det_crop_mode: "square" } top: "w" }
           layers { layer { name: "h" type: "hdf5_output" hdf5_output_param { file_name: "f" } } bottom: "n" }
           layers { layer { name: "j" type: "concat" concat_dim: 0 } bottom: "i" bottom: "w" top: "j" }
           layers { layer { name: "l" type: "infogain_loss" source: "m" } bottom: "n" bottom: "t" }""",
        """name: "n" force_backward: true
           layer { name: "d" type: "Data" top: "x" top: "t" data_param { source: "db" batch_size: 4 rand_skip: 2 }
                   transform_param { scale: 0.5 mean_file: "m" crop_size: 3 mirror: true } }
           layer { name: "c" type: "Convolution" bottom: "x" top: "c" param { lr_mult: 1 decay_mult: 2 }
                   convolution_param { num_output: 6 kernel_size: 3 group: 2 stride: 2 pad: 1 bias_term: false
                                       weight_filler { type: "xavier" } } }
           layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
           layer { name: "n" type: "LRN" bottom: "p" top: "n" lrn_param { local_size: 3 alpha: 0.2 beta: 0.5 k: 2 } }
           layer { name: "o" type: "Dropout" bottom: "n" top: "n" dropout_param { dropout_ratio: 0.3 } }
           layer { name: "i" type: "ImageData" top: "i" image_data_param { source: "s" shuffle: true new_height: 5 } }
           layer { name: "w" type: "WindowData" top: "w" window_data_param { fg_threshold: 0.7 crop_mode: "square" } }
           layer { name: "h" type: "HDF5Output" bottom: "n" hdf5_output_param { file_name: "f" } }
           layer { name: "j" type: "Concat" bottom: "i" bottom: "w" top: "j" concat_param { concat_dim: 0 } }
           layer { name: "l" type: "InfogainLoss" bottom: "n" bottom: "t" infogain_loss_param { source: "m" } }""",
    )


PADDED = """\
layers { layer { name: "d" type: "data" } top: "x" }
layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "x" top: "xp" }
layers { layer { name: "c" type: "TYPE" kernelsize: 3 } bottom: "xp" top: "y" }
"""


def test_padding_layers_merge():
    net = read_net_text(PADDED.replace("TYPE", "conv"))
    assert [layer.name for layer in net.param.layer] == ["d", "c"]
    assert net.lines == (1, 3)
    assert (list(net.param.layer[1].bottom), list(net.param.layer[1].convolution_param.pad)) == (["x"], [2])
    assert read_net_text(PADDED.replace("TYPE", "pool")).param.layer[1].pooling_param.pad == 2
    error = fails(PADDED.replace("TYPE", "relu"))
    assert (error.line, error.layer) == (3, "c")
    assert 'padding layer "pad"' in error.message


@pytest.mark.parametrize(
    "text, line, layer, message, fix",
    [
        ('\nlayers { layer { name: "z" type: "convv" } }', 2, "z", 'unknown layer type "convv"', "conv"),
        ('\nlayers { layer { name: "z" type: "relu" num_output: 3 } }', 2, "z", "num_output means nothing", "remove"),
        ('\nlayers { layer { name: "z" type: "conv" new_num: 3 } }', 2, "z", "new_num means nothing", "remove"),
        ('layers { layer { name: "z" } }', 1, "z", "has no type", "type"),
        ('layers { name: "z" }', 1, "z", "has no type", "type"),
    ],
)
def test_old_nets_that_mean_nothing(text, line, layer, message, fix):
    error = fails(text)
    assert (error.line, error.layer) == (line, layer)
    assert message in error.message and fix in error.fix


LAYER = 'layer { name: "r" type: "ReLU" bottom: "x" top: "z" }'


def test_inputs_become_one_layer():
    written_today = f"""layer {{ name: "input" type: "Input" top: "x" top: "y"
        input_param {{ shape {{ dim: [1, 2, 3, 4] }} shape {{ dim: [5, 6, 7, 8] }} }} }} {LAYER}"""
    same(f'{LAYER} input: "x" input: "y" input_dim: [1, 2, 3, 4, 5, 6, 7, 8]', written_today)
    same(
        f'input: "x" input: "y" input_shape {{ dim: [1, 2, 3, 4] }} input_shape {{ dim: [5, 6, 7, 8] }} {LAYER}',
        written_today,
    )
    assert read_net_text(f'\ninput: "x" input_dim: [1, 2, 3, 4]\n{LAYER}').lines == (2, 3)


@pytest.mark.parametrize(
    "text, line",
    [
        ('\ninput: "x"', 2),
        ('\ninput: "x" input_dim: 3', 2),
        ('input: "x" input: "y" input_shape { dim: 3 }', 1),
        ('\n\ninput: "x" input_shape { dim: 3 } input_dim: [1, 1, 1, 3]', 3),
        ("input_shape { dim: 3 }", None),
    ],
)
def test_inputs_without_one_shape_each(text, line):
    error = fails(f"{text} {LAYER}")
    assert error.line == line
    assert "input" in error.message and "input_shape" in error.fix


def test_batch_norm_is_not_learned():
    net = read_net_text('layer { name: "b" type: "BatchNorm" param { name: "m" } param { lr_mult: 1 } param { } }')
    assert [(p.name, p.lr_mult, p.decay_mult) for p in net.param.layer[0].param] == [
        ("m", 0, 0),
        ("", 0, 0),
        ("", 0, 0),
    ]
    assert read_net_text('layer { type: "BatchNorm" param { lr_mult: 0 } }').lines == (1,)
    error = fails('\nlayer { name: "b" type: "BatchNorm" param { lr_mult: 0 } param { } }')
    assert (error.line, error.layer) == (2, "b")
