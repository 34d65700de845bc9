"""Reads solver files: how a net is trained, and which nets are trained and tested."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from lossc.errors import PrototxtError, SolverError
from lossc.frontend import caffe_pb2
from lossc.frontend.caffe_pb2 import NetParameter, NetState, SolverParameter
from lossc.frontend.names import suggestion
from lossc.frontend.net import NetSource, finish_net, origin_of, resolve_path
from lossc.frontend.paths import path_text
from lossc.frontend.places import Place
from lossc.frontend.text import parse, read_text
from lossc.frontend.upgrade import SOLVER_TYPES, Origin, upgrade_solver

# What each learning rate policy needs to be given.
POLICIES: dict[str, tuple[str, ...]] = {
    "fixed": (),
    "step": ("gamma", "stepsize"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
}

_AT_LEAST = {
    "iter_size": 1, "average_loss": 1, "max_iter": 0, "display": 0, "snapshot": 0, "test_interval": 0, "test_iter": 1,
    "stepvalue": 0, "base_lr": 0, "momentum": 0, "momentum2": 0, "delta": 0,
}  # fmt: skip

_TRAIN_NETS = ("net", "net_param", "train_net", "train_net_param")


@dataclass(frozen=True)
class SolverSource:
    """A solver as it was written, checked and in the present format; files that it names are found.

    ``param``: may be changed before the nets are read. ``file``: its file as the user named it.
    ``places``: where its fields stand in the file.
    """

    param: SolverParameter
    file: str
    places: Place

    def line(self, field: str, index: int = 0) -> int | None:
        """The line of a field of the solver."""
        return self.places.line_of(field, index)

    def train_net(self, *, level: int | None = None, stages: Iterable[str] = ()) -> NetSource:
        """The net to train. Its state: TRAIN, then the net's own state, then ``train_state``, then the arguments.

        Raises PrototxtError.
        """
        field = next(name for name in _TRAIN_NETS if self.param.HasField(name))
        last = NetState()
        last.CopyFrom(self.param.train_state)
        last.stage.extend(stages)
        if level is not None:
            last.level = level
        return self._net(field, 0, caffe_pb2.TRAIN, last)

    def test_nets(self) -> list[NetSource]:
        """The nets to test, one for each ``test_iter``: those of test_net_param, of test_net, then the trained one's.

        The state of each: TEST, then the net's own state, then its ``test_state``. Raises PrototxtError.
        """
        param = self.param
        fields = [("test_net_param", i) for i in range(len(param.test_net_param))]
        fields += [("test_net", i) for i in range(len(param.test_net))]
        shared = "net_param" if param.HasField("net_param") else "net"
        fields += [(shared, 0)] * (len(param.test_iter) - len(fields))
        states = list(param.test_state) or [NetState()] * len(fields)
        return [self._net(name, i, caffe_pb2.TEST, last) for (name, i), last in zip(fields, states, strict=True)]

    def _net(self, field: str, index: int, phase: caffe_pb2.Phase, last: NetState) -> NetSource:
        value = getattr(self.param, field)
        if field.startswith("test_"):
            value = value[index]
        net = NetParameter()
        if isinstance(value, NetParameter):
            net.CopyFrom(value)
            place = self.places.find(field, index)
            origin = origin_of(place, self.file) if place else Origin(self.file)
        else:
            try:
                text = read_text(value)
            except PrototxtError as error:
                message = f'{field} "{value}": {error.message}'
                raise SolverError(message, fix=error.fix, file=self.file, line=self.line(field, index)) from None
            origin = origin_of(parse(text, net, file=value), value)
        state = NetState(phase=phase)
        state.MergeFrom(net.state)
        state.MergeFrom(last)
        return finish_net(net, state, origin)


@contextmanager
def located(source: SolverSource | None) -> Iterator[None]:
    """Compiling a solver's update: what it cannot do is told with the file of the solver, at its type."""
    try:
        yield
    except SolverError as error:
        if source is None:
            raise
        raise error.located(file=source.file, line=source.line("type")) from None


def read_solver(source: str | PathLike[str] | SolverParameter) -> SolverSource:
    """Read a solver's prototxt file, or take a SolverParameter (left as it is).

    Raises PrototxtError for what is no solver, and SolverError for settings that contradict each other.
    """
    if isinstance(source, SolverParameter):
        param = SolverParameter()
        param.CopyFrom(source)
        return _finish(param, "<SolverParameter>", Place("", 1, 0, 0), None)
    file = path_text(source, "a solver's prototxt file")
    return read_solver_text(read_text(file), file, path=file)


def read_solver_text(text: str, file: str = "<string>", *, path: str | None = None) -> SolverSource:
    """As read_solver, of a prototxt text; ``file`` is the name to show, ``path`` that of a file that really exists."""
    param = SolverParameter()
    places = parse(text, param, file=file)
    return _finish(param, file, places, path)


def _finish(param: SolverParameter, file: str, places: Place, path: str | None) -> SolverSource:
    source = SolverSource(param, file, places)
    upgrade_solver(param, file, places.line_of("solver_type"))
    _check_numbers(source)
    _check_type(source)
    _check_policy(source)
    _check_steps(source)
    _check_nets(source)
    if path is not None:
        _resolve(param, path)
    return source


