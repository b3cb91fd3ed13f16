"""Brings the rows of documents to their wanted state, in an order in which any interruption can be made good.

Before a row is touched, the catalog says `parsed` for its document, and keeps the hash and the number of chunks of the
last good state; after the last row, `written`. So a document that the catalog calls `live` is untouched, whatever
happened.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ingestion.plan import Plan, plan, undo
from ingestion.report import IngestReport
from ingestion.source import Found
from serving.errors import DocumentError
from serving.index.catalog import Catalog
from serving.index.catalog_models import DocumentRecord, Run, State
from serving.index.types import FOREVER, Chunk, ChunkStore, Embedder, StoredChunk, StoredKey

#: Rows that are not flushed are searched by brute force, which readers feel.
_FLUSH_ROWS = 4_096


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document ready to be written. `record` is what the catalog said of it before this run."""

    found: Found
    source: str
    title: str
    content_hash: str
    chunks: tuple[Chunk, ...]
    record: DocumentRecord | None


class Writer:
    """Writes one run's generation of one collection. `batch` is the number of chunks embedded and written at a time."""

    def __init__(
        self, catalog: Catalog, store: ChunkStore, embedder: Embedder, run: Run, report: IngestReport, batch: int
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._embedder = embedder
        self._run = run
        self._report = report
        self._batch = batch
        self._unflushed = 0
        self.touched = False

    async def write(self, group: Sequence[Parsed]) -> None:
        """Bring these documents to their new state. A document that no row can hold fails alone."""
        try:
            await self._write(group)
        except DocumentError as error:
            if len(group) == 1:
                await self.fail(group[0].found, group[0].source, str(error), group[0].record, started=True)
                return
            for parsed in group:
                await self.write([parsed])

    async def _write(self, group: Sequence[Parsed]) -> None:
        rows = await self._rows([parsed.found.uri for parsed in group])
        plans = await asyncio.to_thread(
            lambda: [plan(parsed.chunks, rows[parsed.found.uri], self._run.generation) for parsed in group]
        )
        started = [_record(p, self._run, "parsed") for p, steps in zip(group, plans, strict=True) if steps.steps]
        await self._catalog.record(self._run.collection, started)
        await self._carry_out(plans)
        records = [
            _record(p, self._run, "written" if steps.touched else "live") for p, steps in zip(group, plans, strict=True)
        ]
        await self._catalog.record(self._run.collection, records)
        for parsed, steps in zip(group, plans, strict=True):
            self.touched |= steps.touched
            if not parsed.chunks and not steps.before:
                self._report.without_text()
                continue
            self._report.counts["unchanged" if not steps.touched else "changed" if steps.before else "new"] += 1

    async def fail(
        self, found: Found, source: str, reason: str, record: DocumentRecord | None, *, started: bool = False
    ) -> None:
        """Note the failure; what readers see of the document stays as it is, in the next generation, too."""
        self._report.fail(str(found.path), reason)
        old = record or DocumentRecord(found.uri, source, "found", self._run.generation, self._run.generation)
        if started or _unfinished(old, self._run):
            old = await self._undone(old)
        failed = replace(old, state="failed", reason=reason, source=source, size=found.size, mtime=_seconds(found))
        await self._catalog.record(self._run.collection, [failed])

    async def remove(self, records: Sequence[DocumentRecord]) -> None:
        """Take documents away whose sources are gone."""
        rows = await self._rows([record.uri for record in records])
        plans = [plan((), rows[record.uri], self._run.generation) for record in records]
        started = [
            replace(record, state="parsed", generation=self._run.generation)
            for record, steps in zip(records, plans, strict=True)
            if steps.steps
        ]
        await self._catalog.record(self._run.collection, started)
        await self._carry_out(plans)
        gone = [
            replace(
                record,
                state="gone",
                generation=self._run.generation if steps.touched else record.generation,
                content_hash="",
                chunks=0,
                reason="",
            )
            for record, steps in zip(records, plans, strict=True)
        ]
        await self._catalog.record(self._run.collection, gone)
        self.touched |= any(steps.touched for steps in plans)
        self._report.counts["removed"] += sum(1 for steps in plans if steps.before)

    async def restore(self, record: DocumentRecord) -> None:
        """Undo what an interrupted run began with a document that this run does not look at."""
        restored = await self._undone(record)
        if restored.chunks:
            restored = replace(restored, state="live", reason="")
        else:
            restored = replace(restored, state="failed", reason="interrupted: ingest it again")
        await self._catalog.record(self._run.collection, [restored])

    async def _undone(self, record: DocumentRecord) -> DocumentRecord:
        steps = undo((await self._rows([record.uri]))[record.uri], self._run.generation)
        await self._carry_out([steps])
        known = _tells_last_good(record, self._run)
        return replace(record, chunks=steps.before, content_hash=record.content_hash if known else "")

    async def _rows(self, uris: Sequence[str]) -> defaultdict[str, list[StoredKey]]:
        rows: defaultdict[str, list[StoredKey]] = defaultdict(list)
        with self._report.timed("write"):
            for key in await self._store.keys(self._run.index, self._run.collection, uris):
                rows[key.uri].append(key)
        return rows

    async def _carry_out(self, plans: Sequence[Plan]) -> None:
        index, generation = self._run.index, self._run.generation
        chunks = [chunk for steps in plans for chunk in steps.write]
        for start in range(0, len(chunks), self._batch):
            await self._embed_and_upsert(chunks[start : start + self._batch])
        with self._report.timed("write"):
            if revive := [key for steps in plans for key in steps.revive]:
                await self._store.set_died(index, revive, FOREVER)
            if delete := [key for steps in plans for key in steps.delete]:
                await self._store.delete(index, delete)
            if retire := [key for steps in plans for key in steps.retire]:
                await self._store.set_died(index, retire, generation)

    async def _embed_and_upsert(self, chunks: Sequence[Chunk]) -> None:
        with self._report.timed("embed"):
            vectors = await self._embedder.embed([chunk.context() for chunk in chunks])
        rows = [
            StoredChunk(self._run.collection, chunk, vector, born=self._run.generation)
            for chunk, vector in zip(chunks, vectors, strict=True)
        ]
        with self._report.timed("write"):
            await self._store.upsert(self._run.index, rows)
            self._unflushed += len(rows)
            if self._unflushed >= _FLUSH_ROWS:
                await self._store.flush(self._run.index)
                self._unflushed = 0
        self._report.written += len(rows)


def _record(parsed: Parsed, run: Run, state: State) -> DocumentRecord:
    """`parsed` keeps what the catalog knew of the last good state; `written` and `live` are the new one."""
    found, old = parsed.found, parsed.record
    new = DocumentRecord(
        uri=found.uri,
        source=parsed.source,
        state=state,
        generation=run.generation,
        seen=run.generation,
        title=parsed.title,
        content_hash=parsed.content_hash,
        size=found.size,
        mtime=_seconds(found),
        chunks=len(parsed.chunks),
    )
    if state != "parsed":
        return new
    if old is None or not _tells_last_good(old, run):
        return replace(new, content_hash="", chunks=0)
    return replace(new, content_hash=old.content_hash, chunks=old.chunks)


def _tells_last_good(record: DocumentRecord, run: Run) -> bool:
    """Whether the record's hash and chunks are those of the state that readers see."""
    return record.state == "parsed" or not _unfinished(record, run)


def _unfinished(record: DocumentRecord, run: Run) -> bool:
    """Whether an interrupted run of this generation may have touched the document's rows."""
    return record.state in ("parsed", "written", "gone") and record.generation >= run.generation


def _seconds(found: Found) -> float:
    return found.modified_ns / 1e9
