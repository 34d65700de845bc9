"""Nets whose products multiply numbers rounded to bfloat16: near float32's outputs, for inference alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.build import Cache, tuning
from lossc.cli.main import main
from lossc.errors import UsageError
from lossc.frontend.net import read_net
from lossc.frontend.solver import read_solver
from lossc.pipeline import Request, build_graph, compile_net
from lossc.profile import tune as tune_module
from lossc.targets import AVX512_BF16, host_target, rounding_targets

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 11 dim: 11 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "mix" type: "Convolution" bottom: "conv1" top: "mix"
        convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "deep" type: "Convolution" bottom: "mix" top: "deep"
        convolution_param { num_output: 32 kernel_size: 3 group: 32 weight_filler { type: "msra" } } }
layer { name: "conv2" type: "Convolution" bottom: "deep" top: "conv2"
        convolution_param { num_output: 8 kernel_size: 5 stride: 2 group: 2 weight_filler { type: "msra" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv2" top: "ip"
        inner_product_param { num_output: 70 weight_filler { type: "msra" } } }
"""
#: The largest difference from float32's outputs, beside the largest output: an operand is off by 1/512 of itself at
#: most, as often up as down.
BOUND = 0.02


@pytest.fixture()
def net(tmp_path: Path) -> str:
    file = tmp_path / "net.prototxt"
    file.write_text(NET)
    return str(file)


def output(file: str | Path, **options: object) -> np.ndarray:
    net = lossc.Net(file, lossc.TEST, seed=3, **options)  # type: ignore[arg-type]
    (name,) = net.inputs
    net.blobs[name].data[...] = np.random.default_rng(1).standard_normal(net.blobs[name].shape)
    return next(iter(net.forward().values())).copy()


def distance(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left - right).max() / np.abs(right).max())


def test_outputs_are_near_for_any_number_of_threads(net):
    expected = output(net)
    for freeze in (False, True):
        rounds = output(net, bf16=True, freeze=freeze, threads=1)
        assert 1e-5 < distance(rounds, expected) < BOUND and rounds.dtype == np.float32
        np.testing.assert_array_equal(output(net, bf16=True, freeze=freeze, threads=3), rounds)


@pytest.mark.parametrize(("name", "winograd"), [("lenet", 0), ("googlenet", 2)])
def test_models(name, winograd):
    stages = {"stages": ("deploy",), "freeze": True, "winograd": winograd}
    expected, found = (output(MODELS / f"{name}.prototxt", bf16=each, **stages) for each in (False, True))
    assert 0 < distance(found, expected) < BOUND
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


def test_frozen_weights_take_half_the_memory(net):
    plain, half = (lossc.Net(net, lossc.TEST, freeze=True, bf16=each, winograd=0) for each in (False, True))
    prepared = [each.manifest["bytes"]["prepared"] for each in (plain, half)]
    assert prepared[1] < 0.75 * prepared[0]  # the first layer has three channels: two pairs


def test_which_layers_round(net):
    """Not those of one channel a group, and no products whose weights would be rounded in each pass."""

    def layers(freeze: bool) -> set[str]:
        request = Request(read_net(net, phase="test"), timed=True, winograd=0, freeze=freeze, bf16=True)
        kernels = compile_net(request).program.manifest["kernels"]
        return {k["layer"] for k in kernels if "bf16" in k["algorithm"]}

    assert layers(True) == {"conv1", "mix", "conv2", "ip"} and layers(False) == {"conv1", "mix", "conv2"}


def test_which_images_lie_in_memory_as_bfloat16(net):
    """Those that only convolutions use, depthwise ones among them, and nobody keeps."""

    def images(**options: object) -> set[str]:
        graph, _ = build_graph(Request(read_net(net, phase="test"), **options))  # type: ignore[arg-type]
        return {blob.label for blob in graph.blobs.values() if blob.dtype == "bf16"}

    assert images(bf16=True) == {"conv1", "mix", "deep"}
    assert images(bf16=True, keep=("deep",)) == {"conv1"}  # mix lies as what its convolution makes of it
    assert not images() and not images(bf16=True, blocks=False) and not images(bf16=True, keep="all")


