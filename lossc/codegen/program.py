"""A whole net as ``net.c`` and ``net.h``: functions, memory, schedule, and the manifest that describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os.path import basename
from typing import Any

from lossc.codegen.environment import render
from lossc.codegen.kernelgen import Function, KernelWriter
from lossc.codegen.kerneltable import kernel_table, tuning_table
from lossc.codegen.names import Names, comment, identifier, literal, string
from lossc.codegen.sharing import Call, prepared_size, write_kernels
from lossc.codegen.steporder import step_order
from lossc.codegen.team import wants_team
from lossc.ir import Conv, Gemm, Graph, Ref
from lossc.ir.memory import ALIGN, MemoryPlan, brought
from lossc.targets import Isa

FORMAT = 1
#: Functions of net.c that no kernel's function may be named like: those with the net's prefix, and the others.
INTERFACE = (
    "create", "destroy", "forward", "backward", "forward_backward", "clear_param_diffs", "renew_param_diffs", "update",
    "step", "rate", "error", "param", "param_diff", "param_size", "abi", "loss_weight", "set_loss_weight", "set_iter",
    "params_changed",
)  # fmt: skip
INTERNAL = frozenset((
    "run_init", "run_forward", "run_backward", "run_update", "run_step", "run_prepare", "learning_rate", "finish",
    "prepare", "abi_memory", "abi_param", "abi_share_param", "abi_seconds", "abi_get", "abi_set", "schedule_weights",
))  # fmt: skip


@dataclass(frozen=True)
class Program:
    """The generated text and what a program needs to know to use it."""

    source: str
    header: str
    manifest: dict[str, Any]
    functions: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where the C of a kernel stands: the graph's node, the function that the schedule calls, its lines in net.c.

    Kernels that share a function have the same place. What prepares a frozen operand has a place of its own, before
    that of the kernel.
    """

    node: int
    name: str
    first: int
    last: int


