"""The picture of a net: layers from top to bottom, blobs and gradients between them, as SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from lossc.explain.report import Box, Edge, Report

_CHARACTER, _LINE, _PAD = 6.7, 15, 9  # of text in pixels: a character's width, a line's height, the margin in a box
_SMALL = 12  # a label's height
_GAP_X, _GAP_Y, _VIA = 26, 64, 10  # between boxes, between ranks; width of an edge that passes a rank
_STEP, _ASIDE = 34, 18  # between edges that enter a box; from the last of them to the labels
_SWEEPS = 12


@dataclass
class _Spot:
    """A box, or a point where an edge passes a rank.

    The labels above it reach ``reach`` to the right of its middle, and take ``head`` in height.
    """

    width: float
    height: float
    rank: int = 0
    x: float = 0.0
    y: float = 0.0
    reach: float = 0.0
    head: float = 0.0
    above: list[_Spot] = field(default_factory=list)
    below: list[_Spot] = field(default_factory=list)


@dataclass
class _Line:
    """The edges from one layer to another, and the spots between the two."""

    edges: list[Edge]
    spots: list[_Spot]


def draw(report: Report) -> str:
    """The net as an SVG element: forward edges with blob and shape, backward ones with the alphas that scale them."""
    texts = {b.layer: _texts(b) for b in report.boxes}
    spots = {
        name: _Spot(_CHARACTER * max(map(len, lines)) + 2 * _PAD, _LINE * len(lines) + _PAD)
        for name, lines in texts.items()
    }
    lines = _rank(spots, report.edges)
    groups = _groups(lines)
    for group in groups:
        last = group[0].spots[-1]
        labels = _labels(group)
        last.reach = _aside(group) + _CHARACTER * max(len(text) for text, _ in labels)
        last.head = _SMALL * (len(labels) + 1)
    rows = _rows([*spots.values(), *(s for line in lines for s in line.spots[1:-1])])
    _order(rows)
    _place(rows)
    width = max((s.x + max(s.width / 2, s.reach) for row in rows for s in row), default=0) + 10
    height = max((s.y + s.height for row in rows for s in row), default=0) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="net" viewBox="-10 -10 {width + 10:.0f} {height + 10:.0f}" '
        f'width="{width + 10:.0f}" height="{height + 10:.0f}" role="img" aria-label="{escape(report.net)}">',
        _MARKERS,
        *_entries(groups),
        *(_box(b, texts[b.layer], spots[b.layer]) for b in report.boxes),
        "</svg>",
    ]
    return "\n".join(parts)


_MARKERS = "".join(
    f'<marker id="{name}" class="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z"/></marker>'
    for name in ("forward", "backward")
)


def _texts(b: Box) -> list[str]:
    place = f", line {b.line}" if b.line else ""
    out = [b.layer, f"{b.type}{place}", f"kernels: {b.forward} forward, {b.backward} backward"]
    return [*out, f"loss_weight {b.weight}"] if b.weight else out


def _rank(spots: dict[str, _Spot], edges: Sequence[Edge]) -> list[_Line]:
    """A rank for each layer, below all that it reads; edges across several ranks get spots in those between."""
    pairs: dict[tuple[str, str], list[Edge]] = {}
    for e in edges:
        pairs.setdefault((e.source, e.target), []).append(e)
    for (source, target), _ in sorted(pairs.items(), key=lambda p: list(spots).index(p[0][1])):
        spots[target].rank = max(spots[target].rank, spots[source].rank + 1)
    reads = {target for _, target in pairs}
    for name in spots:
        followers = [spots[target].rank for source, target in pairs if source == name]
        if name not in reads and followers:
            spots[name].rank = min(followers) - 1
    lines = []
    for (source, target), group in pairs.items():
        first, last = spots[source], spots[target]
        between = [_Spot(_VIA, 0, rank) for rank in range(first.rank + 1, last.rank)]
        chain = [first, *between, last]
        for a, b in zip(chain, chain[1:], strict=False):
            a.below.append(b)
            b.above.append(a)
        lines.append(_Line(group, chain))
    return lines


def _rows(spots: Iterable[_Spot]) -> list[list[_Spot]]:
    rows: dict[int, list[_Spot]] = {}
    for s in spots:
        rows.setdefault(s.rank, []).append(s)
    return [rows[rank] for rank in sorted(rows)]


def _order(rows: list[list[_Spot]]) -> None:
    """Fewer crossings: each spot at the mean of its neighbours' places, downwards and upwards in turn."""
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            at = {id(s): k for r in rows for k, s in enumerate(r)}
            keys = {}
            for k, s in enumerate(row):
                near = s.above if down else s.below
                keys[id(s)] = sum(at[id(n)] for n in near) / len(near) if near else k
            row.sort(key=lambda s: keys[id(s)])


