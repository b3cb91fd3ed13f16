"""SOURCE arguments to sources: which kind each one is."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from ingestion.source.address import Address, parse_address
from ingestion.source.items import Source
from ingestion.source.jsonl import JsonLines
from ingestion.source.local import LocalSource, local_source
from ingestion.source.patterns import Patterns, patterns
from ingestion.source.sitemap import SitemapSource
from ingestion.source.web import Page, UrlList
from ingestion.source.web_folder import WebFolder
from serving.errors import DocumentError, SourceError
from serving.settings import IngestionSettings

#: Object stores, which have a library of their own.
PROTOCOLS = frozenset({"s3", "s3a", "gs", "abfs", "abfss", "az", "adl"})
_KIND = re.compile(r"(?P<name>(?:jsonl|urls|sitemap)(?=:)|[A-Za-z][A-Za-z0-9+.-]*(?=://|::)):")
_SITEMAP = re.compile(r"sitemap[^/]*\.xml(?:\.gz)?$", re.IGNORECASE)


def parse_sources(
    texts: Sequence[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    suffixes: Collection[str],
    settings: IngestionSettings | None = None,
) -> list[Source]:
    """Arguments to sources; one inside another is dropped. `suffixes` holds whole names of files without one, too.

    Raises SourceError for what can never be read: a path that is not there, a kind of store that is not installed.
    """
    wanted = patterns(include, exclude)
    sources = [_parse(text, wanted, suffixes, settings or IngestionSettings()) for text in texts]
    return _outermost(sources, wanted)


def vanished(sources: Sequence[Source], uri: str, source: str) -> bool:
    """Whether a document recorded with `source` is known to be gone: wherever it would be found, it is not."""
    covering = [one for one in sources if one.covers(uri, source)]
    return bool(covering) and all(one.gone(uri) for one in covering)


def _parse(text: str, wanted: Patterns, suffixes: Collection[str], settings: IngestionSettings) -> Source:
    kind = _KIND.match(text)
    if kind is None or kind["name"].lower() == "file" or ("::" in text and "://" not in text):
        return local_source(text, suffixes, wanted)
    name, rest = kind["name"].lower(), text[kind.end() :]
    if name == "jsonl":
        return JsonLines(text, rest, wanted, settings.max_file_bytes)
    if name == "urls":
        return UrlList(text, rest, settings.web, suffixes, wanted)
    if name == "sitemap":
        address = _address(rest if "://" in rest else f"https://{rest}")
        return SitemapSource(f"sitemap:{address.uri}", address, settings.web, suffixes, wanted)
    if name in ("http", "https"):
        return _web(_address(text), suffixes, wanted, settings)
    if name in PROTOCOLS and "::" not in text:
        from ingestion.source.bucket import BucketSource

        return BucketSource(text, settings.stores, suffixes, wanted)
    from ingestion.source.remote import RemoteSource

    return RemoteSource(text, settings.stores, suffixes, wanted)


def _web(address: Address, suffixes: Collection[str], wanted: Patterns, settings: IngestionSettings) -> Source:
    path = urlsplit(address.uri).path
    if _SITEMAP.search(path):
        return SitemapSource(address.uri, address, settings.web, suffixes, wanted)
    if "*" in path:
        return WebFolder(address, settings.web, suffixes, wanted)
    return Page(address, settings.web, suffixes, wanted)


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except DocumentError as error:
        raise SourceError(f"A source that begins with {text[:8]!r} is {error}.") from error


def _outermost(sources: Sequence[Source], wanted: Patterns) -> list[Source]:
    """Without repetitions, and without what lies in another one. Patterns mean something else for each root."""
    kept: dict[str, Source] = {}
    whole = [one for one in sources if isinstance(one, LocalSource) and one.pattern is None]
    for source in sources:
        inner = isinstance(source, LocalSource) and any(other.root in source.root.parents for other in whole)
        if not inner or wanted:
            kept.setdefault(f"{source.prefix} {source.text if source.selective else ''}", source)
    return list(kept.values())
