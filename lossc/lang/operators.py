"""What Python's operators and NumPy's protocols do with symbolic arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from lossc.lang.node import Array

#: So many rows of an array are handed out one by one.
MOST_ROWS = 256


def _call(name: str, *args: Any, **options: Any) -> Any:
    """A function of the language by its name: the modules that define them need this one."""
    from lossc.lang import functions

    return getattr(functions, name)(*args, **options)


def _refuse(what: str, fix: str) -> NoReturn:
    from lossc.lang.node import error

    raise error(what, fix)


class Operators:
    """Methods of symbolic arrays: NumPy's, as far as they mean something without values."""

    __slots__ = ()
    __array_priority__ = 1000.0
    shape: tuple[int, ...]

    # ---- arithmetic and comparisons

    def __add__(self, o: Any) -> Array:
        return _call("add", self, o)

    def __radd__(self, o: Any) -> Array:
        return _call("add", o, self)

    def __sub__(self, o: Any) -> Array:
        return _call("subtract", self, o)

    def __rsub__(self, o: Any) -> Array:
        return _call("subtract", o, self)

    def __mul__(self, o: Any) -> Array:
        return _call("multiply", self, o)

    def __rmul__(self, o: Any) -> Array:
        return _call("multiply", o, self)

    def __truediv__(self, o: Any) -> Array:
        return _call("divide", self, o)

    def __rtruediv__(self, o: Any) -> Array:
        return _call("divide", o, self)

    def __pow__(self, o: Any) -> Array:
        return _call("power", self, o)

    def __rpow__(self, o: Any) -> Array:
        return _call("power", o, self)

    def __matmul__(self, o: Any) -> Array:
        return _call("matmul", self, o)

    def __rmatmul__(self, o: Any) -> Array:
        return _call("matmul", o, self)

    def __neg__(self) -> Array:
        return _call("negative", self)

    def __pos__(self) -> Array:
        return self  # type: ignore[return-value]

    def __abs__(self) -> Array:
        return _call("abs", self)

    def __lt__(self, o: Any) -> Array:
        return _call("less", self, o)

    def __le__(self, o: Any) -> Array:
        return _call("less_equal", self, o)

    def __gt__(self, o: Any) -> Array:
        return _call("greater", self, o)

    def __ge__(self, o: Any) -> Array:
        return _call("greater_equal", self, o)

    def __eq__(self, o: object) -> Array:  # type: ignore[override]
        return _call("equal", self, o)

    def __ne__(self, o: object) -> Array:  # type: ignore[override]
        return _call("not_equal", self, o)

    __hash__ = object.__hash__

    def __and__(self, o: Any) -> Array:
        return _call("logical_and", self, o)

    def __rand__(self, o: Any) -> Array:
        return _call("logical_and", o, self)

    def __or__(self, o: Any) -> Array:
        return _call("logical_or", self, o)

    def __ror__(self, o: Any) -> Array:
        return _call("logical_or", o, self)

    def __invert__(self) -> Array:
        return _call("logical_not", self)

    # ---- shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def T(self) -> Array:
        return _call("transpose", self)

    def transpose(self, *axes: Any) -> Array:
        return _call("transpose", self, axes[0] if len(axes) == 1 else axes or None)

    def reshape(self, *shape: Any) -> Array:
        return _call("reshape", self, shape[0] if len(shape) == 1 else shape)

    def ravel(self) -> Array:
        return _call("reshape", self, (-1,))

    flatten = ravel

    def squeeze(self, axis: Any = None) -> Array:
        return _call("squeeze", self, axis)

    def __getitem__(self, key: Any) -> Array:
        return _call("index", self, key)

    def __len__(self) -> int:
        if not self.shape:
            _refuse("an array without axes has no length", "look at its shape")
        return self.shape[0]

    def __iter__(self) -> Iterator[Array]:
        if len(self) > MOST_ROWS:
            _refuse(
                f"a loop over {len(self)} rows would write each of them out",
                "write it for the whole array: lossc.where, sums over axes, broadcasting with None axes",
            )
        return iter([self[k] for k in range(len(self))])

    # ---- reductions

    def sum(self, axis: Any = None, keepdims: bool = False) -> Array:
        return _call("sum", self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Array:
        return _call("mean", self, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Array:
        return _call("max", self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Array:
        return _call("min", self, axis, keepdims)

    def var(self, axis: Any = None, keepdims: bool = False) -> Array:
        return _call("var", self, axis, keepdims)

    def std(self, axis: Any = None, keepdims: bool = False) -> Array:
        return _call("std", self, axis, keepdims)

    def clip(self, low: Any = None, high: Any = None) -> Array:
        return _call("clip", self, low, high)

    def astype(self, dtype: Any, **options: Any) -> Array:
        """Truth values as numbers, numbers as truth values; real numbers stay what they are: the net has one type."""
        from numpy import dtype as type_of

        kind = type_of(dtype).kind
        if kind == "f":
            return _call("as_real", self)
        if kind == "b":
            return _call("not_equal", self, 0.0)
        _refuse(f"all numbers of a net are real: there is no {type_of(dtype)}", "lossc.trunc and lossc.floor round")

    # ---- NumPy's protocols

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        from lossc.lang.protocol import apply_ufunc

        return apply_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, func: Any, types: Any, args: Any, options: Any) -> Any:
        from lossc.lang.protocol import apply_function

        return apply_function(func, args, options)

    # ---- what needs values

    def __bool__(self) -> NoReturn:
        _refuse(
            "the truth of an array is not known while the loss is traced: `if`, `and`, `or`, `not` and chained"
            " comparisons cannot depend on it",
            "lossc.where(condition, a, b) chooses for each element; `&`, `|` and `~` join conditions",
        )

    def _no_number(self) -> NoReturn:
        _refuse(
            "an array has no values while the loss is traced, so it cannot become a Python number",
            "use lossc's or NumPy's functions in place of math's; give numbers as parameters of the loss",
        )

    def __float__(self) -> float:
        self._no_number()

    def __int__(self) -> int:
        self._no_number()

    def __index__(self) -> int:
        self._no_number()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        self._no_number()

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        _refuse("nothing can be assigned into an array", "lossc.where(condition, new, old) makes a new one")
