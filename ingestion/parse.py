"""Found documents to parsed ones: passed over where nothing changed, read in parallel, parsed apart, in groups.

    walk (thread) ─► catalog ─► unchanged? ─► read, hash, load, chunk (task.py: here; distributed.py: on a cluster)

What is under way is bounded in number and in bytes, whatever the sources hold.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace

from ingestion.patience import Patience
from ingestion.records import Failed, Group, Parsed, still_failing, taken
from ingestion.report import IngestReport
from ingestion.source import Found, Problem, Source
from ingestion.task import Bad, Same, Task, Work, marked, unmarked
from serving.errors import DocumentError
from serving.index.catalog import Catalog
from serving.index.catalog_models import DocumentRecord, Recipe, Run, check_uri
from serving.settings import IngestionSettings

#: Documents looked up in the catalog at a time.
_PAGE = 256
#: Bytes of source after which a group is written, however few chunks it has.
_GROUP_BYTES = 4_000_000
_GROUP_DOCUMENTS = 128


@dataclass(frozen=True, slots=True)
class Look:
    """A found document, the source it is from, and what the catalog says of it."""

    found: Found
    source: str
    record: DocumentRecord | None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Nothing to do, but perhaps to note the `fingerprint` that spares the reading next time."""

    look: Look
    fingerprint: str


Outcome = Parsed | Failed | Unchanged


