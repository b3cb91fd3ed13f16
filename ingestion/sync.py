"""Documents that have vanished from their sources, erased: what `ingest --sync` does after it has published."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from ingestion.erase import erase_pages
from ingestion.parts import Parts
from ingestion.receipt import Receipt
from ingestion.source import Source
from ingestion.vanished import covers
from serving.index.catalog_models import Build
from serving.settings import Settings

_PAGE = 256


async def erase_vanished(
    parts: Parts, settings: Settings, build: Build, sources: Sequence[Source], wait_s: float
) -> Receipt | None:
    """Erase every document that these sources had once, and that is gone from the published generation.

    Also those that an earlier run took away and that could still be brought back. None: there are none. Raises what
    `erase` raises; the next run goes on from there.
    """

    async def pages() -> AsyncIterator[list[str]]:
        page: list[str] = []
        async for record in parts.catalog.documents(build.key, states=("gone",)):
            erased = record.snapshot == 0
            if erased or not any(covers(source, record) for source in sources):
                continue
            page.append(record.uri)
            if len(page) == _PAGE:
                yield page
                page = []
        if page:
            yield page

    async for _ in pages():
        return await erase_pages(parts, settings, build.collection, pages, wait_s=wait_s)
    return None
