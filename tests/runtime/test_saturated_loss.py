"""87.3365 in a training log is explained."""

from __future__ import annotations

import math

import pytest

from lossc import Solver
from lossc.frontend.solver import read_solver_text
from lossc.runtime.loglines import saturation

SOLVER = """base_lr: {rate} lr_policy: "fixed" max_iter: 4 display: 1 snapshot_after_train: false
net_param {{
  layer {{ name: "d" type: "DummyData" top: "x" top: "t" dummy_data_param {{
    shape {{ dim: 2 dim: 3 }} shape {{ dim: 2 }}
    data_filler {{ type: "constant" value: 1 }} data_filler {{ type: "constant" value: 1 }} }} }}
  layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param {{ num_output: 3
    bias_filler {{ type: "constant" value: {bias} }} }} }}
  layer {{ name: "p" type: "Power" bottom: "ip" top: "p" power_param {{ scale: {scale} }} }}
  layer {{ name: "c" type: "Concat" bottom: "ip" bottom: "p" top: "c" }}
  layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "c" bottom: "t" top: "loss" }}
}}
"""


def lines_of(**values: float) -> list[str]:
    lines: list[str] = []
    solver = Solver(read_solver_text(SOLVER.format(**values)), log=lambda place, text: lines.append(text), threads=1)
    solver.step(2)
    return lines


def test_a_saturated_loss_is_explained() -> None:
    lines = lines_of(rate=0.0, bias=100.0, scale=2.0)
    assert "    Train net output #0: loss = 87.3365 (* 1 = 87.3365 loss)" in lines
    told = [line for line in lines if "-log(FLT_MIN)" in line]
    assert len(told) == 2
    assert told[1].startswith(
        'Iteration 1: "loss" is 87.3365 = -log(FLT_MIN): the probability of every label underflowed'
    )


def test_other_losses_are_not() -> None:
    assert not [line for line in lines_of(rate=0.1, bias=0.5, scale=2.0) if "FLT_MIN" in line]


@pytest.mark.parametrize(
    ("kind", "value", "known"),
    [
        ("SoftmaxWithLoss", -math.log(2.0**-126), True),
        ("SoftmaxWithLoss", 87.0, False),
        ("SoftmaxWithLoss", math.nan, False),
        ("SoftmaxWithLoss", math.inf, False),
        ("MultinomialLogisticLoss", 46.051701, True),
        ("EuclideanLoss", 87.33654, False),
        ("EuclideanLoss", math.inf, False),
    ],
)
def test_which_values_are_known(kind: str, value: float, known: bool) -> None:
    assert (saturation(kind, "loss", value) is not None) == known