def _resolve(param: SolverParameter, path: str) -> None:
    """Find the files that the solver names; an absent snapshot_prefix, or a folder's, takes the solver's own name."""
    for field in ("net", "train_net"):
        if param.HasField(field):
            setattr(param, field, resolve_path(getattr(param, field), path))
    param.test_net[:] = [resolve_path(name, path) for name in param.test_net]
    param.weights[:] = [",".join(resolve_path(w.strip(), path) for w in each.split(",")) for each in param.weights]
    if not param.snapshot_prefix:
        param.snapshot_prefix = str(Path(path).with_suffix(""))
    elif Path(param.snapshot_prefix).is_dir():
        param.snapshot_prefix = str(Path(param.snapshot_prefix) / Path(path).stem)


def _fail(source: SolverSource, field: str, message: str, fix: str, index: int = 0) -> SolverError:
    return SolverError(message, fix=fix, file=source.file, line=source.line(field, index))


def _check_numbers(source: SolverSource) -> None:
    for field, value in source.param.ListFields():
        values = value if hasattr(value, "append") else [value]
        least = _AT_LEAST.get(field.name)
        for index, each in enumerate(values):
            if isinstance(each, float) and not math.isfinite(each):
                raise _fail(source, field.name, f"{field.name} is {each}", "give a finite number", index)
            if least is not None and each < least:
                number = f"{each:g}" if isinstance(each, float) else each
                message = f"{field.name} is {number}, but must be {least} or more"
                raise _fail(source, field.name, message, f"write {field.name}: {least} or a larger number", index)


def _check_type(source: SolverSource) -> None:
    param = source.param
    if param.type not in SOLVER_TYPES:
        fix = suggestion(param.type, SOLVER_TYPES, "the types are")
        raise _fail(source, "type", f'unknown solver type "{param.type}"', fix)
    if param.regularization_type not in ("L1", "L2"):
        message = f'unknown regularization_type "{param.regularization_type}"'
        raise _fail(source, "regularization_type", message, 'write "L2" or "L1"')
    if param.type in ("AdaGrad", "RMSProp") and param.momentum:
        message = f"{param.type} has no momentum, but momentum is {param.momentum:g}"
        raise _fail(source, "momentum", message, "remove momentum, or choose another type")
    decays = {"RMSProp": ("rms_decay",), "Adam": ("momentum", "momentum2")}
    for field in decays.get(param.type, ()):
        if not 0 <= getattr(param, field) < 1:
            message = f"{field} of {param.type} is {getattr(param, field):g}, but must be at least 0 and less than 1"
            raise _fail(source, field, message, f"a usual value is {0.9 if field == 'momentum' else 0.99}")


def _check_policy(source: SolverSource) -> None:
    param = source.param
    if not param.HasField("base_lr"):
        raise _fail(source, "base_lr", "base_lr, the learning rate, is missing", "add base_lr: 0.01, for example")
    if param.lr_policy not in POLICIES:
        fix = suggestion(param.lr_policy, POLICIES, "the policies are")
        if not param.lr_policy:
            raise _fail(source, "lr_policy", "lr_policy is missing", 'add lr_policy: "fixed" to keep the rate constant')
        raise _fail(source, "lr_policy", f'unknown lr_policy "{param.lr_policy}"', fix)
    for field in POLICIES[param.lr_policy]:
        given = len(param.stepvalue) if field == "stepvalue" else param.HasField(field)
        if not given:
            message = f'lr_policy "{param.lr_policy}" needs {field}'
            raise _fail(source, "lr_policy", message, f"add {field}: ..., or choose another policy")
        if field == "gamma" and param.gamma < 0:
            raise _fail(source, field, f"gamma is {param.gamma:g}, but must not be negative", "write gamma: 0.1")
        if field in ("stepsize", "max_iter") and getattr(param, field) <= 0:
            message = f'{field} is {getattr(param, field)}, but lr_policy "{param.lr_policy}" needs more than 0'
            raise _fail(source, field, message, f"give the number of iterations as {field}")


def _check_steps(source: SolverSource) -> None:
    steps = list(source.param.stepvalue)
    for index in range(1, len(steps)):
        if steps[index] < steps[index - 1]:
            message = f"stepvalue {steps[index]} comes after {steps[index - 1]}"
            raise _fail(source, "stepvalue", message, "give the iterations of drops in rising order", index)


def _check_nets(source: SolverSource) -> None:
    param = source.param
    given = [name for name in _TRAIN_NETS if param.HasField(name)]
    if len(given) != 1:
        message = f"{' and '.join(given)} all name a net to train" if given else "no net is named"
        fix = f"keep {given[0]}" if given else 'add net: "FILE.prototxt"'
        raise _fail(source, given[-1] if given else "", message, fix)
    if given[0] in ("net", "train_net") and not getattr(param, given[0]):
        raise _fail(source, given[0], f"{given[0]} names no file", f'write {given[0]}: "FILE.prototxt"')
    named = len(param.test_net_param) + len(param.test_net)
    tests = len(param.test_iter)
    if tests < named or (tests != named and given[0] not in ("net", "net_param")):
        message = f"{named} test nets, but {tests} test_iter"
        fix = "give test_iter, the number of batches of a test, once per test net"
        raise _fail(source, "test_iter" if tests else "test_net", message, fix)
    if param.test_state and len(param.test_state) != tests:
        message = f"{tests} test_iter, but {len(param.test_state)} test_state"
        raise _fail(source, "test_state", message, "give test_state once per test net, or not at all")
    if param.test_interval and not tests:
        message = "test_interval is given, but not test_iter: nothing would be tested"
        raise _fail(source, "test_interval", message, "add test_iter, the number of batches of a test, or remove it")
    if tests and not param.test_interval:
        message = "test_iter is given, but not test_interval"
        raise _fail(source, "test_iter", message, "add test_interval, the number of iterations from test to test")
