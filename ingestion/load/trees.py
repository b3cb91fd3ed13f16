"""JSON and XML as lines to read: every value under the path of names that leads to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from xml.parsers import expat

from ingestion.encoding import decode, decode_markup
from ingestion.load.loaded import SECTION, Loaded, Mark
from serving.errors import DocumentError

_TITLE_DEPTH = 3


def load_json(data: bytes) -> Loaded:
    """`server.ports[0]: 80` for each value; a section for each member at the top. Raises DocumentError."""
    try:
        value = json.loads(decode(data))
    except RecursionError as error:
        raise DocumentError("broken JSON: nested too deeply") from error
    except ValueError as error:
        raise DocumentError(f"broken JSON: {error}") from error
    parts: list[str] = []
    sections: list[Mark] = []
    length = 0
    for name, member in _members(value):
        lines = "\n".join(_line(path, text) for path, text in flat(member, name))
        if lines:
            if isinstance(member, dict | list):
                sections.append((length, [name] if name else []))
            parts.append(lines)
            length += len(lines) + 2
    if not parts:
        raise DocumentError("empty: the file has no values")
    title = value.get("title") if isinstance(value, dict) else None
    marks = {SECTION: sections} if sections else {}
    return Loaded("json", "\n\n".join(parts), title if isinstance(title, str) else "", marks=marks)


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, text) of every value in it, in order. Nulls say nothing."""
    stack: list[tuple[str, Any]] = [(path, value)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack.extend((f"{path}.{key}" if path else str(key), value[key]) for key in reversed(value))
        elif isinstance(value, list) and value and not any(isinstance(item, dict | list) for item in value):
            yield path, ", ".join(_text(item) for item in value if item is not None)
        elif isinstance(value, list):
            stack.extend((f"{path}[{i}]", value[i]) for i in reversed(range(len(value))))
        elif value is not None:
            yield path, _text(value)


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((str(key), member) for key, member in value.items())
    elif isinstance(value, list):
        yield from ((f"[{i}]", member) for i, member in enumerate(value))
    else:
        yield "", value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _line(path: str, text: str) -> str:
    if not path:
        return text
    return f"{path}:\n{text}" if "\n" in text.strip() else f"{path}: {text.strip()}"


def load_xml(data: bytes) -> Loaded:
    """`name: text` for each element with text of its own; what stands within a text stays in it.

    A file that declares entities is refused, so that none of them can grow or read another file. Raises DocumentError.
    """
    reader = _XmlReader()
    try:
        reader.read(decode_markup(data))
    except expat.ExpatError as error:
        raise DocumentError(f"broken XML: {error}") from error
    text = "\n".join(reader.lines).strip()
    if not text:
        raise DocumentError("empty: the file has no text")
    return Loaded("xml", text, reader.title)


class _XmlReader:
    """Keeps the open elements only: depth and size are those of the file."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.title = ""
        self._open: list[tuple[str, str, list[str]]] = []

    def read(self, text: str) -> None:
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.EntityDeclHandler = self._entity
        parser.Parse(text.encode("utf-8", "replace"), True)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        shown = "; ".join(f"{key}: {value}" for key, value in attributes.items() if not key.startswith("xmlns"))
        self._open.append((name.rpartition(":")[2], shown, []))

    def _characters(self, data: str) -> None:
        if self._open:
            self._open[-1][2].append(data)

    def _end(self, name: str) -> None:
        name, attributes, parts = self._open.pop()
        text = " ".join("".join(parts).split())
        if text and not self.title and name.lower() == "title" and len(self._open) <= _TITLE_DEPTH:
            self.title = text
        if self._open and any(part.strip() for part in self._open[-1][2]):
            self._open[-1][2].append(text)
        elif text or attributes:
            label = f"{name} ({attributes})" if attributes else name
            self.lines.append(f"{label}: {text}" if text else label)
        if len(self._open) == 1:
            self.lines.append("")

    def _entity(self, *declaration: Any) -> None:
        raise DocumentError(
            "declares entities of its own, which is not supported (they can be made to grow or to read)"
        )
