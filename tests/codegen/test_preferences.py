"""Candidates by name: names tell them apart, a preference takes the model's place, and keys tell specs apart."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from test_conv import DIRECTIONS, conv

from lossc.codegen import (
    conv_depthwise,
    conv_direct_plan,
    conv_gather,
    conv_scatter,
    conv_weights,
    conv_weights_blocks_plan,
    gemm_plan,
    winograd,
    winograd_weights,
)
from lossc.codegen.contraction import RANKED, Choice, choose, rivals
from lossc.codegen.contractions import Contraction
from lossc.codegen.gemm_plan import GemmSpec
from lossc.targets import AVX2, AVX512, SCALAR

GEMM = GemmSpec("f", "", "a", "b", "c", 100, 70, 1030, (1030, 1), (70, 1), (70, 1))
FEW = replace(GEMM, m=3, b_strides=(1, 1030))
CONVS = [
    conv("f", way, 3, groups, 32, 64, (14, 14), kernel, stride, (1, 1), (1, 1))
    for way in DIRECTIONS
    for groups, kernel, stride in ((1, (3, 3), (1, 1)), (2, (5, 2), (2, 2)), (1, (1, 1), (1, 1)))
]
BLOCKS = [
    replace(s, x_block=x, y_block=y)
    for s in CONVS
    if s.direction == "bwd_weights" and s.groups == 1
    for x, y in ((16, 16), (16, 0), (0, 16))
]
DEPTHWISE = [
    conv("f", way, 3, 32, 32, 32, (14, 14), (3, 3), (2, 2), (1, 1), (1, 1), x_block=16, y_block=16)
    for way in DIRECTIONS
]
SPECS = (GEMM, FEW, *CONVS, *BLOCKS, *DEPTHWISE)
CONTRACTIONS = [Contraction(s, w) for s in SPECS for w in ((0, 4) if s in CONVS else (0,))]
CONTRACTIONS.append(Contraction(replace(CONVS[0], x_block=16, y_block=16, bf16=True), 4))
MODULES = (
    gemm_plan, conv_depthwise, conv_direct_plan, conv_gather, conv_scatter, conv_weights, conv_weights_blocks_plan,
    winograd, winograd_weights,
)  # fmt: skip


def identity(contraction: Contraction) -> str:
    return contraction.key


@pytest.mark.parametrize("isa", [AVX512, AVX2, SCALAR], ids=lambda isa: isa.name)
def test_names_tell_candidates_apart(isa, monkeypatch):
    """But for one tile of taps that is counted on an axis or on the next, which costs the same."""

    def spy(candidates, cost, name, prefer=""):
        candidates = list(candidates)
        costs = {name(candidate): cost(candidate) for candidate in candidates}
        for candidate in candidates:
            assert costs[name(candidate)] == cost(candidate), name(candidate)
        if not next(iter(costs)).startswith("conv weights") or "winograd" in next(iter(costs)):
            assert len(costs) == len(candidates)
        return choose(candidates, cost, name, prefer)

    for module in MODULES:
        monkeypatch.setattr(module, "choose", spy)
    for each in CONTRACTIONS:
        each.code(isa, "f32")


@pytest.mark.parametrize("contraction", CONTRACTIONS, ids=identity)
def test_a_preference_takes_the_place_of_the_models_choice(contraction):
    default = contraction.code(AVX512, "f32")
    names = [name for name, _ in default.choice.ranked]
    assert len(set(names)) == len(names) > 1
    assert default.choice.name == names[0] and default.choice.second == names[1] and not default.choice.tuned
    assert contraction.code(AVX512, "f32", names[0]) == default
    texts = {default.text}
    for name in names[1:]:
        code = contraction.code(AVX512, "f32", name)
        assert code.choice.name == name and code.choice.tuned
        assert code.choice.second == names[0] and code.choice.ranked == default.choice.ranked
        texts.add(code.text)
    assert len(texts) == len(names)


@pytest.mark.parametrize("contraction", CONTRACTIONS[::3], ids=identity)
def test_an_unknown_name_changes_nothing(contraction):
    assert contraction.code(AVX512, "f32", "gemm nn 99x9") == contraction.code(AVX512, "f32")


def test_the_cheapest_candidates_are_remembered():
    best, choice = choose(range(3 * RANKED), lambda c: abs(c - 20), str)
    assert best == 20 and choice == Choice("20", 0, "19", 1, choice.ranked)
    assert choice.ranked[:3] == (("20", 0), ("19", 1), ("21", 1)) and len(choice.ranked) == RANKED
    far, choice = choose(range(3 * RANKED), lambda c: abs(c - 20), str, "0")
    assert far == 0 and choice == Choice("0", 20, "20", 0, choice.ranked) and choice.tuned


def test_the_better_of_two_algorithms():
    first, other = Choice("a", 12, "b", 13, (("a", 12), ("b", 13))), Choice("x", 9, "y", 10, (("x", 9), ("y", 10)))
    slow = rivals(first, other, 1.5)
    assert (slow.name, slow.second, [n for n, _ in slow.ranked]) == ("a", "x", ["a", "x", "b", "y"])
    assert rivals(first, other, 1.2).name == "x"
    assert rivals(first, replace(other, name="y", cycles=10), 1.5, "y").name == "y"


def test_keys_hold_all_that_candidates_depend_on():
    told = {"name", "comment", "a", "b", "c", "x", "w", "y", "alpha", "alpha_comment", "epilogue", "alpha_args"}
    for spec in (GEMM, CONVS[0]):
        for field in fields(spec):
            value = getattr(spec, field.name)
            other = {int: 7, bool: True, str: "bwd_data"}.get(type(value), (7, 5))
            other = getattr(spec, "w", None) or spec.b if field.name == "frozen" else other
            changed = replace(spec, **{field.name: other})
            assert (changed.key == spec.key) == (field.name in told), field.name
    assert Contraction(CONVS[0], 2).key != Contraction(CONVS[0], 4).key
