"""Graphs as text and as dot: what they look like, and that they never change by chance."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lossc.ir import Access, Blob, Builder, Dim, Geometry, Graph, Pool, Ref, Scalar, View
from lossc.ir.expr import Acc, Expr, Iota, Load, Op, exp, expr, gather, greatest, op, total, where
from lossc.ir.kernels import Gemm
from lossc.ir.printer import show_access, show_expr, show_kernel, to_dot, to_text

TEXT = """\
graph small
  blob image [2, 2, 6, 6] input
  blob label [2] input
  blob filters [4, 2, 3, 3] param
  blob features [2, 4, 4, 4] activation
  blob pooled [2, 4, 2, 2] activation
  blob mask [2, 4, 2, 2] activation
  blob w [16, 3] param
  blob scores [2, 3] activation
  blob first [2, 1] activation in scores+0 strides [3, 1]
  blob noise [2, 3] activation
  blob loss [] activation observable
  blob scores.diff [2, 3] diff
init:
  fill w[n,c] = 0.5   # scores
forward:
  conv_forward features[2,4,4,4] = image[2,2,6,6], filters[4,2,3,3] kernel [3, 3] stride [1, 1] pad [0, 0] \
dilation [1, 1] groups 1   # features
  pool_forward MAX pooled[2,4,2,2] = features[2,4,4,4] kernel [2, 2] stride [2, 2] pad [0, 0] mask mask   # pooled
  gemm scores[2,3] = (scale 2) * pooled[2,16] x w[16,3]   # scores: product
  random noise[2,3] = gaussian(0, 0.1) stream 1   # noise
  map<n=2xc=3> scores[n,c] += noise[n,c]   # noise
  check_label label[2] in 0..2 or 255   # loss
  map<n=2> loss[] = (loss_weight 0.3 / N 2) * sum_n(scores[n]@1*[label[n]])   # loss
backward:
  copy scores.diff[n,c] = scores[n,c]   # loss
  gemm w[16,3] += pooled[16,2] x scores.diff[2,3] |> acc - w[i,j]   # scores
