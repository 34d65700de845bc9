"""Reads prototxt text; errors name file, line and layer, say what was meant, and never show protobuf's own words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from lossc.errors import PrototxtError
from lossc.frontend import caffe_pb2, extension
from lossc.frontend.names import closest
from lossc.frontend.paths import looks_like_prototxt, path_text
from lossc.frontend.places import Place, bad_escape, scan
from lossc.frontend.upgrade import V1_TYPES

M = TypeVar("M", bound=Message)

_ROOTS = {"NetParameter": "a net", "SolverParameter": "a solver", "BlobProto": "a blob"}
_KINDS = {"float": "a number", "integer": "a whole number", "string": "a string in quotes"}


def read_text(path: str | PathLike[str]) -> str:
    """The text of a prototxt file. Raises PrototxtError where there is none, or where it is not text."""
    name = path_text(path, "a prototxt file")
    try:
        data = Path(name).read_bytes()
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None
    if data.startswith(b"\x89HDF"):
        raise PrototxtError("is an HDF5 file, not prototxt text", fix="name the .prototxt file here", file=name)
    try:
        if b"\0" in data:
            raise ValueError
        text = data.decode("utf-8-sig")
    except ValueError:
        fix = "name the .prototxt file here; weights (.caffemodel) are loaded into a net afterwards"
        raise PrototxtError("is not text (a binary file, or not UTF-8)", fix=fix, file=name) from None
    if not text.strip():
        raise PrototxtError("is empty", fix="name a .prototxt file that describes a net or a solver", file=name)
    return text


def parse(text: str, message: M, *, file: str) -> Place:
    """Parse ``text`` into ``message``, and say where its fields stand. Raises PrototxtError."""
    places = scan(text)
    if escape := bad_escape(text):
        line, path = text.count("\n", 0, escape[1]) + 1, places.path_to(escape[1])
        fix = "write \\\\ for a backslash, or / in the paths of files"
        raise PrototxtError(f"{escape[0]} in a string", fix=fix, layer=layer_name(path), file=file, line=line)
    plain, blocks = extension.cut(text, places, file=file)
    try:
        text_format.Parse(plain, message)
    except text_format.ParseError as error:
        raise _explain(error, text, places, message.DESCRIPTOR, file) from None
    except RecursionError:
        raise PrototxtError("braces are nested too deeply", file=file) from None
    extension.put(blocks, message)
    missing = message.FindInitializationErrors()
    if missing:
        raise _missing(missing[0], places, file)
    return places


def layer_name(path: Sequence[Place]) -> str | None:
    """The name of the layer in a path from the whole text to a field, if there is one."""
    for place in path:
        if place.name == "layers" and (oldest := place.find("layer")):
            return oldest.text_of("name")
        if place.name in ("layer", "layers"):
            return place.text_of("name")
    return None


def _unreadable(name: str, error: OSError | ValueError) -> PrototxtError:
    """What to say of a file that cannot be read."""
    if isinstance(error, IsADirectoryError):
        return PrototxtError("is a folder, not a file", fix="name the .prototxt file in it", file=name)
    if looks_like_prototxt(name):
        fix = "write it to a file and name that; in Python, lossc.frontend.read_net_text reads texts"
        return PrototxtError("the text of a prototxt was given where the path of a file is wanted", fix=fix)
    if isinstance(error, FileNotFoundError):
        return PrototxtError("no such file", fix=_similar_file(Path(name)), file=name)
    reason = getattr(error, "strerror", None) or str(error)
    return PrototxtError(f"cannot be read: {reason}", fix="check its name and its permissions", file=name)


def _similar_file(path: Path) -> str:
    try:
        match = closest(path.name, (entry.name for entry in path.parent.iterdir()))
    except (OSError, ValueError):
        return f"the folder {path.parent} does not exist either" if not path.parent.is_dir() else "check the name"
    return f"did you mean {path.parent / match}?" if match else "check the name and the working directory"


def _missing(path: str, places: Place, file: str) -> PrototxtError:
    """``path`` is of the form layer[0].clip_param.max."""
    *parents, name = path.split(".")
    here, chain = places, [places]
    for parent in parents:
        match = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", parent)
        inner = here.find(match[1], int(match[2] or 0)) if match else None
        if inner is None:
            break
        here = inner
        chain.append(here)
    return PrototxtError(
        f"{here.name} lacks {name}", fix=f"add {name}: ...", layer=layer_name(chain), file=file, line=here.line
    )


def _explain(error: text_format.ParseError, text: str, places: Place, root: Any, file: str) -> PrototxtError:
    """Say in the user's terms what protobuf's parser stumbled over."""
    lines = text.split("\n")
    line = min(max(error.GetLine() or 1, 1), len(lines))
    offset = sum(len(each) + 1 for each in lines[: line - 1]) + max((error.GetColumn() or 1) - 1, 0)
    raw = str(error).removeprefix(f"{error.GetLine()}:{error.GetColumn()} : ").removeprefix(f"'{lines[line - 1]}': ")
    path = places.path_to(offset)
    before = re.search(r"(\w+)\s*:?\s*$", text[:offset])
    field = path[-1].name or (before[1] if before else "this field")

    def fail(message: str, fix: str | None = None, at: Place | None = None) -> PrototxtError:
        where = at.line if at else line
        return PrototxtError(message, fix=fix, layer=layer_name(path), file=file, line=where)

    if match := re.search(r'Message type "([\w.]+)" has no field named "([^"]*)"', raw):
        if path[-1].name == match[2]:
            path.pop()
        return fail(*_unknown_field(match[1], match[2], path, root))
    if match := re.search(r'Enum type "([\w.]+)" has no value (?:named|with number) (.*?)\.?$', raw, re.DOTALL):
        return fail(*_unknown_value(match[1], match[2], field))
    if match := re.search(r'should not have multiple "(\w+)" fields', raw):
        first = next((p.line_of(match[1]) for p in reversed(path) if match[1] in p.fields), None)
        return fail(f"{match[1]} is given twice" + (f", first in line {first}" if first else ""), "keep one of them")
    if match := re.search(r"Couldn't parse (float|integer): (.*)$", raw, re.DOTALL):
        found = match[2].strip() or "the end of the file"
        return fail(f"{field} wants {_KINDS[match[1]]}, not {found}", _line_of(lines[line - 1]))
    if match := re.search(r"Expected string but found: '(.*)'$", raw, re.DOTALL):
        return fail(f"{field} wants a string in quotes, not {match[1]}", _string_fix(field, match[1]))
    if match := re.search(r"Value out of range: (.*)$", raw, re.DOTALL):
        return fail(f"{field} cannot be {match[1]}: out of range", "give a number that fits; sizes are 0 or more")
    if 'Expected "true" or "false"' in raw:
        return fail(f"{field} wants true or false", _line_of(lines[line - 1]))
    if "String missing ending quote" in raw:
        return fail("a string lacks its ending quote", "strings end in the line in which they start")
    if re.search(r'Expected "[}>]"', raw) and (unclosed := places.unclosed()):
        path = places.path_to(unclosed.start)
        return fail(f"the file ends, but {unclosed.name} {{ is still open", "close it by }", unclosed)
    if match := re.search(r'Expected "(.)"', raw):
        name = before[1] if before else "the name"
        wanted = {"{": f"{name} wants its fields in {{ }}", ":": f"a : is missing after {name}"}
        return fail(wanted.get(match[1], f'"{match[1]}" is missing here'), _line_of(lines[line - 1]))
    if match := re.search(r"Expected identifier or number, got (.)", raw):
        fix = "remove it, or the } that closes too early above" if match[1] == "}" else "remove it"
        return fail(f'"{match[1]}" cannot stand here', fix)
    return fail(f"cannot be understood: {raw}", _line_of(lines[line - 1]))


def _line_of(text: str) -> str:
    """The fix where only the user knows what was meant."""
    return f"the line reads: {text.strip()[:120]}" if text.strip() else "complete the file"


def _message(full_name: str) -> Any:
    outer, *inner = full_name.removeprefix("caffe.").split(".")
    descriptor = getattr(caffe_pb2, outer).DESCRIPTOR
    for name in inner:
        descriptor = descriptor.nested_types_by_name[name]
    return descriptor


def _unknown_field(message: str, name: str, path: Sequence[Place], root: Any) -> tuple[str, str]:
    """What to say of a field that its message does not have, and what was likely meant."""
    descriptor = _message(message)
    chain = [p.name for p in path if p.name]
    parent = chain[-1] if chain else _ROOTS.get(descriptor.name, descriptor.name)
    text = f'unknown field "{name}" in {parent}'
    fields = descriptor.fields_by_name
    match = closest(name, fields)
    around = [root, *_descriptors(root, chain[:-1])]
    owner = next((d for d in reversed(around) if d is not descriptor and name in d.fields_by_name), None)
    if owner is not None:
        return text, f"it belongs outside: close {parent} {{ of line {path[-1].line} by }} before it"
    if match:
        return text, f"did you mean {match}?"
    inner = [f.name for f in descriptor.fields if f.message_type and name in f.message_type.fields_by_name]
    inner = sorted(f for f in inner if f.endswith("_param"))
    if inner and descriptor.name == "LayerParameter":
        own = (path[-1].text_of("type") or "").lower()
        best = next((f for f in inner if f.removesuffix("_param").replace("_", "") == own), None)
        return text, f"write {best} {{ {name}: ... }}" if best else f"it is a field of {', '.join(inner)}"
    other = {"NetParameter": "SolverParameter", "SolverParameter": "NetParameter"}.get(descriptor.name)
    if other and name in _message(other).fields_by_name:
        return text, f"this looks like the file of {_ROOTS[other]}, but that of {_ROOTS[descriptor.name]} is wanted"
    if len(fields) > 30:
        return (
            text,
            "check the spelling; most settings stand in the message of the layer's type, such as relu_param { }",
        )
    return text, f"{parent} knows {', '.join(sorted(fields))}"


def _descriptors(root: Any, chain: Sequence[str]) -> list[Any]:
    """The message types along a path of field names, as far as they are known."""
    found: list[Any] = []
    for name in chain:
        field = (found[-1] if found else root).fields_by_name.get(name)
        if field is None or field.message_type is None:
            break
        found.append(field.message_type)
    return found


def _unknown_value(enum: str, value: str, field: str | None) -> tuple[str, str]:
    """What to say of an enum's value that does not exist."""
    outer, _, name = enum.removeprefix("caffe.").rpartition(".")
    values = (_message(outer).enum_types_by_name[name] if outer else getattr(caffe_pb2, name).DESCRIPTOR).values_by_name
    quoted = value[:1] in "\"'"
    bare = value.strip("\"'")
    if name == "LayerType" and quoted:
        return f"type of layers {{ }} is a word without quotes, not {value}", f"write layer {{ type: {value} ... }}"
    match = bare if bare in values else closest(bare, values)
    choices = f"one of {', '.join(sorted(values))}, without quotes"
    return f"{field} cannot be {value}", f"did you mean {match}? It is {choices}" if match else f"write {choices}"


def _string_fix(field: str | None, value: str) -> str:
    if field == "type" and value in V1_TYPES:
        return f'write type: "{V1_TYPES[value]}"'
    return f'write {field}: "{value}"'
