"""A kernel as a C function: fills the specs of the templates from the IR."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, TypeVar

from lossc.codegen.cexpr import Style
from lossc.codegen.contraction import LOCALS, Choice, Epilogue, Prepared
from lossc.codegen.contraction import Code as ContractionCode
from lossc.codegen.contractions import Contraction, rounded
from lossc.codegen.conv import ConvSpec
from lossc.codegen.environment import render
from lossc.codegen.epilogue import epilogue_lines
from lossc.codegen.gemm_plan import GemmSpec
from lossc.codegen.mapgen import Code, map_body, map_code
from lossc.codegen.mapparts import in_parts
from lossc.codegen.mapplan import Plan, plan_map
from lossc.codegen.names import Names, comment, identifier, literal, string
from lossc.codegen.pool import pool_code
from lossc.codegen.pool_maps import pool_maps
from lossc.codegen.pool_spec import PoolSpec
from lossc.errors import InternalError
from lossc.ir import CheckFinite, CheckLabel, Constant, Conv, Gemm, Graph, Kernel, Map, Node, Pool, Random, Ref
from lossc.ir.expr import accesses
from lossc.targets import Isa

#: Names that pools' templates use inside their functions, beside those of contractions.
_LOCALS = "k images x w a b at in source target length runs count padded"
_RESERVED = LOCALS | frozenset(_LOCALS.split())
Spec = TypeVar("Spec", GemmSpec, ConvSpec, PoolSpec)
#: How many numbers a task of a check looks at.
_CHUNK = 4096


#: Arguments that are the same in every call.
_TEAM = {"net": "net", "shared": "net->shared", "local": "local"}


@dataclass(frozen=True)
class Function:
    """A C function, its static helpers in front of it; ``params`` are the names of its parameters."""

    name: str
    text: str
    params: tuple[str, ...]
    shared_scratch: int = 0
    thread_scratch: int = 0
    can_fail: bool = False
    choice: Choice | None = None
    contraction: Contraction | None = None
    prepared: Prepared | None = None


@dataclass(frozen=True)
class Draft:
    """A kernel whose function has no name yet. Of drafts with equal keys, one's function computes the others' too.

    ``pointers``: what the schedule passes, by the parameter's name. ``function`` takes a name and a heading.
    """

    key: Hashable
    pointers: Mapping[str, str] = field(repr=False)
    function: Callable[[str, str], Function] = field(repr=False)

    def args(self, function: Function, packed: str = "") -> tuple[str, ...]:
        """``packed``: where the function finds what was made of its frozen operand, if it has one."""
        own = {**self.pointers, **_TEAM}
        if function.prepared:
            own[function.prepared.packed] = packed
        return tuple(own[p] for p in function.params)


class KernelWriter:
    """Turns the graph's nodes into functions. ``address`` gives the C pointer of a memory owner plus an offset.
    ``choices``: names of candidates to take in place of the cost model's, by contractions' keys."""

    def __init__(
        self,
        graph: Graph,
        isa: Isa,
        dtype: str,
        address: Callable[[str, int], str],
        choices: Mapping[str, str] | None = None,
    ) -> None:
        self.graph, self.isa, self.dtype, self.address = graph, isa, dtype, address
        self.choices = choices or {}
        self.first_sums = first_sums(graph)
        self.frozen = {p.blob for p in graph.params} if graph.options.get("freeze") else set()
        self.bf16 = bool(graph.options.get("bf16"))
        self.style = Style(dtype)
        self._plan = lru_cache(maxsize=None)(self._plan_map)

    def draft(self, node: Node, neutral: bool = False) -> Draft:
        """``neutral``: parameters are called by what the kernel does with them, not by the blobs of one layer."""
        kernel = node.kernel
        label = self._neutral(kernel) if neutral else str
        if isinstance(kernel, Map):
            return self._map(kernel, label)
        if isinstance(kernel, Gemm):
            return self._gemm(kernel, node, label)
        if isinstance(kernel, Conv):
            return self._conv(kernel, node, label)
        if isinstance(kernel, Pool):
            return self._pool(kernel, label)
        if isinstance(kernel, Random):
            return self._random(node, kernel)
        if isinstance(kernel, CheckLabel):
            return self._check_label(node, kernel)
        if isinstance(kernel, CheckFinite):
            return self._check_finite(node, kernel)
        if isinstance(kernel, Constant):
            return self._constant(node, kernel)
        raise InternalError(f"no template for {kernel.kind}")

    def _neutral(self, kernel: Kernel) -> Callable[[str], str]:
        written = {*kernel.writes(), *map(self.graph.root, kernel.writes())}
        return lambda blob: "output" if blob in written else "input"

    # ---- operands

    def _operand(self, ref: Ref) -> tuple[str, tuple[int, ...]]:
        """(pointer, real strides) of a part of a blob."""
        pairs = list(zip(ref.shape, ref.strides, strict=True))
        root, offset, strides = self.graph.resolve(ref.blob, ref.offset, pairs)
        return self._pointer(root, offset), strides

    def _pointer(self, root: str, offset: int = 0) -> str:
        """C for an element of a memory owner, of the type that it has there."""
        if (element := self._element(root)) == self.style.real:
            return self.address(root, offset)
        return f"({element} *)({self.address(root, 0)})" + (f" + {offset}" if offset else "")

    def _element(self, blob: str) -> str:
        return {"real": self.style.real, "bf16": "uint16_t", "u8": "unsigned char"}[self.graph.blobs[blob].dtype]

    def _half(self, ref: Ref) -> bool:
        return self.graph.blobs[ref.blob].dtype == "bf16"

    def _bind(
        self, operands: dict[str, Ref], label: Callable[[str], str]
    ) -> tuple[dict[str, str], dict[str, str], dict[str, tuple[int, ...]]]:
        """Unique parameter names, their pointers, and strides, for each operand by role."""
        names = Names(_RESERVED)
        params: dict[str, str] = {}
        pointers: dict[str, str] = {}
        strides: dict[str, tuple[int, ...]] = {}
        for role, ref in operands.items():
            params[role] = names.fresh(label(ref.blob))
            pointers[params[role]], strides[role] = self._operand(ref)
        return params, pointers, strides

    def _draft(self, spec: Spec, pointers: dict[str, str], write: Callable[[Spec], ContractionCode | Code]) -> Draft:
        """Of a kernel whose spec says everything about its function."""
        return Draft(
            spec, pointers, lambda name, heading: _function(name, write(replace(spec, name=name, comment=heading)))
        )

    # ---- kernels

    def _map(self, kernel: Map, label: Callable[[str], str]) -> Draft:
        plan = self._plan(kernel)
        names = Names(frozenset({"shared", "local", "t", "row", "end", "begin", "stop"}))
        params: dict[str, str] = {}
        for s in plan.stores:
            for a in (*accesses(s.value), s.access):
                if a.blob not in params:
                    params[a.blob] = names.fresh(label(a.blob))
        written = frozenset(s.access.blob for s in plan.stores)
        named = identifier if label is str else params.__getitem__  # values are called by what they are read from
        code = map_body(plan, self.style, self.isa.lanes(self.dtype), params, named, written)
        pointers = {p: self.address(blob, 0) for blob, p in params.items()}
        return Draft(repr(code), pointers, lambda name, heading: _function(name, map_code(name, heading, code)))

    def _plan_map(self, kernel: Map) -> Plan:
        return in_parts(plan_map(self.graph, kernel, self.isa.lanes(self.dtype), 4 if self.dtype == "f32" else 8))

    def _epilogue(
        self, kernel: Gemm | Conv, pointers: dict[str, str], label: Callable[[str], str]
    ) -> Epilogue | None:
        if kernel.epilogue is None:
            return None
        lines, params = epilogue_lines(self.graph, kernel, self.style, set(pointers), label)
        pointers.update({p: self._pointer(blob) for blob, p in params.items()})
        return Epilogue(tuple(lines), tuple(f"const {self._element(b)} *restrict {p}" for b, p in params.items()))

    def _contraction(self, contraction: Contraction, pointers: dict[str, str]) -> Draft:
        prefer = self.choices.get(contraction.key, "")

        def function(name: str, heading: str) -> Function:
            named = contraction.named(name, heading)
            return replace(_function(name, named.code(self.isa, self.dtype, prefer)), contraction=named)

        return Draft(contraction, pointers, function)

    def _adds(self, kernel: Gemm | Conv, node: Node, pointers: dict[str, str]) -> bool | str:
        if node.id not in self.first_sums.values():
            return kernel.accumulate
        pointers["adds"] = "!net->renew"
        return "adds"

    def _frozen(self, params: dict[str, str], **operands: Ref) -> str:
        """The one operand that is a frozen parameter, if one is."""
        held = [role for role, ref in operands.items() if self.graph.root(ref.blob) in self.frozen]
        return params[held[0]] if len(held) == 1 else ""

    def _rounded(self, spec: GemmSpec | ConvSpec, node: Node) -> GemmSpec | ConvSpec:
        """With operands of bfloat16 where the net's forward pass is to have them and the spec can."""
        return rounded(spec) if self.bf16 and node.section == "forward" else spec

    def _gemm(self, kernel: Gemm, node: Node, label: Callable[[str], str]) -> Draft:
        params, pointers, strides = self._bind({"a": kernel.a, "b": kernel.b, "c": kernel.c}, label)
        spec = GemmSpec(
            name="",
            comment="",
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
            epilogue=self._epilogue(kernel, pointers, label),
            frozen=self._frozen(params, a=kernel.a, b=kernel.b),
        )
        return self._contraction(Contraction(self._rounded(spec, node)), pointers)

    def _conv(self, kernel: Conv, node: Node, label: Callable[[str], str]) -> Draft:
        params, pointers, strides = self._bind({"x": kernel.x, "w": kernel.w, "y": kernel.y}, label)
        g = kernel.geometry
        spec = ConvSpec(
            name="",
            comment="",
            x=params["x"],
            w=params["w"],
            y=params["y"],
            direction=kernel.direction,  # type: ignore[arg-type]
            n=kernel.x.shape[0],
            groups=kernel.groups,
            ci=kernel.image(kernel.x)[1],
            co=kernel.image(kernel.y)[1],
            in_shape=kernel.image(kernel.x)[2:],
            out_shape=kernel.image(kernel.y)[2:],
            kernel=g.kernel,
            stride=g.stride,
            pad=g.pad,
            dilation=g.dilation,
            x_strides=self._image_strides(kernel.x, strides["x"], kernel.block(kernel.x)),
            y_strides=self._image_strides(kernel.y, strides["y"], kernel.block(kernel.y)),
            alpha=literal(kernel.alpha.value(self.dtype), self.dtype),
            alpha_comment=comment(kernel.alpha.history),
            accumulate=self._adds(kernel, node, pointers),
            epilogue=self._epilogue(kernel, pointers, label),
            frozen=self._frozen(params, w=kernel.w) if kernel.direction != "bwd_weights" else "",
            x_block=kernel.block(kernel.x),
            y_block=kernel.block(kernel.y),
            x_bf16=self._half(kernel.x),
            y_bf16=self._half(kernel.y),
        )
        limit = self.graph.options.get("winograd", 0)
        return self._contraction(Contraction(self._rounded(spec, node), limit), pointers)

    def _image_strides(self, ref: Ref, strides: tuple[int, ...], block: int) -> tuple[int, int]:
        """(image, channel); of channels in blocks, those that planes of the same size would have."""
        first, step = (3, block) if block else (2, 1)
        for extent, stride in zip(reversed(ref.shape[first:]), reversed(strides[first:]), strict=True):
            if extent != 1 and stride != step:
                raise InternalError(f"the planes of {ref.blob} are not contiguous")
            step *= extent
        image = strides[0] if ref.shape[0] > 1 else step * ref.shape[1]
        channel = strides[1] if ref.shape[1] > 1 else step
        return image, channel // block if block else channel

    def _pool(self, kernel: Pool, label: Callable[[str], str]) -> Draft:
        roles = {"x": kernel.x, "y": kernel.y, "mask": kernel.mask}
        apart = kernel.source if kernel.expressions else None  # maps' operands are bound by themselves
        operands = {role: ref for role, ref in roles.items() if ref is not None and ref is not apart}
        params, pointers, strides = self._bind(operands, label)
        maps = None
        if apart is not None:
            maps, names = pool_maps(self.graph, kernel, self.style, set(pointers), label)
            pointers.update({p: self.address(blob, 0) for blob, p in names.items()})
            role = "x" if kernel.direction == "forward" else "y"
            params[role], strides[role] = names[self.graph.root(apart.blob)], self._operand(apart)[1]
        mask_kind: Literal["none", "index", "byte"] = "none"
        if kernel.mask is not None:
            mask_kind = "index" if self.graph.blobs[kernel.mask.blob].dtype == "real" else "byte"
        g = kernel.geometry
        spec = PoolSpec(
            name="",
            comment="",
            direction=kernel.direction,  # type: ignore[arg-type]
            method=kernel.method,  # type: ignore[arg-type]
            n=kernel.x.shape[0],
            channels=kernel.x.shape[1] * max(kernel.block, 1),
            in_shape=kernel.x.shape[-2:],  # type: ignore[arg-type]
            out_shape=kernel.y.shape[-2:],  # type: ignore[arg-type]
            kernel=g.kernel,  # type: ignore[arg-type]
            stride=g.stride,  # type: ignore[arg-type]
            pad=g.pad,  # type: ignore[arg-type]
            x=params["x"],
            y=params["y"],
            mask=params.get("mask"),
            mask_kind=mask_kind,
            x_strides=self._image_strides(kernel.x, strides["x"], kernel.block),
            y_strides=self._image_strides(kernel.y, strides["y"], kernel.block),
            alpha=literal(kernel.alpha.value(self.dtype), self.dtype),
            accumulate=kernel.accumulate,
            block=kernel.block,
            x_bf16=self._half(kernel.x),
            y_bf16=self._half(kernel.y),
            maps=maps,
        )
        return self._draft(spec, pointers, lambda named: Code(*pool_code(named, self.isa, self.dtype)))

    def _random(self, node: Node, kernel: Random) -> Draft:
        pointer, _ = self._operand(kernel.out)
        view = {
            "real": self.style.real, "dtype": self.dtype,
            "distribution": kernel.distribution, "count": kernel.out.size, "stream": kernel.stream,
            "a": literal(kernel.a, self.dtype), "b": literal(kernel.b, self.dtype),
        }  # fmt: skip
        return self._alone(node, "random.c.j2", view, ("net", "out"), {"out": pointer})

    def _check_label(self, node: Node, kernel: CheckLabel) -> Draft:
        pointer, _ = self._operand(kernel.label)
        count = kernel.label.size
        tasks = -(-count // _CHUNK) if count > _CHUNK else 0
        view = {
            "real": self.style.real, "v": f"v{self.dtype}", "m": f"m{self.dtype}",
            "lanes": self.isa.lanes(self.dtype), "count": count, "chunk": _CHUNK, "tasks": tasks,
            "last": kernel.classes - 1, "ignore": kernel.ignore, "layer_string": string(node.layer),
            "blob_string": string(self.graph.blobs[kernel.label.blob].label), "zero": literal(0, self.dtype),
            "one": literal(1, self.dtype), "top": literal(kernel.classes - 1, self.dtype),
            "ignored": literal(kernel.ignore or 0, self.dtype),
        }  # fmt: skip
        params = ("net", "label", "shared") if tasks else ("net", "label")
        return self._alone(node, "check_label.c.j2", view, params, {"label": pointer}, tasks, can_fail=True)

    def _check_finite(self, node: Node, kernel: CheckFinite) -> Draft:
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
            "real": self.style.real, "run": run, "rows": rows, "step": step,
            "tasks": -(-rows // step), "axes": axes, "largest": "FLT_MAX" if self.dtype == "f32" else "DBL_MAX",
            "absolute": "fabsf" if self.dtype == "f32" else "fabs", "layer_string": string(node.layer),
            "zero": literal(0, self.dtype), "what": string(kernel.what), "label": string(kernel.label),
            "section": string("backward" if kernel.what == "gradient" else node.section), "coordinates": coordinates,
        }  # fmt: skip
        params = ("net", "values", "shared")
        return self._alone(
            node, "check_finite.c.j2", view, params, {"values": pointer}, -(-rows // step), can_fail=True
        )

    def _constant(self, node: Node, kernel: Constant) -> Draft:
        pointer, _ = self._operand(kernel.out)
        numbers = [literal(value, self.dtype) for value in kernel.array.reshape(-1).tolist()]
        view = {
            "real": self.style.real, "count": len(numbers),
            "rows": [numbers[k : k + 8] for k in range(0, len(numbers), 8)],
        }  # fmt: skip
        return self._alone(node, "constant.c.j2", view, ("out",), {"out": pointer})

    def _alone(
        self, node: Node, template: str, view: dict[str, Any], params: tuple[str, ...], pointers: dict[str, str],
        shared: int = 0, can_fail: bool = False,
    ) -> Draft:  # fmt: skip
        """Of a kernel that is like no other: a stream of random numbers, or a message, is its own."""
        def function(name: str, heading: str) -> Function:
            return Function(name, render(template, view, name=name, heading=heading), params, shared, 0, can_fail)

        return Draft(node.id, pointers, function)


def _function(name: str, code: ContractionCode | Code) -> Function:
    params = [p for p in map(_declared, code.params) if p not in _TEAM]
    params += ["shared"] if code.shared_scratch else []
    params += ["local"] if code.thread_scratch else []
    function = Function(name, code.text, tuple(params), code.shared_scratch, code.thread_scratch)
    if isinstance(code, ContractionCode):
        return replace(function, choice=code.choice, prepared=code.prepared)
    return function


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
