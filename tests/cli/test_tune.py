"""lossc tune, and --tuned: what is measured, kept and used. Nothing here depends on what is the fastest."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.build import Cache, tuning
from lossc.build.tuning import Entry, Tuning, write_tuning
from lossc.cli.main import main
from lossc.errors import InternalError
from lossc.frontend.net import read_net
from lossc.pipeline import Request, build, compile_net
from lossc.profile import tune as tune_module
from lossc.profile.tune import tune
from lossc.targets import host_target, processor_name, runnable_targets

NET = """
name: "tiny"
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 16 dim: 9 dim: 9 } shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "again" type: "Convolution" bottom: "conv" top: "again"
  convolution_param { num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "strided" type: "Convolution" bottom: "again" top: "strided"
  convolution_param { num_output: 18 kernel_size: 3 stride: 2 group: 2 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "strided" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 1'
QUICK = ["--threads", "1", "--seconds", "1e-9"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with net and solver; what is tuned is kept here, what is compiled with all other tests."""
    monkeypatch.setattr(tuning, "default_cache", lambda: Cache(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    return tmp_path


def second_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_module, "_least", lambda run, count, times, seconds: [1.0, 0.5])


def test_it_measures_keeps_and_writes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = [*QUICK, "--no-blocks"]
    assert main(["tune", "--solver", "solver.prototxt", *quick, "--candidates", "2", "-o", "tuned.json"]) == 0
    out = capsys.readouterr().out
    assert "conv_forward x2" in out  # both have the same sizes and layouts, and are measured once
    assert "kernels are faster than by the model's choice" in out
    entries = json.loads((folder / "tuned.json").read_text())["entries"]
    assert len(entries) == len([line for line in out.splitlines()[1:-1] if not line.startswith(" ")])
    assert main(["tune", "net.prototxt", *quick, "--candidates", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["processor"], report["isa"]) == (processor_name(), host_target().name)
    for kernel in report["kernels"]:
        assert kernel["key"] in entries and kernel["threads"] == 1
        assert all(c["seconds"] > 0 for c in kernel["candidates"]) and len(kernel["candidates"]) == 2
        assert kernel["model"] == kernel["candidates"][0]["name"]
    assert main(["compile", "net.prototxt", "-o", "out", "--source-only", "--tuned", "--no-blocks"]) == 0


@pytest.mark.parametrize("target", [t.name for t in runnable_targets()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_candidates_agree_on_every_target(folder: Path, target: str, dtype: str) -> None:
    request = Request(read_net("net.prototxt", phase="train"), target=target, dtype=dtype, threads=2, winograd=4)
    measured = tune(request, 2, 1e-9)
    assert sum(len(m.kernels) for m in measured) >= 10
    assert all(m.chosen in m.seconds for m in measured)


def test_candidates_that_disagree_are_a_bug(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_module, "_TOLERANCE", {"f32": -1.0})
    with pytest.raises(InternalError, match='^gemm|^conv.*gives other results than "'):
        tune(Request(read_net("net.prototxt", phase="train")), 2, 1e-9)


def test_what_was_tuned_is_in_the_c_and_in_the_manifest(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compiled(*options: str) -> tuple[str, dict]:
        assert main(["compile", "net.prototxt", "-o", "out", "--source-only", *options]) == 0
        return (folder / "out/net.c").read_text(), json.loads((folder / "out/manifest.json").read_text())

    plain, manifest = compiled()
    assert "tuning" not in manifest
    second_is_fastest(monkeypatch)
    capsys.readouterr()
    assert main(["tune", "net.prototxt", *QUICK, "--candidates", "2", "-o", "tuned.json", "--json"]) == 0
    names = {name for kernel in json.loads(capsys.readouterr().out)["kernels"] for name in kernel["kernels"]}
    assert compiled() == (plain, manifest)  # nothing is read that nobody asked for
    text, told = compiled("--tuned")
    assert text != plain
    assert compiled("--tuned", "tuned.json") == (text, told)
    assert told["tuning"]["measured"] == told["tuning"]["open"] == len(told["tuning"]["tuned"])
    assert not told["tuning"]["missing"]
    assert {k["kernel"] for k in told["tuning"]["tuned"]} == names >= {"conv_forward", "again_forward", "ip_forward"}
    assert all(k["choice"] != k["model"] for k in told["tuning"]["tuned"])
    assert {**told, "tuning": None, "bytes": None} == {**manifest, "tuning": None, "bytes": None}
    capsys.readouterr()
    assert main(["time", "net.prototxt", "--tuned", "--roofline", "--iterations", "1", "--threads", "1"]) == 0
    out, errors = capsys.readouterr()
    assert out.count("(tuned; the model's: ") == len(told["tuning"]["tuned"])
    assert "warning" not in errors


def test_results_do_not_depend_on_threads_and_agree_with_the_models(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_is_fastest(monkeypatch)
    assert main(["tune", "net.prototxt", *QUICK, "--candidates", "2", "-o", "tuned.json"]) == 0
    source, random = read_net("net.prototxt", phase="train"), np.random.default_rng(1)
    images, labels = random.standard_normal((4, 16, 9, 9)), np.arange(4)
    nets = [lossc.Net(source, lossc.TRAIN, threads=k, tuned=True) for k in (1, 2)]
    nets += [lossc.Net(source, lossc.TRAIN, tuned=folder / "tuned.json"), lossc.Net(source, lossc.TRAIN)]
    for net in nets:
        net.forward_backward(data=images, label=labels)
    for layer, blobs in nets[0].params.items():
        for index, blob in enumerate(blobs):
            assert all(np.array_equal(net.params[layer][index].diff, blob.diff) for net in nets[1:3])
            np.testing.assert_allclose(nets[3].params[layer][index].diff, blob.diff, rtol=1e-3, atol=1e-4)
    assert nets[0].request.key() == nets[2].request.key() != nets[3].request.key()
    assert lossc.get_solver("solver.prototxt", tuned=True).net.request.tuning == nets[0].request.tuning


def test_names_that_no_candidate_has_are_warned_of_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = read_net("net.prototxt", phase="train")
    assert main(["tune", "net.prototxt", *QUICK, "--candidates", "2", "-o", "tuned.json"]) == 0
    keys = json.loads((folder / "tuned.json").read_text())["entries"]
    isa = host_target().name
    write_tuning("old.json", Tuning("", isa, "float32", {key: Entry("conv of old", 1) for key in keys}))
    capsys.readouterr()
    for command in (["compile", "net.prototxt", "-o", "out"], ["inspect", "net.prototxt", "--format", "c"]):
        assert main([*command, "--tuned", "old.json"]) == 0
        errors = capsys.readouterr().err
        assert errors.count("warning") == 1
        assert "net tiny, phase TRAIN: the cost model chooses for 1" in errors
        assert '"conv of old"' in errors and "lossc tune NET --phase train" in errors
    missing = compile_net(Request(source)).program.source
    assert (folder / "out/net.c").read_text() == missing

    write_tuning("other.json", Tuning("", isa, "float32", {"gemm of another net": Entry("gemm nn 1x1", 1)}))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(2):  # compiled, then from the cache
            build(Request(source, tuning={"gemm of another net": "gemm nn 1x1"}))
    assert ["no kernel of the net was tuned" in str(w.message) for w in found] == [True, True]


def test_calls_that_make_no_sense(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, told in {
        ("time", "--tuned", "net.prototxt"): "invalid tuning, FILE.json, value: 'net.prototxt'",
        ("tune", "net.prototxt", "-o", "tuned"): "invalid tuning, FILE.json, value: 'tuned'",
        ("tune", "net.prototxt", "--candidates", "1"): "invalid whole number of 2 or more value",
        ("tune", "net.prototxt", "--seconds", "nan"): "invalid number of seconds value",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(list(options))
        assert ended.value.code == 2 and told in capsys.readouterr().err
    assert main(["inspect", "net.prototxt", "--format", "c", "--tuned"]) == 2
    assert "nothing was tuned" in capsys.readouterr().err
    Path("bad.json").write_text("{}")
    assert main(["train", "solver.prototxt", "--tuned", "bad.json"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lossc: bad.json: is damaged") and "Traceback" not in error
