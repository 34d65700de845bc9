"""What cannot be traced, or does not fit, is one error that names the user's file and line and says what to write."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossc
from lossc.cli.main import main
from lossc.errors import GraphError, LosscError, ShapeError, UsageError
from lossc.frontend.net import read_net_text
from lossc.lang.files import collect
from lossc.lang.function import Function, Trace

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 6 } } }
layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 4 dim: 6 } } }
"""


@lossc.loss("Plain")
def plain(pred, target, *, delta=1.0, hard=False, kind="mean", axes=(0, 1), count=3):  # type: ignore[no-untyped-def]
    """A loss with a parameter of each type."""
    return (pred - target).sum() * delta


def net(text: str, layers: Any = plain) -> lossc.Net:
    return lossc.Net(read_net_text(f"{NET}{text}", "net.prototxt"), lossc.TRAIN, layers=layers)


#: (what a loss does, a part of the message, a part of the fix)
UNTRACEABLE: list[tuple[Callable[[Any], Any], str, str]] = [
    (lambda x: 1.0 if x.sum() > 0 else 2.0, "truth of an array", "lossc.where"),
    (lambda x: (0 < x.sum() < 1) * x.sum(), "truth of an array", "`&`"),
    (lambda x: math.exp(x.sum()), "cannot become a Python number", "lossc's or NumPy's"),
    (lambda x: np.sort(x).sum(), "numpy.sort is not known", "lossc's own functions"),
    (lambda x: np.cumsum(x).sum(), "numpy.cumsum is not known", "guide"),
    (lambda x: np.add.reduce(x), "numpy.add.reduce is not known", "guide"),
    (lambda x: np.arctan(x).sum(), "numpy.arctan is not known", "guide"),
    (lambda x: x[x > 0].sum(), "how many elements a condition chooses", "lossc.where(condition, x, 0)"),
    (lambda x: x[::-1].sum(), "runs backwards", "positive"),
    (lambda x: x["a"].sum(), "cannot index", "slices"),
    (lambda x: x.__setitem__(0, 1.0), "nothing can be assigned", "lossc.where"),
    (lambda x: lossc.where(x, 1.0, 2.0).sum(), "a number stands where a condition is wanted", "x < 1"),
    (lambda x: (x + "a").sum(), "str is not an array", "numbers"),
    (lambda x: (x * np.zeros((4, 600))).sum(), "2400 values", "bottom"),
    (lambda x: x.foo().sum(), "no attribute 'foo'", "symbolic arrays"),
    (lambda x: (x - undefined_name).sum(), "undefined_name", "symbolic arrays"),  # type: ignore[name-defined]  # noqa: F821
    (lambda x: {}[x.shape], "KeyError", "symbolic arrays"),
    (lambda x: x.astype(int).sum(), "no int64", "lossc.trunc"),
    (lambda x: sum(r.sum() for r in lossc.broadcast_to(x[:1, :1], (300, 2))), "loop over 300 rows", "whole array"),
]
MISSHAPEN: list[tuple[Callable[[Any], Any], str]] = [
    (lambda x: (x + x.T).sum(), "[4, 6] and [6, 4] do not fit together"),
    (lambda x: x.sum(2), "axis 2 is out of range"),
    (lambda x: x.sum((0, -2)), "named twice"),
    (lambda x: (x @ x).sum(), "cannot be multiplied"),
    (lambda x: x.reshape(5, 5).sum(), "have no shape [5, 5]"),
    (lambda x: x[7].sum(), "index 7 is out of range"),
    (lambda x: x[0, 0, 0], "3 indices"),
    (lambda x: x[3:3].sum(), "empty"),
    (lambda x: lossc.take_along_axis(x, x[0], 1).sum(), "an index of shape [6]"),
    (lambda x: lossc.concatenate([x, x[:, :2]], 0).sum(), "cannot be joined along axis 0"),
]


