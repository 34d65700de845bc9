"""Accuracy against a count written here a second time: ties, top_k, axes, ignored labels, classes that do not occur."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layer_nets import run

from lossc import TRAIN, Net
from lossc.frontend.net import read_net_text


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, np.ndarray, np.ndarray, float, np.ndarray]:
    """A net, scores and labels; the accuracy, and that of each class."""
    before, after = draw(st.sampled_from([(3,), (1,), (2, 2)])), draw(st.sampled_from([(), (2,), (2, 3)]))
    k = draw(st.integers(1, 5))
    top_k, ignore = draw(st.integers(1, k)), draw(st.sampled_from([None, 0, 255]))
    count = int(np.prod(before + after))
    few = st.sampled_from([-1.0, 0.0, 0.5, 2.0])  # so that ties are frequent
    rows = np.array(draw(st.lists(few, min_size=count * k, max_size=count * k))).reshape(*before, *after, k)
    known = [float(c) for c in range(k)] + ([255.0] if ignore == 255 else [])
    labels = np.array(draw(st.lists(st.sampled_from(known), min_size=count, max_size=count)))
    hits, seen = np.zeros(k), np.zeros(k)
    for row, label in zip(rows.reshape(-1, k), labels, strict=True):
        if label == ignore:
            continue
        mine = int(label)
        rivals = sum(row[other] >= row[mine] for other in range(k) if other != mine)
        seen[mine] += 1
        hits[mine] += rivals < top_k
    scores = np.moveaxis(rows, -1, len(before))
    axis = draw(st.sampled_from([len(before), len(before) - scores.ndim]))
    options = f"top_k: {top_k} axis: {axis} " + (f"ignore_label: {ignore}" if ignore is not None else "")
    shapes = [" ".join(f"dim: {d}" for d in shape) for shape in (scores.shape, before + after)]
    text = f"""layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {shapes[0]} }} }} }}
layer {{ name: "t" type: "Input" top: "t" input_param {{ shape {{ {shapes[1]} }} }} }}
layer {{ name: "a" type: "Accuracy" bottom: "x" bottom: "t" top: "a" top: "c" accuracy_param {{ {options} }} }}"""
    per_class = np.divide(hits, seen, out=np.zeros(k), where=seen > 0)
    return text, scores, labels.reshape(before + after), hits.sum() / max(seen.sum(), 1), per_class


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_interpreted(case: tuple[str, np.ndarray, np.ndarray, float, np.ndarray]) -> None:
    text, scores, labels, accuracy, per_class = case
    out = run(text, {"x": scores, "t": labels})
    np.testing.assert_allclose(out["a"], accuracy, rtol=1e-14)
    np.testing.assert_allclose(out["c"], per_class, rtol=1e-14)


@settings(max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_compiled(case: tuple[str, np.ndarray, np.ndarray, float, np.ndarray]) -> None:
    text, scores, labels, accuracy, per_class = case
    out = Net(read_net_text(text), TRAIN, threads=2).forward(x=scores, t=labels)
    np.testing.assert_allclose(out["a"], accuracy, rtol=1e-6)
    np.testing.assert_allclose(out["c"], per_class, rtol=1e-6)
