"""A source split into translation units: the same results, and errors that name the lines users know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.build import Cache, compile_library, find_compiler, library, load_library, units
from lossc.errors import CompilerError, InternalError
from lossc.targets import host_target

EXPORT = '__attribute__((visibility("default"))) '
SOURCE = f"""#define FACTOR 3
static int twice(int x)
{{
    return 2 * x;
}}
static int thrice(int x)
{{
    return FACTOR * x;
}}
{EXPORT}int both(int x) {{ return twice(x) + thrice(x); }}
"""
KERNELS = [("twice", 2, 5), ("thrice", 6, 9)]
NET = """name: "small"
layer { name: "in" type: "Input" top: "data" top: "label" input_param { shape { dim: 8 dim: 1 dim: 12 dim: 12 }
        shape { dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
        inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_a_small_source_stays_one_unit() -> None:
    assert units.split(SOURCE, KERNELS, 2) == (SOURCE,)


def test_one_job_has_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "LEAST", 1)
    assert units.split(SOURCE, KERNELS, 1) == (SOURCE,)


def test_units_link_to_one_library(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "LEAST", 1)
    assert len(units.split(SOURCE, KERNELS, 2)) == 2
    path = compile_library(SOURCE, target=host_target(), kernels=KERNELS, jobs=2, cache=cache)
    _, lib = load_library(path, "int both(int x);")
    assert lib.both(5) == 25


def test_units_start_all_at_once_or_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "".join(f"static void f{k}(void)\n{{\n}}\n" for k in range(12)) + "int rest;\n"
    kernels = [(f"f{k}", 3 * k + 1, 3 * k + 3) for k in range(12)]
    for least, count in ((36, 1), (12, 2), (9, 4), (1, 4)):  # lines of a unit, units that pay for two compilers
        monkeypatch.setattr(units, "LEAST", least)
        parts = units.split(source, kernels, 2)
        assert len(parts) == count
        assert sum(part.count("{\n}") for part in parts) == 12
        assert parts[-1].endswith("int rest;\n")


def test_errors_name_the_line_of_the_whole_file(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "LEAST", 1)
    wrong = SOURCE.replace("FACTOR * x", "unknown * x")
    with pytest.raises(CompilerError, match=r"net\.c:8:"):
        compile_library(wrong, target=host_target(), kernels=KERNELS, jobs=2, cache=cache)


def test_lines_without_the_kernel_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "LEAST", 1)
    with pytest.raises(InternalError, match="twice"):
        units.split(SOURCE, [("twice", 6, 9), ("thrice", 6, 9)], 2)


def gradients(folder: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Of the small net's parameters, computed by a library that is built for this call."""
    (folder / "small.prototxt").write_text(NET)
    monkeypatch.setenv("LOSSC_CACHE", str(folder / cache))
    net = lossc.Net(folder / "small.prototxt", lossc.TRAIN, seed=3, threads=2)
    rng = np.random.default_rng(0)
    net.forward_backward(data=rng.standard_normal((8, 1, 12, 12)), label=np.arange(8))
    return [np.array(blob.diff) for blobs in net.params.values() for blob in blobs]


def test_units_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "LEAST", 100)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    whole = gradients(tmp_path, "one", monkeypatch)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    for one, several in zip(whole, gradients(tmp_path, "several", monkeypatch), strict=True):
        assert np.array_equal(one, several) and np.any(one)


def test_flags_that_compile_quickly_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_compiler().kind != "gcc":
        pytest.skip("gcc alone has flags of its own")
    quick = gradients(tmp_path, "quick", monkeypatch)
    monkeypatch.setattr(library, "_GCC_QUICK", ())
    for one, other in zip(quick, gradients(tmp_path, "full", monkeypatch), strict=True):
        assert np.array_equal(one, other) and np.any(one)
