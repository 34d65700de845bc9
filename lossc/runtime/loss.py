"""``lossc.compile_loss``: one loss as a function of arrays that returns its value and its gradients."""

from __future__ import annotations

import inspect
import math
import mmap
import sys
from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np

from lossc.errors import DataError, ShapeError, UsageError
from lossc.frontend.caffe_pb2 import TRAIN, NetParameter
from lossc.frontend.net import NetSource
from lossc.lang.files import collect
from lossc.lang.function import Function
from lossc.pipeline import Request, build, built_in_function, compile_net
from lossc.runtime.native import Native
from lossc.runtime.net import MOST_THREADS

Shape = tuple[int, ...]


def compile_loss(
    loss: Function | str | type,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    weight: float = 1.0,
    grad: str | Sequence[str] | None = None,
    threads: int | None = None,
    dtype: str = "float32",
    isa: str = "native",
    layers: Any = None,
    **more: Any,
) -> CompiledLoss:
    """A loss, compiled for fixed shapes: ``compile_loss(huber, pred=(256, 10), target=(256, 10), delta=0.5)``.

    ``loss``: what ``@lossc.loss`` made, or the name of a built-in loss. Keyword arguments named like its bottoms are
    their shapes (``shapes`` takes those whose names clash with other arguments, and those of built-in losses, in their
    order), others its parameters. Learned arrays are further bottoms, behind the others. ``grad``: the bottoms whose
    gradients are returned: by default the first, "all" for every one that has a gradient, () for the value alone.
    ``weight`` multiplies value and gradients. ``layers``: where a name is looked up besides the built-in layers;
    ``isa`` is the instruction set, the rest as in ``lossc.Net``.

    Raises UsageError for what does not fit the loss, ShapeError for shapes, CompilerError.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UsageError(f"threads is {threads}", fix=f"give 1 to {MOST_THREADS}, or None for one per core")
    customs = collect(layers)
    function: Function | None = None
    if isinstance(loss, str):
        name, own = loss, customs[loss].what if loss in customs else built_in_function(loss)
        function = own if isinstance(own, Function) else None
    else:
        given = collect(loss)
        if len(given) != 1:
            raise UsageError(f"{loss!r} is not one loss", fix="give what @lossc.loss made")
        ((name, custom),) = given.items()
        customs = {**customs, **given}
        function = custom.what if isinstance(custom.what, Function) else None
    named = {**(shapes or {})}
    parameters = {}
    for key, value in more.items():
        if function is None or key in function.defaults:
            parameters[key] = value
        else:
            named[key] = value
    if function is not None and function.learned:
        given_shapes = [_shape(b, named[b]) for b in function.bottoms if b in named]
        named = {n: p.shape_for([tuple(s) for s in given_shapes]) for n, p in function.learned.items()} | named
        function = function.with_learned_as_bottoms()
        customs[name] = replace(customs[name], what=function, checksum=f"{customs[name].checksum} learned as bottoms")
    if function is not None:
        if not function.is_loss:
            raise function.wrong("is a layer, not a loss", "@lossc.loss makes a loss; use a layer in a lossc.Net")
        _check_names(function, named)
        named = {bottom: named[bottom] for bottom in function.bottoms if bottom in named} | named
        function.parameters(parameters)
    elif parameters and shapes is None:
        named, parameters = parameters, {}
    bottoms = {bottom: tuple(int(e) for e in _shape(bottom, shape)) for bottom, shape in named.items()}
    wanted = _wanted(name, function, bottoms, parameters, grad)
    source = _net(name, function, bottoms, parameters, wanted, float(weight), name in customs)
    request = Request(source, tuple(wanted), isa, dtype, prefix="loss", layers=customs, brought=True)
    return CompiledLoss(request, bottoms, wanted, threads or 0)


def _check_names(function: Function, named: Mapping[str, Any]) -> None:
    least, most = function.count
    for key in named:
        if key not in function.bottoms and most is not None:
            from lossc.frontend.names import suggestion

            known = [*function.bottoms, *function.defaults]
            raise UsageError(f'{function.name} has no bottom and no parameter "{key}"', fix=suggestion(key, known))
    for bottom in function.bottoms[:least]:
        if bottom not in named:
            raise UsageError(f'{function.name} needs the shape of "{bottom}"', fix=f"{bottom}=(256, 10)")


def _shape(bottom: str, shape: Any) -> Sequence[int]:
    if isinstance(shape, int):
        return (shape,)
    if not isinstance(shape, (tuple, list)) or not all(isinstance(e, (int, np.integer)) for e in shape):
        raise UsageError(f'"{bottom}" has the shape {shape!r}', fix="a shape is a tuple of whole numbers: (256, 10)")
    return shape


def _wanted(
    name: str, function: Function | None, bottoms: Mapping[str, Shape], parameters: Mapping[str, Any], grad: Any
) -> list[str]:
    """The bottoms whose gradients are returned, in their order."""
    names = list(bottoms)
    if grad is None:
        chosen = names[:1]
    elif grad == "all":
        if function is None:
            raise UsageError('grad="all" is for losses written as functions', fix="name the bottoms")
        from lossc.lang.function import Trace

        trace = Trace(function, list(bottoms.values()), function.parameters(parameters))
        return [n for n, pairs in zip(names, trace.gradients, strict=False) if pairs]
    else:
        chosen = [grad] if isinstance(grad, str) else list(grad)
    for each in chosen:
        if each not in bottoms:
            raise UsageError(f'{name} has no bottom "{each}"', fix="bottoms: " + ", ".join(names))
    return [n for n in names if n in chosen]


def _net(
    name: str,
    function: Function | None,
    bottoms: Mapping[str, Shape],
    parameters: Mapping[str, Any],
    wanted: Sequence[str],
    weight: float,
    own: bool,
) -> NetSource:
    """A net of the inputs and the one loss; ``own``: not a built-in one."""
    net = NetParameter(name=name)
    net.state.phase = TRAIN
    for bottom, shape in bottoms.items():
        layer = net.layer.add(name=bottom, type="Input", top=[bottom], phase=TRAIN)
        layer.input_param.shape.add(dim=shape).SetInParent()
    label = f"{name} loss" if name in bottoms else name
    layer = net.layer.add(name=label, type=name, bottom=list(bottoms), phase=TRAIN)
    layer.top.append("loss" if "loss" not in bottoms else f"{name} loss")
    layer.loss_weight.append(weight)
    layer.propagate_down.extend(bottom in wanted for bottom in bottoms)
    if parameters and own:
        layer.python_param.param_str = repr(dict(parameters))
    for key, value in {} if own else parameters.items():
        entry = layer.lossc_param.entry.add(name=key)
        for each in value if isinstance(value, (tuple, list)) else [value]:
            kind = "truth" if isinstance(each, bool) else "text" if isinstance(each, str) else "number"
            entry.value.add(**{kind: each})
    line = None if function is None else function.line
    return NetSource(net, "" if function is None else function.file, (*(None for _ in bottoms), line))


class CompiledLoss:
    """A compiled loss: call it with arrays, get the value and the gradients asked for.

    Arguments come in the order of the bottoms, or by name: NumPy arrays, or whatever speaks DLPack on the CPU (PyTorch,
    JAX). Contiguous arrays of ``dtype`` are used where they lie, others (and whole numbers) are copied. The result is a
    named tuple: ``loss``, a float, then one new NumPy array a gradient, ``grad_NAME``. Safe to call from several
    threads, which then take turns.

    Raises UsageError for arrays of other shapes or other floating-point types, DataError for bad labels.
    """

    def __init__(self, request: Request, shapes: Mapping[str, Shape], wanted: Sequence[str], threads: int) -> None:
        self.request, self.shapes, self.wanted = request, dict(shapes), tuple(wanted)
        self._native = Native(build(request), threads, 1)
        self.dtype = self._native.dtype
        self._names = list(shapes)
        #: Place in the table of addresses, name and shape of each bottom.
        self._known = [(k, name, shape) for k, (name, shape) in enumerate(shapes.items())]
        #: Of each gradient its place, earlier arrays with their addresses, and its shape.
        self._spare: list[tuple[int, list[tuple[np.ndarray, Any]], Shape]] = [
            (k, [], tuple(shapes[w])) for k, w in enumerate(wanted, len(self._known))
        ]
        self._at, self._address_of, self._call = self._native.caller(len(self._names) + len(wanted))
        self._lock = Lock()
        fields = ["loss", *(f"grad_{w}" for w in wanted)]
        self._result: Any = namedtuple("LossValue", fields, rename=True)  # type: ignore[misc]
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in shapes if n.isidentifier()]
        )

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        if named or len(arrays) != len(self._known):
            arrays = self._in_order(arrays, named)
        at, address_of, dtype, held = self._at, self._address_of, self.dtype, []
        with self._lock:
            for k, name, shape in self._known:
                array = arrays[k]
                if type(array) is not np.ndarray or array.dtype is not dtype or not array.flags.c_contiguous:
                    array = self._converted(name, array)
                if array.shape != shape:
                    raise self._misshapen(name, array.shape, shape)
                at[k] = address = address_of(array)
                held.append(address)
            result: list[Any] = [0.0]
            for k, spare, shape in self._spare:
                array, at[k] = self._fresh(spare, shape)
                result.append(array)
            result[0] = loss = self._call()
            if loss != loss and (message := self._native.error) is not None:
                raise DataError(message)
        return tuple.__new__(self._result, result)  # as _make does, which takes longer

    @property
    def source(self) -> str:
        """The C."""
        return compile_net(self.request).program.source

    def _fresh(self, spare: list[tuple[np.ndarray, Any]], shape: Shape) -> tuple[np.ndarray, Any]:
        """Memory for a gradient, and its address: an earlier one's that nobody holds any more, where there is one."""
        for array, address in spare:
            if sys.getrefcount(array) == _UNHELD:
                return array, address
        array = _room(shape, self.dtype)
        spare[:] = [*spare[-1:], (array, self._address_of(array))]
        return spare[-1]

    def _in_order(self, arrays: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...]:
        names = self._names
        if len(arrays) > len(names):
            raise UsageError(f"{len(arrays)} arrays for {len(names)} bottoms", fix=f"give {', '.join(names)}")
        given = dict(zip(names, arrays, strict=False))
        for name, array in named.items():
            if name not in names or name in given:
                what = "is given twice" if name in given else "is no bottom"
                raise UsageError(f'"{name}" {what}', fix=f"give {', '.join(names)}")
            given[name] = array
        missing = [name for name in names if name not in given]
        if missing:
            raise UsageError(f'"{missing[0]}" is missing', fix=f"give {', '.join(names)}")
        return tuple(given[name] for name in names)

    def _converted(self, name: str, array: Any) -> np.ndarray:
        """An array of the right type in row-major order; without a copy where it is one already."""
        if not isinstance(array, np.ndarray):
            array = from_dlpack(name, array) if hasattr(array, "__dlpack__") else np.asarray(array)
        if array.dtype.kind in "biu" or (array.dtype.kind == "f" and array.ndim == 0):
            return np.ascontiguousarray(array, self.dtype)
        if array.dtype != self.dtype:
            fix = f'{name}.astype("{self.dtype}"), or compile_loss(..., dtype="float64")'
            raise UsageError(f'"{name}" is of {array.dtype}, the loss was compiled for {self.dtype}', fix=fix)
        # ascontiguousarray would give an array without axes one
        return array if array.flags.c_contiguous else array.copy(order="C")

    def _misshapen(self, name: str, got: Shape, wanted: Shape) -> ShapeError:
        message = f'"{name}" has the shape {list(got)}, the loss was compiled for {list(wanted)}'
        return ShapeError(message, fix="compile it for these shapes too: compiled losses are cached")


def _room(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """An array with any values; a large one begins on a page, as the C asks of gradients, and has huge pages."""
    size = math.prod(shape) * dtype.itemsize
    if size < 1 << 20:
        return np.empty(shape, dtype)
    pages = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.ndarray(shape, dtype, pages)


#: What sys.getrefcount says of an array in the list of spare ones: the list, its address, the loop, its own argument.
_UNHELD = 4


def from_dlpack(name: str, array: Any) -> np.ndarray:
    """A NumPy array on the memory of an array of another library. Raises UsageError where there is no way."""
    if hasattr(array, "detach"):
        array = array.detach()
    try:
        return np.from_dlpack(array)
    except (TypeError, ValueError, RuntimeError, BufferError, AttributeError) as error:
        raise UsageError(f'"{name}" cannot be read: {error}', fix="give arrays in the CPU's memory") from error
