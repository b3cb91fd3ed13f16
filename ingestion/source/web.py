"""Web pages as documents: one address, or a list of them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ingestion.source.address import Address, parse_address
from ingestion.source.fetch import Fetcher, Reply
from ingestion.source.items import Body, Found, Problem, place, supported
from ingestion.source.listing import Listed, Seen
from ingestion.source.patterns import Patterns
from serving.errors import DocumentError, DocumentGone, SourceError, SourceUnavailable
from serving.settings import WebSettings

#: Content types that say enough; of any other, the address's own suffix does.
_FORMATS = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "application/pdf": ".pdf",
    "text/markdown": ".md",
    "text/x-markdown": ".md",
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/json": ".json",
    "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl",
    "application/xml": ".xml",
    "text/xml": ".xml",
    "application/epub+zip": ".epub",
    "message/rfc822": ".eml",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
}
_VAGUE = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/x-download", "application/zip"})
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_MAX_LIST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class WebContent:
    """A page. Its fingerprint asks the site whether it changed."""

    fetcher: Fetcher
    address: Address
    suffixes: Collection[str]

    def read(self, max_bytes: int, known: str = "") -> Body:
        reply = self.fetcher.get(self.address, max_bytes, known)
        if reply.data is None:
            return Body(None, reply.fingerprint)
        kind, charset = _content_type(reply)
        form = _format(kind, self.address, self.suffixes)
        data = _as_utf8(reply.data, charset) if kind.startswith("text/") else reply.data
        return Body(data, reply.fingerprint, form, modified=_modified(reply))


def found_page(fetcher: Fetcher, address: Address, suffixes: Collection[str], modified: float = 0.0) -> Found:
    """A page that has not been asked for yet."""
    parts = urlsplit(address.uri)
    name = parts.netloc + unquote(parts.path)
    return Found(address.uri, name, 0, modified, "", WebContent(fetcher, address, suffixes), place(name.rstrip("/")))


class Page:
    """`https://site/page`."""

    selective = False

    def __init__(self, address: Address, settings: WebSettings, suffixes: Collection[str], patterns: Patterns) -> None:
        self.text = self.prefix = address.uri
        self._address = address
        self._suffixes = suffixes
        self._patterns = patterns
        self._fetcher = Fetcher(settings, (address,))

    def walk(self) -> Iterator[Found | Problem]:
        if self._patterns.wants(self._address.path):
            yield found_page(self._fetcher, self._address, self._suffixes)

    def covers(self, uri: str, source: str) -> bool:
        return uri == self.prefix

    def gone(self, uri: str) -> bool:
        """Asks the site: nothing but its own word takes a page away."""
        if not self._patterns.wants(self._address.path):
            return True
        try:
            self._fetcher.get(self._address, 0)
        except DocumentGone:
            return True
        except (DocumentError, SourceUnavailable):
            return False
        return False

    def close(self) -> None:
        self._fetcher.close()


class UrlList(Listed):
    """`urls:FILE` or `urls:-`: an address a line; a `#` at its begin or after a blank starts a comment."""

    selective = False

    def __init__(
        self, text: str, path: str, settings: WebSettings, suffixes: Collection[str], patterns: Patterns
    ) -> None:
        """Raises SourceError for a file that is not there."""
        super().__init__()
        self.text = text
        self._path = None if path == "-" else Path(path).expanduser().absolute()
        if self._path is not None and not self._path.is_file():
            raise SourceError(f"{text!r}: there is no file {str(self._path)!r}.")
        self.prefix = "urls:-" if self._path is None else "urls" + self._path.as_uri().removeprefix("file")
        self._suffixes = suffixes
        self._patterns = patterns
        self._fetcher = Fetcher(settings)
        self._stdin: bytes | None = None

    def covers(self, uri: str, source: str) -> bool:
        return source == self.prefix

    def close(self) -> None:
        super().close()
        self._fetcher.close()

    def _items(self, seen: Seen) -> Iterator[Found | Problem]:
        try:
            lines = self._read().decode("utf-8", "replace").splitlines()
        except OSError as error:
            yield Problem(self.prefix, self._name, f"cannot be read: {error.strerror or error}", True, folder=True)
            return
        for number, line in enumerate(lines, 1):
            text = line.lstrip("\ufeff").split(" #")[0].strip()
            if text and not text.startswith("#"):
                yield from self._item(number, text, seen)

    def _item(self, number: int, text: str, seen: Seen) -> Iterator[Found | Problem]:
        where = f"{self._name} line {number}"
        try:
            address = parse_address(text)
        except DocumentError as error:
            yield Problem(f"{self.prefix}#line={number}", where, str(error), failed=True, folder=True)
            return
        if not self._patterns.wants(address.path):
            return
        earlier = seen.add(address.uri, number)
        if earlier is not None:
            yield Problem(address.uri, where, "listed more than once", failed=False)
            return
        yield found_page(self._fetcher, address, self._suffixes)

    @property
    def _name(self) -> str:
        return "standard input" if self._path is None else str(self._path)

    def _read(self) -> bytes:
        if self._path is not None:
            with self._path.open("rb") as file:
                data = file.read(_MAX_LIST_BYTES + 1)
        else:
            if self._stdin is None:
                self._stdin = sys.stdin.buffer.read(_MAX_LIST_BYTES + 1)
            data = self._stdin
        if len(data) > _MAX_LIST_BYTES:
            raise OSError(f"longer than {_MAX_LIST_BYTES // 1024**2} MB; split the list")
        return data


def _content_type(reply: Reply) -> tuple[str, str]:
    kind, _, rest = reply.headers.get("content-type", "").partition(";")
    charset = rest.partition("charset=")[2].split(";")[0].strip(" \"'").lower()
    return kind.strip().lower(), charset


def _format(kind: str, address: Address, suffixes: Collection[str]) -> str:
    """Raises DocumentError for what nothing here reads: an image, a film."""
    suffix = PurePosixPath(unquote(urlsplit(address.uri).path)).suffix.lower()
    if kind in _FORMATS:
        return _FORMATS[kind]
    known = bool(suffix) and supported(f"page{suffix}", suffixes)
    if known and (kind in _VAGUE or kind.startswith(("text/", "application/"))):
        return suffix
    if kind.startswith("text/"):
        return ".txt"
    raise DocumentError(f"pages of type {kind or 'unknown'!r} are not supported")


def _as_utf8(data: bytes, charset: str) -> bytes:
    """What the site says of the encoding goes before what the page says: with the mark of UTF-8, everybody sees it."""
    if not charset or charset in _UTF8:
        return data
    try:
        return b"\xef\xbb\xbf" + data.decode(charset).encode()
    except (LookupError, ValueError):
        return data


def _modified(reply: Reply) -> float:
    try:
        return parsedate_to_datetime(reply.headers.get("last-modified", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
