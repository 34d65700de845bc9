"""A compiled net in this process: its C functions, and its memory as NumPy arrays without a copy."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from lossc.build.load import load_library, net_declarations
from lossc.pipeline import Built

#: What ``get`` and ``set`` of the C interface number so.
_ITER, _CURRENT_STEP, _PASSES, _THREADS, _FAILED = range(5)


class Native:
    """One instance of a compiled net.

    Every array that it hands out keeps it alive. ``threads`` 0: as many as there are cores. Raises CompilerError if the
    library cannot be loaded, MemoryError if there is not enough memory for the net.
    """

    def __init__(self, built: Built, threads: int, seed: int) -> None:
        self.manifest = built.manifest
        self.dtype = np.dtype(np.float32 if built.manifest["dtype"] == "f32" else np.float64)
        prefix = built.manifest["prefix"]
        self._ffi, lib = load_library(built.library, net_declarations(prefix))
        self._abi = getattr(lib, f"{prefix}_abi")()
        size = sum(built.manifest["bytes"][part] for part in ("params", "arena"))
        # More than the machine has is promised by some systems, and the process killed when it uses it.
        handle = self._abi.create(threads, seed % 2**64) if size <= _physical_memory() else self._ffi.NULL
        if handle == self._ffi.NULL:
            raise MemoryError(f"{size / 2**20:.0f} MiB for the net {built.manifest['net']!r} cannot be had")
        self._net = self._ffi.gc(handle, self._abi.destroy)
        self._arena = self._bytes(self._abi.memory(self._net, 0), built.manifest["bytes"]["arena"])
        #: Both passes; looked up once, as small nets take no longer than the look-up. Returns the total loss.
        self.forward_backward: Callable[[], float] = partial(self._abi.forward_backward, self._net)
        #: Renewed gradients, both passes and the update, of a net with a solver. Returns the total loss.
        self.step: Callable[[], float] = partial(self._abi.step, self._net)
        self._params = [self._own_param(k) for k in range(len(built.manifest["params"]))]

    # ---- running

    def forward(self) -> float:
        return float(self._abi.forward(self._net))

    def backward(self) -> None:
        self._abi.backward(self._net)

    def caller(self, count: int) -> tuple[Any, Callable[[Any], Any], Callable[[], float]]:
        """For passes on memory that is not the net's, see ``Request.brought``: (addresses, address_of, call).

        Before a call, each of the ``count`` addresses is set to ``address_of(array)`` of a contiguous array, which
        keeps that alive, in the order of ``manifest["brought"]``. The call makes both passes; it returns the loss.
        """
        addresses = self._ffi.new("void *[]", max(count, 1))
        return addresses, self._ffi.from_buffer, partial(self._abi.call, self._net, addresses)

    def clear_param_diffs(self) -> None:
        self._abi.clear_param_diffs(self._net)

    def renew_param_diffs(self) -> None:
        """As clearing before the next backward pass, which then writes instead of adding; undefined until then."""
        self._abi.renew_param_diffs(self._net)

    def params_changed(self) -> None:
        """Parameters were changed, or may be: a net that was compiled to keep what it makes of them makes it anew."""
        if self._abi.params_changed != self._ffi.NULL:
            self._abi.params_changed(self._net)

    def update(self) -> None:
        self._abi.update(self._net)

    def rate(self) -> float:
        """The learning rate of the next update. As in Caffe, asking can move the counter of the policy "multistep"."""
        return float(self._abi.rate(self._net))

    @property
    def error(self) -> str | None:
        """Why the last forward pass refused its input, if it did."""
        text = self._abi.error(self._net)
        return None if text == self._ffi.NULL else self._ffi.string(text).decode(errors="replace")

    @property
    def stopped_by(self) -> int:
        """What stopped the last pass: 0 nothing, 1 a bad label, 2 a number that is not finite."""
        return int(self._abi.get(self._net, _FAILED))

    def seconds(self) -> np.ndarray:
        """How long each kernel took in the last pass, in the order of ``manifest["kernels"]``, see ``Request.timed``;
        at the end what lay between the last two sections. The array is a view: later passes change it."""
        count = len(self.manifest["kernels"]) + 1
        return np.frombuffer(self._bytes(self._abi.seconds(self._net), count * 8), np.float64)

    # ---- memory

    def view(self, place: dict[str, Any]) -> np.ndarray:
        """The array at a place that the manifest gives: offset, shape and strides in elements."""
        width = self.dtype.itemsize
        strides = tuple(s * width for s in place["strides"])
        return np.ndarray(tuple(place["shape"]), self.dtype, self._arena, place["offset"] * width, strides)

    def flat(self, offset: int, size: int) -> np.ndarray:
        return self.view({"offset": offset, "shape": (size,), "strides": (1,)})

    def param(self, index: int, shape: Sequence[int]) -> np.ndarray:
        """The values of a parameter; the caller may change them before the next pass."""
        self.params_changed()
        return self._params[index].reshape(shape)

    def param_diff(self, index: int, shape: Sequence[int]) -> np.ndarray:
        """The gradient of a parameter."""
        return self.flat(self.manifest["params"][index]["diff"], math.prod(shape)).reshape(shape)

    def share_param(self, index: int, values: np.ndarray) -> None:
        """From now on a parameter lives in ``values``: contiguous, of the same dtype and size."""
        self._abi.share_param(self._net, index, self._ffi.cast("void *", values.ctypes.data))
        self.params_changed()
        self._params[index] = values.reshape(-1)

    def _own_param(self, index: int) -> np.ndarray:
        size = math.prod(self.manifest["params"][index]["shape"])
        return np.frombuffer(self._bytes(self._abi.param(self._net, index), size * self.dtype.itemsize), self.dtype)

    def _bytes(self, address: Any, size: int) -> Any:
        """A buffer whose users keep the net alive: cffi's buffers hold on to the pointer, the pointer to the net."""
        return self._ffi.buffer(self._ffi.gc(self._ffi.cast("char *", address), partial(_release, self._net)), size)

    # ---- counters

    @property
    def iter(self) -> int:
        """Updates made."""
        return int(self._abi.get(self._net, _ITER))

    @iter.setter
    def iter(self, value: int) -> None:
        self._abi.set(self._net, _ITER, value)

    @property
    def current_step(self) -> int:
        """Rate drops made by the policies "step" and "multistep"."""
        return int(self._abi.get(self._net, _CURRENT_STEP))

    @current_step.setter
    def current_step(self, value: int) -> None:
        self._abi.set(self._net, _CURRENT_STEP, value)

    @property
    def passes(self) -> int:
        """Forward passes made: with the seed it decides the random numbers of the next one."""
        return int(self._abi.get(self._net, _PASSES))

    @passes.setter
    def passes(self, value: int) -> None:
        self._abi.set(self._net, _PASSES, value)

    @property
    def threads(self) -> int:
        return int(self._abi.get(self._net, _THREADS))


def _release(net: Any, pointer: Any) -> None:
    """Called when the last array over ``pointer`` is gone; until then it has held on to ``net``."""


def _physical_memory() -> float:
    """Bytes of memory that the machine has; infinity where it does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return math.inf
