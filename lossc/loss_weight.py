"""Loss weights that are not constants: set at run time, or computed from the iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from lossc.errors import UsageError

#: What each policy needs besides its value. Those of Caffe's solvers are computed as the learning rate is.
POLICIES: dict[str, tuple[str, ...]] = {
    "fixed": (),
    "step": ("gamma", "stepsize"),
    "multistep": ("gamma", "stepvalues"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
    "dann": ("gamma", "max_iter"),
    "piecewise": ("points",),
}


@dataclass(frozen=True)
class Runtime:
    """A weight that a program may change between steps: one number in the net's memory, read once a step.

    ``value``: where it starts; None for the weight that the prototxt gives.
    """

    value: float | None = None

    def __post_init__(self) -> None:
        check_finite(self.value)


@dataclass(frozen=True)
class Schedule:
    """A weight that the compiled net computes from the iteration t (the solver's, or what ``Net.iter`` was set to).

    With v the ``value`` (None: the weight that the prototxt gives), as in Caffe's solvers: "fixed" v; "step"
    v gamma^floor(t / stepsize); "multistep" v gamma^(stepvalues passed); "exp" v gamma^t; "inv" v (1 + gamma t)^-power;
    "poly" v (1 - t / max_iter)^power; "sigmoid" v / (1 + exp(-gamma (t - stepsize))). Two more: "dann"
    v (2 / (1 + exp(-gamma t / max_iter)) - 1), the ramp of Ganin et al. (JMLR 2016, where gamma is 10); "piecewise"
    linear between ``points`` (t, weight), constant beyond them. Behind max_iter a weight stays what it is there.

    Raises UsageError where a policy lacks what it needs, or is given what it has no use for.
    """

    policy: str
    value: float | None = None
    gamma: float | None = None
    power: float | None = None
    stepsize: int | None = None
    stepvalues: tuple[int, ...] = ()
    max_iter: int | None = None
    points: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise UsageError(f'there is no schedule "{self.policy}" for a loss_weight', fix=", ".join(POLICIES))
        object.__setattr__(self, "stepvalues", tuple(int(v) for v in self.stepvalues))
        object.__setattr__(self, "points", tuple((int(t), float(w)) for t, w in self.points))
        needs = POLICIES[self.policy]
        for name in ("gamma", "power", "stepsize", "stepvalues", "max_iter", "points"):
            given = getattr(self, name) not in (None, ())
            if given != (name in needs):
                verb = "has no use for" if given else "needs"
                wants = ", ".join(needs) or "nothing but its value"
                raise UsageError(f'the schedule "{self.policy}" {verb} {name}', fix=f"it takes {wants}")
        check_finite(self.value, self.gamma, self.power, *(w for _, w in self.points))
        if self.policy == "piecewise" and self.value is not None:
            raise UsageError('the schedule "piecewise" has no use for a value', fix="its points give the weights")
        for name in ("stepsize", "max_iter"):
            if (number := getattr(self, name)) is not None and number < (0 if self.policy == "sigmoid" else 1):
                raise UsageError(f'the schedule "{self.policy}": {name} is {number}', fix="give 1 or more")
        for times in (self.stepvalues, tuple(t for t, _ in self.points)):
            if any(a >= b for a, b in zip(times, times[1:], strict=False)):
                raise UsageError(f'the schedule "{self.policy}": iterations must rise: {list(times)}')


#: One loss_weight: a constant, or one of the two that can change.
LossWeight = float | Runtime | Schedule


def check_finite(*numbers: float | None) -> None:
    """Raises UsageError for weights that are not numbers or not finite."""
    for number in numbers:
        if number is not None and not (isinstance(number, (int, float)) and math.isfinite(number)):
            raise UsageError(f"a loss_weight of {number!r}", fix="give a finite number")


def own_value(weight: LossWeight, own: LossWeight) -> LossWeight:
    """The weight; one that starts from the net's own value, where that is a number, with this value."""
    if isinstance(weight, (Runtime, Schedule)) and needs_value(weight) and weight.value is None:
        return replace(weight, value=float(own)) if isinstance(own, (int, float)) and own else weight
    return weight


def needs_value(weight: Runtime | Schedule) -> bool:
    """Whether it starts from a value: all do but the ones that are given by points."""
    return not (isinstance(weight, Schedule) and weight.policy == "piecewise")


def first_value(weight: LossWeight) -> float:
    """The weight at the start; for "piecewise" its first point's."""
    if isinstance(weight, Schedule) and not needs_value(weight):
        return weight.points[0][1]
    value = weight.value if isinstance(weight, (Runtime, Schedule)) else weight
    return 1.0 if value is None else float(value)


def parse_weight(text: str) -> LossWeight:
    """A weight as text: ``0.3``, ``runtime:0.3``, or ``POLICY:VALUE,NAME=NUMBER,...`` for a schedule.

    VALUE may be left out; several numbers have ``/`` between them: ``multistep:0.3,gamma=0.5,stepvalues=100/200``,
    ``piecewise:points=0:0/1000:0.3``. Raises UsageError.
    """
    policy, colon, rest = text.partition(":")
    try:
        if policy == "runtime":
            return Runtime(float(rest) if rest else None)
        if not colon and policy not in POLICIES:
            number = float(text)
            check_finite(number)
            return number
        options: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            name, equals, value = part.partition("=")
            options.update({name: _value_of(name, value)} if equals else {"value": float(part)})
        return Schedule(policy, **options)
    except (ValueError, TypeError):
        fix = "0.3, runtime, or a schedule as step:0.3,gamma=0.1,stepsize=1000; schedules: " + ", ".join(POLICIES)
        raise UsageError(f"a loss_weight of {text!r}", fix=fix) from None


def _value_of(name: str, text: str) -> Any:
    if name == "points":
        return tuple((int(t), float(w)) for t, w in (point.split(":") for point in text.split("/")))
    if name == "stepvalues":
        return tuple(int(v) for v in text.split("/"))
    return int(text) if name in ("stepsize", "max_iter") else float(text)
