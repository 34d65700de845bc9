"""lossc.Net: views, passes, files, errors."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.errors import DataError, UsageError, WeightsError

X = np.array([[1, -2, 3], [0.5, 0, -1], [2, 2, 2], [-1, 0.25, 4]], np.float32)
LABELS = np.array([0, 2, 1, 1], np.float32)


def reference(net: lossc.Net) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of the net of conftest, in float64 NumPy."""
    (w1, b1), (w2, b2) = ([blob.data.astype(np.float64) for blob in net.params[n]] for n in ("ip1", "ip2"))
    x, labels = X.astype(np.float64), LABELS.astype(int)
    hidden = np.maximum(x @ w1.T + b1, 0)
    scores = hidden @ w2.T + b2
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    d = (p - np.eye(3)[labels]) / 4
    dh = d @ w2 * (hidden > 0)
    loss = -np.log(p[np.arange(4), labels]).mean()
    return loss, {"ip1/0": dh.T @ x, "ip1/1": dh.sum(0), "ip2/0": d.T @ hidden, "ip2/1": d.sum(0)}


def gradients(net: lossc.Net) -> dict[str, np.ndarray]:
    return {f"{layer}/{k}": blob.diff.copy() for layer, blobs in net.params.items() for k, blob in enumerate(blobs)}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-13)])
def test_passes_compute_loss_and_gradients(mlp: Path, dtype: str, tolerance: float) -> None:
    net = lossc.Net(mlp, lossc.TRAIN, dtype=dtype)
    outputs = net.forward(data=X, label=LABELS)
    loss, wanted = reference(net)
    assert net.blobs["data"].data.dtype == dtype
    assert outputs["loss"] == pytest.approx(loss, rel=tolerance) and net.loss == float(outputs["loss"])
    net.clear_param_diffs()
    net.backward()
    for key, value in gradients(net).items():
        np.testing.assert_allclose(value, wanted[key], atol=tolerance, rtol=10 * tolerance)
    once = gradients(net)
    assert net.forward_backward() == net.loss
    for key, value in gradients(net).items():
        np.testing.assert_allclose(value, 2 * once[key], rtol=1e-6)
    net.clear_param_diffs()
    assert not any(value.any() for value in gradients(net).values())


