"""A folder on a web server that lists its files: `https://site/files/**`. Only links below the folder are followed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from html.parser import HTMLParser
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from ingestion.source.address import Address, joined, parse_address
from ingestion.source.fetch import Fetcher
from ingestion.source.items import Found, Problem, below, ignored, supported
from ingestion.source.listing import Listed, Seen
from ingestion.source.patterns import Patterns, fixed_part, glob
from ingestion.source.robots import Robots
from ingestion.source.web import found_page
from serving.errors import DocumentError, SourceUnavailable
from serving.settings import WebSettings

_MAX_PAGE = 32 * 1024 * 1024
_MAX_DEPTH = 64


class WebFolder(Listed):
    """The files that the pages of a folder link to, with a suffix that can be read and matching the pattern."""

    selective = True

    def __init__(self, address: Address, settings: WebSettings, suffixes: Collection[str], patterns: Patterns) -> None:
        super().__init__()
        self.text = address.uri
        parts = urlsplit(address.url)
        site = f"{parts.scheme}://{parts.netloc}"
        self._pattern = glob(unquote(parts.path))
        self._root = parse_address(site + fixed_part(parts.path) + "/")
        self.prefix = self._root.uri
        self._suffixes = suffixes
        self._patterns = patterns
        self._settings = settings
        self._fetcher = Fetcher(settings, (address,))
        self._robots = Robots(self._fetcher, settings.user_agent)

    def covers(self, uri: str, source: str) -> bool:
        return below(uri, self.prefix) and self._pattern.fullmatch(unquote(urlsplit(uri).path)) is not None

    def close(self) -> None:
        super().close()
        self._fetcher.close()

    def _items(self, seen: Seen) -> Iterator[Found | Problem]:
        stack = [self._root]
        visited = Seen()
        try:
            while stack:
                folder = stack.pop()
                if visited.add(folder.uri) is not None:
                    continue
                try:
                    yield from self._folder(folder, stack, seen)
                except (DocumentError, SourceUnavailable) as error:
                    reason = f"folder cannot be read: {error}"
                    yield Problem(folder.uri, folder.uri, reason, failed=True, folder=True)
        finally:
            visited.close()

    def _folder(self, folder: Address, stack: list[Address], seen: Seen) -> Iterator[Found | Problem]:
        refusal = self._robots.refuses(folder) if self._settings.respect_robots else ""
        if refusal:
            raise DocumentError(refusal)
        reply = self._fetcher.get(folder, _MAX_PAGE)
        links = _Links()
        links.feed((reply.data or b"").decode("utf-8", "replace"))
        folders = []
        for address in self._below(folder, links.found):
            relative = self._relative(address)
            if address.uri.endswith("/"):
                if relative.count("/") < _MAX_DEPTH and not self._patterns.prunes(relative.rstrip("/")):
                    folders.append(address)
            elif self._wanted(address, relative) and seen.add(address.uri) is None:
                yield self._file(address)
        stack.extend(reversed(folders))

    def _below(self, folder: Address, links: list[str]) -> Iterator[Address]:
        """Entries of the folder itself: neither its parent, nor the orders that it can be shown in."""
        for link in links:
            try:
                address = parse_address(joined(folder.url, link))
            except DocumentError:
                continue
            inside = address.uri.removeprefix(folder.uri)
            name = unquote(inside.rstrip("/"))
            if inside != address.uri and name and "/" not in name and "?" not in inside and not ignored(name):
                yield address

    def _relative(self, address: Address) -> str:
        return unquote(address.uri.removeprefix(self.prefix))

    def _wanted(self, address: Address, relative: str) -> bool:
        matches = self._pattern.fullmatch(unquote(urlsplit(address.uri).path)) is not None
        return matches and self._patterns.wants(relative)

    def _file(self, address: Address) -> Found | Problem:
        name = PurePosixPath(unquote(urlsplit(address.uri).path)).name
        if not supported(name, self._suffixes):
            return Problem(address.uri, address.uri, f"{name}: files of this kind are not supported", failed=False)
        refusal = self._robots.refuses(address) if self._settings.respect_robots else ""
        if refusal:
            return Problem(address.uri, address.uri, refusal, failed=False)
        return found_page(self._fetcher, address, self._suffixes)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]
