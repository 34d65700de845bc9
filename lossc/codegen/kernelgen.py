"""One kernel as one C function: fills the specs of the templates from the IR."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os.path import basename
from typing import Literal

from lossc.codegen.cexpr import Style
from lossc.codegen.contraction import LOCALS, Choice, Epilogue
from lossc.codegen.contraction import Code as ContractionCode
from lossc.codegen.contractions import Contraction
from lossc.codegen.conv import ConvSpec
from lossc.codegen.environment import render
from lossc.codegen.epilogue import epilogue_lines
from lossc.codegen.gemm import GemmSpec
from lossc.codegen.mapgen import Code, map_code
from lossc.codegen.mapplan import plan_map
from lossc.codegen.names import Names, comment, identifier, literal, string
from lossc.codegen.pool import PoolSpec, pool_code
from lossc.errors import InternalError
from lossc.ir import CheckFinite, CheckLabel, Constant, Conv, Gemm, Graph, Map, Node, Pool, Random, Ref
from lossc.ir.expr import accesses
from lossc.ir.printer import show_kernel
from lossc.targets import Isa

#: Names that pools' templates use inside their functions, beside those of contractions.
_LOCALS = "k images x w a b at in source target length runs count padded"
_RESERVED = LOCALS | frozenset(_LOCALS.split())
#: How many numbers a task of a check looks at.
_CHUNK = 4096


@dataclass(frozen=True)
class Function:
    """A kernel's C function, and the pointer expressions that the schedule calls it with."""

    name: str
    text: str
    args: tuple[str, ...]
    shared_scratch: int
    thread_scratch: int
    can_fail: bool = False
    choice: Choice | None = None
    contraction: Contraction | None = None


