"""`ingest()`: sources to a published generation. The file to read first.

    walk ─► unchanged? ─► load ─► chunk ─┬─► embed ─► write ─► remove what vanished ─► flush, count ─► publish ─► purge
             (parse.py, in a thread)     │   (write.py)         (here)
                                         └ one group ahead: parsing and embedding overlap, memory stays bounded

Exactly once in effect: a run may die at any point. The next one finds in the catalog what was begun, and in the store
what was written, and goes on from there; readers see the published generation until the new one is complete.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from ingestion.chunk import Chunker
from ingestion.parse import Group, Parser, any_file, total_size
from ingestion.parts import Parts
from ingestion.report import IngestReport, OnProgress, Progress
from ingestion.source import Source, parse_sources, vanished
from ingestion.write import Writer
from serving.errors import ConfigurationError, SourceError
from serving.index.catalog import Catalog
from serving.index.catalog_models import DocumentRecord, Run, State
from serving.index.schema import index_name, index_prefix
from serving.settings import Settings

#: A reader that began with the previous generation has long finished after this time.
_GRACE_S = 60.0
#: Vanished documents taken away at a time.
_PAGE = 256


async def ingest(
    sources: Sequence[str],
    collection: str,
    *,
    settings: Settings,
    parts: Parts,
    on_progress: OnProgress | None = None,
) -> IngestReport:
    """Make the collection hold what the sources hold now. The caller holds the writer's lock.

    Raises SourceError, InvalidRequest (the collection's name), ConfigurationError, IndexUnavailable,
    CatalogUnavailable, EmbedderUnavailable; whatever is raised, the same call may be repeated.
    """
    started = time.perf_counter()
    found = await asyncio.to_thread(parse_sources, sources)
    index, dimension = await _index(parts, collection)
    await parts.store.ensure(index, dimension)
    run = await parts.catalog.begin_run(collection, index, settings.embedder.model)
    await _check_patterns(found, parts.catalog, collection)
    await _purge_old(parts, run)
    ingestion = _Ingestion(settings, parts, run, found, on_progress)
    report = await ingestion.run_once()
    if not await ingestion.complete():
        report = await ingestion.run_once(everything=True)
        if not await ingestion.complete():
            raise ConfigurationError(
                f"The index does not hold what the catalog says of collection {collection!r}. Ingest all its sources "
                "in one command to repair it."
            )
    await ingestion.publish(report)
    report.total_s = round(time.perf_counter() - started, 3)
    return report


class _Ingestion:
    """One run: at most two passes over the sources, then publication."""

    def __init__(
        self, settings: Settings, parts: Parts, run: Run, sources: Sequence[Source], on_progress: OnProgress | None
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._run = run
        self._sources = sources
        self._on_progress = on_progress
        self._touched = False
        self._count = 0

    async def run_once(self, *, everything: bool = False) -> IngestReport:
        report = IngestReport(self._run.collection)
        settings, parts, run = self._settings, self._parts, self._run
        chunker = Chunker(
            parts.model,
            chunk_tokens=settings.ingestion.chunk_tokens,
            tenant=settings.index.tenant,
            collection=run.collection,
        )
        parser = Parser(parts.catalog, chunker, run, report, settings.ingestion, everything=everything)
        writer = Writer(parts.catalog, parts.store, parts.model, run, report, batch=settings.ingestion.write_batch)
        await self._write_all(parser, writer, report)
        await self._remove_vanished(writer)
        await self._restore_interrupted(writer)
        self._touched |= writer.touched or (run.resumed and await self._left_unpublished())
        with report.timed("publish"):
            await parts.store.flush(run.index)
        return report

    async def _write_all(self, parser: Parser, writer: Writer, report: IngestReport) -> None:
        total = await asyncio.to_thread(total_size, self._sources) if self._on_progress else 0
        done = 0
        async with aclosing(_ahead(parser.groups(self._sources))) as groups:
            async for group in groups:
                if group.parsed:
                    await writer.write(group.parsed)
                for failed in group.failed:
                    await writer.fail(failed.found, failed.source, failed.reason, failed.record)
                done += group.size
                if self._on_progress:
                    self._on_progress(Progress(done, total, sum(report.counts.values()), report.written))

    async def _remove_vanished(self, writer: Writer) -> None:
        """A document is gone when its file is: neither an unreadable folder nor a failed walk can make it look so."""
        page: list[DocumentRecord] = []
        async for record in self._parts.catalog.documents(self._run.collection):
            if record.state != "gone" and await asyncio.to_thread(vanished, self._sources, record.uri):
                page.append(record)
            if len(page) == _PAGE:
                await writer.remove(page)
                page = []
        if page:
            await writer.remove(page)

    async def _restore_interrupted(self, writer: Writer) -> None:
        async for record in self._parts.catalog.documents(self._run.collection, states=("parsed",)):
            await writer.restore(record)

    async def _left_unpublished(self) -> bool:
        """Whether an earlier run of this generation changed something that this one had no need to change again."""
        records = self._parts.catalog.documents(self._run.collection, states=("written", "gone"))
        return await _any(record.generation >= self._run.generation async for record in records)

    # -- publication ---------------------------------------------------------------------------------------------------

    @property
    def _generation(self) -> int:
        """The generation that is complete when this run ends: the new one, or the published one if nothing changed."""
        return self._run.generation if self._touched else self._run.published

    async def complete(self) -> bool:
        """Whether the store holds as many rows as the catalog says that readers will see."""
        states: tuple[State, ...] = ("live", "written", "failed")
        expected = 0
        async for record in self._parts.catalog.documents(self._run.collection, states=states):
            expected += record.chunks
        self._count = await self._parts.store.count(self._run.index, self._run.collection, self._generation)
        return self._count == expected

    async def publish(self, report: IngestReport) -> None:
        with report.timed("publish"):
            if self._touched:
                summary = {str(change): count for change, count in report.counts.items()}
                await self._parts.catalog.publish(self._run, chunks=self._count, summary=summary)
                await self._parts.store.purge(self._run.index, self._run.collection, self._run.published)
            collection = await self._parts.catalog.collection(self._run.collection)
        report.published = self._touched
        report.generation = collection.generation
        report.documents = collection.documents
        report.chunks = collection.chunks


async def _index(parts: Parts, collection: str) -> tuple[str, int]:
    """The index for this model and its dimension; read from its name where there is one, to leave the model alone."""
    prefix = index_prefix(parts.model.name)
    for known in await parts.catalog.collections():
        size = known.index.removeprefix(prefix)
        if known.name == collection and size != known.index and size.isdecimal():
            return known.index, int(size)
    dimension = await parts.model.dimension()
    return index_name(parts.model.name, dimension), dimension


async def _check_patterns(sources: Sequence[Source], catalog: Catalog, collection: str) -> None:
    """A pattern that matches nothing is a mistake, unless it once did: then its documents are gone."""
    for source in sources:
        if source.pattern is None or await asyncio.to_thread(any_file, source):
            continue
        if not await _any(source.covers(record.uri) async for record in catalog.documents(collection)):
            raise SourceError(f"{source.text!r} matches no file that can be ingested.")


async def _purge_old(parts: Parts, run: Run) -> None:
    """Delete rows that only readers of earlier generations could see, once those have finished."""
    published = [record for record in await parts.catalog.runs(run.collection, 2) if record.state == "published"]
    if published and time.time() - published[0].finished_at > _GRACE_S:
        await parts.store.purge(run.index, run.collection, run.published)


async def _ahead(groups: AsyncGenerator[Group]) -> AsyncGenerator[Group]:
    """The same groups, each begun while the one before it is worked on."""
    following = asyncio.ensure_future(anext(groups, None))
    try:
        while (group := await following) is not None:
            following = asyncio.ensure_future(anext(groups, None))
            yield group
    finally:
        following.cancel()
        await asyncio.wait([following])
        await groups.aclose()


async def _any(conditions: AsyncIterator[bool]) -> bool:
    async for condition in conditions:
        if condition:
            return True
    return False
