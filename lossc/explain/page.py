"""A report as one HTML page that needs nothing else: picture, tables, and the lines of C where the weights stand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import jinja2
from markupsafe import Markup

from lossc.codegen.environment import environment
from lossc.explain.picture import draw
from lossc.explain.report import Report
from lossc.explain.text import heading, tables

#: Lines of C that are shown before and behind each weight.
_AROUND = 3
#: Tables of more rows are shown on demand.
_LONGEST = 20


@dataclass(frozen=True)
class Excerpt:
    """Some lines of net.c. ``lines``: (number, text, whether a weight stands there)."""

    title: str
    lines: tuple[tuple[int, str, bool], ...]


def page(report: Report) -> str:
    """The page's text. Names from the net are escaped wherever they stand."""
    view = {
        "title": heading(report),
        "picture": Markup(draw(report)),
        "tables": tables(report),
        "longest": _LONGEST,
        "warnings": report.warnings,
        "excerpts": _excerpts(report),
    }
    return _environment().get_template("explain.html.j2").render(view)


def _excerpts(report: Report) -> list[Excerpt]:
    """The surroundings of each function's weights in net.c, in their order there."""
    text = report.source.split("\n")
    by_function: dict[str, set[int]] = {}
    for a in sorted(report.alphas, key=lambda a: a.line):
        by_function.setdefault(a.function, set()).add(a.line)
    out = []
    for function, marked in by_function.items():
        first, last = max(min(marked) - _AROUND, 1), min(max(marked) + _AROUND, len(text))
        shown = tuple((n, text[n - 1], n in marked) for n in range(first, last + 1))
        out.append(Excerpt(f"{function}, net.c:{first}-{last}", shown))
    return out


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return environment().overlay(autoescape=True)