class Parser:
    """Parses what changed, for one run."""

    def __init__(
        self,
        catalog: Catalog,
        work: Work,
        run: Run,
        recipe: Recipe,
        report: IngestReport,
        settings: IngestionSettings,
        patience: Patience,
    ) -> None:
        self._catalog = catalog
        self._work = work
        self._run = run
        self._report = report
        self._settings = settings
        self._try = patience.call
        self._everything = False
        self._only_failed = False
        self._retry = False
        #: Sources that had at least one document.
        self.met: set[str] = set()
        #: Documents that were found and, when they were to be read, no longer existed.
        self.gone: set[str] = set()
        self._recipe = recipe

    async def groups(
        self, sources: Sequence[Source], *, everything: bool = False, only_failed: bool = False, retry: bool = False
    ) -> AsyncGenerator[Group]:
        """Groups of about `write_batch` chunks; problems of the walk go into the report.

        `everything`: what did not change, too (to repair an index that lost rows). `only_failed`: only documents that
        failed before; with `retry` those at once, however often.
        """
        parsed: list[Parsed] = []
        failed: list[Failed] = []
        seen: list[DocumentRecord] = []
        chunks = size = 0
        async for outcome in self.outcomes(sources, everything=everything, only_failed=only_failed, retry=retry):
            if isinstance(outcome, Unchanged):
                size += outcome.look.found.size
                seen += self.unchanged(outcome)
            elif isinstance(outcome, Failed):
                size += outcome.found.size
                failed.append(outcome)
            else:
                size += outcome.found.size
                parsed.append(outcome)
                chunks += len(outcome.chunks)
            full = chunks >= self._settings.write_batch or len(parsed) + len(failed) + len(seen) >= _GROUP_DOCUMENTS
            if full or size > _GROUP_BYTES:
                await self._try(self._catalog.record, self._run.build, seen)
                yield Group(tuple(parsed), tuple(failed), size)
                parsed, failed, seen, chunks, size = [], [], [], 0, 0
        await self._try(self._catalog.record, self._run.build, seen)
        if parsed or failed or size:
            yield Group(tuple(parsed), tuple(failed), size)

    async def outcomes(
        self, sources: Sequence[Source], *, everything: bool = False, only_failed: bool = False, retry: bool = False
    ) -> AsyncGenerator[Outcome]:
        """Of each document, in the order in which they are ready."""
        self._everything, self._only_failed, self._retry = everything, only_failed, retry or only_failed
        working: set[asyncio.Task[Outcome]] = set()
        done: asyncio.Queue[asyncio.Task[Outcome]] = asyncio.Queue()
        try:
            async for look in self._found(sources):
                if (known := self._passed_over(look)) is not None:
                    yield known
                    continue
                while len(working) >= self._work.limit or not done.empty():
                    working.discard(task := await done.get())
                    yield task.result()
                working.add(task := asyncio.create_task(self._outcome(look)))
                task.add_done_callback(done.put_nowait)
            while working:
                working.discard(task := await done.get())
                yield task.result()
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    # -- one document --------------------------------------------------------------------------------------------------

    def _passed_over(self, look: Look) -> Outcome | None:
        """What can be said without reading it."""
        record, fingerprint = look.record, self._marked(look.found.fingerprint)
        if record is None:
            return None
        if taken(record, self._run):
            return Failed(look.found, look.source, "another run is changing it: ingest it again", "", record)
        if self._only_failed:
            return None if record.state == "failed" else Unchanged(look, record.fingerprint)
        if not self._retry and still_failing(record, look.found, fingerprint):
            return Failed(look.found, look.source, record.reason, record.fingerprint, record, tried=False)
        if fingerprint and record.fingerprint == fingerprint and self._done(record):
            return Unchanged(look, fingerprint)
        return None

    async def _outcome(self, look: Look) -> Outcome:
        task = Task(look.found)
        if look.record is not None and self._done(look.record):
            known = unmarked(self._recipe, look.record.fingerprint)
            task = Task(look.found, known, look.record.content_hash)
        result = await self._work.do(task)
        fingerprint = self._marked(result.fingerprint)
        if isinstance(result, Same):
            return Unchanged(look, fingerprint)
        if isinstance(result, Bad) and result.gone and look.record is not None and look.record.chunks:
            self.gone.add(look.found.uri)
            return Unchanged(look, look.record.fingerprint)
        if isinstance(result, Bad):
            return Failed(look.found, look.source, result.reason, fingerprint, look.record)
        document = result.document
        return Parsed(
            found=look.found,
            source=look.source,
            title=document.title,
            text=document.text,
            metadata=document.metadata,
            content_hash=result.content_hash,
            fingerprint=fingerprint,
            chunks=result.chunks,
            record=look.record,
            vectors=result.vectors,
        )

    def _done(self, record: DocumentRecord) -> bool:
        """Whether the store holds the document as the record says: readers see it, or will when this run publishes."""
        if self._everything:
            return False
        return record.state == "live" or (record.state == "written" and record.snapshot == self._run.snapshot)

    def _marked(self, fingerprint: str) -> str:
        return marked(self._recipe, fingerprint)

    # -- walking -------------------------------------------------------------------------------------------------------

    async def _found(self, sources: Sequence[Source]) -> AsyncIterator[Look]:
        items = ((source, item) for source in sources for item in source.walk())
        self.met = set()
        while listed := await asyncio.to_thread(lambda: list(itertools.islice(items, _PAGE))):
            page = [(source, item) for source, item in listed if self._nameable(item)]
            uris = [item.uri for _, item in page]
            known = await self._try(self._catalog.lookup, self._run.build, uris)
            forgotten = await self._try(self._catalog.forgotten, self._run.collection, uris)
            for source, item in page:
                if item.uri in forgotten:
                    self._report.skipped["forgotten on request (see `anchorage forget --help`)"] += 1
                elif isinstance(item, Found):
                    self.met.add(source.text)
                    yield Look(item, source.prefix, known.get(item.uri))
                else:
                    self._note(item)

    def _nameable(self, item: Found | Problem) -> bool:
        """Whether the catalog can key a document by this uri; one that it cannot fails alone."""
        try:
            check_uri(item.uri)
        except DocumentError as error:
            self._report.fail(item.name, str(error))
            return False
        return True

    def _note(self, problem: Problem) -> None:
        """What the catalog knows there keeps its state: a document is live until its source is known to be gone."""
        if problem.failed:
            self._report.fail(problem.name, problem.reason)
        else:
            self._report.skipped[problem.reason] += 1

    def unchanged(self, outcome: Unchanged) -> list[DocumentRecord]:
        """Counts it; the record to write where something is worth noting."""
        record = outcome.look.record
        if record is None or record.uri in self.gone:
            return []
        if record.chunks:
            self._report.counts["unchanged"] += 1
        else:
            self._report.without_text()
        if record.fingerprint == outcome.fingerprint:
            return []
        found = outcome.look.found
        return [replace(record, fingerprint=outcome.fingerprint, size=found.size, modified=found.modified)]