class KernelWriter:
    """Turns the graph's nodes into functions. ``address`` gives the C pointer of a memory owner plus an offset.
    ``choices``: names of candidates to take in place of the cost model's, by contractions' keys."""

    def __init__(
        self,
        graph: Graph,
        isa: Isa,
        dtype: str,
        address: Callable[[str, int], str],
        taken: frozenset[str] = frozenset(),
        choices: Mapping[str, str] | None = None,
    ) -> None:
        self.choices = choices or {}
        self.graph, self.isa, self.dtype, self.address = graph, isa, dtype, address
        self.first_sums = first_sums(graph)
        self.style = Style(dtype)
        self.functions = Names(taken)

    def write(self, node: Node) -> Function:
        name = self.functions.fresh(_function_name(node))
        heading = self._heading(node)
        kernel = node.kernel
        if isinstance(kernel, Map):
            return self._map(name, heading, kernel)
        if isinstance(kernel, Gemm):
            return self._gemm(name, heading, kernel, node)
        if isinstance(kernel, Conv):
            return self._conv(name, heading, kernel, node)
        if isinstance(kernel, Pool):
            return self._pool(name, heading, kernel)
        if isinstance(kernel, Random):
            return self._random(name, heading, kernel)
        if isinstance(kernel, CheckLabel):
            return self._check_label(name, heading, kernel, node.layer)
        if isinstance(kernel, CheckFinite):
            return self._check_finite(name, heading, kernel, node)
        if isinstance(kernel, Constant):
            return self._constant(name, heading, kernel)
        raise InternalError(f"no template for {kernel.kind}")

    def _heading(self, node: Node) -> str:
        kind = self.graph.layer_types.get(node.layer)
        line = self.graph.lines.get(node.layer)
        where = f"    {basename(self.graph.file)}:{line}" if line else ""
        what = f"{node.layer} {{ {kind} }}" if kind else node.layer
        note = f" ({node.note})" if node.note else ""
        return f"---- {what} {node.section}{note}{where}\n   {show_kernel(node.kernel)}"

    # ---- operands

    def _operand(self, ref: Ref) -> tuple[str, tuple[int, ...]]:
        """(pointer, real strides) of a part of a blob."""
        pairs = list(zip(ref.shape, ref.strides, strict=True))
        root, offset, strides = self.graph.resolve(ref.blob, ref.offset, pairs)
        return self.address(root, offset), strides

    def _bind(self, operands: dict[str, Ref]) -> tuple[dict[str, str], dict[str, str], dict[str, tuple[int, ...]]]:
        """Unique parameter names, their pointers, and strides, for each operand by role."""
        names = Names(_RESERVED)
        params: dict[str, str] = {}
        pointers: dict[str, str] = {}
        strides: dict[str, tuple[int, ...]] = {}
        for role, ref in operands.items():
            params[role] = names.fresh(ref.blob)
            pointers[params[role]], strides[role] = self._operand(ref)
        return params, pointers, strides

    def _function(
        self, name: str, code: ContractionCode | Code, pointers: dict[str, str], can_fail: bool = False
    ) -> Function:
        args = [pointers[_declared(p)] for p in code.params if _declared(p) not in ("shared", "local")]
        args += ["net->shared"] if code.shared_scratch else []
        args += ["local"] if code.thread_scratch else []
        choice = code.choice if isinstance(code, ContractionCode) else None
        return Function(name, code.text, tuple(args), code.shared_scratch, code.thread_scratch, can_fail, choice)

    # ---- kernels

    def _map(self, name: str, heading: str, kernel: Map) -> Function:
        plan = plan_map(self.graph, kernel, self.isa.lanes(self.dtype), 4 if self.dtype == "f32" else 8)
        names = Names(frozenset({"shared", "local", "t", "row", "end", "begin", "stop"}))
        params: dict[str, str] = {}
        for s in plan.stores:
            for a in (*accesses(s.value), s.access):
                params.setdefault(a.blob, names.of(a.blob))
        written = frozenset(s.access.blob for s in plan.stores)
        code = map_code(
            name, heading, plan, self.style, self.isa.lanes(self.dtype), params, identifier, written
        )
        return self._function(name, code, {p: self.address(blob, 0) for blob, p in params.items()})

    def _epilogue(self, kernel: Gemm | Conv, pointers: dict[str, str]) -> Epilogue | None:
        if kernel.epilogue is None:
            return None
        lines, params = epilogue_lines(self.graph, kernel, self.style, set(pointers))
        pointers.update({p: self.address(blob, 0) for blob, p in params.items()})
        return Epilogue(tuple(lines), tuple(f"const {self.style.real} *restrict {p}" for p in params.values()))

    def _contraction(self, name: str, contraction: Contraction, pointers: dict[str, str]) -> Function:
        code = contraction.code(self.isa, self.dtype, self.choices.get(contraction.key, ""))
        return replace(self._function(name, code, pointers), contraction=contraction)

    def _adds(self, kernel: Gemm | Conv, node: Node, pointers: dict[str, str]) -> bool | str:
        if node.id not in self.first_sums.values():
            return kernel.accumulate
        pointers["adds"] = "!net->renew"
        return "adds"

    def _gemm(self, name: str, heading: str, kernel: Gemm, node: Node) -> Function:
        params, pointers, strides = self._bind({"a": kernel.a, "b": kernel.b, "c": kernel.c})
        spec = GemmSpec(
            name=name,
            comment=comment(heading),
            a=params["a"],
            b=params["b"],
            c=params["c"],
            m=kernel.a.shape[0],
            n=kernel.b.shape[1],
            k=kernel.a.shape[1],
            a_strides=strides["a"],  # type: ignore[arg-type]
            b_strides=strides["b"],  # type: ignore[arg-type]
            c_strides=strides["c"],  # type: ignore[arg-type]
            alpha=literal(kernel.alpha.value(self.dtype), self.dtype),
            alpha_comment=comment(kernel.alpha.history),
            accumulate=self._adds(kernel, node, pointers),
            epilogue=self._epilogue(kernel, pointers),
        )
        return self._contraction(name, Contraction(spec), pointers)

    def _conv(self, name: str, heading: str, kernel: Conv, node: Node) -> Function:
        params, pointers, strides = self._bind({"x": kernel.x, "w": kernel.w, "y": kernel.y})
        g = kernel.geometry
        spec = ConvSpec(
            name=name,
            comment=comment(heading),
            x=params["x"],
            w=params["w"],
            y=params["y"],
            direction=kernel.direction,  # type: ignore[arg-type]
            n=kernel.x.shape[0],
            groups=kernel.groups,
            ci=kernel.x.shape[1],
            co=kernel.y.shape[1],
            in_shape=kernel.x.shape[2:],
            out_shape=kernel.y.shape[2:],
            kernel=g.kernel,
            stride=g.stride,
            pad=g.pad,
            dilation=g.dilation,
            x_strides=self._image_strides(kernel.x, strides["x"]),
            y_strides=self._image_strides(kernel.y, strides["y"]),
            alpha=literal(kernel.alpha.value(self.dtype), self.dtype),
            alpha_comment=comment(kernel.alpha.history),
            accumulate=self._adds(kernel, node, pointers),
            epilogue=self._epilogue(kernel, pointers),
        )
        return self._contraction(name, Contraction(spec, self.graph.options.get("winograd", 0)), pointers)

    def _image_strides(self, ref: Ref, strides: tuple[int, ...]) -> tuple[int, int]:
        step = 1
        for extent, stride in zip(reversed(ref.shape[2:]), reversed(strides[2:]), strict=True):
            if extent != 1 and stride != step:
                raise InternalError(f"the planes of {ref.blob} are not contiguous")
            step *= extent
        image = strides[0] if ref.shape[0] > 1 else step * ref.shape[1]
        return image, strides[1] if ref.shape[1] > 1 else step

    def _pool(self, name: str, heading: str, kernel: Pool) -> Function:
        operands = {"x": kernel.x, "y": kernel.y}
        if kernel.mask is not None:
            operands["mask"] = kernel.mask
        params, pointers, strides = self._bind(operands)
        mask_kind: Literal["none", "index", "byte"] = "none"
        if kernel.mask is not None:
            mask_kind = "index" if self.graph.blobs[kernel.mask.blob].dtype == "real" else "byte"
        if mask_kind == "byte":
            pointers[params["mask"]] = f"(unsigned char *)({pointers[params['mask']]})"
        g = kernel.geometry
        spec = PoolSpec(
            name=name,
            comment=comment(heading),
            direction=kernel.direction,  # type: ignore[arg-type]
            method=kernel.method,  # type: ignore[arg-type]
            n=kernel.x.shape[0],
            channels=kernel.x.shape[1],
            in_shape=kernel.x.shape[2:],  # type: ignore[arg-type]
            out_shape=kernel.y.shape[2:],  # type: ignore[arg-type]
            kernel=g.kernel,  # type: ignore[arg-type]
            stride=g.stride,  # type: ignore[arg-type]
            pad=g.pad,  # type: ignore[arg-type]
            x=params["x"],
            y=params["y"],
            mask=params.get("mask"),
            mask_kind=mask_kind,
            x_strides=self._image_strides(kernel.x, strides["x"]),
            y_strides=self._image_strides(kernel.y, strides["y"]),
            alpha=literal(kernel.alpha.value(self.dtype), self.dtype),
            accumulate=kernel.accumulate,
        )
        text, decls = pool_code(spec, self.isa, self.dtype)
        return self._function(name, Code(text, decls), pointers)

    def _random(self, name: str, heading: str, kernel: Random) -> Function:
        pointer, _ = self._operand(kernel.out)
        view = {
            "name": name, "heading": heading, "real": self.style.real, "dtype": self.dtype,
            "distribution": kernel.distribution, "count": kernel.out.size, "stream": kernel.stream,
            "a": literal(kernel.a, self.dtype), "b": literal(kernel.b, self.dtype),
        }  # fmt: skip
        return Function(name, render("random.c.j2", view), ("net", pointer), 0, 0)

    def _check_label(self, name: str, heading: str, kernel: CheckLabel, layer: str) -> Function:
        pointer, _ = self._operand(kernel.label)
        count = kernel.label.size
        tasks = -(-count // _CHUNK) if count > _CHUNK else 0
        view = {
            "name": name, "heading": heading, "real": self.style.real, "v": f"v{self.dtype}", "m": f"m{self.dtype}",
            "lanes": self.isa.lanes(self.dtype), "count": count, "chunk": _CHUNK, "tasks": tasks,
            "last": kernel.classes - 1, "ignore": kernel.ignore, "layer_string": string(layer),
            "blob_string": string(self.graph.blobs[kernel.label.blob].label), "zero": literal(0, self.dtype),
            "one": literal(1, self.dtype), "top": literal(kernel.classes - 1, self.dtype),
            "ignored": literal(kernel.ignore or 0, self.dtype),
        }  # fmt: skip
        shared = ("net->shared",) if tasks else ()
        return Function(name, render("check_label.c.j2", view), ("net", pointer, *shared), tasks, 0, True)

    def _check_finite(self, name: str, heading: str, kernel: CheckFinite, node: Node) -> Function:
        pointer, strides = self._operand(kernel.values)
        shape, run = kernel.values.shape, 1
        outer = len(shape)
        while outer and (shape[outer - 1] == 1 or strides[outer - 1] == run):
            run, outer = run * shape[outer - 1], outer - 1
        rows = kernel.values.size // run
        coordinates: list[dict[str, int]] = []
        inner = 1
        for extent in reversed(shape):
            coordinates.insert(0, {"below": inner, "extent": extent})
            inner *= extent
        step = max(_CHUNK // run, 1)  # rows in a task
        axes, below = [], 1
        for extent, stride in reversed(list(zip(shape[:outer], strides[:outer], strict=True))):
            axes.append({"below": below, "extent": extent, "stride": stride})
            below *= extent
        view = {
            "name": name, "heading": heading, "real": self.style.real, "run": run, "rows": rows, "step": step,
            "tasks": -(-rows // step), "axes": axes, "largest": "FLT_MAX" if self.dtype == "f32" else "DBL_MAX",
            "absolute": "fabsf" if self.dtype == "f32" else "fabs", "layer_string": string(node.layer),
            "zero": literal(0, self.dtype), "what": string(kernel.what), "label": string(kernel.label),
            "section": string("backward" if kernel.what == "gradient" else node.section), "coordinates": coordinates,
        }  # fmt: skip
        return Function(
            name, render("check_finite.c.j2", view), ("net", pointer, "net->shared"), -(-rows // step), 0, True
        )

    def _constant(self, name: str, heading: str, kernel: Constant) -> Function:
        pointer, _ = self._operand(kernel.out)
        numbers = [literal(value, self.dtype) for value in kernel.array.reshape(-1).tolist()]
        view = {
            "name": name, "heading": heading, "real": self.style.real, "count": len(numbers),
            "rows": [numbers[k : k + 8] for k in range(0, len(numbers), 8)],
        }  # fmt: skip
        return Function(name, render("constant.c.j2", view), (pointer,), 0, 0)


def first_sums(graph: Graph) -> dict[str, int]:
    """The gradients of parameters that a contraction is the first to add to, all of each, with that kernel's id: these
    it can store instead, where the gradients begin anew."""
    first: dict[str, int] = {}
    diffs = {p.blob + ".diff" for p in graph.params}
    seen: set[str] = set()
    for node in graph.nodes:
        if node.section not in ("forward", "backward"):
            continue
        touched = {graph.root(b) for b in (*node.kernel.reads(), *node.kernel.writes())} & diffs
        for blob in touched - seen:
            kernel = node.kernel
            out = kernel.outputs()[0] if isinstance(kernel, (Gemm, Conv)) and kernel.accumulate else None
            if isinstance(out, Ref) and node.section == "backward" and out.size == graph.blobs[blob].size:
                first[blob] = node.id
        seen |= touched
    return first


def _declared(declaration: str) -> str:
    match = re.search(r"(\w+)$", declaration)
    assert match
    return match.group(1)


def _function_name(node: Node) -> str:
    verb = {"forward": "forward", "backward": "backward", "init": "init", "update": "update"}[node.section]
    return f"{identifier(node.layer)}_{verb}"
