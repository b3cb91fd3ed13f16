"""JSON lines, one document each, from a file or the standard input: `{"id": "a", "text": "...", "title": "..."}`.

Never whole in memory. The standard input is kept in a temporary file, so that a run may go over it again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote

from ingestion.source import sidecar
from ingestion.source.items import Body, Found, Problem, too_large
from ingestion.source.listing import Listed, Seen
from ingestion.source.patterns import Patterns
from serving.errors import DocumentError, SourceError

_FORMATS = {"markdown": ".md", "text": ".txt", "html": ".html"}
_KEYS = frozenset({"id", "uri", "text", "title", "metadata", "format"})
_MAX_URI = 2048
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class TextContent:
    """A text that the listing brought along."""

    data: bytes = field(repr=False)
    fingerprint: str

    def read(self, max_bytes: int, known: str = "") -> Body:
        if known and known == self.fingerprint:
            return Body(None, self.fingerprint)
        if len(self.data) > max_bytes:
            raise DocumentError(too_large(len(self.data), max_bytes))
        return Body(self.data, self.fingerprint)


class JsonLines(Listed):
    """`jsonl:FILE` or `jsonl:-`; either may be compressed with gzip."""

    selective = False

    def __init__(self, text: str, path: str, patterns: Patterns, max_line_bytes: int) -> None:
        """Raises SourceError for a file that is not there."""
        super().__init__()
        self.text = text
        self._stdin: IO[bytes] | None = None
        self._patterns = patterns
        self._max_line_bytes = max_line_bytes
        self._path = None if path == "-" else Path(path).expanduser().absolute()
        if self._path is not None and not self._path.is_file():
            raise SourceError(f"{text!r}: there is no file {str(self._path)!r}.")
        self.prefix = "jsonl:-" if self._path is None else "jsonl" + self._path.as_uri().removeprefix("file")

    def covers(self, uri: str, source: str) -> bool:
        return source == self.prefix

    def close(self) -> None:
        super().close()
        if self._stdin is not None:
            self._stdin.close()

    def _items(self, seen: Seen) -> Iterator[Found | Problem]:
        number = 0
        try:
            with self._opened() as file:
                for number, line in enumerate(_lines(file, self._max_line_bytes), 1):
                    item = self._item(number, line, seen)
                    if item is not None:
                        yield item
        except (OSError, EOFError, zlib.error) as error:
            reason = f"cannot be read beyond line {number:,}: {str(error) or type(error).__name__}"
            yield Problem(self.prefix, self._name, reason, failed=True, folder=True)

    @property
    def _name(self) -> str:
        return "standard input" if self._path is None else str(self._path)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        with self._plain() as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            if not packed:
                yield file
                return
            with gzip.open(file, "rb") as unpacked:
                yield cast(IO[bytes], unpacked)

    @contextmanager
    def _plain(self) -> Iterator[IO[bytes]]:
        if self._path is not None:
            with self._path.open("rb") as file:
                yield file
            return
        if self._stdin is None:
            self._stdin = tempfile.TemporaryFile(prefix="anchorage-stdin-")  # noqa: SIM115  (outlives this walk)
            shutil.copyfileobj(sys.stdin.buffer, self._stdin)
        self._stdin.seek(0)
        yield self._stdin

    def _item(self, number: int, line: bytes | None, seen: Seen) -> Found | Problem | None:
        """A line that tells no id may be any document: it hides one."""
        if line is None:
            return self._problem(number, f"longer than {self._max_line_bytes / 1e6:,.1f} MB", folder=True)
        if not line.strip():
            return None
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            return self._problem(number, f"not JSON: {' '.join(str(error).split())[:200]}", folder=True)
        uri = self._uri(value)
        if uri is None:
            return self._problem(number, 'needs an "id" or "uri": a text that is not empty or too long', folder=True)
        earlier = seen.add(uri, number)
        shown = str(value.get("id") or value.get("uri"))
        if earlier is not None:
            return self._problem(number, f"id {shown!r} appears twice (lines {earlier} and {number})", uri=uri)
        if not self._patterns.wants(shown.split("://", 1)[-1].lstrip("/")):
            seen.remove(uri)
            return None
        try:
            return _found(uri, shown, value, f"line {number}")
        except DocumentError as error:
            return self._problem(number, str(error), uri=uri)

    def _uri(self, value: Any) -> str | None:
        if not isinstance(value, dict):
            return None
        own, uri = value.get("id"), value.get("uri")
        if isinstance(own, int) and not isinstance(own, bool):
            own = value["id"] = str(own)
        if isinstance(uri, str) and uri.strip() and len(uri) <= _MAX_URI:
            return uri.strip().encode("utf-8", "replace").decode()
        if uri is None and isinstance(own, str) and own.strip() and len(own) <= _MAX_URI:
            return f"{self.prefix}#{quote(own.encode('utf-8', 'replace'), safe='/:@!$&()*+,;=')}"
        return None

    def _problem(self, number: int, reason: str, *, uri: str = "", folder: bool = False) -> Problem:
        return Problem(uri or f"{self.prefix}#line={number}", f"{self._name} line {number}", reason, True, folder)


def _found(uri: str, name: str, value: Mapping[str, Any], where: str) -> Found:
    unknown = sorted(set(value) - _KEYS)
    if unknown:
        raise DocumentError(f'{where}: unknown field {unknown[0][:80]!r}; put it into "metadata"')
    text, form, metadata = value.get("text"), value.get("format") or "text", value.get("metadata") or {}
    if not isinstance(text, str):
        raise DocumentError(f'{where}: needs a "text"')
    if form not in _FORMATS:
        raise DocumentError(f"{where}: the format is one of {', '.join(_FORMATS)}")
    if not isinstance(metadata, dict):
        raise DocumentError(f'{where}: "metadata" holds names with values')
    told = sidecar.told({**metadata, "title": value.get("title") or ""}, where)
    data = text.encode("utf-8", "replace")
    known = json.dumps([form, told.title, told.metadata], sort_keys=True).encode()
    fingerprint = hashlib.sha256(len(known).to_bytes(8, "big") + known + data).hexdigest()
    content = TextContent(data, fingerprint)
    return Found(uri, name, len(data), 0.0, fingerprint, content, told.metadata, _FORMATS[form], told.title)


def _lines(file: IO[bytes], limit: int) -> Iterator[bytes | None]:
    """Lines; None for one that is too long, of which no more than the limit is ever held."""
    while line := file.readline(limit + 1):
        if len(line) <= limit or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(limit)) and not rest.endswith(b"\n"):
            pass
        yield None
