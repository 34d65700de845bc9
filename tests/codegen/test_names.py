"""Names from nets, numbers and texts as C tokens, however hostile."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossc.build import compile_library
from lossc.codegen.names import Names, comment, identifier, literal, string
from lossc.codegen.program import generate
from lossc.frontend.net import read_net_text
from lossc.layers.net import import_net
from lossc.passes.pipeline import run_passes
from lossc.targets import host_target

HOSTILE = (
    "int", "a-b", "a_b", 'x"*/', "naïve/日本", "n" * 300, "n", "t", "shared", "row", "x\\", "??/", "main", "net", "m",
    "vf32_add", "expf", "local", "NULL", "NAN", "INFINITY", "begin", "k", "zero", "SIZE", "run_forward",
    "loss_total", "int.diff", "int.w", "a@b",
)  # fmt: skip
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror", "-O1")


@given(st.text())
def test_identifiers_are_valid(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", identifier(text))


@given(st.lists(st.text(max_size=4), max_size=20, unique=True))
def test_identifiers_are_unique(texts: list[str]) -> None:
    names = Names()
    given_names = [names.of(t) for t in texts]
    assert len(set(given_names)) == len(texts)
    assert given_names == [names.of(t) for t in texts]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float_literals_read_back(value: float) -> None:
    text = literal(value, "f32")
    assert text.endswith("f") and np.float32(text[:-1]) == np.float32(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_double_literals_read_back(value: float) -> None:
    assert float(literal(value, "f64")) == value


@given(st.text())
def test_comments_stay_comments(text: str) -> None:
    clean = comment(text)
    assert "*/" not in clean and "/*" not in clean and "\n" not in clean and "\\" not in clean


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_strings_hold_the_bytes(text: str) -> None:
    quoted = string(text)
    assert re.fullmatch(r'"([^"\\?]|\\[0-7]{3})*"', quoted)
    plain = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), quoted[1:-1].encode())
    assert plain == text.encode()


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_hostile_names_compile_without_a_warning(dtype: str) -> None:
    def quoted(name: str) -> str:
        return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'

    layers, before = [], "in"
    for name in HOSTILE:
        top = quoted(name)
        layers.append(f'layer {{ name: {top} type: "TanH" bottom: {quoted(before)} top: {top} }}')
        before = name
    ends = f'bottom: {quoted(before)} bottom: "in" top: "loss*/"'
    text = (
        'name: "x*/ \\"" layer { name: "in" type: "Input" top: "in" input_param { shape { dim: 3 dim: 5 } } }'
        + "".join(layers)
        + f'layer {{ name: "/*loss" type: "EuclideanLoss" {ends} }} force_backward: true'
    )
    source = read_net_text(text, "a*/b.prototxt")
    graph = import_net(source.param, "TRAIN", file="a*/b.prototxt", line_of=source.line)
    graph.options["keep"] = "all"
    run_passes(graph)
    target = replace(host_target(), dtype="float32" if dtype == "f32" else "float64")
    made = generate(graph, target.isa, dtype)
    assert compile_library(
        made.source, target=target, extra_flags=WARNINGS, extra_files={"net.h": made.header}
    ).exists()
