"""Products with a frozen operand: what is made of it once gives the very sums that packing it in each call gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contraction_harness import REAL, Library, local_names
from test_conv import conv

from lossc.codegen.contraction import LOCALS
from lossc.codegen.contractions import Contraction
from lossc.codegen.gemm_plan import GemmSpec
from lossc.targets import runnable_targets

HERE = [target.isa for target in runnable_targets()]


def gemm(name: str, m: int, n: int, k: int, frozen: str, turned: bool, crossed: bool = False) -> GemmSpec:
    b_strides = (1, k) if turned else (n, 1)
    a_strides = (1, m) if turned and frozen == "a" else (k, 1)
    return GemmSpec(
        name, "", "a", "b", "c", m, n, k, a_strides, b_strides, (1, m) if crossed else (n, 1), frozen=frozen
    )


def specs() -> list[Contraction]:
    found = [
        Contraction(gemm(f"g{number}", m, n, k, frozen, turned, crossed))
        for number, (m, n, k, frozen, turned, crossed) in enumerate(
            (m, n, k, frozen, turned, crossed)
            for m, n, k in ((1, 70, 130), (33, 70, 41), (90, 50, 1300))
            for frozen in "ab"
            for turned in (False, True)
            for crossed in (False, True)
        )
    ]
    shapes = [
        (2, 1, 3, 8, (9, 9), (3, 3), (2, 2), (1, 1)),
        (2, 1, 32, 40, (7, 9), (3, 3), (1, 1), (1, 1)),
        (1, 2, 32, 48, (6, 6), (5, 5), (1, 1), (2, 2)),
        (3, 1, 20, 33, (7, 7), (1, 1), (1, 1), (0, 0)),
        (2, 1, 20, 33, (8, 8), (1, 1), (2, 2), (0, 0)),
        (1, 4, 8, 8, (5, 6), (3, 2), (1, 2), (1, 0)),
    ]
    for number, (n, groups, ci, co, size, kernel, stride, pad) in enumerate(shapes):
        for way in ("forward", "bwd_data"):
            for winograd in (0, 4):
                spec = conv(f"c{number}_{way}_{winograd}", way, n, groups, ci, co, size, kernel, stride, pad, (1, 1))
                found.append(Contraction(replace(spec, frozen=spec.w), winograd))
    return found


def thawed(contraction: Contraction) -> Contraction:
    spec = contraction.spec
    return replace(contraction, spec=replace(spec, name=f"{spec.name}_anew", frozen=""))


def operands(spec, dtype: str, rng) -> dict[str, np.ndarray]:
    if isinstance(spec, GemmSpec):
        sizes = {"a": spec.m * spec.k, "b": spec.k * spec.n, "c": spec.m * spec.n}
    else:
        taps = int(np.prod(spec.kernel))
        sizes = {
            spec.x: spec.n * spec.x_strides[0], spec.y: spec.n * spec.y_strides[0],
            spec.w: spec.co * spec.ci // spec.groups * taps,
        }  # fmt: skip
    return {name: rng.standard_normal(size).astype(REAL[dtype]) for name, size in sizes.items()}


def result(library: Library, name: str, values: dict[str, np.ndarray], out: str, threads: int) -> np.ndarray:
    values[out][:] = 7
    parameters = [p.split("*restrict ")[-1] for p in library.codes[name].params]
    library.run(name, [values[p] for p in parameters], threads)
    return values[out].copy()


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("isa", HERE, ids=lambda isa: isa.name)
def test_frozen_operands_give_the_same_sums(isa, dtype, tmp_path):
    codes, pairs = {}, []
    for contraction in specs():
        code = contraction.code(isa, dtype)
        anew = thawed(contraction).code(isa, dtype, code.choice.name)
        pairs.append((contraction, anew.choice.name == code.choice.name))
        codes[contraction.spec.name] = code
        codes[f"{contraction.spec.name}_anew"] = anew
    assert sum(code.prepared is not None for code in codes.values()) > len(pairs) / 2
    library, rng = Library(codes, isa, dtype, tmp_path), np.random.default_rng(5)
    for contraction, same in pairs:
        spec, name = contraction.spec, contraction.spec.name
        values = operands(spec, dtype, rng)
        out = spec.c if isinstance(spec, GemmSpec) else spec.y if spec.direction == "forward" else spec.x
        before = codes[name].prepared
        if before:
            values[before.packed] = library.prepare(name, values[spec.frozen], 1)
            np.testing.assert_array_equal(library.prepare(name, values[spec.frozen], 3), values[before.packed])
        anew = result(library, f"{name}_anew", values, out, 1)
        found = result(library, name, values, out, 1)
        if same:
            np.testing.assert_array_equal(found, anew, contraction.key)
        else:  # a candidate that pays only where packing is free adds up in another order
            bound = 1e-4 if dtype == "f32" else 1e-12
            np.testing.assert_allclose(found, anew, rtol=bound, atol=bound * abs(anew).max())
        np.testing.assert_array_equal(result(library, name, values, out, 3), found, contraction.key)


@pytest.mark.parametrize("contraction", specs(), ids=lambda contraction: contraction.spec.name)
def test_every_candidate_prepares_its_operand(contraction):
    """It never reads the operand itself and packs nothing in a call, unless it reads it as it lies."""
    isa = HERE[0]
    code = contraction.code(isa, "f32")
    for name, _ in code.choice.ranked:
        candidate = contraction.code(isa, "f32", name)
        parameters = [p.split("*restrict ")[-1] for p in candidate.params]
        if candidate.prepared:
            assert candidate.prepared.packed in parameters and contraction.spec.frozen not in parameters
            assert local_names(candidate.prepared.text) <= LOCALS
        else:
            assert contraction.spec.frozen in parameters and "*restrict packed = shared" not in candidate.text


def test_keys_tell_frozen_operands_apart():
    for contraction in specs():
        assert contraction.key != thawed(contraction).key