"""


def small() -> Graph:
    g = Graph("small")
    for name, shape, role in (
        ("image", (2, 2, 6, 6), "input"), ("label", (2,), "input"), ("filters", (4, 2, 3, 3), "param"),
        ("features", (2, 4, 4, 4), "activation"), ("pooled", (2, 4, 2, 2), "activation"),
        ("mask", (2, 4, 2, 2), "activation"), ("w", (16, 3), "param"), ("scores", (2, 3), "activation"),
        ("first", (2, 1), "activation"), ("noise", (2, 3), "activation"), ("loss", (), "activation"),
        ("scores.diff", (2, 3), "diff"),
    ):  # fmt: skip
        g.add_blob(Blob(name, shape, role))  # type: ignore[arg-type]
    g.set_view("first", View("scores", 0, (3, 1)))
    g.observe("loss")
    flat, whole = g.whole("pooled").reshape(2, 16), g.whole
    three, two = Geometry((3, 3), (1, 1), (0, 0), (1, 1)), Geometry((2, 2), (2, 2), (0, 0), (1, 1))
    Builder(g, "scores", "init").fill(whole("w")["nc"], 0.5)
    Builder(g, "features", "forward").conv("forward", whole("image"), whole("filters"), whole("features"), three)
    pool = Builder(g, "pooled", "forward")
    pool.pool("forward", "MAX", whole("features"), whole("pooled"), two, mask=whole("mask"))
    product = Builder(g, "scores", "forward")
    product.gemm(flat, whole("w"), whole("scores"), alpha=Scalar(2.0, "scale"), note="product")
    noise = Builder(g, "noise", "forward")
    noise.random(whole("noise"), "gaussian", 0.0, 0.1)
    noise.add(whole("scores")["nc"], expr(whole("noise")["nc"]))
    b = Builder(g, "loss", "forward")
    b.check_label(whole("label"), 3, ignore=255)
    picked = total(gather(whole("scores")["nc"], "c", whole("label")["n"]), "n")
    b.map((whole("loss")[""], Scalar(0.3, "loss_weight") / Scalar(2, "N") * expr(1.0) * picked))
    Builder(g, "loss", "backward").map((whole("scores.diff")["nc"], whole("scores")["nc"]))
    weights = whole("w")
    decay = Acc(weights["ij"].dims) - expr(weights["ij"])
    product_of_diffs = Gemm(flat.transpose(1, 0), whole("scores.diff"), weights, accumulate=True, epilogue=decay)
    g.add(product_of_diffs, "scores", "backward")
    return g


def test_a_small_graph() -> None:
    assert to_text(small()) == TEXT


A, B, C = (expr(Access(name, 0, ((Dim("i", 4), 1),))) for name in "abc")


@pytest.mark.parametrize(
    ("e", "text"),
    [
        (A + B + C, "a[i] + b[i] + c[i]"),
        (A + (B + C), "a[i] + (b[i] + c[i])"),
        (A - (B - C), "a[i] - (b[i] - c[i])"),
        ((A + B) * C, "(a[i] + b[i]) * c[i]"),
        (A / (B * C), "a[i] / (b[i] * c[i])"),
        (-(A + B), "-(a[i] + b[i])"),
        (-A * B, "-a[i] * b[i]"),
        (Scalar(0.3, "loss_weight") / Scalar(4, "N") * A, "(loss_weight 0.3 / N 4) * a[i]"),
        (exp(A - greatest(B, "i")), "exp(a[i] - max_i(b[i]))"),
        (where(op("or", A > B, op("not", C <= 0.0)), A, 0.0), "where(a[i] > b[i] || !(c[i] <= 0), a[i], 0)"),
        (op("and", A < B, B < C), "a[i] < b[i] && b[i] < c[i]"),
        (Iota(Dim("i", 4)) + Acc(()), "i + acc"),
    ],
)
def test_expressions_bear_the_brackets_they_need(e: Expr, text: str) -> None:
    assert show_expr(e) == text


def test_a_pool_tells_its_alpha() -> None:
    x, y = Ref("x", (1, 1, 4, 4), (16, 16, 4, 1)), Ref("y", (1, 1, 2, 2), (4, 4, 2, 1))
    halves, alpha = Geometry((2, 2), (2, 2), (0, 0), (1, 1)), Scalar(0.5, "loss_weight")
    pool = Pool("backward", "AVE", x, y, halves, alpha=alpha, accumulate=True)
    want = "pool_backward AVE x[1,1,4,4] += (loss_weight 0.5) * y[1,1,2,2] kernel [2, 2] stride [2, 2] pad [0, 0]"
    assert show_kernel(pool) == want


def test_offsets_are_shown() -> None:
    assert show_access(Access("x", 7, ((Dim("n", 2), 9), (Dim("c", 3), 1)))) == "x[n,c; +7]"


def test_dot_names_every_blob_and_kernel_and_escapes() -> None:
    g = small()
    g.name = 'a "quoted" \\ name'
    dot = to_dot(g)
    assert dot.startswith('digraph "a \\"quoted\\" \\\\ name" {') and dot.endswith("}\n")
    for name in g.blobs:
        assert f'"b:{name}" [label=' in dot
    for node in g.nodes:
        assert all(f'"b:{r}" -> "k:{node.id}";' in dot for r in node.kernel.reads())
        assert all(f'"k:{node.id}" -> "b:{w}";' in dot for w in node.kernel.writes())


def test_the_text_does_not_depend_on_the_hash_seed() -> None:
    script = "import sys, test_printer as t; sys.stdout.write(t.to_text(t.small()) + t.to_dot(t.small()))"
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            check=True,
        ).stdout.decode()
        for seed in ("1", "77")
    }
    assert texts == {to_text(small()) + to_dot(small())}


def test_the_networkx_copy_holds_what_the_text_says() -> None:
    g = small()
    copy = g.networkx()
    blobs, kernels = ([k for k in copy if k[0] == kind] for kind in ("blob", "kernel"))
    assert [k[1] for k in blobs] == list(g.blobs) and len(kernels) == len(g.nodes)
    assert copy.nodes["blob", "w"] == {"shape": (16, 3), "role": "param", "label": ""}
    copy.remove_node(("blob", "w"))
    assert to_text(g) == TEXT, "a copy is a copy"


def test_loads_of_one_name_and_place_are_equal() -> None:
    assert Load(Ref("x", (4,), (1,))["i"]) == Load(Access("x", 0, ((Dim("i", 4), 1),)))
    assert Op("neg", (A,)) != Op("neg", (B,))
