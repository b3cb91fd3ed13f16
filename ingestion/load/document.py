"""`load()`: the loader for a file's format, the best title there is, and the metadata of file and source together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ingestion.front_matter import plain
from ingestion.load.formats import loader_for
from ingestion.load.loaded import MARKS
from serving.errors import DocumentError
from serving.index.types import Document

#: Part of what makes a document "unchanged": raise it when the same bytes give another text.
VERSION = 2

MAX_TITLE_CHARACTERS = 300
_SEPARATORS = re.compile(r"[\s_\-.+]+")
_INDEX_NAMES = frozenset({"_index", "index", "readme"})
_NOT_PROSE = frozenset({"code", "csv", "json", "jsonl", "spreadsheet", "tsv", "xml"})
_LETTERS = re.compile(r"[^\W\d_]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def load(
    uri: str,
    name: str,
    data: bytes | bytearray,
    *,
    format: str | None = None,
    title: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> Document:
    """A file's content as a document; a page of front matter alone has no text, which is no failure.

    `name` is path-like and says the format, unless `format` (a suffix, ".html") or the content's own clear mark does.
    `title` and `metadata` win over what the file says of itself. A title made from the name is marked in the metadata
    (`title_from: "name"`). Raises DocumentError with the reason for its reader.
    """
    if not data.strip():
        raise DocumentError("empty")
    loaded = loader_for(name, format, data)(bytes(data))
    text = _clean(loaded.text)
    given = " ".join(_clean(title).split()) or " ".join(_clean(loaded.title).split())
    if not text.strip() and not given:
        raise DocumentError("empty: it has no text")
    from_name = "" if given else _from_name(PurePath(_clean(name)), loaded.format)
    own = {
        key: value
        for key, value in {**loaded.metadata, "path": _clean(name), **plain(metadata or {})}.items()
        if key not in (MARKS, "title_from")
    }
    if from_name:
        own["title_from"] = "name"
    own["format"] = loaded.format
    if loaded.marks:
        own[MARKS] = {mark: [list(place) for place in places] for mark, places in loaded.marks.items()}
    return Document(uri, _short(given or from_name or _first_line(text)), text, own)


def _clean(text: str) -> str:
    """Half a surrogate pair (a name's byte that is not UTF-8, a broken escape in JSON) is no text."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def _short(title: str) -> str:
    return title[:MAX_TITLE_CHARACTERS].strip()


def _from_name(path: PurePath, format: str) -> str:
    """`getting-started.md` reads "Getting started"; an index page takes its folder's name; a number says nothing.

    Code and data have no first line that could stand for them: their name is their title as it is.
    """
    if format in _NOT_PROSE:
        return path.name
    stem = path.stem
    if stem.lower() in _INDEX_NAMES and path.parent.name:
        stem = path.parent.name
    letters, digits = len(_LETTERS.findall(stem)), sum(character.isdigit() for character in stem)
    if letters < 3 or digits >= letters:
        return ""
    words = _SEPARATORS.sub(" ", stem).strip()
    return words[:1].upper() + words[1:]


def _first_line(text: str) -> str:
    line = " ".join(text.lstrip()[:1000].splitlines()[0].split())
    return line if len(line) <= 80 else line[:80].rsplit(" ", 1)[0] + "…"
