"""Solver: order of an iteration, sharing with test nets, snapshots, exact resuming."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.errors import DataError, SolverError, UsageError, WeightsError
from lossc.frontend.weights import read_state, read_weights

Lines = list[str]


def make(folder: Path, extra: str = "", **options: object) -> tuple[lossc.Solver, Lines]:
    """The solver of conftest's ``noisy`` with more settings, and the texts that it logs."""
    file = folder / "solver.prototxt"
    if extra:
        keys = {line.split(":")[0] for line in extra.splitlines()}
        kept = [line for line in file.read_text().splitlines() if line.split(":")[0] not in keys]
        file = folder / "other_solver.prototxt"
        file.write_text("\n".join([*kept, extra, ""]))
    lines: Lines = []
    return lossc.get_solver(file, log=lambda place, text: lines.append(text), **options), lines


def parameters(net: lossc.Net) -> list[bytes]:
    return [blob.data.tobytes() for blobs in net.params.values() for blob in blobs]


def everything(solver: lossc.Solver) -> list[bytes]:
    return [*parameters(solver.net), *(h.tobytes() for h in solver.history)]


def test_solve_makes_caffes_lines_in_caffes_order(noisy: Path) -> None:
    solver, lines = make(noisy)
    solver.solve()
    marks = [line.split(" (")[0].split(",")[0].split(" = ")[0] for line in lines if not line.startswith("Gradient")]
    step = ["    Train net output #0: loss"]
    test = ["    Test net output #0: accuracy", "    Test net output #1: loss"]
    wanted = ["Solving noisy", "Learning Rate Policy: multistep"]
    for k in range(12):
        wanted += [f"Iteration {k}", *test] if k % 4 == 0 else []
        wanted += [f"Iteration {k}", *step]
        wanted += [f"MultiStep Status: Iteration {k}"] if k in (3, 4) else []
        wanted += [f"Iteration {k}"]
        if k in (5, 11):
            wanted += [f"Snapshotting to binary proto file {noisy}/full_iter_{k + 1}.caffemodel"]
            wanted += [f"Snapshotting solver state to binary proto file {noisy}/full_iter_{k + 1}.solverstate"]
    assert marks == [*wanted, "Iteration 12", "Iteration 12", *test, "Optimization Done."]
    assert [line.split("lr = ")[1] for line in lines if "lr = " in line] == ["0.1"] * 3 + ["0.05"] + ["0.025"] * 8


def test_resuming_is_exact_to_the_bit(noisy: Path, python: Callable[..., str]) -> None:
    """Dropout, mirrored data, clipping and two rate drops at once: 12 iterations are 6, a new process, and 6 more."""
    whole, whole_lines = make(noisy)
    whole.solve()
    text = (
        "import sys, hashlib, lossc\n"
        "solver = lossc.get_solver(sys.argv[1], log=lambda place, text: None)\n"
        "solver.restore(sys.argv[2])\n"
        "solver.step(6)\n"
        "print(solver.iter)\n"
        "for blobs in solver.net.params.values():\n"
        "    for blob in blobs: print(blob.data.tobytes().hex())\n"
        "for h in solver.history: print(h.tobytes().hex())\n"
        "print(solver.test_nets[0].progress['data']['data']['position'])\n"
    )
    printed = python(text, noisy / "solver.prototxt", noisy / "full_iter_6.solverstate").splitlines()
    assert printed[0] == "12"
    assert [bytes.fromhex(line) for line in printed[1:-1]] == everything(whole)
    assert int(printed[-1]) == 3 * 3 * 5 % 31


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_snapshots_hold_all_and_their_names_are_caffes(noisy: Path, form: str) -> None:
    solver, _ = make(noisy, f'snapshot_format: {form}\nsnapshot_prefix: "{noisy}/s"')
    solver.step(3)
    weights, state = solver.snapshot()
    ending = ".h5" if form == "HDF5" else ""
    assert (weights, state) == (f"{noisy}/s_iter_3.caffemodel{ending}", f"{noisy}/s_iter_3.solverstate{ending}")
    stored = read_weights(weights)
    for layer, blobs in solver.net.params.items():
        for blob, array in zip(blobs, stored[layer], strict=True):
            np.testing.assert_array_equal(blob.data, array)
    read = read_state(state)
    assert (read.iter, read.learned_net, read.current_step) == (3, weights, 0)
    assert [h.tobytes() for h in read.history] == [h.tobytes() for h in solver.history]
    other, _ = make(noisy, f'snapshot_format: {form}\nsnapshot_prefix: "{noisy}/t"', threads=1)
    other.restore(state)
    assert other.iter == 3 and everything(other) == everything(solver)
    solver.step(4)
    other.step(4)
    assert everything(other) == everything(solver)


def test_weights_beside_a_moved_state_are_found(noisy: Path, tmp_path: Path) -> None:
    solver, _ = make(noisy, f'snapshot_prefix: "{noisy}/s"')
    solver.step(2)
    solver.snapshot()
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in noisy.glob("s_iter_2.*"):
        path.rename(moved / path.name)
    other, _ = make(noisy)
    other.restore(moved / "s_iter_2.solverstate")
    assert everything(other) == everything(solver)
    (moved / "s_iter_2.caffemodel").unlink()
    with pytest.raises(WeightsError, match="the weights written with it"):
        other.restore(moved / "s_iter_2.solverstate")


