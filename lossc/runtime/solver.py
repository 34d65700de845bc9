"""Solvers: Caffe's training loop around a compiled step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from os import PathLike, fspath
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np

from lossc.errors import ArgumentError, UsageError, WeightsError
from lossc.frontend.caffe_pb2 import SolverParameter
from lossc.frontend.net import NetSource
from lossc.frontend.solver import SolverSource, located, read_solver
from lossc.loss_weight import LossWeight
from lossc.runtime.arguments import whole_number
from lossc.runtime.debug import backward_lines, forward_lines
from lossc.runtime.feed import Override
from lossc.runtime.loglines import Log, Smoothed, add_to, mean_of, number, output_lines, saturation
from lossc.runtime.net import Net
from lossc.runtime.snapshot import check_prefix, learned_net, load_state, snapshot_paths

if TYPE_CHECKING:
    from lossc.frontend.weights import SolverStateData


class Solver:
    """Trains the net of a solver file as Caffe does, test nets and snapshots included.

    ``net`` is the net in training, ``test_nets`` those that are tested; they use the same parameters. ``iter`` counts
    the updates made. ``log`` gets Caffe's log lines (see ``loglines.Log``); by default Python's logger "lossc" does.
    ``test_data``: like ``data``, one for each test net; by default they get ``data`` too. ``loss_weights`` as of
    ``Net``; test nets get those that name a layer or top of theirs, and follow the net in training. The remaining
    arguments are those of ``Net``; random_seed of the solver, where it is given, is the nets' seed.

    Raises LosscError's kinds: PrototxtError, SolverError, GraphError, DataError, WeightsError, CompilerError.
    """

    def __init__(
        self,
        source: str | PathLike[str] | SolverParameter | SolverSource,
        *,
        threads: int | None = None,
        target: str = "native",
        dtype: str = "float32",
        keep: str | Iterable[str] = (),
        data: Override | None = None,
        test_data: Sequence[Override | None] | None = None,
        log: Log | None = None,
        loss_weights: Mapping[str, LossWeight] | None = None,
        layers: Any = None,
        check_labels: bool = True,
        check_finite: bool = False,
        winograd: int = 2,
        tuned: bool | str | PathLike[str] = False,
        blocks: bool = True,
    ) -> None:
        self.source = _read(source)
        param = self.param = self.source.param
        self._log: Log = log or _log_to_python
        if param.snapshot:
            check_prefix(param.snapshot_prefix, self.source.file, self.source.line("snapshot_prefix"))
        seed = param.random_seed if param.random_seed >= 0 else 1
        keep = "all" if param.debug_info else keep  # what debug_info shows must be there to be read
        train = self.source.train_net()
        with located(self.source):
            self.net = Net(
                train, train.phase, None, keep, threads, target, dtype, seed, data=data, solver=param,
                loss_weights=loss_weights, layers=layers, check_labels=check_labels, check_finite=check_finite,
                winograd=winograd, tuned=tuned, blocks=blocks,
            )  # fmt: skip
        tests = self.source.test_nets()
        if not isinstance(test_data, (Sequence, NoneType)) or isinstance(test_data, str):
            raise ArgumentError(f"test_data is {test_data!r:.60}", fix="give a list with an entry for each test net")
        feeds = [data] * len(tests) if test_data is None else test_data
        if len(feeds) != len(tests):
            raise UsageError(f"{len(feeds)} test_data for {len(tests)} test nets", fix="give one for each, or none")
        self.test_nets = [
            Net(
                each, each.phase, None, "all" if param.debug_info else (), threads, target, dtype, seed, data=feed,
                loss_weights=_known_weights(each, loss_weights or {}), layers=layers, check_labels=check_labels,
                check_finite=check_finite, winograd=winograd, tuned=tuned, blocks=blocks,
            )  # fmt: skip
            for each, feed in zip(tests, feeds, strict=True)
        ]
        for net in self.test_nets:
            net.share_with(self.net)
        native = self.net.native
        self.history: list[np.ndarray] = [native.view(place) for place in self.net.manifest["history"]]
        self._smoothed = Smoothed(param.average_loss, native.dtype)
        self._request: str | None = None
        self._callbacks: list[tuple[Callable[[], None], Callable[[], None]]] = []
        for paths in param.weights:
            for path in filter(None, (each.strip() for each in paths.split(","))):
                self.load_weights(path)

    # ---- state

    @property
    def iter(self) -> int:
        """Updates made."""
        return self.net.native.iter

    @property
    def lr(self) -> float:
        """The rate of the next update. As in Caffe, asking can move the counter of the policy "multistep"."""
        return self.net.native.rate()

    @property
    def rate(self) -> float:
        """The rate of the last update; 0 before the first. Asking changes nothing."""
        return float(self.net.native.view(self.net.manifest["rate"]))

    @property
    def loss(self) -> float:
        """The loss of the last iteration, smoothed over average_loss of them."""
        return float(self._smoothed.value)

    def load_weights(self, path: str | PathLike[str]) -> None:
        """Takes over parameters by layers' names. Raises WeightsError."""
        self._log("solver.cpp:72", f"Finetuning from {path}")
        self.net.copy_from(path)

    def add_callback(self, on_start: Callable[[], None], on_gradient: Callable[[], None]) -> None:
        """Has functions called in each iteration: at its start, and when the gradients are ready for the update."""
        self._callbacks.append((on_start, on_gradient))

    def request(self, action: str) -> None:
        """Asks for "stop" or "snapshot" at the end of the iteration that runs now; safe in signal handlers."""
        if action not in ("stop", "snapshot"):
            raise UsageError(f'there is no action "{action}"', fix='use "stop" or "snapshot"')
        self._request = action

    # ---- training

    def solve(self, resume_file: str | PathLike[str] | None = None) -> None:
        """Trains until max_iter, snapshot and last test included; first restores ``resume_file``, if given."""
        param = self.param
        self._log("solver.cpp:289", f"Solving {self.net.name}")
        self._log("solver.cpp:290", f"Learning Rate Policy: {param.lr_policy}")
        if resume_file is not None:
            self.restore(resume_file)
        stopped = self.step(max(param.max_iter - self.iter, 0))
        if param.snapshot_after_train and (not param.snapshot or self.iter % param.snapshot):
            self.snapshot()
        if stopped:
            self._log("solver.cpp:323", "Optimization stopped early.")
            return
        if param.display and self.iter % param.display == 0:
            self.net.forward()
            loss = self._smoothed.add(self.net.loss)
            self._log("solver.cpp:327", f"Iteration {self.iter}, loss = {number(loss)}")
        if param.test_interval and self.iter % param.test_interval == 0:
            self.test_all()
        self._log("solver.cpp:332", "Optimization Done.")

    def step(self, iterations: int) -> bool:
        """Makes that many iterations; returns whether a request to stop came first.

        One iteration: test where it is due; iter_size forward and backward passes, which add gradients; update;
        snapshot where it is due. Raises DataError where a label is out of range: nothing is updated in that iteration.
        """
        param, net = self.param, self.net
        self._smoothed = Smoothed(param.average_loss, net.native.dtype)
        shown, since = self.iter, time.perf_counter()
        last = self.iter + whole_number("iterations", iterations, 0)
        while self.iter < last:
            iteration = self.iter
            if self._callbacks:  # these may look at the gradients, or set them
                net.clear_param_diffs()
            due = param.test_interval and iteration % param.test_interval == 0
            if due and (iteration > 0 or param.test_initialization):
                self.test_all()
            for on_start, _ in self._callbacks:
                on_start()
            display = bool(param.display) and iteration % param.display == 0
            step = net.native.current_step
            apart = self._callbacks or param.iter_size > 1 or (display and param.debug_info)
            self._smoothed.add(self._passes(display and param.debug_info) if apart else net.train_step())
            for _, on_gradient in self._callbacks:
                on_gradient()
            if display:
                now = time.perf_counter()
                self._show(iteration, iteration - shown, now - since)
                shown, since = iteration, now
            if apart:
                net.native.update()
            self._tell_update(iteration, display, step)
            request, self._request = self._request, None
            if (param.snapshot and self.iter % param.snapshot == 0) or request == "snapshot":
                self.snapshot()
            if request == "stop":
                return True
        return False

    def apply_update(self) -> None:
        """Only the update, with the gradients at hand; ``iter`` stays."""
        iteration = self.iter
        self.net.native.update()
        self.net.native.iter = iteration

    def _passes(self, debug: bool) -> float:
        kind = self.net.native.dtype.type
        total = kind(0)
        if not self._callbacks:
            self.net.native.renew_param_diffs()
        for _ in range(self.param.iter_size):
            total += kind(self.net.forward_backward())
            for place, text in chain(forward_lines(self.net), backward_lines(self.net)) if debug else ():
                self._log(place, text)
        return float(total / kind(self.param.iter_size))

    def _show(self, iteration: int, made: int, seconds: float) -> None:
        rate, loss = made / (seconds or 1.0), self.loss
        speed = f"({number(rate)} iter/s, {number(seconds)}s/{self.param.display} iters)"
        self._log("solver.cpp:239", f"Iteration {iteration} {speed}, loss = {number(loss)}")
        if not np.isfinite(loss):
            # Log parsers skip such a row without a word.
            self._log("solver.cpp:239", f"Iteration {iteration}: the loss is not finite, {number(loss)}")
        net = self.net
        outputs = {name: net.blobs[name].data for name in net.outputs}
        for line in output_lines("Train", outputs, net.blob_loss_weights, net.native.dtype):
            self._log("solver.cpp:258", line)
        types = {layer["name"]: layer["type"] for layer in net.manifest["layers"]}
        for loss in net.manifest["losses"]:
            data = outputs.get(loss["blob"], np.zeros(2))  # not kept where another layer reads it
            text = saturation(types[loss["layer"]], loss["blob"], float(data)) if data.ndim == 0 else None
            if text:
                self._log("lossc", f"Iteration {iteration}: {text}")

    def _tell_update(self, iteration: int, display: bool, before: int) -> None:
        """What Caffe says of an update; ``before`` is the policy's step until then."""
        native, param = self.net.native, self.param
        if param.lr_policy == "multistep" and native.current_step != before:
            step = native.current_step
            self._log("sgd_solver.cpp:50", f"MultiStep Status: Iteration {iteration}, step = {step}")
        if display:
            self._log("sgd_solver.cpp:112", f"Iteration {iteration}, lr = {number(self.rate)}")
        if param.clip_gradients >= 0:
            norm = native.view(self.net.manifest["gradient_norm"])[()]
            clip = native.dtype.type(param.clip_gradients)
            if norm > clip:
                sizes, factor = f"(L2 norm {number(float(norm))} > {number(float(clip))})", number(float(clip / norm))
                text = f"Gradient clipping: scaling down gradients {sizes} by scale factor {factor}"
                self._log("sgd_solver.cpp:99", text)

    # ---- testing

    def test_all(self) -> list[dict[str, np.ndarray]]:
        """Tests every test net; returns the mean of each one's outputs over its test_iter batches."""
        return [self._test(k) for k in range(len(self.test_nets))]

    def _test(self, index: int) -> dict[str, np.ndarray]:
        net, batches = self.test_nets[index], self.param.test_iter[index]
        self._log("solver.cpp:347", f"Iteration {self.iter}, Testing net (#{index})")
        net.iter = self.iter
        net.loss_weights.take_over(self.net.loss_weights)
        kind = net.native.dtype.type
        sums: dict[str, np.ndarray] = {}
        loss = kind(0)
        for _ in range(batches):
            add_to(sums, net.forward(), net.outputs)
            for place, text in forward_lines(net) if self.param.debug_info else ():
                self._log(place, text)
            loss += kind(net.loss)
        means = mean_of(sums, batches)
        if self.param.test_compute_loss:
            self._log("solver.cpp:401", f"Test loss: {number(loss / kind(batches))}")
        for line in output_lines("Test", means, net.blob_loss_weights, net.native.dtype):
            self._log("solver.cpp:414", line)
        return means

    # ---- snapshots

    def snapshot(self) -> tuple[str, str]:
        """Writes weights and state, each whole or not at all; returns their paths. Raises WeightsError."""
        from lossc.frontend.weights import SolverStateData, write_state

        hdf5 = self.param.snapshot_format == SolverParameter.HDF5
        weights, state = snapshot_paths(self.param.snapshot_prefix, self.iter, hdf5)
        kind, line = ("HDF5", ("solver.cpp:474", "sgd_solver.cpp:296")) if hdf5 else (
            "binary proto", ("solver.cpp:464", "sgd_solver.cpp:284"))  # fmt: skip
        self._log(line[0], f"Snapshotting to {kind} file {weights}")
        self.net.save(weights, diff=self.param.snapshot_diff)
        self._log(line[1], f"Snapshotting solver state to {kind} file {state}")
        progress = {"nets": [net.progress for net in self._nets()]}
        write_state(state, SolverStateData(self.iter, weights, self.net.native.current_step, self.history, progress))
        return weights, state

    def restore(self, path: str | PathLike[str]) -> None:
        """Goes on from a .solverstate file or its .h5 form, Caffe's or our own.

        Ours also hold positions of data sources and the counters of random numbers, so that the result is the same, bit
        for bit, as without the interruption. Raises WeightsError where the files do not fit; nothing is changed then.
        """
        state = load_state(path, [h.shape for h in self.history], self.net.native.dtype)
        weights = learned_net(state, path)
        with self._progressing(state, path):
            if weights is not None:
                self.net.copy_from(weights)
        self._log("sgd_solver.cpp:336", "SGDSolver: restoring history")
        for mine, values in zip(self.history, state.history, strict=True):
            mine[...] = values.reshape(mine.shape)
        self.net.native.iter = state.iter
        self.net.native.current_step = state.current_step

    @contextmanager
    def _progressing(self, state: SolverStateData, path: str | PathLike[str]) -> Iterator[None]:
        """Takes over the progress of a state; puts the nets back where that, or what follows, fails."""
        before = [net.progress for net in self._nets()]
        try:
            try:
                for net, progress in zip(self._nets(), state.progress.get("nets", []), strict=False):
                    net.progress = progress
            except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
                fix = "write it again, or remove lossc_progress: then data and random numbers start afresh"
                message = f"is damaged: its progress cannot be taken over ({type(error).__name__}: {error})"
                raise WeightsError(message, fix=fix, file=fspath(path)) from None
            yield
        except BaseException:
            for net, progress in zip(self._nets(), before, strict=True):
                net.progress = progress
            raise

    def _nets(self) -> list[Net]:
        return [self.net, *self.test_nets]


def get_solver(source: str | PathLike[str], **options: Any) -> Solver:
    """The solver that a prototxt file describes; ``options`` as of ``Solver``."""
    return Solver(source, **options)


def _read(source: str | PathLike[str] | SolverParameter | SolverSource) -> SolverSource:
    return source if isinstance(source, SolverSource) else read_solver(source)


def _known_weights(source: NetSource, weights: Mapping[str, LossWeight]) -> dict[str, LossWeight]:
    """The weights that name a layer or top of the net."""
    names = {name for layer in source.param.layer for name in (layer.name, *layer.top)}
    return {name: weight for name, weight in weights.items() if name in names}


def _log_to_python(place: str, text: str) -> None:
    import logging

    logging.getLogger("lossc").info(text, extra={"place": place})
