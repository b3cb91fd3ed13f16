"""Sitemaps (sitemaps.org): the pages that a site names, in files of XML and indexes of such files."""

from __future__ import annotations

import datetime
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit
from xml.parsers import expat

from ingestion.source.address import Address, parse_address
from ingestion.source.fetch import Fetcher
from ingestion.source.items import Found, Problem
from ingestion.source.listing import Listed, Seen
from ingestion.source.patterns import Patterns
from ingestion.source.robots import Robots
from ingestion.source.web import found_page
from serving.errors import DocumentError, SourceUnavailable
from serving.settings import WebSettings

#: The protocol's limit for one file, unpacked.
MAX_BYTES = 50 * 1024 * 1024
_MAX_DEPTH = 4
_MAX_MAPS = 50_000
_MAX_TEXT = 8192
_PIECE = 64 * 1024
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Entry:
    """One `<url>` or, with `index`, one `<sitemap>`; `modified` in seconds since 1970, 0.0 if it is not said."""

    location: str
    modified: float
    index: bool


class SitemapSource(Listed):
    """`https://site/sitemap.xml`, or `sitemap:https://site`, which asks robots.txt where it lies."""

    selective = False

    def __init__(
        self, text: str, address: Address, settings: WebSettings, suffixes: Collection[str], patterns: Patterns
    ) -> None:
        super().__init__()
        self.text = text
        self.prefix = f"sitemap:{address.uri}"
        self._address = address
        self._settings = settings
        self._suffixes = suffixes
        self._patterns = patterns
        self._fetcher = Fetcher(settings, (address,))
        self._robots = Robots(self._fetcher, settings.user_agent)

    def covers(self, uri: str, source: str) -> bool:
        return source == self.prefix

    def close(self) -> None:
        super().close()
        self._fetcher.close()

    def _items(self, seen: Seen) -> Iterator[Found | Problem]:
        waiting = [(location, 1) for location in reversed(self._first())]
        maps: set[str] = set()
        while waiting:
            location, depth = waiting.pop()
            if location in maps:
                continue
            maps.add(location)
            if len(maps) > _MAX_MAPS or depth > _MAX_DEPTH:
                yield _hidden(location, "too many sitemaps, or indexes within indexes; name some of them apart")
                return
            try:
                for entry in self._entries(location):
                    if entry.index:
                        waiting.append((entry.location, depth + 1))
                    else:
                        yield from self._page(entry, seen)
            except (DocumentError, SourceUnavailable) as error:
                yield _hidden(location, f"sitemap cannot be read: {error}")

    def _first(self) -> list[str]:
        if urlsplit(self._address.url).path != "/":
            return [self._address.url]
        return self._robots.sitemaps(self._address) or [f"{self._address.url}sitemap.xml"]

    def _entries(self, location: str) -> Iterator[Entry]:
        data = self._fetcher.get(parse_address(location), MAX_BYTES).data or b""
        yield from parse_sitemap(data)

    def _page(self, entry: Entry, seen: Seen) -> Iterator[Found | Problem]:
        try:
            address = parse_address(entry.location)
        except DocumentError as error:
            yield Problem(self.prefix, entry.location[:200], f"{error} (in a sitemap)", failed=True)
            return
        if not self._patterns.wants(address.path) or seen.add(address.uri) is not None:
            return
        refusal = self._robots.refuses(address) if self._settings.respect_robots else ""
        if refusal:
            yield Problem(address.uri, address.uri, refusal, failed=False)
            return
        yield found_page(self._fetcher, address, self._suffixes, entry.modified)


def parse_sitemap(data: bytes) -> Iterator[Entry]:
    """Entries as they come. Raises DocumentError: not XML, a document type (nobody needs entities), too large."""
    reader = _Reader()
    try:
        for piece in _unpacked(data):
            reader.feed(piece)
            yield from reader.taken()
        reader.feed(b"", last=True)
    except expat.ExpatError as error:
        raise DocumentError(f"not a sitemap: {error}") from error
    except zlib.error as error:
        raise DocumentError(f"cannot be unpacked: {error}") from error
    if not reader.known:
        raise DocumentError("not a sitemap: it begins with neither urlset nor sitemapindex")


def _unpacked(data: bytes) -> Iterator[bytes]:
    if not data.startswith(_GZIP):
        for start in range(0, len(data), _PIECE):
            yield data[start : start + _PIECE]
        return
    unpacker = zlib.decompressobj(wbits=31)
    size, rest = 0, data
    while rest and not unpacker.eof:
        piece = unpacker.decompress(rest, _PIECE)
        rest = unpacker.unconsumed_tail
        size += len(piece)
        if size > MAX_BYTES:
            raise DocumentError(f"larger than {MAX_BYTES // 1024**2} MB when unpacked")
        if not piece and not rest:
            break
        yield piece
    if not unpacker.eof:
        raise DocumentError("cannot be unpacked: it ends too early")


class _Reader:
    """Expat's events to entries. Namespaces are read by what follows the colon, as sites write them."""

    def __init__(self) -> None:
        self.known = False
        self._entries: list[Entry] = []
        self._path: list[str] = []
        self._text = ""
        self._values: dict[str, str] = {}
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._doctype

    def feed(self, piece: bytes, *, last: bool = False) -> None:
        self._parser.Parse(piece, last)

    def taken(self) -> list[Entry]:
        entries, self._entries = self._entries, []
        return entries

    def _doctype(self, *_: object) -> None:
        raise DocumentError("not a sitemap: it has a document type")

    def _start(self, name: str, _: object) -> None:
        self._path.append(name.rpartition(":")[2])
        self._text = ""
        if len(self._path) == 1:
            self.known = self._path[0] in ("urlset", "sitemapindex")
        elif len(self._path) == 2:
            self._values = {}

    def _characters(self, text: str) -> None:
        if len(self._path) == 3 and len(self._text) < _MAX_TEXT:
            self._text += text

    def _end(self, _: str) -> None:
        if len(self._path) == 3:
            self._values[self._path[-1]] = self._text.strip()[:_MAX_TEXT]
        elif len(self._path) == 2 and self.known and self._values.get("loc"):
            modified = _seconds(self._values.get("lastmod", ""))
            self._entries.append(Entry(self._values["loc"], modified, self._path[-1] == "sitemap"))
        self._path.pop()


def _hidden(location: str, reason: str) -> Problem:
    try:
        shown = parse_address(location).uri
    except DocumentError:
        shown = location[:200]
    return Problem(shown, shown, reason, failed=True, folder=True)


def _seconds(text: str) -> float:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