def test_changes_of_frozen_parameters_are_noticed(net):
    frozen, plain = (lossc.Net(net, lossc.TEST, seed=3, freeze=each, bf16=True) for each in (True, False))
    for each in (frozen, plain):
        each.blobs["data"].data[...] = np.random.default_rng(1).standard_normal(each.blobs["data"].shape)
        each.forward()
        each.params["conv1"][0].data[...] *= 2
    assert distance(frozen.forward()["ip"], plain.forward()["ip"]) < BOUND


def test_it_is_for_inference(net, tmp_path):
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f'net: "{net}" base_lr: 0.1 lr_policy: "fixed"\n')
    for options in ({}, {"solver": read_solver(str(solver)).param}):
        with pytest.raises(UsageError, match="bf16 is for inference") as caught:
            lossc.Net(net, lossc.TRAIN, bf16=True, **options)
        assert "phase TEST" in str(caught.value)
    with pytest.raises(UsageError, match="not of float64"):
        lossc.Net(net, lossc.TEST, bf16=True, dtype="float64")


def test_the_command_line(net, tmp_path, capsys):
    assert main(["inspect", net, "--bf16"]) == 2
    assert "--phase test" in capsys.readouterr().err
    assert main(["inspect", net, "--bf16", "--phase", "test", "--format", "c", "--freeze"]) == 0
    assert "vf32_dot2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["inspect", net, "--bf16", "--exact", "--phase", "test"])
    assert "not allowed with" in capsys.readouterr().err
    assert main(["time", net, "--bf16", "--phase", "test", "--iterations", "1", "--json", "--freeze"]) == 0
    assert any("bf16" in k["algorithm"] for k in json.loads(capsys.readouterr().out)["kernels"])


def test_tuned_candidates(net, tmp_path, monkeypatch, capsys):
    """Candidates that round are measured beside those that do not, and --tuned finds what was measured."""
    monkeypatch.setattr(tuning, "default_cache", lambda: Cache(tmp_path / "cache"))
    monkeypatch.setattr(tune_module, "_least", lambda run, count, times, seconds: [1.0, 0.5, *[1.0] * (count - 2)])
    where = ["--phase", "test", "--bf16", "--freeze", "--threads", "1"]
    file = str(tmp_path / "tuned.json")
    assert main(["tune", net, *where, "--seconds", "1e-9", "--candidates", "16", "-o", file, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["kernels"]
    names = [" ".join(candidate["name"] for candidate in each["candidates"]) for each in measured]
    assert sum("bf16" in each for each in names) >= 3 and any("bf16" in each and "winograd" in each for each in names)
    frozen = {"freeze": True, "bf16": True, "tuned": file}
    assert lossc.Net(net, lossc.TEST, **frozen).manifest["tuning"]["tuned"]
    assert distance(output(net, **frozen), output(net)) < BOUND


def test_native_has_the_instructions_where_this_machine_has(net):
    request = Request(read_net(net, phase="test"), bf16=True)
    assert request.built_for.isa is (rounding_targets() or [host_target()])[0].isa
    assert dataclasses.replace(request, bf16=False).built_for == host_target()
    assert dataclasses.replace(request, bf16=False).key() != request.key()


def test_the_same_c_with_and_without_the_instructions(net, tmp_path):
    if not any(target.isa is AVX512_BF16 for target in rounding_targets()):
        pytest.skip("this processor does not run avx512_bf16")
    texts = []
    for target in ("avx512", "avx512_bf16"):
        out = tmp_path / target
        command = ["compile", net, "--phase", "test", "--freeze", "--bf16", "--target", target, "-o", str(out)]
        assert main(command) == 0
        assert ("-mavx512bf16" in json.loads((out / "manifest.json").read_text())["command"]) == (target != "avx512")
        texts.append((out / "net.c").read_text().replace("avx512_bf16", "avx512"))
    assert texts[0] == texts[1]
    near, far = (output(net, bf16=True, freeze=True, target=target) for target in ("avx512", "avx512_bf16"))
    assert 0 < distance(near, far) < BOUND / 10