def _place(rows: list[list[_Spot]]) -> None:
    y = float(-_GAP_Y)
    for row in rows:
        tall = max(s.height for s in row)
        y += max(float(_GAP_Y), *(s.head for s in row))
        for s in row:
            s.y = y + (tall - s.height) / 2
        for s, x in zip(row, _apart(row, [0.0] * len(row)), strict=True):
            s.x = x
        y += tall
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wish = [_mean([n.x for n in (*s.above, *s.below)], s.x) for s in row]
            for s, x in zip(row, _apart(row, wish), strict=True):
                s.x = x
    left = min(s.x - s.width / 2 for row in rows for s in row)
    for row in rows:
        for s in row:
            s.x -= left


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _apart(row: list[_Spot], wish: list[float]) -> list[float]:
    """Places near the wished ones, in the row's order and without overlap: the mean of pushing right and left."""
    apart = [max((a.width + b.width) / 2 + _GAP_X, a.reach + _PAD) for a, b in zip(row, row[1:], strict=False)]
    right, left = list(wish), list(wish)
    for k, d in enumerate(apart):
        right[k + 1] = max(right[k + 1], right[k] + d)
    for k in range(len(apart) - 1, -1, -1):
        left[k] = min(left[k], left[k + 1] - apart[k])
    return [(a + b) / 2 for a, b in zip(right, left, strict=True)]


def _box(b: Box, lines: list[str], s: _Spot) -> str:
    kind = "loss" if b.weight else "layer"
    kind += " unused" if b.weight and not b.backward and b.weight == "0" else ""
    x, y = s.x - s.width / 2, s.y
    rows = "".join(
        f'<tspan x="{s.x:.1f}" y="{y + _LINE * (k + 1):.1f}">{escape(line)}</tspan>' for k, line in enumerate(lines)
    )
    frame = f'<rect x="{x:.1f}" y="{y:.1f}" width="{s.width:.1f}" height="{s.height:.1f}" rx="5"/>'
    return f'<g class="{kind}">{frame}<text>{rows}</text></g>'


def _groups(lines: Sequence[_Line]) -> list[list[_Line]]:
    """Edges by the layer that they lead to."""
    into: dict[int, list[_Line]] = {}
    for line in lines:
        into.setdefault(id(line.spots[-1]), []).append(line)
    return list(into.values())


def _step(group: Sequence[_Line]) -> float:
    """Between the ends of edges that lead to one layer."""
    return min(_STEP, (group[0].spots[-1].width - 24) / len(group))


def _aside(group: Sequence[_Line]) -> float:
    """From a layer's middle to the labels of the edges that lead to it."""
    return (len(group) - 1) / 2 * _step(group) + _ASIDE


def _labels(group: Sequence[_Line]) -> list[tuple[str, str]]:
    """What stands beside the edges that lead to one layer, and its class."""
    out = []
    for line in group:
        out += [(f"{e.blob} {list(e.shape)}", "forward") for e in line.edges]
        out += [(alpha, "backward") for alpha in dict.fromkeys(e.alpha for e in line.edges if e.alpha)]
    return out


def _entries(groups: Sequence[list[_Line]]) -> list[str]:
    """All edges, and over them their labels; those into one layer end side by side on its upper edge."""
    edges, texts = [], []
    for group in groups:
        group.sort(key=lambda line: line.spots[-2].x)
        last = group[0].spots[-1]
        for k, line in enumerate(group):
            edges.append(_edge(line, last.x + (k - (len(group) - 1) / 2) * _step(group)))
        labels = _labels(group)
        for k, (text, kind) in enumerate(labels):
            x, y = last.x + _aside(group), last.y - 8 - _SMALL * (len(labels) - 1 - k)
            texts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>')
    return edges + texts


def _edge(line: _Line, x: float) -> str:
    names = ", ".join(f"{e.blob} {list(e.shape)}" for e in line.edges)
    first, last = line.spots[0], line.spots[-1]
    points = [(first.x, first.y + first.height), *((s.x, s.y) for s in line.spots[1:-1]), (x, last.y)]
    paths = [_path(points, 0, "forward", "marker-end")]
    if any(e.gradient for e in line.edges):
        paths.append(_path(points, 7, "backward", "marker-start"))
    title = f"{names}: {line.edges[0].source} to {line.edges[0].target}"
    return f"<g><title>{escape(title)}</title>{''.join(paths)}</g>"


def _path(points: Sequence[tuple[float, float]], aside: float, kind: str, marker: str) -> str:
    (x, y), *rest = [(x + aside, y) for x, y in points]
    d = [f"M{x:.1f} {y:.1f}"]
    for nx, ny in rest:
        middle = (y + ny) / 2
        d.append(f"C{x:.1f} {middle:.1f} {nx:.1f} {middle:.1f} {nx:.1f} {ny:.1f}")
        x, y = nx, ny
    return f'<path class="{kind}" d="{"".join(d)}" {marker}="url(#{kind})"/>'

