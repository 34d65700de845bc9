"""block-channels: which images it puts into blocks, and that what the net computes stays the same."""

from __future__ import annotations

import numpy as np
import pytest
from small_nets import imported_text, outcome

from lossc.ir import Conv, Graph, Map, Pool
from lossc.ir.kernels import is_copy
from lossc.ir.verify import verify
from lossc.passes.block import BlockChannels
from lossc.passes.pipeline import OPTIMISE, run_passes


def image(name: str, *shape: int) -> str:
    dims = " ".join(f"dim: {e}" for e in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def layer(type_: str, name: str, bottoms: str, more: str = "", top: str = "") -> str:
    ends = " ".join(f'bottom: "{b}"' for b in bottoms.split()) + f' top: "{top or name}"'
    return f'layer {{ name: "{name}" type: "{type_}" {ends} {more} }}\n'


def conv(name: str, bottom: str, outputs: int, kernel: int = 1, more: str = "") -> str:
    filler = 'weight_filler { type: "gaussian" std: 0.2 } bias_filler { type: "constant" value: 0.1 }'
    sizes = f"num_output: {outputs} kernel_size: {kernel} pad: {kernel // 2} {more}"
    return layer("Convolution", name, bottom, f"convolution_param {{ {sizes} {filler} }}")


def relu(bottom: str) -> str:
    return layer("ReLU", f"relu_{bottom}", bottom, top=bottom)


def pool(name: str, bottom: str, more: str) -> str:
    return layer("Pooling", name, bottom, f"pooling_param {{ {more} }}")


def batch_norm(bottom: str) -> str:
    norm = layer("BatchNorm", f"bn_{bottom}", bottom, top=bottom)
    return norm + layer("Scale", f"scale_{bottom}", bottom, "scale_param { bias_term: true }", top=bottom)


END = (
    layer("InnerProduct", "fc", "last", 'inner_product_param { num_output: 3 weight_filler { type: "xavier" } }')
    + image("label", 2)
    + layer("SoftmaxWithLoss", "loss", "fc label")
)
GLOBAL = "pool: AVE global_pooling: true"
NETS: dict[str, str] = {
    "inception": (
        image("x", 2, 3, 7, 5)
        + conv("first", "x", 32, 3)
        + relu("first")
        + conv("a", "first", 16)
        + relu("a")
        + conv("b_reduce", "first", 24)
        + relu("b_reduce")
        + conv("b", "b_reduce", 32, 5)
        + relu("b")
        + pool("pooled", "first", "pool: MAX kernel_size: 3 stride: 1 pad: 1")
        + conv("c", "pooled", 16)
        + relu("c")
        + layer("Concat", "both", "a b c")
        + conv("grouped", "both", 64, 3, "group: 2")
        + pool("last", "grouped", GLOBAL)
        + END
    ),
    "residual": (
        image("x", 2, 3, 6, 6)
        + conv("first", "x", 16, 3, "bias_term: false")
        + batch_norm("first")
        + relu("first")
        + conv("short", "first", 32, 1, "stride: 2 bias_term: false")
        + batch_norm("short")
        + conv("inner", "first", 16, 1, "stride: 2 bias_term: false")
        + batch_norm("inner")
        + relu("inner")
        + conv("outer", "inner", 32, 3, "bias_term: false")
        + batch_norm("outer")
        + layer("Eltwise", "sum", "short outer")
        + relu("sum")
        + pool("last", "sum", GLOBAL)
        + END
    ),
    "flattened": (
        image("x", 2, 16, 6, 6)
        + conv("first", "x", 16, 3)
        + layer("LRN", "norm", "first", "lrn_param { local_size: 3 }")
        + conv("second", "norm", 32, 3)
        + relu("second")
        + conv("third", "second", 16, 3)
        + pool("last", "third", "pool: MAX kernel_size: 3 stride: 3")
        + END
    ),
    "pooled": (
        image("x", 2, 16, 6, 6)
        + pool("halved", "x", "pool: MAX kernel_size: 2 stride: 2")
        + pool("last", "halved", GLOBAL)
        + END
    ),
    "strided": (
        image("x", 2, 3, 9, 9)
        + conv("first", "x", 16, 3)
        + conv("points", "first", 16, 1, "stride: 2")
        + conv("taken", "points", 16)
        + conv("windows", "taken", 32, 3, "stride: 2")
        + pool("last", "windows", GLOBAL)
        + END
    ),
    "depthwise": (
        image("x", 2, 3, 9, 9)
        + conv("first", "x", 32, 3)
        + conv("d1", "first", 32, 3, "group: 32")
        + relu("d1")
        + conv("d2", "d1", 32, 3, "group: 32 stride: 2")
        + conv("narrow", "d2", 24)
        + conv("d3", "narrow", 24, 3, "group: 24")
        + conv("pairs", "d3", 32, 3, "group: 8")
        + conv("d4", "pairs", 32, 3, "group: 32")
        + conv("taken", "d4", 16)
        + pool("last", "taken", GLOBAL)
        + END
    ),
}


def blocked(name: str, keep: str | tuple[str, ...] = "") -> tuple[Graph, dict[str, np.ndarray]]:
    """The net after the pass, and what it computes before it."""
    graph = imported_text(NETS[name], name, keep)
    graph.options["blocks"] = True
    order = [p.name for p in OPTIMISE]
    run_passes(graph, until=order[order.index(BlockChannels().name) - 1])
    want = outcome(graph)
    BlockChannels().run(graph)
    verify(graph)
    return graph, want


def in_blocks(graph: Graph) -> set[str]:
    """Labels of what is stored in blocks."""
    return {graph.blobs[b].label or b for b in graph.blobs if len(graph.blobs[b].shape) == 5}


@pytest.mark.parametrize("name", ["inception", "residual", "flattened", "depthwise"])
def test_the_meaning_stays_and_a_second_run_changes_nothing(name: str) -> None:
    graph, want = blocked(name)
    got = outcome(graph)
    assert got.keys() == want.keys() and len(want) > 10
    for blob, values in want.items():
        np.testing.assert_allclose(got[blob], values, rtol=1e-11, atol=1e-13, err_msg=blob)
    assert not BlockChannels().run(graph)


def test_no_copy_changes_a_layout() -> None:
    for name in ("inception", "residual", "flattened", "depthwise"):
        assert not any(is_copy(node.kernel) for node in blocked(name)[0].nodes)


def test_parts_of_a_concatenation_lie_in_blocks_and_what_has_other_channels_does_not() -> None:
    graph, _ = blocked("inception")
    assert graph.blobs["both"].shape == (2, 4, 7, 5, 16)
    assert graph.blobs["pooled"].shape == (2, 2, 7, 5, 16)
    masks = {n.kernel.mask.blob for n in graph.nodes if isinstance(n.kernel, Pool) and n.kernel.mask is not None}
    assert masks and all(len(graph.blobs[m].shape) == 5 and graph.blobs[m].dtype == "u8" for m in masks)
    plain = {b for b in graph.blobs if b.startswith("b_reduce") and "relu" in b}
    assert plain and all(len(graph.blobs[b].shape) == 4 for b in plain)
    kernel = next(n.kernel for n in graph.section("forward") if n.layer == "b" and isinstance(n.kernel, Conv))
    assert kernel.block(kernel.x) == 0 and kernel.block(kernel.y) == 16


def test_maps_of_a_residual_run_along_channels() -> None:
    graph, _ = blocked("residual")
    images = [b for b in graph.blobs.values() if len(b.shape) >= 4 and b.role in ("activation", "diff")]
    assert {b.name for b in images if len(b.shape) == 4} <= {"last", "last.diff"}
    maps = [n.kernel for n in graph.nodes if isinstance(n.kernel, Map)]
    lanes = [[d for d in m.dims if d.extent == 16 and any(s.access.stride(d) == 1 for s in m.stores)] for m in maps]
    assert any(m.dims[-1] in found for m, found in zip(maps, lanes, strict=True) if len(m.dims) > 2)


def test_what_another_kernel_uses_stays_in_planes() -> None:
    graph, _ = blocked("flattened")
    assert {"second"} <= in_blocks(graph)
    assert not {"first", "norm", "third", "last"} & in_blocks(graph)


def test_what_somebody_observes_stays_in_planes() -> None:
    assert "pooled" in in_blocks(blocked("inception")[0])
    kept, want = blocked("inception", keep=("pooled",))
    assert not {"pooled", "first"} & in_blocks(kept) and "both" in in_blocks(kept)
    np.testing.assert_allclose(outcome(kept)["pooled"], want["pooled"], rtol=1e-12)
    assert not in_blocks(blocked("inception", keep="all")[0])


def test_without_a_convolution_nothing_changes() -> None:
    assert not in_blocks(blocked("pooled")[0])


def test_a_gradient_through_strides_stays_in_planes_but_for_pointwise_ones() -> None:
    graph, _ = blocked("strided")
    axes = {name: len(graph.blobs[f"{name}.diff"].shape) for name in ("first", "points", "taken", "windows")}
    assert axes == {"first": 5, "points": 5, "taken": 4, "windows": 4}


def test_images_of_depthwise_convolutions_have_one_layout_on_both_sides() -> None:
    """Blocks, also of gradients through strides, where channels fit and both sides can be in blocks."""
    graph, _ = blocked("depthwise")
    convs = [node.kernel for node in graph.nodes if isinstance(node.kernel, Conv) and node.layer in ("d1", "d2")]
    assert len(convs) == 6 and all(k.depthwise and k.block(k.x) == k.block(k.y) == 16 for k in convs)
    assert not {"narrow", "d3", "pairs", "d4"} & in_blocks(graph) and "taken" in in_blocks(graph)


def test_one_observed_side_keeps_a_depthwise_convolution_in_planes() -> None:
    graph, _ = blocked("depthwise", keep=("d1",))
    assert not {"first", "d1", "d2"} & in_blocks(graph)
