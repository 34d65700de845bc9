"""lossc_param { name: value }: free names in text, kept in the binary form, printed as they are written."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from lossc.errors import PrototxtError
from lossc.frontend import read_net_text, read_solver_text
from lossc.frontend.caffe_pb2 import LayerParameter, NetParameter
from lossc.frontend.extension import to_text, values_of
from lossc.frontend.text import parse

NET = """layer {{
  name: "l"
  type: "X"  # lossc_param {{ in: a comment }}
  lossc_param {{ {} }}
  top: "lossc_param {{ x: 1 }}"
}}
"""


def read(block: str) -> dict[str, list[object]]:
    net = NetParameter()
    parse(NET.format(block), net, file="n.prototxt")
    assert net.layer[0].top[0] == "lossc_param { x: 1 }"
    return {e.name: list(values_of(e)) for e in net.layer[0].lossc_param.entry}


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        ("", {}),
        ("delta: 0.5", {"delta": [0.5]}),
        ("a: -1e-3 b: +.5f, c: 3;", {"a": [-1e-3], "b": [0.5], "c": [3.0]}),
        ("class_weight: [1, 2, 0.5] x: 1", {"class_weight": [1.0, 2.0, 0.5], "x": [1.0]}),
        ("w: 1 x: 7 w: 2", {"w": [1.0, 2.0], "x": [7.0]}),
        ("w: []", {"w": []}),
        ("yes: true no: False", {"yes": [True], "no": [False]}),
        ("reduction: NONE", {"reduction": ["NONE"]}),
        (r"""file: 'a "b".npy' other: "x\n\"{" """, {"file": ['a "b".npy'], "other": ['x\n"{']}),
        ("# delta: 1 }\n a: 2 # more\n", {"a": [2.0]}),
    ],
)
def test_forms(block: str, wanted: dict[str, list[object]]) -> None:
    assert read(block) == wanted


@pytest.mark.parametrize(
    ("block", "message", "line"),
    [
        ("delta 0.5", "a : is missing after delta", 4),
        ("delta:", "delta has no value", 4),
        ("\n delta: { x: 1 }", "delta cannot be {", 5),
        ("a: 1 \n\n 7: 2", "7 is no name", 6),
        ("a: [1 2]", "a comma or the ] of a is missing", 4),
        ("a: [1, ", "the ] of a is missing", 4),
        ("a: 1 \n b: 1.2.3", "b cannot be 1.2.3", 5),
    ],
)
def test_errors_name_file_line_and_layer(block: str, message: str, line: int) -> None:
    with pytest.raises(PrototxtError) as caught:
        read(block)
    assert str(caught.value).startswith(f'n.prototxt:{line}: layer "l": {message}')
    assert "fix: write name: value" in str(caught.value)


def test_only_layers_of_the_present_format_have_it() -> None:
    with pytest.raises(PrototxtError, match='unknown field "lossc_param"'):
        read_net_text("layers { name: 'l' type: RELU lossc_param { a: 1 } }")
    with pytest.raises(PrototxtError, match='unknown field "lossc_param" in a net'):
        read_net_text("lossc_param { a: 1 }")


def test_errors_around_a_block_keep_their_lines() -> None:
    with pytest.raises(PrototxtError, match=r"n\.prototxt:5: .*colour"):
        parse(
            "layer { name: 'a' lossc_param {\n a: 1\n b: 2 }\n top: 'x'\n colour: 3 }",
            NetParameter(),
            file="n.prototxt",
        )


def test_inside_a_solver() -> None:
    solver = read_solver_text("""base_lr: 1 lr_policy: "fixed" max_iter: 1
        net_param { layer { name: "a" type: "A" } layer { name: "b" type: "B" lossc_param { k: 2 } } }""")
    first, second = solver.param.net_param.layer
    assert not first.HasField("lossc_param")
    assert [values_of(e) for e in second.lossc_param.entry] == [[2.0]]


def test_protobufs_own_form_is_read_too() -> None:
    net = NetParameter()
    parse(NET.format("delta: 0.5 mode: fast"), net, file="")
    again = NetParameter()
    parse(text_format.MessageToString(net), again, file="")
    assert again == net
    with pytest.raises(PrototxtError, match='unknown field "delta" in entry'):
        read("entry { delta: 1 }")


NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(FINITE, st.booleans(), st.text(st.characters(codec="utf-8"), max_size=8))


@given(st.dictionaries(NAMES, st.lists(VALUES, max_size=4), max_size=4))
def test_text_and_binary_round_trip(settings: dict[str, list[object]]) -> None:
    net = NetParameter(layer=[LayerParameter(name="l", type="X")])
    net.layer[0].lossc_param.SetInParent()
    for name, values in settings.items():
        entry = net.layer[0].lossc_param.entry.add(name=name)
        for value in values:
            kind = "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
            setattr(entry.value.add(), kind, value)
    assert NetParameter.FromString(net.SerializeToString()) == net
    again = NetParameter()
    parse(to_text(net), again, file="")
    assert again == net


def test_caffe_skips_it() -> None:
    """Its number is none of Caffe's, so that Caffe's own parser keeps it as an unknown field."""
    number = LayerParameter.DESCRIPTOR.fields_by_name["lossc_param"].number
    assert number > 100 * max(f.number for f in LayerParameter.DESCRIPTOR.fields if f.name != "lossc_param")
