"""What callers give that makes no sense: one lossc error each, which says what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossc
from lossc.errors import ArgumentError, LosscError, UsageError

NET_CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"threads": "2"}, "threads is '2', not a whole number", "None for one per core"),
    ({"threads": 2.5}, "threads is 2.5", "1 to 1024"),
    ({"threads": True}, "threads is True", "1 to 1024"),
    ({"threads": 0}, "threads is 0", "1 to 1024"),
    ({"seed": "a"}, "seed is 'a'", "whole number"),
    ({"level": None}, "level is None", "give"),
    ({"stages": 3}, "stages is 3", "list of names"),
    ({"keep": 5}, "keep is 5", "list of names"),
    ({"keep": [5]}, "keep holds 5", "names as text"),
    ({"target": None}, "the target None is not known", "native"),
    ({"dtype": "int8"}, "int8", "float32"),
    ({"phase": None}, "no phase None", "TRAIN"),
    ({"weights": 3}, "is wanted, not 3", "path"),
    ({"loss_weights": 3}, "loss_weights is 3", "by name"),
    ({"loss_weights": {"loss": None}}, 'loss_weight of "loss" is None', "number"),
    ({"loss_weights": {"loss": float("nan")}}, "loss_weight of nan", "finite"),
]


@pytest.mark.parametrize(("options", "message", "fix"), NET_CASES, ids=[str(case[0]) for case in NET_CASES])
def test_arguments_of_net(mlp: Path, options: dict[str, Any], message: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        lossc.Net(mlp, **{"phase": lossc.TRAIN, **options})
    assert message in caught.value.message and fix in (caught.value.fix or "")


@pytest.mark.parametrize("file", [None, 5, ["net.prototxt"]])
def test_what_is_no_path(file: Any) -> None:
    for call in (lambda: lossc.Net(file, lossc.TRAIN), lambda: lossc.get_solver(file)):
        with pytest.raises(ArgumentError, match="prototxt file is wanted, not"):
            call()


def test_text_in_place_of_a_path_is_not_printed() -> None:
    text = 'layer { name: "x" type: "ReLU" }\n' * 400
    for given in (text, 'layer { name: "x" }', 'name: "net"'):
        with pytest.raises(LosscError, match="the text of a prototxt was given") as caught:
            lossc.Net(given, lossc.TRAIN)
        assert len(str(caught.value)) < 240 and "read_net_text" in str(caught.value)
    with pytest.raises(LosscError, match="File name too long") as caught:
        lossc.Net("x" * 5000, lossc.TRAIN)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2], [3]], "rows of different lengths"),
        ("abc", "holds text"),
        ([["a"] * 3] * 4, "holds text"),
        (None, "holds Python objects"),
        (np.full((4, 3), None), "holds Python objects"),
        (np.ones((4, 3)) + 1j, "holds complex numbers"),
        (np.zeros((4, 3), "datetime64[s]"), "holds datetime64"),
        (np.zeros((3, 4)), r"has the shape \[3, 4\], the net wants \[4, 3\]"),
        (1.0, r"has the shape \[\]"),
    ],
)
def test_inputs_that_are_no_arrays_of_real_numbers(mlp: Path, values: Any, message: str) -> None:
    net = lossc.Net(mlp, lossc.TRAIN)
    net.blobs["data"].data[...] = 7
    for run in (net.forward, net.forward_backward):
        with pytest.raises(ArgumentError, match=message) as caught:
            run(data=values)
        assert isinstance(caught.value, TypeError) and isinstance(caught.value, ValueError) and caught.value.fix
    assert (net.blobs["data"].data == 7).all()


def test_labels_tell_what_to_do(mlp: Path) -> None:
    net = lossc.Net(mlp, lossc.TRAIN)
    with pytest.raises(LosscError, match="the label 9 at index 3") as caught:
        net.forward(data=np.zeros((4, 3)), label=[0, 1, 2, 9])
    assert caught.value.line == 9 and "ignore_label" in (caught.value.fix or "")


def test_other_calls_of_net(mlp: Path, tmp_path: Path) -> None:
    net = lossc.Net(mlp, lossc.TRAIN)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: net.copy_from(None), "is wanted, not None"),  # type: ignore[arg-type]
        (lambda: net.save(None), "is wanted, not None"),  # type: ignore[arg-type]
        (lambda: net.share_with(3), "shared with a Net"),  # type: ignore[arg-type]
        (lambda: net.forward(blobs=5), "blobs is 5"),  # type: ignore[arg-type]
        (lambda: setattr(net, "iter", "a"), "iter is 'a'"),
        (lambda: net.save(tmp_path / "x.foo"), r"ends in \.caffemodel or \.h5"),
    ]
    for call, message in calls:
        with pytest.raises(UsageError, match=message) as caught:
            call()
        assert caught.value.fix
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mlp.prototxt"]


def test_calls_of_solvers(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(noisy)
    solver = lossc.get_solver("solver.prototxt")
    for iterations in ("a", None, 1.5, -1):
        with pytest.raises(UsageError, match="iterations is"):
            solver.step(iterations)  # type: ignore[arg-type]
    assert solver.iter == 0
    with pytest.raises(ArgumentError, match="is wanted, not None"):
        solver.restore(None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="test_data is 3"):
        lossc.get_solver("solver.prototxt", test_data=3)
    with pytest.raises(ArgumentError, match="no data source"):
        lossc.get_solver("solver.prototxt", data=3)


def test_weights_of_another_net_are_refused(mlp: Path, tmp_path: Path) -> None:
    net = lossc.Net(mlp, lossc.TRAIN)
    other = mlp.read_text().replace('name: "ip', 'name: "fc')
    (tmp_path / "other.prototxt").write_text(other)
    net.save(tmp_path / "w.caffemodel")
    with pytest.raises(LosscError, match="parameters of no layer of the net") as caught:
        lossc.Net(tmp_path / "other.prototxt", lossc.TRAIN, weights=tmp_path / "w.caffemodel")
    assert "ip1, ip2" in (caught.value.fix or "")


def test_a_state_whose_progress_is_damaged_changes_nothing(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(noisy)
    solver = lossc.get_solver("solver.prototxt")
    solver.step(2)
    _, state = solver.snapshot()
    solver.step(1)
    content = Path(state).read_bytes()
    before = [net.progress for net in (solver.net, *solver.test_nets)]
    values = solver.net.params["ip1"][0].data.copy()
    for old, new in ((b"PCG64", b"PCG65"), (b'"random"', b'"rondam"'), (b'"position"', b'"positron"')):
        assert old in content
        Path("bad.solverstate").write_bytes(content.replace(old, new))
        with pytest.raises(LosscError, match="its progress cannot be taken over") as caught:
            solver.restore("bad.solverstate")
        assert caught.value.file == "bad.solverstate" and caught.value.fix
        assert [net.progress for net in (solver.net, *solver.test_nets)] == before and solver.iter == 3
        np.testing.assert_array_equal(solver.net.params["ip1"][0].data, values)


def test_a_state_that_was_cut_short_is_refused(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(noisy)
    solver = lossc.get_solver("solver.prototxt")
    solver.step(1)
    _, state = solver.snapshot()
    content = Path(state).read_bytes()
    for length in range(len(content)):
        Path("cut.solverstate").write_bytes(content[:length])
        with pytest.raises(LosscError):
            solver.restore("cut.solverstate")


def test_bytes_name_files_too(mlp: Path) -> None:
    assert lossc.Net(str(mlp).encode(), lossc.TRAIN).name == "mlp"  # type: ignore[arg-type]