def test_arrays_are_views_that_keep_the_net_alive(mlp: Path) -> None:
    net = lossc.Net(mlp, lossc.TRAIN, keep="all")
    data, weights, diff = net.blobs["data"].data, net.params["ip1"][0].data, net.params["ip1"][0].diff
    assert np.shares_memory(data, net.blobs["data"].data)
    assert not data.flags.owndata and not weights.flags.owndata and not diff.flags.owndata
    weights[...] = 3
    assert (net.params["ip1"][0].data == 3).all()
    net.forward(data=X, label=LABELS)
    hidden = net.blobs["ip1"].data
    copies = [array.copy() for array in (data, weights, hidden)]
    del net
    gc.collect()
    others = [np.zeros(100_000) for _ in range(20)]
    for array, copy in zip((data, weights, hidden), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    del others


def test_blobs_and_names_are_pycaffes(mlp: Path) -> None:
    net = lossc.Net(mlp, lossc.TRAIN)
    assert list(net.blobs) == ["data", "label", "ip1", "ip2", "loss"]
    assert net.inputs == ["data", "label"] and net.outputs == ["loss"]
    assert {layer: [b.shape for b in blobs] for layer, blobs in net.params.items()} == {
        "ip1": [(5, 3), (5,)],
        "ip2": [(3, 5), (3,)],
    }
    assert net.blobs["data"].shape == (4, 3) and net.blobs["data"].count == 12
    assert (net.blobs["data"].num, net.blobs["data"].channels, net.blobs["data"].width) == (4, 3, 1)
    assert net.layer_dict["relu1"].type == "ReLU" and net.blob_loss_weights == {"loss": 1.0}


def test_what_was_not_kept_names_the_fix(mlp: Path) -> None:
    net = lossc.Net(mlp, lossc.TRAIN)
    for part in ("data", "diff"):
        with pytest.raises(UsageError, match=r'keep=\["ip1"\] or keep="all"'):
            getattr(net.blobs["ip1"], part)
    kept = lossc.Net(mlp, lossc.TRAIN, keep=["ip1"])
    kept.forward(data=X, label=LABELS)
    w, b = (blob.data for blob in kept.params["ip1"])
    np.testing.assert_allclose(kept.blobs["ip1"].data, np.maximum(X @ w.T + b, 0), rtol=1e-6)
    with pytest.raises(UsageError, match='did you mean "label"'):
        lossc.Net(mlp, lossc.TRAIN, keep=["lable"])


def test_gradient_that_does_not_exist_reads_as_zeros(mlp: Path) -> None:
    net = lossc.Net(mlp, lossc.TRAIN, keep="all")
    diff = net.blobs["data"].diff
    assert diff.shape == (4, 3) and not diff.any() and not diff.flags.writeable
    net.forward_backward(data=X, label=LABELS)
    assert net.blobs["ip2"].diff.any()


@pytest.mark.parametrize("ending", [".caffemodel", ".caffemodel.h5"])
def test_weights_survive_a_file(mlp: Path, tmp_path: Path, ending: str) -> None:
    net, other = lossc.Net(mlp, lossc.TRAIN, seed=1), lossc.Net(mlp, lossc.TRAIN, seed=2)
    file = tmp_path / f"weights{ending}"
    net.save(file)
    assert (net.params["ip1"][0].data != other.params["ip1"][0].data).any()
    other.copy_from(file)
    for layer, blobs in net.params.items():
        for mine, theirs in zip(blobs, other.params[layer], strict=True):
            np.testing.assert_array_equal(mine.data, theirs.data)
    third = lossc.Net(mlp, lossc.TEST, weights=file)
    np.testing.assert_array_equal(third.params["ip2"][0].data, net.params["ip2"][0].data)


def test_every_mismatch_of_weights_is_reported_at_once(mlp: Path, tmp_path: Path) -> None:
    net = lossc.Net(mlp, lossc.TRAIN)
    file = tmp_path / "weights.caffemodel"
    net.save(file)
    wider = tmp_path / "wider.prototxt"
    wider.write_text(mlp.read_text().replace("num_output: 5", "num_output: 6"))
    other = lossc.Net(wider, lossc.TRAIN)
    before = other.params["ip2"][1].data.copy()
    other.params["ip2"][1].data[...] = 9
    with pytest.raises(WeightsError) as caught:
        other.copy_from(file)
    text = str(caught.value)
    assert 'layer "ip1", parameter 0: [6, 3] in the net, [5, 3] in the file' in text
    assert 'layer "ip1", parameter 1: [6] in the net, [5] in the file' in text
    assert 'layer "ip2", parameter 0' in text and 'layer "ip2", parameter 1' not in text
    assert (other.params["ip2"][1].data == 9).all() and before.shape == (3,)


def test_layers_on_one_side_only_are_skipped(mlp: Path, tmp_path: Path) -> None:
    net = lossc.Net(mlp, lossc.TRAIN, seed=1)
    net.save(tmp_path / "w.caffemodel")
    renamed = tmp_path / "renamed.prototxt"
    renamed.write_text(mlp.read_text().replace('name: "ip2"', 'name: "new"'))
    other = lossc.Net(renamed, lossc.TRAIN, seed=2)
    fresh = other.params["new"][0].data.copy()
    other.copy_from(tmp_path / "w.caffemodel")
    np.testing.assert_array_equal(other.params["ip1"][0].data, net.params["ip1"][0].data)
    np.testing.assert_array_equal(other.params["new"][0].data, fresh)


def test_shared_parameters_stand_under_every_layer(tmp_path: Path) -> None:
    file = tmp_path / "shared.prototxt"
    ip = (
        'inner_product_param { num_output: 3 weight_filler { type: "xavier" } } param { name: "w" } param { name: "b" }'
    )
    file.write_text(
        'layer { name: "in" type: "Input" top: "x" top: "t" input_param { shape { dim: 2 dim: 3 } } }\n'
        f'layer {{ name: "a" type: "InnerProduct" bottom: "x" top: "a" {ip} }}\n'
        f'layer {{ name: "b" type: "InnerProduct" bottom: "a" top: "b" {ip} }}\n'
        'layer { name: "loss" type: "EuclideanLoss" bottom: "b" bottom: "t" top: "loss" }\n'
    )
    net = lossc.Net(file, lossc.TRAIN)
    for k in range(2):
        assert np.shares_memory(net.params["a"][k].data, net.params["b"][k].data)
        assert np.shares_memory(net.params["a"][k].diff, net.params["b"][k].diff)
    net.save(tmp_path / "w.caffemodel.h5")
    other = lossc.Net(file, lossc.TRAIN, weights=tmp_path / "w.caffemodel.h5", seed=3)
    np.testing.assert_array_equal(other.params["b"][0].data, net.params["a"][0].data)


@pytest.mark.parametrize("label", [3.0, -1.0, 1.5, float("nan")])
def test_labels_out_of_range_are_refused(mlp: Path, label: float) -> None:
    net = lossc.Net(mlp, lossc.TRAIN)
    labels = LABELS.copy()
    labels[2] = label
    for run in (net.forward, net.forward_backward):
        with pytest.raises(DataError, match='"label" holds the label .* at index 2') as caught:
            run(data=X, label=labels)
        assert caught.value.layer == "loss" and caught.value.file == str(mlp) and caught.value.line == 9
    assert net.forward(data=X, label=LABELS)["loss"] == pytest.approx(reference(net)[0], rel=1e-6)


def test_inputs_that_do_not_fit_are_refused(mlp: Path) -> None:
    net = lossc.Net(mlp, lossc.TRAIN)
    with pytest.raises(UsageError, match=r'input "data" has the shape \[2, 3\], the net wants \[4, 3\]'):
        net.forward(data=X[:2])
    with pytest.raises(UsageError, match='"ip1" is no input'):
        net.forward(ip1=X)
    with pytest.raises(UsageError, match='no blob "losses"'):
        net.forward(blobs=["losses"])
    with pytest.raises(UsageError, match="threads is 0"):
        lossc.Net(mlp, lossc.TRAIN, threads=0)


def test_source_header_and_graph_come_from_the_compiler(mlp: Path) -> None:
    net = lossc.Net(mlp, lossc.TRAIN)
    assert "mlp_abi" in net.source and "mlp_forward_backward" in net.header
    kernels = {data["kernel"] for _, data in net.graph.nodes(data=True) if "kernel" in data}
    assert {"gemm", "map"} <= kernels


def test_threads_do_not_change_a_bit(mlp: Path) -> None:
    nets = [lossc.Net(mlp, lossc.TRAIN, threads=n) for n in (1, 2, 3)]
    found = []
    for net in nets:
        net.forward_backward(data=X, label=LABELS)
        found.append([net.loss, *(v.tobytes() for v in gradients(net).values())])
    assert found[0] == found[1] == found[2]


def test_scalar_target_agrees(mlp: Path) -> None:
    native, scalar = lossc.Net(mlp, lossc.TRAIN), lossc.Net(mlp, lossc.TRAIN, target="scalar")
    np.testing.assert_array_equal(native.params["ip1"][0].data, scalar.params["ip1"][0].data)
    assert native.forward_backward(data=X, label=LABELS) == pytest.approx(
        scalar.forward_backward(data=X, label=LABELS), rel=1e-6
    )


def test_data_layers_fill_their_tops(noisy: Path) -> None:
    net = lossc.Net(noisy / "net.prototxt", lossc.TEST)
    with np.load(noisy / "digits.npz") as file:
        images, labels = file["data"], file["label"]
    assert net.inputs == []
    for batch in range(3):
        net.forward()
        rows = slice(5 * batch, 5 * batch + 5)
        np.testing.assert_array_equal(net.blobs["data"].data, images[rows] * np.float32(1 / 256))
        np.testing.assert_array_equal(net.blobs["label"].data, labels[rows])


def test_data_takes_the_place_of_sources(noisy: Path) -> None:
    class Ones:
        shapes = ((2, 1, 4, 4), (2,))

        def next(self, data: np.ndarray, label: np.ndarray | None) -> None:
            assert label is not None
            data[...], label[...] = 1, 2

    net = lossc.Net(noisy / "net.prototxt", lossc.TEST, data=Ones())
    net.forward()
    assert net.blobs["data"].shape == (2, 1, 4, 4) and (net.blobs["data"].data == 1).all()
    elsewhere = noisy / "elsewhere"
    elsewhere.mkdir()
    (noisy / "digits.npz").rename(elsewhere / "digits.npz")
    assert lossc.Net(noisy / "net.prototxt", lossc.TEST, data=elsewhere).forward()["loss"] > 0
    with pytest.raises(DataError, match='net.prototxt:4: layer "data": does not exist|layer "data": does not exist'):
        lossc.Net(noisy / "net.prototxt", lossc.TEST)
    with pytest.raises(UsageError, match='data names "dat"'):
        lossc.Net(noisy / "net.prototxt", lossc.TEST, data={"dat": elsewhere})


def test_a_warm_start_imports_no_compiler(mlp: Path, python: Callable[..., str]) -> None:
    solver = mlp.with_name("solver.prototxt")
    solver.write_text(f'net: "{mlp}" base_lr: 0.1 lr_policy: "fixed" random_seed: 1\n')
    text = (
        "import sys, json, lossc\n"
        "net = lossc.get_solver(sys.argv[1]).net\n"
        "heavy = 'networkx jinja2 pycparser cffi lossc.passes lossc.codegen lossc.layers lossc.ir'.split()\n"
        "heavy.append('lossc.frontend.weights')\n"
        "print(json.dumps([m for m in heavy if m in sys.modules]), net.params['ip1'][0].data.tobytes().hex())\n"
    )
    cold, warm = python(text, solver).split(), python(text, solver)
    modules, weights = json.loads(warm[: warm.index("]") + 1]), warm.split()[-1]
    assert modules == [] and weights == cold[-1]


def test_importing_lossc_imports_nothing_heavy(python: Callable[..., str]) -> None:
    assert python("import sys, lossc; print([m for m in ('numpy', 'google.protobuf') if m in sys.modules])") == "[]\n"
