"""Text: where fields stand, and errors that name the line, the word and the way out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossc.errors import LosscError, PrototxtError
from lossc.frontend import closest, read_net, read_net_text, unknown_layer_type
from lossc.frontend.caffe_pb2 import NetParameter
from lossc.frontend.places import scan
from lossc.frontend.text import parse

NET = """\
name: "net"  # layer { in a comment }
layer {
  name: "data" type: "Input" top: "data"
  input_param { shape: { dim: 2 dim: 3 } }
}
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {
    num_output: 4
    weight_filler { type: 'xavier' }
  } }
"""


def fails(text: str) -> PrototxtError:
    with pytest.raises(PrototxtError) as caught:
        read_net_text(text, "n.prototxt")
    assert caught.value.file == "n.prototxt"
    return caught.value


def test_places():
    root = scan(NET)
    assert [place.line for place in root.fields["layer"]] == [2, 6]
    second = root.find("layer", 1)
    assert second.text_of("name") == "ip"
    assert second.find("inner_product_param").line_of("num_output") == 8
    assert root.line_of("layer", 2) is None
    names = [place.name for place in root.path_to(NET.index("xavier"))]
    assert names == ["", "layer", "inner_product_param", "weight_filler", "type"]


@pytest.mark.parametrize(
    "text, lines",
    [
        ("layer <\n>\nlayer: {}", [1, 3]),
        ("layer: [ {},\n {}\n]\nlayer {}", [1, 2, 4]),
        ('layer { top: ["}",\n"{"] }\n\nlayer {}', [1, 4]),
        ("name: 'layer { \\' '\nlayer {}", [2]),
        ("layer\n{ } ; layer { include { } }, \nlayer { }", [1, 2, 3]),
        ("# layer { }\r\nlayer { }\r\n", [2]),
    ],
)
def test_places_of_all_notations(text, lines):
    net = NetParameter()
    places = parse(text, net, file="n")
    assert [place.line for place in places.fields["layer"]] == lines
    assert len(net.layer) == len(lines)


def test_places_of_repeated_strings():
    places = scan('layer { top: ["a",\n "b"]\n top: "c" }').find("layer")
    assert [(place.value, place.line) for place in places.fields["top"]] == [('"a"', 1), ('"b"', 2), ('"c"', 3)]


@pytest.mark.parametrize(
    "text, line, layer, message, fix",
    [
        ('layer {\n name: "c"\n nam: "x" }', 3, "c", 'unknown field "nam" in layer', "name"),
        ('layer { name: "c"\n convolution_param {\n kernelsize: 3 } }', 3, "c", '"kernelsize" in conv', "kernel_size"),
        ('layer { name: "i" type: "InnerProduct"\nnum_output: 3 }', 2, "i", "num_output", "inner_product_param {"),
        ('layer { name: "i"\nnum_output: 3 }', 2, "i", "num_output", "convolution_param, embed_param"),
        ('layer { name: "p"\n pooling_param { pool: MAXX } }', 2, "p", "pool cannot be MAXX", "mean MAX?"),
        ('layer { name: "p" include { phase:\n 7 } }', 2, "p", "phase cannot be 7", "TEST, TRAIN"),
        ('layer { name: "a" type: "X"\n\nlayer { name: "b" }', 3, "a", '"layer" in layer', "layer { of line 1"),
        ('layer { name: "a"\npooling_param {\n stride: 2\n top: "x" } }', 4, "a", "top", "pooling_param { of line 2"),
        ('name: "n"\nlayer {\n name: "a"\n top: "x"\n\n', 2, "a", "still open", "close it"),
        ("layer {\n name: c }", 2, "c", "string in quotes, not c", 'name: "c"'),
        ('layer { name: "c"\n type: CONVOLUTION }', 2, "c", "type wants a string", 'type: "Convolution"'),
        ('layers { name: "c"\n type: "Convolution" }', 2, "c", "without quotes", 'layer { type: "Convolution"'),
        ('name: "a"\nname: "b"', 2, None, "name is given twice, first in line 1", "keep one"),
        ("layer {\n loss_weight: high }", 2, None, "loss_weight wants a number, not high", None),
        ("layer { pooling_param {\n kernel_size: 1.5 } }", 2, None, "a whole number, not 1.5", None),
        ("layer { pooling_param {\n kernel_size: -1 } }", 2, None, "cannot be -1: out of range", None),
        ("\nforce_backward: maybe", 2, None, "true or false", None),
        ('\nlayer { name: "abc\n }', 2, "abc", "ending quote", None),
        ('layer {\n name "x" }', 2, "x", "a : is missing after name", None),
        ('\nlayer: "x"', 2, None, "layer wants its fields in { }", None),
        ("layer {}\n}", 2, None, '"}" cannot stand here', "too early"),
        ("\n$", 2, None, '"$" cannot stand here', "remove"),
        ('layer { name: "k" type: "Clip"\n clip_param { min: 0 } }', 2, "k", "clip_param lacks max", "add max"),
        ("base_lr: 0.1", 1, None, "base_lr", "looks like the file of a solver"),
        ('\nlayer { name: "d"\n data_param { source: "C:\\\\x\\data" } }', 3, "d", "\\d in a string", "/ in the paths"),
        ("\nfoo: 1", 2, None, 'unknown field "foo" in a net', "input_shape"),
    ],
)
def test_errors(text, line, layer, message, fix):
    error = fails(text)
    assert (error.line, error.layer) == (line, layer)
    assert message in error.message
    assert fix is None or fix in error.fix
    assert "caffe." not in str(error) and "\n" not in error.message


def test_files_that_are_no_text(tmp_path):
    def error_of(path):
        with pytest.raises(PrototxtError) as caught:
            read_net(path)
        assert caught.value.file == str(path)
        return str(caught.value)

    (tmp_path / "lenet.prototxt").write_text("")
    assert "is empty" in error_of(tmp_path / "lenet.prototxt")
    assert "lenet.prototxt?" in error_of(tmp_path / "lenett.prototxt")
    assert "does not exist either" in error_of(tmp_path / "nowhere" / "net.prototxt")
    assert "is a folder" in error_of(tmp_path)
    for number, data in enumerate([b"\n\x03net\x00\x01", b"\xff\xfename", b"\x89HDF\r\n\x1a\n\0"]):
        path = tmp_path / f"{number}.prototxt"
        path.write_bytes(data)
        assert "text" in error_of(path)


def test_byte_order_mark(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"\xef\xbb\xbf" + NET.encode())
    assert read_net(path).lines == (2, 6)


def test_suggestions():
    assert closest("relu", ["ReLU", "PReLU", "TanH"]) == "ReLU"
    assert closest("xyz", ["ReLU"]) is None
    error = unknown_layer_type("SoftmaxLoss", ["SoftmaxWithLoss", "ReLU"], layer="loss", file="n", line=3)
    assert str(error) == 'n:3: layer "loss": unknown layer type "SoftmaxLoss"\n  fix: did you mean "SoftmaxWithLoss"?'
    assert "ReLU, TanH" in unknown_layer_type("Zap", ["TanH", "ReLU"]).fix


@given(st.integers(0, len(NET)), st.integers(0, 12), st.text("{}<>[]:\"'#,; \nab0-.\\", max_size=6))
def test_damaged_text_never_crashes(start, length, insert):
    damaged = NET[:start] + insert + NET[start + length :]
    try:
        net = read_net_text(damaged, "n.prototxt")
    except LosscError as error:
        assert error.file == "n.prototxt"
        assert error.line is None or 1 <= error.line <= damaged.count("\n") + 1
    else:
        lines = damaged.split("\n")
        assert all("lay" in lines[line - 1] or "{" in lines[line - 1] for line in net.lines)


@given(st.text())
def test_any_text_never_crashes(text):
    scan(text)
    with pytest.raises(PrototxtError):
        read_net_text(text)
