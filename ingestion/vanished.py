"""Documents whose source no longer has them: found, and taken away unless there are suspiciously many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

from ingestion.report import IngestReport
from ingestion.source import Source, vanished
from ingestion.write import Writer
from serving.errors import SourceError
from serving.index.catalog import Catalog
from serving.index.catalog_models import DocumentRecord

#: Looked at and taken away at a time.
_PAGE = 256
#: More than this share of a source's documents does not vanish by itself, if it is more than so many: a folder that is
#: not mounted looks like one that was emptied.
_SHARE = 0.5
_MANY = 20


class Vanished:
    """What the catalog knows of these sources and they no longer have."""

    def __init__(
        self, sources: Sequence[Source], build: str, catalog: Catalog, told: Collection[str] = frozenset()
    ) -> None:
        """`told` are documents of which their source said so when they were to be read."""
        self._told = told
        self._sources = sources
        self._build = build
        self._catalog = catalog

    async def require(self, met: Collection[str]) -> None:
        """A pattern that matches nothing is a mistake, unless it once did: then its documents are gone.

        `met` are the sources that had something. Raises SourceError.
        """
        idle = [source for source in self._sources if source.selective and source.text not in met]
        for source in idle:
            if not await self._known(source):
                raise SourceError(f"{source.text!r} matches no file that can be ingested.")

    async def _known(self, source: Source) -> bool:
        async for record in self._catalog.documents(self._build):
            if covers(source, record):
                return True
        return False

    async def remove(self, writer: Writer, report: IngestReport, sync: bool | None) -> None:
        """Take them away; with `sync` False, or None and too many of them, only count them as missing."""
        if sync is not True:
            covered, vanished = await self.count()
            if sync is False or (vanished > _MANY and vanished > _SHARE * covered):
                report.missing = vanished
                return
            if not vanished:
                return
        async for page in self._pages():
            await writer.remove(page)

    async def count(self) -> tuple[int, int]:
        """Documents that the sources cover, and those of them that have vanished."""
        covered = vanished = 0
        async for page in self._covered():
            covered += len(page)
            vanished += len(await asyncio.to_thread(self._gone, page))
        return covered, vanished

    async def _pages(self) -> AsyncIterator[list[DocumentRecord]]:
        async for page in self._covered():
            if gone := await asyncio.to_thread(self._gone, page):
                yield gone

    async def _covered(self) -> AsyncIterator[list[DocumentRecord]]:
        page: list[DocumentRecord] = []
        async for record in self._catalog.documents(self._build):
            if record.state in ("gone", "forgotten") or not any(covers(source, record) for source in self._sources):
                continue
            page.append(record)
            if len(page) == _PAGE:
                yield page
                page = []
        if page:
            yield page

    def _gone(self, records: Sequence[DocumentRecord]) -> list[DocumentRecord]:
        """Neither an unreadable folder nor a failed walk can make a document look so."""
        return [
            record
            for record in records
            if record.uri in self._told or vanished(self._sources, record.uri, record.source)
        ]


def covers(source: Source, record: DocumentRecord) -> bool:
    """Whether the document would be found in the source, if it existed."""
    return source.covers(record.uri, record.source)