def generate(graph: Graph, isa: Isa, dtype: str = "f32", *, prefix: str = "", threads: int = 0,
             timed: bool = False, choices: Mapping[str, str] | None = None) -> Program:
    """C for the graph's sections. ``dtype`` "f32" or "f64"; ``prefix`` of the C functions (default: the net's name);
    ``threads``: the team's size where ``create`` is given 0 (0: all cores); ``timed``: take each kernel's time;
    ``choices``: names of candidates that measurements prefer, by contractions' keys; the manifest's "tuning" then says
    what became of them."""
    plan: MemoryPlan = graph.options["memory"]
    names = Names()
    param_index = {p.blob: k for k, p in enumerate(graph.params)}
    outside = {name: k for k, name in enumerate(brought(graph))}
    used: dict[str, str] = {}

    def address(root: str, offset: int) -> str:
        plus = f" + {offset}" if offset else ""
        if root in param_index:
            return f"net->param[{param_index[root]}]{plus}"
        if root in outside:
            return f"net->brought[{outside[root]}]{plus}"
        used[root] = "AT_" + names.of(root)
        return f"m + {used[root]}{plus}"

    prefix = identifier(prefix or graph.name).lower()
    weights = _weights_view(graph, plan, dtype)
    taken = frozenset(f"{prefix}_{verb}" for verb in INTERFACE) | INTERNAL | {w["function"] for w in weights}
    writer = KernelWriter(graph, isa, dtype, address, choices)
    functions, calls = write_kernels(graph, writer, taken)
    schedule: dict[str, list[dict[str, Any]]] = {"init": [], "forward": [], "backward": [], "update": []}
    for index, call in enumerate(calls):
        f = call.function
        entry = {"name": f.name, "args": call.args, "can_fail": f.can_fail, "index": index, "comment": call.comment}
        schedule[call.node.section].append(entry)
    prepare = [
        {"name": call.function.prepared.name, "args": call.prepare, "comment": call.comment}
        for call in calls if call.function.prepared
    ]  # fmt: skip
    if "solver" in graph.options:
        written = {entry["index"]: entry for entries in schedule.values() for entry in entries}
        position = {node.id: index for index, node in enumerate(graph.nodes)}
        schedule["step"] = [written[position[node.id]] for node in step_order(graph)]
    shared = max((f.shared_scratch for f in functions), default=0)
    local = max((f.thread_scratch for f in functions), default=0)
    address("loss_total", 0)
    solver = graph.options.get("solver")
    view = {
        "net": comment(graph.name),
        "file": comment(basename(graph.file)),  # not its folder: the same net gives the same C
        "prefix": prefix,
        "guard": f"LOSSC_{prefix.upper()}_H",
        "isa": isa.name,
        "lanes": isa.lanes_f32,
        "real": "float" if dtype == "f32" else "double",
        "functions": [text for f in functions for _, text in _texts(f)],
        "prepare": prepare,
        "prepared": prepared_size(calls),
        "frozen": bool(graph.options.get("freeze")),
        "offsets": [
            {"name": name, "offset": plan.offsets[root], "what": comment(f"{root} {list(graph.blobs[root].shape)}")}
            for root, name in used.items()
        ],
        "schedule": schedule,
        "team": _teams(graph),
        "uses_local": {s: any("local" in c["args"] for c in each) for s, each in schedule.items()},
        "size": plan.size,
        "param_size": plan.param_size,
        "param_offsets": [plan.param_offsets[p.blob] for p in graph.params],
        "params": [_param_view(graph, plan, k) for k in range(len(graph.params))],
        "brought": len(outside),
        "shared": _round(shared),
        "local": _round(local),
        "threads": threads,
        "timed": len(calls) + 1 if timed else 0,  # the last one: what lies between sections
        "blobs": _header_blobs(graph, plan),
        "diff_range": _diff_range(graph, plan),
        "cleared": [{"offset": plan.offsets[p.blob + ".diff"], "size": graph.blobs[p.blob].size}
                    for p in graph.params if p.blob + ".diff" not in writer.first_sums],
        "phase": graph.options.get("phase", "TRAIN"),
        "solver": _solver_view(solver, plan) if solver else None,
        "weights": weights,
        "runtime_weights": [w for w in weights if not w["policy"]],
        "schedules": [w for w in weights if w["policy"]],
        "string": string,
    }
    manifest = {
        "format": FORMAT,
        "net": graph.name,
        "prefix": prefix,
        "phase": view["phase"],
        "dtype": dtype,
        "isa": isa.name,
        "blobs": _blob_table(graph, plan),
        "params": [
            {
                "layer": p.layer,
                "index": p.index,
                "blob": p.blob,
                "shape": list(graph.blobs[p.blob].shape),
                "diff": plan.offsets[p.blob + ".diff"],
                "lr_mult": p.lr_mult,
                "decay_mult": p.decay_mult,
            }
            for p in graph.params
        ],
        "layers": [
            {
                "name": c.name,
                "type": c.layer.type,
                "params": [param_index[p] for p in c.params],
                "param_shapes": [list(s.shape) for s in c.layer.params(*[graph.declared[b].shape for b in c.bottoms])],
                "is_input": bool(getattr(c.layer, "is_input", False)),
                "tops": [graph.declared[t].label for t in c.tops],
                "bottoms": [graph.declared[t].label for t in c.bottoms],
                "propagates": [c.layer.propagates_to(k) for k in range(len(c.bottoms))],
            }
            for c in graph.calls
        ],
        "brought": [{"blob": graph.blobs[b].label, "part": "diff" if graph.blobs[b].role == "diff" else "data"}
                    for b in outside],
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "losses": [
            {
                "layer": t.layer,
                "blob": graph.declared[t.blob].label,
                "weight": t.weight.value(dtype),
                "policy": t.schedule.policy if t.schedule else "runtime" if t.held else "constant",
                "at": plan.offsets[t.held] if t.held else None,
            }
            for t in graph.losses
        ],
        "history": [_history_view(graph, plan, b) for b in graph.options.get("history", [])],
        "rate": _view_of(graph, plan, "solver.rate") if solver else None,
        "gradient_norm": _view_of(graph, plan, norm) if (norm := graph.options.get("gradient_norm")) else None,
        "bytes": _bytes(plan, shared, local, prepared_size(calls), 4 if dtype == "f32" else 8),
        "flops": {s: sum(n.kernel.flops for n in graph.section(s) if isinstance(n.kernel, (Gemm, Conv)))
                  for s in ("forward", "backward")},
    }  # fmt: skip
    if choices is not None:
        manifest["tuning"] = tuning_table(calls, choices)
    if timed:
        manifest["kernels"] = kernel_table(graph, calls, 4 if dtype == "f32" else 8)
    source = render("net.c.j2", view)
    return Program(source, render("net.h.j2", view), manifest, _places(source, calls))


def _places(source: str, calls: list[Call]) -> tuple[Place, ...]:
    found: dict[str, tuple[int, int]] = {}
    places: list[Place] = []
    at, line = 0, 1
    for call in calls:
        for name, text in _texts(call.function):
            if name not in found:  # functions stand in the order of their first calls
                start = source.index(text, at)
                line += source.count("\n", at, start)
                found[name] = (line, line + text.count("\n"))
                at = start
            places.append(Place(call.node.id, name, *found[name]))
    return tuple(places)


def _texts(function: Function) -> list[tuple[str, str]]:
    """(name, C) of the function, and before it of the one that prepares its frozen operand, if there is one."""
    before = function.prepared
    return [(f.name, f.text.strip()) for f in ((before, function) if before else (function,))]


