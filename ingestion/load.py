"""One file to one Document. Knows which loader reads which kind of file; the loaders own the parsing libraries."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ingestion.encoding import decode
from ingestion.load_html import load_html
from ingestion.load_markdown import load_markdown
from ingestion.load_pdf import load_pdf
from ingestion.loaded import Loaded
from serving.errors import DocumentError
from serving.index.types import Document

#: Part of what makes a document "unchanged": raise it when the same bytes give another text.
VERSION = 1

MAX_TITLE_CHARACTERS = 300
_SEPARATORS = re.compile(r"[\s_\-.+]+")
_INDEX_NAMES = frozenset({"_index", "index", "readme"})
_LETTERS = re.compile(r"[^\W\d_]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def load_text(data: bytes) -> Loaded:
    """Plain text, as it is."""
    return Loaded("text", decode(data))


_LOADERS: Mapping[str, Callable[[bytes], Loaded]] = {
    ".md": load_markdown,
    ".markdown": load_markdown,
    ".txt": load_text,
    ".text": load_text,
    ".html": load_html,
    ".htm": load_html,
    ".xhtml": load_html,
    ".pdf": load_pdf,
}
#: What a folder is searched for.
SUFFIXES = frozenset(_LOADERS)


def read(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file. Raises DocumentError; a larger file is not read, a pipe never waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DocumentError("not a regular file (a pipe, socket or device)")
            if status.st_size > max_bytes:
                raise DocumentError(_too_large(status.st_size, max_bytes))
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise DocumentError(f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    if len(data) > max_bytes:  # it grew meanwhile, or its file system does not know sizes
        raise DocumentError(_too_large(len(data), max_bytes))
    return data


def load(uri: str, path: Path, data: bytes) -> Document:
    """A file's content as a document; a page of front matter alone has no text, which is no failure.

    Raises DocumentError with the reason for its reader.
    """
    if not data.strip():
        raise DocumentError("empty")
    loader = _LOADERS.get(path.suffix.lower())
    if loader is None:
        raise DocumentError(f"files of kind {path.suffix!r} are not supported")
    loaded = loader(data)
    text = _SURROGATES.sub("\ufffd", loaded.text)
    if not text.strip() and not loaded.title:
        raise DocumentError("empty: it has no text")
    metadata: dict[str, Any] = {**loaded.metadata, "format": loaded.format, "path": _readable(path)}
    return Document(uri, _title(loaded, path, text), text, metadata)


def _too_large(size: int, limit: int) -> str:
    return (
        f"too large: {size / 1e6:,.1f} MB, the limit is {limit / 1e6:,.1f} MB "
        "(setting ANCHORAGE_INGESTION__MAX_FILE_BYTES)"
    )


def _readable(path: Path) -> str:
    """A path as text: bytes that are not UTF-8 become question marks."""
    return os.fsencode(path).decode("utf-8", "replace")


def _title(loaded: Loaded, path: Path, text: str) -> str:
    title = " ".join(_SURROGATES.sub("\ufffd", loaded.title).split()) or _from_name(path) or _first_line(text)
    return title[:MAX_TITLE_CHARACTERS].strip()


def _from_name(path: Path) -> str:
    """`getting-started.md` reads "Getting started"; an index page takes its folder's name; a number says nothing."""
    stem = _readable(Path(path.stem))
    if stem.lower() in _INDEX_NAMES and path.parent.name:
        stem = _readable(Path(path.parent.name))
    letters, digits = len(_LETTERS.findall(stem)), sum(character.isdigit() for character in stem)
    if letters < 3 or digits >= letters:
        return ""
    words = _SEPARATORS.sub(" ", stem).strip()
    return words[:1].upper() + words[1:]


def _first_line(text: str) -> str:
    line = " ".join(text.lstrip()[:1000].splitlines()[0].split())
    return line if len(line) <= 80 else line[:80].rsplit(" ", 1)[0] + "…"
