"""Kernels that differ in names alone share one C function; whatever else differs keeps them apart."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

import lossc
from lossc.frontend.net import read_net_text
from lossc.pipeline import Request, compile_net

HEAD = """name: "twins"
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 9 dim: 9 } } }
"""
LAYER = """layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
convolution_param {{ num_output: 4 kernel_size: {kernel} pad: {pad} weight_filler {{ type: "xavier" }} }} }}
"""
END = 'layer { name: "loss" type: "EuclideanLoss" bottom: "b" bottom: "data" top: "loss" }\n'


def net(second: int = 3) -> str:
    one = LAYER.format(name="a", bottom="data", kernel=3, pad=1)
    return HEAD + one + LAYER.format(name="b", bottom="a", kernel=second, pad=second // 2) + END


def request(text: str) -> Request:
    return Request(read_net_text(text, "twins.prototxt"), target="avx2", keep=("a",))


def test_equal_layers_share_a_function() -> None:
    program = compile_net(request(net())).program
    assert len(re.findall(r"^static void convolution_forward\(", program.source, re.MULTILINE)) == 1
    calls = re.findall(r"^    convolution_forward\((.*)\);    /\* (\w+) \*/$", program.source, re.MULTILINE)
    assert [name for _, name in calls] == ["a_forward", "b_forward"]
    assert "m + AT_data, net->param[0], m + AT_a," in calls[0][0] and "m + AT_a, net->param[2]" in calls[1][0]
    assert "convolution_forward is shared by these layers of twins.prototxt: a:3, b:5 */" in program.source


def test_other_sizes_keep_layers_apart() -> None:
    source = compile_net(request(net(second=5))).program.source
    assert "convolution_forward" not in source
    assert "static void a_forward(" in source and "static void b_forward(" in source


def test_places_and_timings_name_each_kernel() -> None:
    compiled = compile_net(replace(request(net()), timed=True))
    places = {p.node: p for p in compiled.program.functions}
    twins = [n for n in compiled.graph.section("forward") if n.layer in ("a", "b") and n.kernel.kind == "conv"]
    first, second = (places[n.id] for n in twins)
    assert (first.name, first.first, first.last) == (second.name, second.first, second.last)
    text = "\n".join(compiled.program.source.split("\n")[first.first - 1 : first.last])
    assert text.startswith("/* convolution_forward is shared") and text.endswith("}")
    table = [(k["name"], k["layer"], k["function"]) for k in compiled.program.manifest["kernels"]]
    assert table.count(("a_forward", "a", "convolution_forward")) == 1
    assert table.count(("b_forward", "b", "convolution_forward")) == 1
    assert len({name for name, _, _ in table}) == len(table)


def test_zeros_of_either_sign_are_not_the_same() -> None:
    power = 'layer {{ name: "{0}" type: "Power" bottom: "data" top: "{0}" power_param {{ scale: 0 shift: {1} }} }}\n'
    text = HEAD + power.format("p", "0.0") + power.format("q", "-0.0")
    source = compile_net(replace(request(text), keep=())).program.source
    assert "power_forward" not in source


def test_a_shared_function_computes_either_layer(tmp_path: Path) -> None:
    (tmp_path / "twins.prototxt").write_text(net())
    twins = lossc.Net(tmp_path / "twins.prototxt", lossc.TRAIN, keep="all", seed=5)
    assert "convolution_forward" in twins.source
    twins.forward(data=np.random.default_rng(1).standard_normal((2, 4, 9, 9)))
    first, second = (twins.blobs[name].data.copy() for name in "ab")
    for mine, other in zip(twins.params["a"], twins.params["b"], strict=True):
        mine.data[...] = other.data
    twins.forward(data=first)
    assert np.array_equal(twins.blobs["a"].data, second) and not np.array_equal(first, second)