def _teams(graph: Graph) -> dict[str, str]:
    """The size of the team that runs each section, as C."""
    sections = {s: graph.section(s) for s in ("init", "forward", "backward", "update")}
    sections["forward_backward"] = [*sections["forward"], *sections["backward"]]
    sections["step"] = [*sections["forward_backward"], *sections["update"]]
    return {s: "net->threads" if wants_team(graph, nodes) else "1" for s, nodes in sections.items()}


def _round(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _bytes(plan: MemoryPlan, shared: int, local: int, prepared: int, width: int) -> dict[str, int]:
    return {
        "params": plan.param_size * width,
        "arena": plan.size * width,
        "arena_lower_bound": plan.lower_bound * width,
        "scratch_shared": _round(shared) * width,
        "scratch_per_thread": _round(local) * width,
        "prepared": prepared * width,
    }


def _view_of(graph: Graph, plan: MemoryPlan, name: str) -> dict[str, Any]:
    """Where a blob lies in the arena: offset, shape and strides in reals."""
    ref = Ref.whole(graph.blobs[name])
    root, offset, strides = graph.resolve(name, 0, list(zip(ref.shape, ref.strides, strict=True)))
    return {"offset": plan.offsets[root] + offset, "shape": list(ref.shape), "strides": list(strides)}


def _blob_table(graph: Graph, plan: MemoryPlan) -> dict[str, Any]:
    """Every Caffe blob by name; ``data`` and ``diff`` say where they are, or None where they were not kept."""
    table: dict[str, Any] = {}
    kept = graph.observable - set(brought(graph))
    for label, name in graph.data_of.items():
        diff = graph.diff_of.get(label)
        table[label] = {
            "shape": list(graph.declared[name].shape),
            "data": _view_of(graph, plan, name) if name in kept else None,
            "diff": _view_of(graph, plan, diff) if diff in kept and diff is not None else None,
            "has_diff": diff is not None and diff in graph.blobs,
        }
    return table


def _history_view(graph: Graph, plan: MemoryPlan, name: str) -> dict[str, Any]:
    return _view_of(graph, plan, name)


def _param_view(graph: Graph, plan: MemoryPlan, k: int) -> dict[str, Any]:
    p = graph.params[k]
    blob = graph.blobs[p.blob]
    return {
        "index": k,
        "name": identifier(p.blob),
        "what": comment(f"{p.layer}/{p.index} {list(blob.shape)}"),
        "size": blob.size,
        "diff": plan.offsets[p.blob + ".diff"],
    }


def _header_blobs(graph: Graph, plan: MemoryPlan) -> list[dict[str, Any]]:
    """The blobs that C callers reach by name: inputs and outputs that lie contiguous."""
    out, names = [], Names(frozenset(INTERFACE))
    outside = set(brought(graph))
    for label in dict.fromkeys([*graph.inputs, *graph.outputs]):
        name = graph.data_of[label]
        if name in outside:
            continue
        place = _view_of(graph, plan, name)
        if Ref(name, tuple(place["shape"]), tuple(place["strides"])).is_contiguous or graph.blobs[name].size == 1:
            out.append(
                {
                    "name": names.fresh(label.lower()),
                    "offset": place["offset"],
                    "size": graph.blobs[name].size,
                    "what": comment(f"{label} {place['shape']}"),
                    "input": label in graph.inputs,
                }
            )
    return out


def _diff_range(graph: Graph, plan: MemoryPlan) -> int:
    """Parameter gradients lie first in the arena: clearing them is one memset of this many reals."""
    return sum(-(-graph.blobs[p.blob].size // ALIGN) * ALIGN for p in graph.params)


def _solver_view(solver: Any, plan: MemoryPlan) -> dict[str, Any]:
    view = solver.view()
    for key in ("base_lr", "gamma", "power"):
        view[key] = literal(view[key], "f32")
    return {**view, "value": view["base_lr"], "rate_at": plan.offsets["solver.rate"]}


def _weights_view(graph: Graph, plan: MemoryPlan, dtype: str) -> list[dict[str, Any]]:
    """The loss_weights that can change: where they lie, and for those with a schedule what computes them."""
    out: list[dict[str, Any]] = []
    names = Names()
    for term in graph.losses:
        if not term.held:
            continue
        label = graph.declared[term.blob].label
        name = names.fresh(label)
        view: dict[str, Any] = {
            "index": len(out),
            "name": name.upper(),
            "what": comment(f"layer {term.layer}, top {label}"),
            "at": plan.offsets[term.held],
            "policy": "",
            "function": f"loss_weight_{len(out)}",
            "value": literal(term.weight.value(dtype), "f32"),
        }
        if s := term.schedule:
            view |= {
                "policy": s.policy,
                "gamma": literal(s.gamma or 0.0, "f32"),
                "power": literal(s.power or 0.0, "f32"),
                "stepsize": s.stepsize,
                "stepvalues": s.stepvalues,
                "max_iter": s.max_iter,
                "times": [t for t, _ in s.points],
                "weights": [literal(w, "f32") for _, w in s.points],
            }
        out.append(view)
    return out
