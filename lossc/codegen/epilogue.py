"""Epilogues: a map's expression applied to a contraction's result while it is in registers."""

from __future__ import annotations

from collections.abc import Callable

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
    labels = kernel.labels
    fast = _fast_axis(graph, kernel)
    names = Names(frozenset({*taken, "acc", "out", "i", "j", "m", "n", "c", "shared", "local"}))
    params: dict[str, str] = {}
    lines: list[str] = []
    done: dict[Expr, str] = {}
    for a in accesses(kernel.epilogue):
        root = graph.root(a.blob)
        if root not in params:
            params[root] = names.fresh(label(root))
    for e in walk(kernel.epilogue):
        if isinstance(e, Acc):
            done[e] = "acc"
        elif isinstance(e, Const):
            done[e] = f"{style.v}_set1({literal(e.scalar.value(style.dtype), style.dtype)})"
        elif isinstance(e, Load):
            name = names.fresh("e")
            lines.append(f"const {style.v} {name} = {_load(graph, e.access, kernel, labels, fast, params, style)};")
            done[e] = name
        elif isinstance(e, Op):
            name = names.fresh("e")
            text = style.vector(e.name, [done[a] for a in e.args])
            lines.append(f"const {style.vector_type(e)} {name} = {text};")
            done[e] = name
        else:
            raise InternalError(f"{type(e).__name__} cannot stand in an epilogue")
    lines.append(f"const {style.v} out = {done[kernel.epilogue]};")
    return lines, params


def _fast_axis(graph: Graph, kernel: Gemm | Conv) -> str:
    """The label of the axis along which the result's vectors run."""
    if isinstance(kernel, Conv):
        return "p"
    c = kernel.c
    _, _, strides = graph.resolve(c.blob, c.offset, list(zip(c.shape, c.strides, strict=True)))
    return "j" if strides[1] == 1 or c.shape[1] == 1 else "i"


def _load(
    graph: Graph,
    access: Access,
    kernel: Gemm | Conv,
    labels: str,
    fast: str,
    params: dict[str, str],
    style: Style,
) -> str:
    pairs = [(d.extent, s) for d, s in access.strides]
    root, offset, real = graph.resolve(access.blob, access.offset, pairs)
    strides = {d.name: s for (d, _), s in zip(access.strides, real, strict=True)}
    terms: list[str] = []
    lane = 0
    if isinstance(kernel, Gemm):
        terms = [f"{d} * {s}" if s != 1 else d for d, s in strides.items() if s]
        lane = strides.get(fast, 0)
    elif block := kernel.block(kernel.out):
        terms, lane = _blocked(strides, labels[3:], kernel.out.shape[3:], block)
    else:
        space = [strides.get(d, 0) for d in labels[2:]]
        shape = kernel.out.shape[2:]
        terms = [f"{d} * {strides[d]}" if strides[d] != 1 else d for d in "nc" if strides.get(d)]
        if any(space):
            step = 1
            for extent, stride in zip(reversed(shape), reversed(space), strict=True):
                if extent != 1 and stride != step:
                    raise InternalError("an epilogue operand's planes must be contiguous")
                step *= extent
            terms.append("j")
            lane = 1
    if offset or not terms:
        terms.append(str(offset))
    at = f"{params[root]} + " + " + ".join(terms)
    if lane == 0:
        return f"{style.v}_set1(*({at}))"
    if lane == 1:
        whole = isinstance(kernel, Conv) and kernel.block(kernel.out)
        if graph.blobs[root].dtype == "bf16":
            return f"{style.v}_load_bf16({at})"
        return f"{style.v}_load({at})" if whole else f"{style.v}_load_n({at}, m)"
    return f"{style.v}_load_strided_n({at}, {lane}, m)"


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
