"""The maps that are part of a pooling along lines, as C."""

from __future__ import annotations

from collections.abc import Callable

from lossc.codegen.cexpr import Style
from lossc.codegen.epilogue import address, load_along, operands, resolved, statements
from lossc.codegen.names import Names
from lossc.codegen.pool_spec import Maps, Result
from lossc.errors import InternalError
from lossc.ir import Access, Graph, Pool
from lossc.ir.expr import Acc, Expr, Load, accesses, rewrite

#: Names inside the function, which no parameter may have.
_LOCALS = "acc aligned begin c end factor fresh h k lines local m n out p shared sum t w window"


def pool_maps(
    graph: Graph, kernel: Pool, style: Style, taken: set[str], label: Callable[[str], str]
) -> tuple[Maps, dict[str, str]]:
    """(the maps, the parameter name of each memory owner that they, or the pooling itself, read or store beside it).

    ``label``: what the parameter of a memory owner should be called.
    """
    names = Names(frozenset({*_LOCALS.split(), *taken}))
    element = Load(kernel.source[kernel.labels])
    seen: Expr = element
    if kernel.prologue is not None:
        seen = rewrite(kernel.prologue, lambda e: element if isinstance(e, Acc) else e)
    result: Expr = Acc(kernel.out[kernel.labels].dims) if kernel.epilogue is None else kernel.epilogue
    values = (seen, result, *(s.value for s in kernel.more))
    read = operands(graph, (a for value in values for a in accesses(value)), names, label)
    stored = operands(graph, (s.access for s in kernel.more), names, label)

    def load(access: Access) -> str:
        root, offset, strides = resolved(graph, access)
        return load_along(read[root], offset, strides, "w", style)

    ahead = []
    for access in accesses(seen):
        root, offset, strides = resolved(graph, access)
        if step := strides.get("h"):
            ahead.append(f"LOSSC_PREFETCH({address(read[root], offset + step, strides)}); /* the next line */")
    more = []
    for s in kernel.more:
        root, offset, strides = resolved(graph, s.access)
        if strides.get("w", 1) != 1:
            raise InternalError(f"the lines of {s.access.blob} are not contiguous")
        at, steps = address(stored[root], offset, strides), (offset, *(s for d, s in strides.items() if d != "w"))
        more.append(Result(stored[root], at, names.fresh("out"), steps))
    given = {"out": result, **{r.value: s.value for r, s in zip(more, kernel.more, strict=True)}}
    maps = Maps(
        (*ahead, *statements({"out": seen}, load, style, names)),
        tuple(statements(given, load, style, names)),
        tuple(more),
        tuple(read.values()),
    )
    return maps, {**read, **stored}
