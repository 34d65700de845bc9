"""Losses and layers that are written as functions: what ``@lossc.loss`` and ``@lossc.layer`` make of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lossc.errors import GraphError, LosscError, ShapeError, UsageError
from lossc.lang.gradient import gradients
from lossc.lang.node import Array, Shape, failure_place, new_input, tracing
from lossc.lang.ops import as_array, as_real, broadcast

_ON_ARRAYS = "the function runs once, on symbolic arrays: they know lossc's functions and NumPy's named in the guide"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Param:
    """A learned array of a layer: the default of a keyword parameter.

    ``shape``: fixed, or a function of the bottoms' shapes. It starts as ``init``, or normally distributed around it
    where ``std`` is not 0. A net may give another filler, lr_mult and decay_mult as for every layer.
    """

    shape: Shape | Callable[..., Shape] = ()
    init: float = 0.0
    std: float = 0.0

    def shape_for(self, bottoms: Sequence[Shape]) -> Shape:
        return tuple(self.shape(*bottoms) if callable(self.shape) else self.shape)


class Function:
    """A layer type whose forward pass is a Python function of symbolic arrays.

    ``name`` is the prototxt's type. Positional parameters of ``call`` are the bottoms (``None`` as default: may be left
    out; ``*rest``: any number more), keyword parameters the layer's, ``Param`` defaults its learned arrays. A loss
    returns one number, a layer an array or a tuple of them, one a top.
    """

    #: Stands for the default of a parameter that has none.
    REQUIRED = inspect.Parameter.empty

    def __init__(self, name: str, call: Callable[..., Any], is_loss: bool) -> None:
        if not name or not isinstance(name, str):
            raise UsageError("a loss needs the name by which nets know it", fix='@lossc.loss("Huber")')
        self.name, self.call, self.is_loss = name, call, is_loss
        self.own_backward: Callable[..., Any] | None = None
        self.__doc__, self.__name__ = call.__doc__, getattr(call, "__name__", name)
        code = call.__code__
        self.file, self.line = code.co_filename, code.co_firstlineno
        self.bottoms: list[str] = []
        #: The least and the greatest number of bottoms; None: any number.
        least, most = 0, 0
        self.count: tuple[int, int | None]
        #: Parameters with their defaults, and the learned arrays.
        self.defaults: dict[str, Any] = {}
        self.learned: dict[str, Param] = {}
        more = False
        for p in inspect.signature(call).parameters.values():
            if p.kind in _POSITIONAL:
                self.bottoms.append(p.name)
                most += 1
                if p.default is inspect.Parameter.empty:
                    least += 1
                elif p.default is not None:
                    fix = f"parameters stand behind a star: def {self.__name__}(..., *, {p.name}={p.default!r})"
                    raise self.wrong(f'"{p.name}" is a bottom, but has the default {p.default!r}', fix)
            elif p.kind is inspect.Parameter.VAR_POSITIONAL:
                more = True
            elif p.kind is inspect.Parameter.VAR_KEYWORD:
                raise self.wrong(f"**{p.name} leaves open which parameters there are", "name each with its default")
            elif isinstance(p.default, Param):
                self.learned[p.name] = p.default
            else:
                self.defaults[p.name] = p.default
        self.count = (max(least, 1) if more else least, None if more else most)
        if not most and not more:
            raise self.wrong("has no bottoms", f"def {self.__name__}(pred, target, *, ...)")

    def __call__(self, *args: Any, **params: Any) -> Any:
        """The function itself, so that losses can be made of losses."""
        return self.call(*args, **params)

    def __repr__(self) -> str:
        return f'<lossc {"loss" if self.is_loss else "layer"} "{self.name}" at {self.file}:{self.line}>'

    def backward(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Takes ``call(top_diff, *bottoms, **parameters)`` in place of the derived gradient.

        It returns one gradient a bottom and then one a learned array (a single one need not be a tuple); None: there
        is none. A layer with several tops gets a tuple as ``top_diff``.
        """
        self.own_backward = call
        return call

    def with_learned_as_bottoms(self) -> Function:
        """The same with its learned arrays as further bottoms, behind the others."""
        k, names, original = len(self.learned), list(self.learned), self

        def call(*arrays: Any, **parameters: Any) -> Any:
            return original.call(*arrays[:-k], **parameters, **dict(zip(names, arrays[-k:], strict=True)))

        def backward(top_diff: Any, *arrays: Any, **parameters: Any) -> Any:
            assert original.own_backward is not None
            learned = dict(zip(names, arrays[-k:], strict=True))
            return original.own_backward(top_diff, *arrays[:-k], **parameters, **learned)

        out = copy(self)
        out.call, out.own_backward = call, None if self.own_backward is None else backward
        out.bottoms, out.learned = [*self.bottoms, *names], {}
        out.count = (self.count[0] + k, None if self.count[1] is None else self.count[1] + k)
        return out

    def wrong(self, message: str, fix: str | None = None, kind: type[LosscError] = UsageError) -> LosscError:
        """An error at the function's own place."""
        return kind(f"{self.name}: {message}", fix=fix, file=self.file, line=self.line)

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters' values: those given, checked against the defaults' types, and the defaults.

        Raises GraphError for unknown names, wrong types and missing values.
        """
        out = dict(self.defaults)
        for name, value in given.items():
            if name not in out:
                import difflib

                near = difflib.get_close_matches(name, out, 1)
                known = f'did you mean "{near[0]}"?' if near else "its parameters: " + (", ".join(out) or "none")
                raise GraphError(f'{self.name} has no parameter "{name}"', fix=known)
            if value is not self.REQUIRED and value is not None:
                out[name] = _typed(self.name, name, value, out[name])
        for name, value in out.items():
            if value is self.REQUIRED:
                raise GraphError(f'{self.name} needs the parameter "{name}"', fix=f"lossc_param {{ {name}: ... }}")
        return out


def _typed(owner: str, name: str, value: Any, default: Any) -> Any:
    """A value as the type of the parameter's default. Raises GraphError."""
    if default is None or default is inspect.Parameter.empty:
        return value
    whole = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, bool):
        if isinstance(value, bool) or (whole and value in (0, 1)):
            return bool(value)
    elif isinstance(default, int):
        if whole and float(value).is_integer():
            return int(value)
    elif isinstance(default, float):
        if whole:
            return float(value)
    elif isinstance(default, (tuple, list)):
        if isinstance(value, (tuple, list)):
            return tuple(value)
        return (value,)
    elif isinstance(value, type(default)):
        return value
    kind = type(default).__name__
    raise GraphError(f'{owner}: parameter "{name}" is {value!r}, not a {kind}', fix=f"such as {default!r}")


