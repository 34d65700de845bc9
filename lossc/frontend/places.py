"""Where each field of a prototxt text stands.

protobuf's text parser keeps no positions in Python, and none of a text that it refuses, so a small scanner goes over
the same tokens. It never fails: of a broken text it finds what it can, which is what error messages need.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(r"""\#[^\n]* | "(?:\\.|[^"\\\n])*"? | '(?:\\.|[^'\\\n])*'? | [\w.+-]+ | [^\s]""", re.VERBOSE)

# A backslash that starts none of the escapes that a string may hold.
_BAD_ESCAPE = re.compile(r"""(?<!\\)(?:\\\\)*(\\[^abfnrtvxXuU0-7\\'"?])""")


@dataclass(slots=True)
class Place:
    """A field of a text: its line (from 1), the span of offsets from its name to its end, and the fields inside it."""

    name: str
    line: int
    start: int
    end: int
    value: str | None = None  # of a scalar, as it stands in the text
    closed: bool = True  # has its closing brace
    fields: dict[str, list[Place]] = field(default_factory=dict)

    def find(self, name: str, index: int = 0) -> Place | None:
        """The ``index``-th field of that name."""
        places = self.fields.get(name, ())
        return places[index] if index < len(places) else None

    def line_of(self, name: str, index: int = 0) -> int | None:
        """The line of the ``index``-th field of that name."""
        place = self.find(name, index)
        return place.line if place else None

    def text_of(self, name: str) -> str | None:
        """The string in the first field of that name, without its quotes."""
        place = self.find(name)
        return place.value.strip("\"'") if place and place.value else None

    def path_to(self, offset: int) -> list[Place]:
        """The fields around ``offset``, outermost first, this one included."""
        inner = next((p for p in self._children() if p.start <= offset < p.end), None)
        return [self, *(inner.path_to(offset) if inner else [])]

    def unclosed(self) -> Place | None:
        """The innermost field that lacks its closing brace."""
        return next((p.unclosed() or p for p in self._children() if not p.closed), None)

    def _children(self) -> Iterator[Place]:
        for places in self.fields.values():
            yield from places


def bad_escape(text: str) -> tuple[str, int] | None:
    """The first escape in a string of ``text`` that means nothing, such as \\d in "C:\\data", and its offset."""
    for token in _TOKEN.finditer(text) if "\\" in text else ():
        if token.group()[0] in "\"'" and (match := _BAD_ESCAPE.search(token.group())):
            return match[1], token.start() + match.start(1)
    return None


def scan(text: str) -> Place:
    """The places of all fields of ``text``; the root stands for the whole message."""
    root = Place("", 1, 0, len(text) + 1)
    stack = [root]
    lists: list[str | None] = []  # `repeated` of the fields around the current one
    name: Place | None = None  # a field's name whose value has not come yet
    repeated: str | None = None  # the field whose values stand in [ ]
    line, seen = 1, 0

    def add(field_name: str, start: int, end: int) -> Place:
        place = Place(field_name, line, start, end)
        stack[-1].fields.setdefault(field_name, []).append(place)
        return place

    for match in _TOKEN.finditer(text):
        token, start, end = match.group(), match.start(), match.end()
        line += text.count("\n", seen, start)
        seen = start
        if token[0] == "#" or token in ",;":
            continue
        if token in "{<":
            place = name or add(repeated or "", start, end)
            place.closed = False
            stack.append(place)
            lists.append(repeated)
            name = repeated = None
        elif token in "}>":
            name = None
            if len(stack) > 1:
                place = stack.pop()
                place.end, place.closed = end, True
                repeated = lists.pop()
        elif token == "[" and name:
            stack[-1].fields[name.name].remove(name)
            repeated, name = name.name, None
        elif token == "]":
            repeated = None
        elif token == ":":
            if name:
                name.value = ""
        elif repeated:
            add(repeated, start, end).value = token
        elif name and (name.value is not None or token[0] in "\"'"):
            name.value, name.end = token, end
            name = None
        elif token[0] not in "\"'":
            name = add(token, start, end)
    for place in stack[1:]:
        place.end = len(text) + 1
    return root