@pytest.mark.parametrize("call, message, fix", UNTRACEABLE)
def test_untraceable(call: Callable[[Any], Any], message: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        Trace(Function("Bad", call, True), [(4, 6)], {})
    assert message in caught.value.message
    assert caught.value.fix is not None and fix in caught.value.fix
    assert caught.value.file == __file__
    first = inspect.getsourcelines(call)[1]
    assert caught.value.line == first


@pytest.mark.parametrize("call, message", MISSHAPEN)
def test_shapes(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ShapeError) as caught:
        Trace(Function("Bad", call, True), [(4, 6)], {})
    assert message in caught.value.message
    assert (caught.value.file, caught.value.line) == (__file__, inspect.getsourcelines(call)[1])


@pytest.mark.parametrize("call, what", [(lambda x: x, "[4, 6]"), (lambda x: (x.sum(), x.sum()), "2 values")])
def test_a_loss_is_one_number(call: Callable[[Any], Any], what: str) -> None:
    with pytest.raises(ShapeError, match="a loss must be one number") as caught:
        Trace(Function("Bad", call, True), [(4, 6)], {})
    assert what in caught.value.message and "mean()" in str(caught.value.fix)


def test_result_that_is_no_array() -> None:
    with pytest.raises(LosscError, match="returns NoneType"):
        Trace(Function("Bad", lambda x: None, True), [(4, 6)], {})


def test_error_in_a_net_names_both_places() -> None:
    def bad(pred, target):  # type: ignore[no-untyped-def]
        return (pred @ target).sum()

    with pytest.raises(ShapeError) as caught:
        net('layer { name: "l" type: "Bad" bottom: "x" bottom: "y" top: "l" }', Function("Bad", bad, True))
    assert caught.value.layer == "l"
    assert caught.value.file == __file__


@pytest.mark.parametrize(
    "setting, message",
    [
        ("gamma: 1", 'has no setting "gamma"'),
        ("delta: true", "wants a number"),
        ('delta: "far"', "wants a number"),
        ("hard: 2", "true or false"),
        ("kind: 3", "string"),
        ("delta: [1, 2]", "2 values"),
    ],
)
def test_parameters_in_prototxt(setting: str, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        net(f'layer {{ name: "l" type: "Plain" bottom: "x" bottom: "y" top: "l" lossc_param {{ {setting} }} }}')
    assert message in caught.value.message
    assert (caught.value.file, caught.value.line, caught.value.layer) == ("net.prototxt", 4, "l")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{'delta': 'far'}", "not a float"),
        ("{'gamma': 1}", 'no parameter "gamma"'),
        ("{'count': 1.5}", "not a int"),
        ("delta", "no dictionary"),
        ("[1]", "no dictionary"),
    ],
)
def test_param_str(text: str, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        net(
            'layer { name: "l" type: "Plain" bottom: "x" bottom: "y" top: "l"'
            f' python_param {{ param_str: "{text}" }} }}'
        )
    assert message in caught.value.message


def test_number_of_bottoms() -> None:
    with pytest.raises(GraphError, match="takes 2 bottoms, 1 given"):
        net('layer { name: "l" type: "Plain" bottom: "x" top: "l" }')


def test_unknown_type_suggests_the_custom_one() -> None:
    with pytest.raises(GraphError) as caught:
        net('layer { name: "l" type: "Plane" bottom: "x" bottom: "y" top: "l" }')
    assert 'did you mean "Plain"' in str(caught.value.fix)


def test_name_of_a_built_in_layer() -> None:
    clash = Function("EuclideanLoss", plain.call, True)
    with pytest.raises(UsageError, match='"EuclideanLoss" is the name of a built-in layer'):
        net('layer { name: "l" type: "EuclideanLoss" bottom: "x" bottom: "y" top: "l" }', clash)


def test_two_files_with_one_name(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        text = f'import lossc\n@lossc.loss("Mine")\ndef mine(x):\n    return x.sum() * len({name!r})\n'
        (tmp_path / name).write_text(text)
    assert list(collect(tmp_path / "a.py")) == ["Mine"]
    assert list(collect([str(tmp_path / "a.py")] * 2)) == ["Mine"]  # the same file again
    with pytest.raises(UsageError, match='two layers are called "Mine"'):
        collect([tmp_path / "a.py", tmp_path / "b.py"])


@pytest.mark.parametrize(
    "text, message, line",
    [
        ("import lossc\n\n1 / 0\n", "ZeroDivisionError", 3),
        ("def (:\n", "SyntaxError", 1),
        ("x = 1\n", "defines no layers", None),
        ('import lossc\n@lossc.loss("L")\ndef f(*, a=1):\n    return 1\n', "has no bottoms", 2),
        ('import lossc\n@lossc.loss("L")\ndef f(x, a=1):\n    return 1\n', 'has the default 1', 2),
        ('import lossc\n@lossc.loss("L")\ndef f(x, **more):\n    return 1\n', "leaves open", 2),
        ("import lossc\n@lossc.loss\ndef f(x):\n    return 1\n", "needs the name", None),
    ],
)
def test_files(tmp_path: Path, text: str, message: str, line: int | None) -> None:
    file = tmp_path / "losses.py"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        collect(str(file))
    assert message in caught.value.message
    assert caught.value.line == line
    if line is not None:
        assert caught.value.file == str(file)


def test_what_is_no_layer(tmp_path: Path) -> None:
    for given, message in ((3, "3 is no layer"), ("nowhere.py", "no file"), ("nobody", "no package offers")):
        with pytest.raises(UsageError, match=message):
            collect(given)


def test_own_backward() -> None:
    def call(x, y):  # type: ignore[no-untyped-def]
        return (x * y).sum()

    few, wide = Function("Few", call, True), Function("Wide", call, True)
    few.backward(lambda top_diff, x, y: top_diff * y)
    wide.backward(lambda top_diff, x, y: (x[None], None))
    with pytest.raises(UsageError, match="backward returns 1 gradients for 2 inputs"):
        _ = Trace(few, [(2, 3), (2, 3)], {}).gradients
    with pytest.raises(ShapeError, match=r'of shape \[1, 2, 3\] for "x" \[2, 3\]'):
        _ = Trace(wide, [(2, 3), (2, 3)], {}).gradients


def test_own_backward_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is wrong in it: its line, and no traceback."""
    (tmp_path / "own.py").write_text(
        'import lossc\n\n@lossc.loss("Own")\ndef own(x, y, *, delta=1.0):\n    return (x * y).sum()\n\n'
        "@own.backward\ndef _(top_diff, x, y, *, delta):\n    return top_diff * z, None\n"
    )
    assert main(["check", f"{tmp_path}/own.py:own"]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path}/own.py:9:" in told and "NameError: name 'z' is not defined" in told and "Traceback" not in told
    few = Function("Few", lambda x, *, delta=1.0: x.sum(), True)
    few.backward(lambda top_diff, x: top_diff)
    with pytest.raises(UsageError, match="unexpected keyword argument 'delta'") as caught:
        _ = Trace(few, [(2, 3)], {"delta": 1.0}).gradients
    assert caught.value.file == __file__


def test_picking_along_two_axes() -> None:
    def call(x, i, j):  # type: ignore[no-untyped-def]
        return lossc.take_along_axis(lossc.take_along_axis(x, i, 1), j, 0).sum()

    two = Function("Two", call, True)
    with pytest.raises(UsageError, match="along two axes at once") as caught:
        lossc.compile_loss(two, x=(4, 5), i=(4, 3), j=(2, 3), grad=())
    assert "one_hot" in str(caught.value.fix)
    assert (caught.value.file, caught.value.layer) == (__file__, "Two")