def test_a_state_of_another_net_is_refused(noisy: Path) -> None:
    solver, _ = make(noisy, f'snapshot_prefix: "{noisy}/s"')
    _, state = solver.snapshot()
    net = noisy / "net.prototxt"
    net.write_text(net.read_text().replace("num_output: 16", "num_output: 17"))
    other, _ = make(noisy)
    before = everything(other)
    with pytest.raises(WeightsError, match=r"history 0: \[16, 16\] in the file, \[17, 16\] in the solver"):
        other.restore(state)
    with pytest.raises(WeightsError, match="holds weights, not a solver's state"):
        other.restore(f"{noisy}/s_iter_0.caffemodel")
    assert everything(other) == before


def test_test_nets_use_the_trained_parameters(noisy: Path) -> None:
    solver, _ = make(noisy)
    trained, tested = solver.net.params["ip1"][0], solver.test_nets[0].params["ip1"][0]
    assert np.shares_memory(trained.data, tested.data)
    trained.data[...] = 0
    solver.net.params["ip2"][0].data[...] = 0
    solver.net.params["ip2"][1].data[...] = [0, 0, 5, 0]
    outputs = solver.test_nets[0].forward()
    labels = solver.test_nets[0].blobs["label"].data
    assert outputs["accuracy"] == pytest.approx((labels == 2).mean())
    means = solver.test_all()[0]
    with np.load(noisy / "digits.npz") as file:
        seen = file["label"][5:20]  # the batch above was the first one
    assert means["accuracy"] == pytest.approx((seen == 2).mean(), rel=1e-6)


def test_iter_size_adds_gradients_of_batches(noisy: Path) -> None:
    """Two passes over 7 images and one over 14 give the same update, where nothing is random."""
    net = noisy / "net.prototxt"
    net.write_text(net.read_text().replace("mirror: true", "").replace('type: "Dropout"', 'type: "TanH"'))
    plain = 'clip_gradients: -1\nlr_policy: "fixed"\nstepvalue: 100'
    twice, _ = make(noisy, f"{plain}\niter_size: 2")
    twice.step(2)
    net.write_text(net.read_text().replace("batch_size: 7", "batch_size: 14"))
    once, _ = make(noisy, plain)
    once.step(2)
    for layer, blobs in once.net.params.items():
        for one, two in zip(blobs, twice.net.params[layer], strict=True):
            np.testing.assert_allclose(one.data, two.data, atol=2e-6)
    assert twice.loss == pytest.approx(once.loss, rel=1e-5)


def test_smoothing_starts_afresh_with_each_step(noisy: Path) -> None:
    solver, lines = make(noisy, "average_loss: 3\ntest_interval: 1000\nsnapshot: 0")
    solver.step(5)
    raw = [float(line.split(" = ")[1].split(" ")[0]) for line in lines if "Train net output" in line]
    shown = [float(line.split("loss = ")[1]) for line in lines if line.startswith("Iteration") and "loss" in line]
    wanted = [raw[0], np.mean(raw[:2]), np.mean(raw[:3]), np.mean(raw[1:4]), np.mean(raw[2:5])]
    assert shown == pytest.approx(wanted, rel=1e-5)
    solver.step(1)
    assert lines[-3].endswith(f"loss = {lines[-2].split(' = ')[1].split(' ')[0]}") or "Gradient" in lines[-1]


def test_requests_stop_and_snapshot(noisy: Path) -> None:
    solver, lines = make(noisy, "snapshot: 0")
    solver.add_callback(lambda: None, lambda: solver.request("stop") if solver.iter == 2 else None)
    solver.solve()
    assert solver.iter == 3 and lines[-1] == "Optimization stopped early."
    assert (noisy / "full_iter_3.solverstate").exists()
    with pytest.raises(UsageError, match="no action"):
        solver.request("pause")


def test_apply_update_leaves_iter_alone(noisy: Path) -> None:
    solver, _ = make(noisy)
    solver.net.clear_param_diffs()
    solver.net.forward_backward()
    before = parameters(solver.net)
    solver.apply_update()
    assert solver.iter == 0 and parameters(solver.net) != before


def test_weights_of_the_solver_file_are_loaded(noisy: Path) -> None:
    first, _ = make(noisy, "random_seed: 7")
    first.net.save(noisy / "start.caffemodel")
    second, lines = make(noisy, f'random_seed: 8\nweights: "{noisy}/start.caffemodel"')
    assert parameters(second.net) == parameters(first.net)
    assert lines == [f"Finetuning from {noisy}/start.caffemodel"]
    third, _ = make(noisy, "random_seed: 8")
    assert parameters(third.net) != parameters(first.net)


def test_a_label_out_of_range_stops_before_the_update(noisy: Path) -> None:
    with np.load(noisy / "digits.npz") as file:
        images, labels = file["data"], file["label"].copy()
    labels[9] = 4
    np.savez(noisy / "digits.npz", data=images, label=labels)
    solver, _ = make(noisy, "test_initialization: false")
    solver.step(1)
    before = everything(solver)
    with pytest.raises(DataError, match=r'"label" holds the label 4 at index 2'):
        solver.step(1)
    assert solver.iter == 1 and everything(solver) == before


def test_a_prefix_that_cannot_be_written_is_refused_at_once(noisy: Path) -> None:
    with pytest.raises(SolverError, match="there is no folder"):
        make(noisy, f'snapshot_prefix: "{noisy}/missing/s"')


def test_not_finite_losses_have_a_line_of_their_own(noisy: Path) -> None:
    solver, lines = make(noisy, "test_interval: 1000\nsnapshot: 0\nclip_gradients: -1")
    solver.net.params["ip2"][1].data[...] = np.nan
    solver.step(1)
    assert "Iteration 0: the loss is not finite, nan" in lines
