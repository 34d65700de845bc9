"""Epilogues: a map's expression applied to a contraction's result while it is in registers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from lossc.codegen.cexpr import Style
from lossc.codegen.names import Names, literal
from lossc.errors import InternalError
from lossc.ir import Access, Conv, Gemm, Graph
from lossc.ir.expr import Acc, Const, Expr, Load, Op, accesses, walk


def epilogue_lines(
    graph: Graph, kernel: Gemm | Conv, style: Style, taken: set[str], label: Callable[[str], str] = str
) -> tuple[list[str], dict[str, str]]:
    """(C statements from ``acc`` to ``out``, parameter name of each memory owner that they read).

    ``label``: what the parameter of a memory owner should be called.
    """
    assert kernel.epilogue is not None
    names = Names(frozenset({*taken, "acc", "out", "i", "j", "m", "n", "c", "shared", "local"}))
    params = operands(graph, accesses(kernel.epilogue), names, label)
    load = partial(_load, graph, kernel, params, style)
    return statements({"out": kernel.epilogue}, load, style, names), params


def operands(graph: Graph, used: Iterable[Access], names: Names, label: Callable[[str], str]) -> dict[str, str]:
    """The parameter name of each memory owner."""
    return {root: names.fresh(label(root)) for root in dict.fromkeys(graph.root(a.blob) for a in used)}


def statements(values: Mapping[str, Expr], load: Callable[[Access], str], style: Style, names: Names) -> list[str]:
    """C statements that compute with vectors and define each of ``values``. ``load``: the C that reads an operand."""
    lines: list[str] = []
    done: dict[Expr, str] = {}
    for e in dict.fromkeys(e for value in values.values() for e in walk(value)):
        if isinstance(e, Acc):
            done[e] = "acc"
        elif isinstance(e, Const):
            done[e] = f"{style.v}_set1({literal(e.scalar.value(style.dtype), style.dtype)})"
        elif isinstance(e, (Load, Op)):
            text = load(e.access) if isinstance(e, Load) else style.vector(e.name, [done[a] for a in e.args])
            done[e] = names.fresh("e")
            lines.append(f"const {style.vector_type(e)} {done[e]} = {text};")
        else:
            raise InternalError(f"{type(e).__name__} cannot stand in an epilogue")
    return lines + [f"const {style.v} {name} = {done[value]};" for name, value in values.items()]


def _fast_axis(graph: Graph, kernel: Gemm | Conv) -> str:
    """The label of the axis along which the result's vectors run."""
    if isinstance(kernel, Conv):
        return "p"
    c = kernel.c
    _, _, strides = graph.resolve(c.blob, c.offset, list(zip(c.shape, c.strides, strict=True)))
    return "j" if strides[1] == 1 or c.shape[1] == 1 else "i"


def _load(graph: Graph, kernel: Gemm | Conv, params: Mapping[str, str], style: Style, access: Access) -> str:
    root, offset, strides = resolved(graph, access)
    labels = kernel.labels
    if isinstance(kernel, Gemm):
        return load_along(params[root], offset, strides, _fast_axis(graph, kernel), style)
    terms: list[str] = []
    lane = 0
    if block := kernel.block(kernel.out):
        terms, lane = _blocked(strides, labels[3:], kernel.out.shape[3:], block)
    else:
        space = [strides.get(d, 0) for d in labels[2:]]
        shape = kernel.out.shape[2:]
        terms = _terms({d: strides[d] for d in "nc" if d in strides})
        if any(space):
            step = 1
            for extent, stride in zip(reversed(shape), reversed(space), strict=True):
                if extent != 1 and stride != step:
                    raise InternalError("an epilogue operand's planes must be contiguous")
                step *= extent
            terms.append("j")
            lane = 1
    at = _sum(params[root], offset, terms)
    if not lane or not kernel.block(kernel.out):
        return _vector(at, lane, style)
    return f"{style.v}_load{'_bf16' if graph.blobs[root].dtype == 'bf16' else ''}({at})"


def resolved(graph: Graph, access: Access) -> tuple[str, int, dict[str, int]]:
    """Of an operand: the owner of its memory, where it begins there, and the step along each dimension, by name."""
    root, offset, real = graph.resolve(access.blob, access.offset, [(d.extent, s) for d, s in access.strides])
    return root, offset, {d.name: s for d, s in zip(access.dims, real, strict=True)}


def address(name: str, offset: int, strides: Mapping[str, int]) -> str:
    """The address of an operand's element, where variables are called as the dimensions are."""
    return _sum(name, offset, _terms(strides))


def load_along(name: str, offset: int, strides: Mapping[str, int], fast: str, style: Style) -> str:
    """The C that reads ``m`` elements along a dimension, where variables are called as the dimensions are."""
    return _vector(address(name, offset, strides), strides.get(fast, 0), style)


def _terms(strides: Mapping[str, int]) -> list[str]:
    return [f"{d} * {s}" if s != 1 else d for d, s in strides.items() if s]


def _sum(name: str, offset: int, terms: list[str]) -> str:
    return " + ".join([name, *terms, *([str(offset)] if offset or not terms else [])])


def _vector(at: str, lane: int, style: Style) -> str:
    if lane == 0:
        return f"{style.v}_set1(*({at}))"
    return f"{style.v}_load_n({at}, m)" if lane == 1 else f"{style.v}_load_strided_n({at}, {lane}, m)"


def _blocked(strides: dict[str, int], space: str, shape: tuple[int, ...], block: int) -> tuple[list[str], int]:
    """Of an operand of an output whose channels lie in blocks: the terms of its address at image n, position j, first
    channel c, and its distance from channel to channel, 0 or 1. Raises InternalError for any other distance."""
    lane, blocks = strides.get("l", 0), strides.get("b", 0)
    terms = [f"n * {strides['n']}"] if strides.get("n") else []
    if blocks:
        terms.append("c" if blocks == block * lane else f"c / {block} * {blocks}")
    if lane and blocks != block * lane:
        terms.append(f"c % {block}")
    along = [strides.get(d, 0) for d in space]
    if any(along):
        first = step = along[-1] if shape[-1] != 1 else next(s for s in reversed(along) if s)
        for extent, stride in zip(reversed(shape), reversed(along), strict=True):
            if extent != 1 and stride != step:
                raise InternalError("an epilogue operand's planes must be contiguous")
            step *= extent
        terms.append(f"j * {first}" if first != 1 else "j")
    if lane not in (0, 1):
        raise InternalError("an epilogue operand's channels must lie side by side")
    return terms, lane
