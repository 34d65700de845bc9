"""Loss weights that change: runtime ones give the constants' bits, schedules follow their formulas, in Python and C."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lossc
from lossc.cli.main import main
from lossc.errors import UsageError
from lossc.frontend import read_net_text

HEADS = """name: "heads" force_backward: true
layer { name: "in" type: "Input" top: "x" top: "y" top: "t"
        input_param { shape { dim: 6 dim: 9 } shape { dim: 6 } shape { dim: 6 dim: 7 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "x" top: "ip1"
        inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "relu1" RELU }
layer { name: "ip2" type: "InnerProduct" bottom: "relu1" top: "ip2"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "aux/loss" type: "SoftmaxWithLoss" bottom: "ip1" bottom: "y" top: "aux" loss_weight: AUX }
layer { name: "fit" type: "EuclideanLoss" bottom: "relu1" bottom: "t" top: "fit" loss_weight: FIT }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "y" top: "loss" }
"""


def heads(aux: float = 0.3, fit: float = -0.5, relu: str = "") -> lossc.frontend.net.NetSource:
    return read_net_text(HEADS.replace("AUX", str(aux)).replace("FIT", str(fit)).replace("RELU", relu))


def feed(net: lossc.Net) -> float:
    rng = np.random.default_rng(3)
    x, t = rng.standard_normal((6, 9)), rng.standard_normal((6, 7))
    net.clear_param_diffs()
    return net.forward_backward(x=x, y=rng.integers(0, 5, 6), t=t)


def gradients(net: lossc.Net) -> dict[str, np.ndarray]:
    found = {f"{name}/{k}": b.diff.copy() for name, blobs in net.params.items() for k, b in enumerate(blobs)}
    return {**found, "x": net.blobs["x"].diff.copy()}


def assert_same(a: lossc.Net, b: lossc.Net) -> None:
    mine, theirs = gradients(a), gradients(b)
    assert any(np.any(g) for g in mine.values())
    for name, values in mine.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)


def test_a_runtime_weight_gives_the_bits_of_the_constant() -> None:
    """Also after it was changed, and for a hidden top (the seed of a blob that other layers consume)."""
    for aux, fit, hidden in ((0.3, -0.5, 0.25), (1.7, 1e-6, -3.0)):
        constant = lossc.Net(heads(aux, fit, f"loss_weight: {hidden}"), lossc.TRAIN)
        weights = {"aux/loss": lossc.Runtime(9.0), "fit": lossc.Runtime(9.0), "relu1": lossc.Runtime(9.0)}
        runtime = lossc.Net(heads(aux, fit, f"loss_weight: {hidden}"), lossc.TRAIN, loss_weights=weights)
        assert feed(runtime) != feed(constant)
        runtime.loss_weights["aux/loss"] = aux  # by its layer ...
        runtime.loss_weights["fit"] = fit
        runtime.loss_weights["relu1"] = hidden
        assert runtime.loss_weights["aux"] == np.float32(aux)  # ... or by its top
        assert feed(runtime) == feed(constant)
        assert_same(runtime, constant)


def test_a_runtime_weight_starts_with_the_net_s_own() -> None:
    constant = lossc.Net(heads(), lossc.TRAIN)
    runtime = lossc.Net(heads(), lossc.TRAIN, loss_weights={"aux": lossc.Runtime(), "fit": lossc.Runtime()})
    assert feed(runtime) == feed(constant)
    assert_same(runtime, constant)
    assert dict(runtime.loss_weights) == dict(constant.loss_weights)
    assert list(runtime.loss_weights) == ["aux", "fit", "loss"]


def test_a_number_takes_the_constant_s_place() -> None:
    """Also where the net gives the layer no loss_weight at all."""
    other = lossc.Net(heads(0.3, 2.0), lossc.TRAIN, loss_weights={"aux/loss": 0.7, "relu1": 0.125})
    wanted = lossc.Net(heads(0.7, 2.0, "loss_weight: 0.125"), lossc.TRAIN)
    assert feed(other) == feed(wanted)
    assert_same(other, wanted)
    assert other.blob_loss_weights == wanted.blob_loss_weights


def test_zero_at_run_time_is_no_gradient() -> None:
    net = lossc.Net(heads(), lossc.TRAIN, loss_weights={"aux": lossc.Runtime(0.0), "fit": lossc.Runtime(0)})
    wanted = lossc.Net(heads(0, 0), lossc.TRAIN)
    assert feed(net) == pytest.approx(feed(wanted), rel=1e-6)
    for name, values in gradients(net).items():
        np.testing.assert_allclose(values, gradients(wanted)[name], rtol=1e-6, atol=1e-7, err_msg=name)


F = np.float32
SCHEDULES: list[tuple[str, lossc.Schedule, Callable[[int], float]]] = [
    ("fixed:0.4", lossc.Schedule("fixed", 0.4), lambda t: 0.4),
    (
        "step:0.4,gamma=0.5,stepsize=3",
        lossc.Schedule("step", 0.4, gamma=0.5, stepsize=3),
        lambda t: 0.4 * 0.5 ** (t // 3),
    ),
    (
        "multistep:0.4,gamma=0.1,stepvalues=2/5",
        lossc.Schedule("multistep", 0.4, gamma=0.1, stepvalues=(2, 5)),
        lambda t: 0.4 * 0.1 ** ((t >= 2) + (t >= 5)),
    ),
    ("exp:0.4,gamma=0.9", lossc.Schedule("exp", 0.4, gamma=0.9), lambda t: 0.4 * 0.9**t),
    (
        "inv:0.4,gamma=0.1,power=0.75",
        lossc.Schedule("inv", 0.4, gamma=0.1, power=0.75),
        lambda t: 0.4 * (1 + 0.1 * t) ** -0.75,
    ),
    (
        "poly:0.4,power=2,max_iter=7",
        lossc.Schedule("poly", 0.4, power=2.0, max_iter=7),
        lambda t: 0.4 * (1 - min(t, 7) / 7) ** 2,
    ),
    (
        "sigmoid:0.4,gamma=-0.5,stepsize=4",
        lossc.Schedule("sigmoid", 0.4, gamma=-0.5, stepsize=4),
        lambda t: 0.4 / (1 + math.exp(0.5 * (t - 4))),
    ),
    (
        "dann:0.4,gamma=10,max_iter=8",
        lossc.Schedule("dann", 0.4, gamma=10.0, max_iter=8),
        lambda t: 0.4 * (2 / (1 + math.exp(-10 * min(t, 8) / 8)) - 1),
    ),
    (
        "piecewise:points=2:0/4:1/8:0.5",
        lossc.Schedule("piecewise", points=((2, 0.0), (4, 1.0), (8, 0.5))),
        lambda t: float(np.interp(t, [2, 4, 8], [0.0, 1.0, 0.5])),
    ),
]


@pytest.mark.parametrize(("text", "schedule", "formula"), SCHEDULES, ids=[s[1].policy for s in SCHEDULES])
def test_schedules(text: str, schedule: lossc.Schedule, formula: Callable[[int], float]) -> None:
    from lossc.loss_weight import parse_weight

    assert parse_weight(text) == schedule
    net = lossc.Net(heads(), lossc.TRAIN, loss_weights={"aux/loss": schedule})
    runtime = lossc.Net(heads(), lossc.TRAIN, loss_weights={"aux/loss": lossc.Runtime()})
    for t in (0, 1, 2, 3, 4, 5, 7, 8, 12):
        net.iter = t
        loss = feed(net)
        weight = net.loss_weights["aux"]
        assert weight == pytest.approx(formula(t), rel=2e-6, abs=1e-8), t
        runtime.loss_weights["aux"] = weight
        assert feed(runtime) == loss
    assert_same(net, runtime)


def test_in_the_prototxt() -> None:
    """lossc_param says what becomes of the weights that the layer has; the values are the layer's own."""
    text = HEADS.replace("AUX", '0.3 lossc_param { loss_weight: runtime }')
    text = text.replace("FIT", '0.5 lossc_param { loss_weight: "exp:gamma=0.5" }').replace("RELU", "")
    net = lossc.Net(read_net_text(text), lossc.TRAIN)
    weights = {"aux": lossc.Runtime(), "fit": lossc.Schedule("exp", gamma=0.5)}
    other = lossc.Net(heads(0.3, 0.5), lossc.TRAIN, loss_weights=weights)
    for each in (net, other):
        each.iter = 2
        each.loss_weights["aux"] = 0.25
    assert feed(net) == feed(other)
    assert_same(net, other)
    assert dict(net.loss_weights) == {"aux": 0.25, "fit": 0.125, "loss": 1.0}
    for wrong, message in (("cosine", "a loss_weight of 'cosine'"), ("[runtime, runtime]", "2 values .* for 1 top")):
        broken = text.replace("loss_weight: runtime", f"loss_weight: {wrong}")
        with pytest.raises(lossc.LosscError, match=message) as caught:
            lossc.Net(read_net_text(broken), lossc.TRAIN)
        assert caught.value.layer == "aux/loss" and caught.value.line == 9


SOLVER = """base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 max_iter: 8 display: 0 snapshot_prefix: "snap"
test_iter: 1 test_interval: 100 test_initialization: false net: "net.prototxt" """


def test_a_solver_moves_schedules_on_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is interrupted ends with the bits of one that is not, runtime weights included."""
    monkeypatch.chdir(tmp_path)
    text = HEADS.replace("AUX", "0.3").replace("FIT", "0.1").replace("RELU", "")
    text = text.replace('type: "Input"', 'type: "DummyData"')
    data = text.replace("input_param { shape { dim: 6 dim: 9 } shape { dim: 6 } shape { dim: 6 dim: 7 } }",
                        """dummy_data_param { shape { dim: 6 dim: 9 } shape { dim: 6 } shape { dim: 6 dim: 7 }
                        data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 2 }
                        data_filler { type: "gaussian" std: 1 } }""")  # fmt: skip
    Path("net.prototxt").write_text(data)
    Path("solver.prototxt").write_text(SOLVER)
    weights = {"aux/loss": lossc.Schedule("poly", power=1.0, max_iter=8), "fit": lossc.Runtime()}

    def make() -> lossc.Solver:
        return lossc.get_solver("solver.prototxt", loss_weights=weights, log=lambda place, text: None)

    whole, parted = make(), make()
    seen = []
    whole.add_callback(lambda: None, lambda: seen.append(whole.net.loss_weights["aux"]))
    whole.step(4)
    parted.step(4)
    for solver in (whole, parted):
        solver.net.loss_weights["fit"] = 0.6
    _, state = parted.snapshot()
    resumed = make()
    resumed.restore(state)
    assert resumed.net.loss_weights["fit"] == F(0.6)
    whole.step(3)
    resumed.step(3)
    assert seen == pytest.approx([0.3 * (1 - t / 8) for t in range(7)], rel=1e-6)
    for name, blobs in whole.net.params.items():
        for mine, theirs in zip(blobs, resumed.net.params[name], strict=True):
            np.testing.assert_array_equal(mine.data, theirs.data)
    whole.test_all()
    assert dict(whole.test_nets[0].loss_weights) == {"aux": pytest.approx(0.3 / 8), "fit": F(0.6), "loss": 1.0}


C_PROGRAM = """#include <stdio.h>
#include "net.h"
int main(void)
{
    lossc_net *net = heads_create(1, 1);
    float *in[] = {heads_x(net), heads_y(net), heads_t(net)};
    const int size[] = {HEADS_X_SIZE, HEADS_Y_SIZE, HEADS_T_SIZE};
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < size[k]; i++)
            in[k][i] = k == 1 ? (float)(i % 5) : (float)(i % 11) * 0.25f - 1.0f;
    for (int t = 0; t < 4; t++) {
        heads_set_iter(net, t);
        heads_set_loss_weight(net, HEADS_WEIGHT_FIT, 0.5 * t);
        double loss = heads_forward_backward(net);
        double aux = heads_loss_weight(net, HEADS_WEIGHT_AUX);
        printf("%.9g %.9g %.9g\\n", loss, aux, heads_loss_weight(net, HEADS_WEIGHT_FIT));
    }
    heads_destroy(net);
    return 0;
}
"""


def test_from_c(tmp_path: Path) -> None:
    from lossc.build import find_compiler

    (tmp_path / "net.prototxt").write_text(HEADS.replace("AUX", "0.3").replace("FIT", "0.1").replace("RELU", ""))
    options = ["--runtime-weight", "fit", "--loss-weight", "aux/loss=exp:0.3,gamma=0.5", "--target", "scalar"]
    assert main(["compile", str(tmp_path / "net.prototxt"), "-o", str(tmp_path / "out"), *options]) == 0
    (tmp_path / "main.c").write_text(C_PROGRAM)
    command = [*find_compiler().command, "main.c", "-Iout", "-Lout", "-lnet", "-Wl,-rpath,out", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True)
    weights = {"fit": lossc.Runtime(0.1), "aux/loss": lossc.Schedule("exp", 0.3, gamma=0.5)}
    net = lossc.Net(tmp_path / "net.prototxt", lossc.TRAIN, target="scalar", loss_weights=weights)
    for name, size in (("x", 54), ("t", 42)):
        net.blobs[name].data.reshape(-1)[:] = np.arange(size) % 11 * 0.25 - 1
    net.blobs["y"].data[:] = np.arange(6) % 5
    wanted = []
    for t in range(4):
        net.iter = t
        net.loss_weights["fit"] = 0.5 * t
        loss = net.forward_backward()
        wanted.append(f"{loss:.9g} {net.loss_weights['aux']:.9g} {net.loss_weights['fit']:.9g}")
    assert done.stdout.splitlines() == wanted
    assert len(set(wanted)) == 4


def test_wrong_weights_are_refused() -> None:
    def net(**weights: object) -> lossc.Net:
        return lossc.Net(heads(), lossc.TRAIN, loss_weights=weights)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match='(?s)"axu", which the net does not have.*did you mean "aux"'):
        net(axu=lossc.Runtime())
    with pytest.raises(lossc.LosscError, match="has no gradient"):
        net(x=0.5)
    with pytest.raises(lossc.LosscError, match="a loss_weight of nan"):
        net(aux=float("nan"))
    with pytest.raises(UsageError, match='schedule "step" needs stepsize'):
        lossc.Schedule("step", 0.3, gamma=0.1)
    with pytest.raises(UsageError, match='schedule "exp" has no use for power'):
        lossc.Schedule("exp", 0.3, gamma=0.1, power=1.0)
    with pytest.raises(UsageError, match='no schedule "cosine"'):
        lossc.Schedule("cosine", 0.3)
    with pytest.raises(UsageError, match="iterations must rise"):
        lossc.Schedule("piecewise", points=((3, 1.0), (3, 2.0)))
    constant = net()
    with pytest.raises(UsageError, match=r'(?s)"aux" is a constant of the code.*lossc.Runtime'):
        constant.loss_weights["aux"] = 0.5
    with pytest.raises(UsageError, match='no loss "auxx"'):
        constant.loss_weights["auxx"]
    runtime = net(aux=lossc.Runtime())
    for wrong in (math.inf, "much"):
        with pytest.raises(UsageError, match="finite"):
            runtime.loss_weights["aux"] = wrong  # type: ignore[assignment]
    scheduled = net(aux=lossc.Schedule("exp", gamma=0.5))
    with pytest.raises(UsageError, match='follows the policy "exp"'):
        scheduled.loss_weights["aux"] = 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loss-weight", "aux/loss"], "no weight"),
        (["--loss-weight", "aux=step"], "needs gamma"),
        (["--loss-weight", "aux=lots"], "a loss_weight of 'lots'"),
        (["--runtime-weight", "aux=a lot"], "a loss_weight of 'a lot'"),
        (["--runtime-weight", "aux", "--loss-weight", "aux=3"], 'two weights for "aux"'),
    ],
)
def test_wrong_options(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.prototxt").write_text(HEADS.replace("AUX", "0.3").replace("FIT", "0.1").replace("RELU", ""))
    assert main(["inspect", str(tmp_path / "net.prototxt"), *options]) != 0
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err
