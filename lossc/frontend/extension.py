"""``lossc_param { delta: 0.5 axes: [1, 2] }``: settings of lossc's own, under names that each layer type chooses.

protobuf's text format knows no fields of free names. So the blocks are read here: ``cut`` takes them out of a text
before protobuf reads it, and ``put`` fills their messages in afterwards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_encoding, text_format
from google.protobuf.message import Message

from lossc.errors import PrototxtError
from lossc.frontend.caffe_pb2 import LosscParameter
from lossc.frontend.places import Place

FIELD = "lossc_param"
FORM = "write name: value, where a value is a number, true or false, a word, a string in quotes, or [a, b]"

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?f?")
_WORD = re.compile(r"[A-Za-z_]\w*")
_TRUTHS = {"true": True, "True": True, "false": False, "False": False}
_TOKEN = re.compile(r"""\#[^\n]* | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | [\w.+-]+ | [^\s]""", re.VERBOSE)


@dataclass(frozen=True)
class Block:
    """One block of a text: the fields that lead to it, each with its index among those of its name, and its content."""

    path: tuple[tuple[str, int], ...]
    content: LosscParameter


def cut(text: str, places: Place, *, file: str) -> tuple[str, list[Block]]:
    """The text with its blocks emptied (all else stays where it was), and the blocks. Raises PrototxtError.

    A block that is written as protobuf prints the message, ``lossc_param { entry { ... } }``, is left to protobuf.
    """
    blocks = []
    for path, place, layer in _find(places, (), None):
        opening = re.compile(r"\s*:?\s*[{<]").match(text, place.start + len(FIELD))
        if opening is None or not place.closed or re.compile(r"\s*entry\s*:?\s*[{<]").match(text, opening.end()):
            continue
        begin, end = opening.end(), place.end - 1
        try:
            content = _Reader(text, begin, end).block()
        except PrototxtError as error:
            raise error.located(layer=layer, file=file, line=error.line) from None
        blocks.append(Block(path, content))
        text = text[:begin] + re.sub(r"[^\n]", " ", text[begin:end]) + text[end:]
    return text, blocks


def put(blocks: list[Block], message: Message) -> None:
    """Fill the blocks into the message that protobuf made of the rest of their text."""
    for block in blocks:
        target: Any = message
        for name, index in block.path:
            target = getattr(target, name)
            if not isinstance(target, Message):
                target = target[index]
        target.CopyFrom(block.content)


def to_text(message: Message) -> str:
    """The message as prototxt text, with ``lossc_param`` as people write it. What ``cut`` and ``put`` read back."""
    return text_format.MessageToString(message, message_formatter=_format)


def values_of(entry: LosscParameter.Entry) -> list[float | bool | str]:
    """The values of one entry."""
    return [getattr(value, value.WhichOneof("kind") or "number") for value in entry.value]


def _find(
    place: Place, path: tuple[tuple[str, int], ...], layer: str | None
) -> Iterator[tuple[tuple[tuple[str, int], ...], Place, str | None]]:
    """Every block of a layer in the present format, with its path and its layer's name."""
    for name, fields in place.fields.items():
        for index, field in enumerate(fields):
            here = (*path, (name, index))
            if name == FIELD and place.name == "layer" and (len(path) < 2 or path[-2][0] != "layers"):
                yield here, field, layer
            elif field.fields:
                yield from _find(field, here, field.text_of("name") if name == "layer" else layer)


class _Reader:
    """The tokens of one block."""

    def __init__(self, text: str, begin: int, end: int) -> None:
        self.text = text
        self.tokens = [m for m in _TOKEN.finditer(text, begin, end) if m.group()[0] != "#"]
        self.next = 0
        self.end = end

    def peek(self) -> str:
        return self.tokens[self.next].group() if self.next < len(self.tokens) else ""

    def take(self) -> str:
        self.next += 1
        return self.tokens[self.next - 1].group()

    def fail(self, message: str) -> PrototxtError:
        at = self.tokens[self.next].start() if self.next < len(self.tokens) else self.end
        return PrototxtError(message, fix=FORM, line=self.text.count("\n", 0, at) + 1)

    def block(self) -> LosscParameter:
        content = LosscParameter()
        entries: dict[str, LosscParameter.Entry] = {}
        while self.peek():
            if self.peek() in ",;":
                self.take()
                continue
            if not _WORD.fullmatch(self.peek()):
                raise self.fail(f"{self.peek()} is no name of a setting in {FIELD}")
            name = self.take()
            if self.peek() != ":":
                raise self.fail(f"a : is missing after {name}")
            self.take()
            if name not in entries:
                entries[name] = content.entry.add(name=name)
            self.values(name, entries[name])
        return content

    def values(self, name: str, entry: LosscParameter.Entry) -> None:
        if self.peek() != "[":
            self.value(name, entry.value.add())
            return
        self.take()
        while self.peek() != "]":
            if not self.peek():
                raise self.fail(f"the ] of {name} is missing")
            self.value(name, entry.value.add())
            if self.peek() == ",":
                self.take()
            elif self.peek() != "]":
                raise self.fail(f"a comma or the ] of {name} is missing")
        self.take()

    def value(self, name: str, value: LosscParameter.Value) -> None:
        token = self.peek()
        if token[:1] in ("'", '"'):
            if len(token) < 2:
                raise self.fail(f"the string of {name} lacks its ending quote")
            value.text = text_encoding.CUnescape(self.take()[1:-1]).decode("utf-8", "replace")
        elif _NUMBER.fullmatch(token):
            value.number = float(self.take().rstrip("f"))
        elif token in _TRUTHS:
            value.truth = _TRUTHS[self.take()]
        elif _WORD.fullmatch(token):
            value.text = self.take()
        else:
            raise self.fail(f"{name} has no value" if not token else f"{name} cannot be {token}")


def _format(message: Message, indent: int, as_one_line: bool) -> str | None:
    if not isinstance(message, LosscParameter):
        return None
    gap = " " if as_one_line else "\n" + " " * indent
    return gap.join(f"{entry.name}: {_show_all(values_of(entry))}" for entry in message.entry)


def _show_all(values: list[float | bool | str]) -> str:
    return _show(values[0]) if len(values) == 1 else f"[{', '.join(map(_show, values))}]"


def _show(value: float | bool | str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        plain = _WORD.fullmatch(value) and value not in _TRUTHS and not _NUMBER.fullmatch(value)
        return value if plain else f'"{text_encoding.CEscape(value, True)}"'
    return f"{value:.0f}" if math.isfinite(value) and value == math.trunc(value) and abs(value) < 1e15 else repr(value)
