"""Golden cases: nets with inputs, parameters and what another implementation computed from them.

A case is a folder with ``net.prototxt``, ``case.json`` (layer_types, phase, rtol, atol, perhaps declared_loss) and
``case.npz``, whose keys are ``in/BLOB``, ``param/LAYER/I``, ``out/BLOB``, ``diff/BLOB``, ``pdiff/LAYER/I``,
``param_after/LAYER/I`` and ``loss``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lossc.errors import DataError
from lossc.frontend import read_net
from lossc.ir import Graph
from lossc.ir.interpret import Interpreter
from lossc.layers.net import import_net
from lossc.layers.registry import LAYERS
from lossc.passes.pipeline import run_passes

Arrays = dict[str, np.ndarray]


@dataclass
class Outcome:
    """What a forward and a backward pass computed: blobs and diffs by name, parameters by ``LAYER/INDEX``."""

    loss: float
    data: Arrays = field(default_factory=dict)
    diffs: Arrays = field(default_factory=dict)
    params: Arrays = field(default_factory=dict)
    param_diffs: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A golden case: what goes in (``inputs``, ``params``) and what must come out (``wanted``)."""

    folder: Path
    phase: str
    layer_types: frozenset[str]
    rtol: float
    atol: float
    inputs: Arrays
    params: Arrays
    wanted: Outcome

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def net(self) -> Path:
        return self.folder / "net.prototxt"

    @property
    def unknown_types(self) -> list[str]:
        """Layer types that lossc does not have."""
        return sorted(self.layer_types - set(LAYERS))


def load_case(folder: str | Path) -> Case:
    """Reads a case. Raises DataError where a file is missing or damaged."""
    folder = Path(folder)
    try:
        about = json.loads((folder / "case.json").read_text())
        with np.load(folder / "case.npz") as file:
            arrays = {key: file[key] for key in file.files}
        loss = float(about.get("declared_loss", arrays.pop("loss")))
        rtol, atol, types = about["rtol"], about["atol"], frozenset(about["layer_types"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"golden case {folder.name}: {error}", fix="case.json and case.npz must be complete") from error

    def part(prefix: str) -> Arrays:
        return {k.split("/", 1)[1]: v for k, v in arrays.items() if k.split("/", 1)[0] == prefix}

    wanted = Outcome(loss, part("out"), part("diff"), part("param_after"), part("pdiff"))
    return Case(folder, about["phase"], types, rtol, atol, part("in"), part("param"), wanted)


def find_cases(folder: str | Path) -> list[Path]:
    """The cases right below a folder, by name."""
    return sorted(p.parent for p in Path(folder).glob("*/case.json"))


def mismatches(case: Case, got: Outcome) -> list[str]:
    """One line for each array that is missing or differs: blob, worst index, got, wanted, tolerance.

    A blob that has no diff, since no gradient reaches it, counts as one whose diff is 0. Values agree where
    ``|got - wanted| <= atol + rtol |wanted|``; the loss, a sum over many points, with 10 atol.
    """
    pairs = (
        ("data", case.wanted.data, got.data),
        ("diff", case.wanted.diffs, got.diffs),
        ("param after forward", case.wanted.params, got.params),
        ("param diff", case.wanted.param_diffs, got.param_diffs),
    )
    lines = list(_differences("loss", np.asarray(got.loss), np.asarray(case.wanted.loss), case.rtol, 10 * case.atol))
    for what, wanted, have in pairs:
        for name, array in wanted.items():
            label = f'{what} "{name}"'
            if name in have:
                lines += _differences(label, have[name], array, case.rtol, case.atol)
            elif what != "diff" or array.any():
                lines.append(f"{label}: missing")
    return lines


def _differences(label: str, got: np.ndarray, wanted: np.ndarray, rtol: float, atol: float) -> Iterator[str]:
    if got.shape != wanted.shape:
        yield f"{label}: shape {list(got.shape)}, wanted {list(wanted.shape)}"
        return
    with np.errstate(invalid="ignore"):
        excess = np.abs(got - wanted) - (atol + rtol * np.abs(wanted))
    bad = ~(excess <= 0) & ~((got == wanted) | (np.isnan(got) & np.isnan(wanted)))
    if bad.any():
        at = np.unravel_index(np.where(bad, np.nan_to_num(excess, nan=np.inf), -np.inf).argmax(), got.shape)
        index = [int(i) for i in at]
        tolerance = atol + rtol * abs(float(wanted[at]))
        yield (
            f"{label}{index}: got {float(got[at]):.9g}, wanted {float(wanted[at]):.9g}, "
            f"tolerance {tolerance:.2g} ({int(bad.sum())} of {bad.size} differ)"
        )


def build_graph(case: Case, *, optimise: bool) -> Graph:
    """The case's net through frontend, layers and passes, all blobs readable."""
    source = read_net(case.net, phase=case.phase)
    graph = import_net(source.param, case.phase, file=source.file, line_of=source.line, tables=source.tables)
    graph.options["keep"] = "all"
    run_passes(graph, optimise=optimise)
    return graph


def run_interpreter(case: Case, *, optimise: bool = False, dtype: str = "f32") -> Outcome:
    """One forward and one backward pass of the case by the interpreter."""
    graph = build_graph(case, optimise=optimise)
    interpreter = Interpreter(graph, dtype)
    interpreter.run(["init"])
    for name, array in case.inputs.items():
        interpreter[graph.data_of[name]][...] = array
    for key, array in case.params.items():
        blob = interpreter[_param(graph, key)]
        blob[...] = array.reshape(blob.shape)
    interpreter.run(["forward", "backward"])
    got = Outcome(float(interpreter["loss_total"]))
    got.data = {label: interpreter[name] for label, name in graph.data_of.items()}
    got.diffs = {label: interpreter[name] for label, name in graph.diff_of.items()}
    for key in case.params:
        shape = case.params[key].shape
        got.params[key] = interpreter[_param(graph, key)].reshape(shape)
        got.param_diffs[key] = interpreter[_param(graph, key) + ".diff"].reshape(shape)
    return got


def _param(graph: Graph, key: str) -> str:
    layer, index = key.rsplit("/", 1)
    return graph.param_of[layer, int(index)]