class Trace:
    """One call of a function on symbolic arrays of given shapes: its tops, and the gradients of its inputs."""

    def __init__(self, function: Function, shapes: Sequence[Shape], parameters: Mapping[str, Any]) -> None:
        self.function, self.parameters = function, dict(parameters)
        self._table: dict[Any, Array] = {}
        names = [*function.bottoms, *(f"{k + 1}" for k in range(len(function.bottoms), len(shapes)))]
        self.bottoms = [new_input(n, tuple(s)) for n, s in zip(names, shapes, strict=False)]
        self.learned = [new_input(n, p.shape_for(shapes)) for n, p in function.learned.items()]
        with tracing(self._table):
            result = self._call(function.call, *self.bottoms)
            several = isinstance(result, (tuple, list))
            self.tops = [as_real(self._array(t, "returns")) for t in (result if several else [result])]
        self._several = several
        if function.is_loss and (several or self.tops[0].shape != ()):
            told = f"{len(self.tops)} values" if several else f"an array of shape {list(self.tops[0].shape)}"
            fix = "reduce it: .sum() / pred.shape[0], or .mean(); @lossc.layer makes layers with other tops"
            raise function.wrong(f"a loss must be one number, this one returns {told}", fix, ShapeError)
        #: The gradients of the tops.
        self.top_diffs = [new_input(f"@{k}", t.shape) for k, t in enumerate(self.tops)]

    @property
    def inputs(self) -> list[Array]:
        return [*self.bottoms, *self.learned]

    def _call(self, call: Callable[..., Any], *args: Any) -> Any:
        learned = dict(zip(self.function.learned, self.learned, strict=True))
        try:
            return call(*args, **self.parameters, **learned)
        except (LosscError, RecursionError, MemoryError):
            raise
        except Exception as problem:  # whatever the user's function does
            error = self.function.wrong(f"{type(problem).__name__}: {problem}", _ON_ARRAYS)
            file, line = failure_place(problem)
            if file is not None:
                error.file, error.line = file, line
            raise error from problem

    def _array(self, x: Any, what: str) -> Array:
        try:
            return as_array(x)
        except LosscError as error:
            raise self.function.wrong(f"{what} {type(x).__name__}: {error.message}", "return arrays") from None

    @cached_property
    def gradients(self) -> list[list[tuple[Array, Array]]]:
        """For each input: pairs of (input or a window on it, what is added to its gradient there)."""
        with tracing(self._table):
            if self.function.own_backward is None:
                return gradients(dict(zip(self.tops, self.top_diffs, strict=True)), self.inputs)
            given = tuple(self.top_diffs) if self._several else self.top_diffs[0]
            found = self._call(self.function.own_backward, given, *self.bottoms)
            found = list(found) if isinstance(found, (tuple, list)) else [found]
            if len(found) != len(self.inputs):
                message = f"backward returns {len(found)} gradients for {len(self.inputs)} inputs"
                raise self.function.wrong(message, "one a bottom and learned array, None where there is none")
            return [[] if g is None else [(x, self._gradient(g, x))] for g, x in zip(found, self.inputs, strict=True)]

    def _gradient(self, g: Any, x: Array) -> Array:
        found = as_real(self._array(g, "backward returns"))
        if broadcast(found.shape, x.shape) != x.shape:
            message = f'backward returns a gradient of shape {list(found.shape)} for "{x.attrs[0]}" {list(x.shape)}'
            raise self.function.wrong(message, None, ShapeError)
        from lossc.lang.shaping import rearrange

        return rearrange(found, (*(None,) * (len(x.shape) - len(found.shape)), *range(len(found.shape))))

    def indices(self) -> list[tuple[Array, int, Array]]:
        """(label input, number of classes, who picks) for every input that picks elements as it is."""
        from lossc.lang.node import walk

        out: dict[Array, tuple[Array, int, Array]] = {}
        for x in walk(*self.tops):
            if x.op in ("pick", "place"):
                source = x.args[1]
                while source.op in ("axes", "reshape", "expand"):
                    source = source.args[0]
                extent = x.attrs[1] if x.op == "place" else x.args[0].shape[x.attrs[0]]
                if source.op == "input":
                    out.setdefault(source, (source, extent, x))
        return list(out.values())


def loss(name: str) -> Callable[[Callable[..., Any]], Function]:
    """Makes a loss of a function: ``@lossc.loss("Huber")``. ``name`` is its type in prototxt files."""
    return _decorator(name, True)


def layer(name: str) -> Callable[[Callable[..., Any]], Function]:
    """Makes a layer of a function, with any tops: ``@lossc.layer("Gate")``."""
    return _decorator(name, False)


def _decorator(name: str, is_loss: bool) -> Callable[[Callable[..., Any]], Function]:
    if callable(name):
        fix = f'@lossc.{"loss" if is_loss else "layer"}("Name")'
        raise UsageError("the decorator needs the name by which nets know the layer", fix=fix)
    return lambda call: Function(name, call, is_loss)
