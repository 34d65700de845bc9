"""Nets: which layers are in them, and which descriptions are refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossc.errors import PrototxtError, UsageError
from lossc.frontend import read_net, read_net_text, resolve_path
from lossc.frontend.caffe_pb2 import TEST, TRAIN, LayerParameter, NetParameter, NetState, NetStateRule
from lossc.frontend.rules import included, meets

PHASES = """\
name: "phases"
layer { name: "data" type: "Input" top: "x" include { phase: TRAIN } }
layer { name: "data" type: "Input" top: "x" include { phase: TEST } }
layer { name: "deep" type: "ReLU" bottom: "x" top: "y" include { stage: "deep" not_stage: "flat" } }
layer { name: "acc" type: "Accuracy" bottom: "x" top: "a" exclude { phase: TRAIN } exclude { min_level: 2 } }
layer { name: "all" type: "Silence" bottom: "x" }
"""


def names(net):
    return [layer.name for layer in net.param.layer]


@pytest.mark.parametrize(
    "arguments, expected, lines",
    [
        ({}, ["data", "all"], (2, 6)),
        ({"phase": "TEST"}, ["data", "acc", "all"], (3, 5, 6)),
        ({"phase": TEST, "level": 2}, ["data", "all"], (3, 6)),
        ({"stages": ["deep"]}, ["data", "deep", "all"], (2, 4, 6)),
        ({"stages": "deep"}, ["data", "deep", "all"], (2, 4, 6)),
        ({"phase": "train", "stages": ["deep", "flat"]}, ["data", "all"], (2, 6)),
    ],
)
def test_phases(arguments, expected, lines):
    net = read_net_text(PHASES, **arguments)
    assert (names(net), net.lines, net.name) == (expected, lines, "phases")
    assert net.line(1) == lines[1]
    assert all(layer.phase == net.phase for layer in net.param.layer)


def test_stages_of_the_net_stay_and_phase_is_overwritten():
    net = read_net_text('state { phase: TEST level: 5 stage: "deep" }' + PHASES, stages=["other"])
    assert names(net) == ["data", "deep", "all"]
    assert (net.phase, net.param.state.level, set(net.param.state.stage)) == (TRAIN, 0, {"deep", "other"})


def test_a_message_is_left_as_it_is():
    message = NetParameter(input=["x"], input_dim=[1, 2, 3, 4])
    message.layer.add(name="l", type="ReLU", bottom=["x"], top=["y"])
    before = message.SerializeToString()
    net = read_net(message, file="mine")
    assert (names(net), net.file, net.lines) == (["input", "l"], "mine", (None, None))
    assert message.SerializeToString() == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.file = "other"


@pytest.mark.parametrize(
    "text, line, message",
    [
        ('\nlayer { name: "a" top: "x" }', 2, "has no type"),
        ('\nlayer { name: "a" type: "X" include { } exclude { } }', 2, "both include and exclude"),
        ('layer { name: "a" type: "X" include { phase: TEST } }', None, "no layer is left in phase TRAIN, level 0"),
        ("# nothing", None, "no layers"),
        (
            'layer { name: "a" type: "X" top: "y" }\nlayer { name: "a" type: "Z" top: "y" }',
            2,
            'line 1, and both write "y"',
        ),
        (
            'layer { name: "a" type: "Convolution" top: "y" }\nlayer { name: "a" type: "Scale" bottom: "y" top: "z" }',
            2,
            "line 1, and both have parameters",
        ),
        ('layer { name: "a" type: "X" }\nlayers { name: "b" type: RELU }', None, "both formats"),
    ],
)
def test_errors(text, line, message):
    with pytest.raises(PrototxtError) as caught:
        read_net_text(text, "n.prototxt")
    assert message in caught.value.message
    assert (caught.value.file, caught.value.line) == ("n.prototxt", line)
    assert caught.value.fix


def test_layers_may_share_a_name():
    relu = 'layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }'
    assert len(read_net_text(relu + relu.replace('"a"', '"b"')).lines) == 2
    two_bottoms = 'layer { name: "s" type: "Scale" bottom: "a" bottom: "b" top: "c" }'
    learned = 'layer { name: "s" type: "InnerProduct" bottom: "c" top: "d" }'
    assert len(read_net_text(two_bottoms + learned).lines) == 2
    assert len(read_net_text('layer { type: "X" top: "a" } layer { type: "X" top: "a" }').lines) == 2


def test_unknown_phase():
    with pytest.raises(UsageError, match="no phase 'VALIDATE'"):
        read_net_text(PHASES, phase="VALIDATE")


def test_resolve_path(tmp_path, monkeypatch):
    folder = tmp_path / "nets"
    folder.mkdir()
    (folder / "net.prototxt").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve_path("net.prototxt", "nets/solver.prototxt") == "nets/net.prototxt"
    (tmp_path / "net.prototxt").touch()
    assert resolve_path("net.prototxt", "nets/solver.prototxt") == "net.prototxt"
    assert resolve_path("absent", "nets/solver.prototxt") == "absent"
    assert resolve_path("net.prototxt") == "net.prototxt"


stages = st.lists(st.sampled_from("abc"), max_size=3, unique=True)
levels = st.none() | st.integers(-1, 2)
states = st.builds(NetState, phase=st.sampled_from([TRAIN, TEST]), level=st.integers(-1, 2), stage=stages)
@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("loss_weight: nan", "loss_weight is nan"),
        ("loss_weight: 1 loss_weight: -inf", "loss_weight is -inf"),
        ("param { lr_mult: inf }", "param.lr_mult is inf"),
        ("power_param { shift: nan }", "power_param.shift is nan"),
        ("inner_product_param { weight_filler { std: nan } }", "inner_product_param.weight_filler.std is nan"),
        ("clip_param { min: nan max: 1 }", "clip_param.min is nan"),
    ],
)
def test_numbers_must_be_finite(field, message):
    with pytest.raises(PrototxtError) as caught:
        read_net_text(f'layer {{ name: "x" type: "Input" }}\nlayer {{ name: "y" type: "Power" {field} }}', "n.prototxt")
    assert (caught.value.message, caught.value.layer, caught.value.line) == (message, "y", 2)


def test_a_clip_may_be_open_on_one_side():
    net = read_net_text('layer { name: "y" type: "Clip" clip_param { min: 0 max: inf } }')
    assert net.param.layer[0].clip_param.max == float("inf")


rules = st.builds(
    NetStateRule,
    phase=st.none() | st.sampled_from([TRAIN, TEST]),
    min_level=levels,
    max_level=levels,
    stage=stages,
    not_stage=stages,
)


@given(states, st.lists(rules, max_size=3))
def test_rules_are_joined_by_or_and_exclude_is_the_opposite(state, several):
    any_meets = any(meets(state, rule) for rule in several)
    assert included(LayerParameter(include=several), state) == (any_meets or not several)
    assert included(LayerParameter(exclude=several), state) == (not any_meets)


@given(states, rules)
def test_a_rule_is_the_conjunction_of_its_parts(state, rule):
    parts = []
    for field, value in rule.ListFields():
        for each in value if field.name.endswith("stage") else [value]:
            part = NetStateRule()
            if field.name.endswith("stage"):
                getattr(part, field.name).append(each)
            else:
                setattr(part, field.name, each)
            parts.append(meets(state, part))
    assert meets(state, rule) == all(parts)
    assert meets(state, NetStateRule())
