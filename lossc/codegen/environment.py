"""The Jinja environment of all templates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2

from lossc.codegen.names import comment
from lossc.resources import templates_dir


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Strict: an undefined name is an error, and templates compute nothing but layout."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_dir()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    env.filters["comment"] = comment
    return env


def render(template: str, view: Any, **more: Any) -> str:
    """The template's text for a view (a mapping or a dataclass instance named ``view``)."""
    variables: dict[str, Any] = dict(view) if isinstance(view, Mapping) else {"view": view}
    return environment().get_template(template).render(**variables, **more)
