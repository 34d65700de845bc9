"""Settings that layer types take in lossc_param."""

from __future__ import annotations

from typing import Any

import pytest
from layer_nets import lower

from lossc.errors import GraphError
from lossc.layers.activation import ReLU
from lossc.layers.extras import Extra


class Demo(ReLU):
    """A layer that keeps what it was given."""

    type = "Demo"
    extras = {
        "delta": Extra("number", 0.5, least=0.0),
        "k": Extra("integer", 3),
        "fast": Extra("truth", False),
        "mode": Extra("text", "mean", choices=("mean", "sum")),
        "weight": Extra("numbers", ()),
        "share": Extra("number", 0.0, least=0, most=1),
        "gamma": Extra.of(2),
        "names": Extra.of(("a",)),
    }


def demo(block: str, kind: str = "Demo") -> Any:
    text = f"""layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 }} }} }}
layer {{ name: "d" type: "{kind}" bottom: "x" top: "y" lossc_param {{ {block} }} }}"""
    return lower(text, layers={"Demo": Demo}).calls[1].layer


def test_defaults_and_values() -> None:
    layer = demo("")
    assert [layer.extra(n) for n in Demo.extras] == [0.5, 3, False, "mean", (), 0.0, 2, ("a",)]
    layer = demo('delta: 2 k: 7 fast: true mode: "sum" weight: [1, 2.5] share: 1 gamma: 0.5 names: b names: "c d"')
    assert [layer.extra(n) for n in Demo.extras] == [2, 7, True, "sum", (1, 2.5), 1, 0.5, ("b", "c d")]
    assert type(demo("k: 7").extra("k")) is int
    assert type(demo("gamma: 4").extra("gamma")) is int
    assert type(demo("delta: 4").extra("delta")) is float


@pytest.mark.parametrize(
    ("block", "message", "fix"),
    [
        ("delat: 1", 'Demo has no setting "delat" in lossc_param', "did you mean delta?"),
        ("colour: 1", 'Demo has no setting "colour" in lossc_param', "it takes delta, fast, gamma"),
        ("delta: true", "delta wants a number, not true", None),
        ("delta: [1, 2]", "delta is given 2 values", "it wants a number, once"),
        ("delta: -1", "delta cannot be -1", "give 0 or more"),
        ("delta: inf", 'delta wants a number, not "inf"', None),
        ("k: 1.5", "k wants a whole number, not 1.5", None),
        ("fast: 1", "fast wants true or false, not 1", None),
        ("mode: Sum2", "mode cannot be Sum2", "did you mean sum?"),
        ("weight: [1, word]", 'weight wants numbers: [a, b], not "word"', None),
        ("share: 1.5", "share cannot be 1.5", "give 0 to 1"),
    ],
)
def test_errors(block: str, message: str, fix: str | None) -> None:
    with pytest.raises(GraphError) as caught:
        demo(block)
    assert caught.value.message == message
    assert (caught.value.layer, caught.value.file, caught.value.line) == ("d", "<string>", 2)
    if fix is not None:
        assert caught.value.fix is not None
        assert caught.value.fix.startswith(fix)


def test_a_layer_without_settings() -> None:
    """It has the one that every layer has."""
    with pytest.raises(GraphError, match=r'(?s)ReLU has no setting "delta".*it takes loss_weight'):
        demo("delta: 1", "ReLU")


def test_a_default_that_prototxt_cannot_express() -> None:
    with pytest.raises(GraphError, match="cannot have the default None"):
        Extra.of(None)
