"""Brings the rows of documents to their wanted state, in an order in which any interruption can be made good.

Before a row is touched, the catalog says `parsed` for its document, and keeps the hash and the number of chunks of the
last good state; after the last row, `written`. So a document that the catalog calls `live` is untouched, whatever
happened. Every step may be repeated, and is while a part is away.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ingestion.patience import Patience
from ingestion.plan import Plan, plan, undo
from ingestion.records import Failed, Group, Parsed, failure, new_record, taken, tells_last_good, unfinished
from ingestion.report import IngestReport
from serving.errors import DocumentError
from serving.index import schema
from serving.index.catalog import Catalog
from serving.index.catalog_models import DocumentRecord, Run, StoredText
from serving.index.types import (
    FOREVER,
    Chunk,
    ChunkStore,
    Embedder,
    StoredChunk,
    StoredKey,
    Vectors,
    embedding_digest,
)

#: Rows that are not flushed are searched by brute force, which readers feel.
_FLUSH_ROWS = 4_096


@dataclass(frozen=True, slots=True)
class Planned:
    """A group, the steps for each of its documents, and the vectors that are known already, by embedding digest."""

    group: tuple[Parsed, ...]
    plans: tuple[Plan, ...]
    known: Mapping[str, Vectors]

    @property
    def chunks(self) -> list[Chunk]:
        return [chunk for steps in self.plans for chunk in steps.write]


@dataclass(slots=True)
class Sample:
    """Rows of this run, each with the same chance to be among them (Vitter's algorithm R), to verify it by."""

    size: int
    rows: list[StoredChunk] = field(default_factory=list)
    seen: int = 0

    def add(self, rows: Sequence[StoredChunk], dice: random.Random) -> None:
        for row in rows:
            self.seen += 1
            if len(self.rows) < self.size:
                self.rows.append(row)
            elif (place := dice.randrange(self.seen)) < self.size:
                self.rows[place] = row

    def leave_out(self, uris: Sequence[str]) -> None:
        """Documents that are removed again."""
        self.rows = [row for row in self.rows if row.chunk.uri not in uris]


class Writer:
    """Writes one run's snapshot of one build. `batch` is the number of chunks embedded and written at a time."""

    def __init__(
        self,
        catalog: Catalog,
        store: ChunkStore,
        embedder: Embedder,
        run: Run,
        report: IngestReport,
        patience: Patience,
        *,
        batch: int,
        samples: int = 0,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._embedder = embedder
        self._run = run
        self._report = report
        self._try = patience.call
        self._batch = batch
        self._unflushed = 0
        self._dice = random.Random(run.snapshot)
        self._twins: set[str] = set()
        self.sample = Sample(samples)
        self.touched = False
        #: What this run has changed of what readers will see.
        self.documents_delta = 0
        self.chunks_delta = 0

    # -- new and changed documents, in three stages that overlap -------------------------------------------------------

    async def plan(self, group: Group) -> Planned:
        """Decide about each document. One that no row can hold fails alone, as do those that could not be parsed."""
        for failed in group.failed:
            await self.fail(failed)
        parsed = []
        for document in group.parsed:
            try:
                for chunk in document.chunks:
                    schema.check(chunk)
                parsed.append(document)
            except DocumentError as error:
                await self.fail(failure(document, str(error)))
        rows = await self._rows([document.found.uri for document in parsed])
        run = self._run
        plans = await asyncio.to_thread(
            lambda: [plan(run.build, found.chunks, rows[found.found.uri], run.snapshot) for found in parsed]
        )
        known = await self._known(parsed, plans, rows)
        begun = [
            new_record(document, run, "parsed") for document, steps in zip(parsed, plans, strict=True) if steps.steps
        ]
        await self._try(self._catalog.record, run.build, begun)
        return Planned(tuple(parsed), tuple(plans), known)

    async def embed(self, planned: Planned) -> AsyncIterator[list[StoredChunk]]:
        """The rows to write, in batches."""
        chunks = planned.chunks
        for start in range(0, len(chunks), self._batch):
            some = chunks[start : start + self._batch]
            vectors = [planned.known.get(embedding_digest(chunk)) for chunk in some]
            missing = [place for place, vector in enumerate(vectors) if vector is None]
            if missing:
                with self._report.timed("embed"):
                    new = await self._try(self._embedder.embed, [some[place].embedded_text() for place in missing])
                self._report.embedded += len(missing)
                for place, vector in zip(missing, new, strict=True):
                    vectors[place] = vector
            yield [
                StoredChunk(self._run.build, chunk, np.asarray(vector), born=self._run.snapshot)
                for chunk, vector in zip(some, vectors, strict=True)
            ]

    async def upsert(self, rows: Sequence[StoredChunk]) -> None:
        with self._report.timed("write"):
            await self._try(self._store.upsert, self._run.index, rows)
            self._unflushed += len(rows)
            if self._unflushed >= _FLUSH_ROWS:
                await self.flush()
        self.sample.add(rows, self._dice)
        self._report.written += len(rows)

    async def finish(self, planned: Planned) -> None:
        """What is left to do when all rows of a group are written."""
        await self._mark(planned.plans)
        records, texts = [], []
        for parsed, steps in zip(planned.group, planned.plans, strict=True):
            records.append(new_record(parsed, self._run, "written" if steps.touched else "live"))
            if (text := parsed.text) is not None:
                texts.append(StoredText(parsed.found.uri, parsed.title, text, parsed.metadata, parsed.content_hash))
        await self._try(self._catalog.record, self._run.build, records, texts)
        for parsed, steps in zip(planned.group, planned.plans, strict=True):
            self._count(parsed, steps)

    async def flush(self) -> None:
        """Make everything durable and quick to search."""
        await self._try(self._store.flush, self._run.index)
        self._unflushed = 0

    # -- failed, vanished and interrupted documents --------------------------------------------------------------------

    async def fail(self, failed: Failed) -> None:
        """Note the failure; what readers see of the document stays as it is, in the next generation, too."""
        self._report.fail(failed.found.name, failed.reason)
        if not failed.tried or taken(failed.record, self._run):
            return
        # As it is now: others may have published since the run looked.
        known = await self._try(self._catalog.lookup, self._run.build, [failed.found.uri])
        old = known.get(failed.found.uri)
        if taken(old, self._run):
            return
        old = old or DocumentRecord(failed.found.uri, failed.source, "found", self._run.snapshot)
        if unfinished(old, self._run):
            old = await self._undone(old)
        await self._try(self._catalog.record, self._run.build, [failed.as_record(old)])

    async def remove(self, records: Sequence[DocumentRecord]) -> None:
        """Take documents away whose sources are gone."""
        run = self._run
        rows = await self._rows([record.uri for record in records])
        plans = [plan(run.build, (), rows[record.uri], run.snapshot) for record in records]
        pairs = list(zip(records, plans, strict=True))
        begun = [replace(record, state="parsed", snapshot=run.snapshot) for record, steps in pairs if steps.steps]
        await self._try(self._catalog.record, run.build, begun)
        await self._mark(plans)
        gone = [
            replace(
                record,
                state="gone",
                snapshot=run.snapshot if steps.touched else record.snapshot,
                content_hash="",
                fingerprint="",
                chunks=0,
                reason="",
            )
            for record, steps in pairs
        ]
        await self._try(self._catalog.record, run.build, gone)
        for record, steps in pairs:
            self.touched |= steps.touched
            self._count_removed(record, steps)
            self.documents_delta -= bool(steps.before)
            self.chunks_delta -= steps.before

    def _count_removed(self, record: DocumentRecord, steps: Plan) -> None:
        """A document that went while another of the same content came was moved."""
        counts = self._report.counts
        if steps.before and record.uri in self._twins and counts["new"]:
            counts["new"] -= 1
            counts["moved"] += 1
        else:
            counts["removed"] += bool(steps.before)

    async def restore(self, record: DocumentRecord) -> None:
        """Undo what an interrupted run began with a document that this run does not look at."""
        restored = await self._undone(record)
        if restored.chunks:
            restored = replace(restored, state="live", reason="")
        else:
            restored = replace(restored, state="failed", reason="interrupted: ingest it again")
        await self._try(self._catalog.record, self._run.build, [restored])

    async def _undone(self, record: DocumentRecord) -> DocumentRecord:
        steps = undo((await self._rows([record.uri]))[record.uri], record.snapshot)
        await self._mark([steps])
        known = tells_last_good(record, self._run)
        return replace(record, chunks=steps.before, content_hash=record.content_hash if known else "", fingerprint="")

    # -- rows ----------------------------------------------------------------------------------------------------------

    async def _rows(self, uris: Sequence[str]) -> defaultdict[str, list[StoredKey]]:
        rows: defaultdict[str, list[StoredKey]] = defaultdict(list)
        with self._report.timed("write"):
            for key in await self._try(self._store.keys, self._run.index, self._run.build, uris):
                rows[key.uri].append(key)
        return rows

    async def _known(
        self, parsed: Sequence[Parsed], plans: Sequence[Plan], rows: Mapping[str, Sequence[StoredKey]]
    ) -> dict[str, Vectors]:
        """Vectors of what was embedded before: in the same document, in one of equal content, or elsewhere."""
        known = {digest: vector for document in parsed for digest, vector in (document.vectors or {}).items()}
        writing = [document for document, steps in zip(parsed, plans, strict=True) if steps.write]
        wanted = {embedding_digest(chunk) for steps in plans for chunk in steps.write} - known.keys()
        if not wanted:
            return known
        new = [document.content_hash for document in writing if not rows[document.found.uri]]
        twins = await self._try(self._catalog.same_content, self._run.build, new) if new else {}
        self._twins |= set(twins.values())
        uris = [document.found.uri for document in writing if rows[document.found.uri]] + list(twins.values())
        if uris:
            known |= await self._try(self._stored_vectors, uris, wanted)
        return known

    async def _stored_vectors(self, uris: Sequence[str], wanted: set[str]) -> dict[str, Vectors]:
        found = self._store.vectors(self._run.index, self._run.build, uris)
        return {digest: vector async for digest, vector in found if digest in wanted}

    async def _mark(self, plans: Sequence[Plan]) -> None:
        """Everything but new rows."""
        index = self._run.index
        with self._report.timed("write"):
            if revive := [key for steps in plans for key in steps.revive]:
                await self._try(self._store.set_died, index, revive, FOREVER)
            if delete := [key for steps in plans for key in steps.delete]:
                await self._try(self._store.delete, index, delete)
            if retire := [key for steps in plans for key in steps.retire]:
                await self._try(self._store.set_died, index, retire, self._run.snapshot)

    def _count(self, parsed: Parsed, steps: Plan) -> None:
        self.touched |= steps.touched
        self.documents_delta += bool(parsed.chunks) - bool(steps.before)
        self.chunks_delta += len(parsed.chunks) - steps.before
        if not parsed.chunks and not steps.before:
            self._report.without_text()
            return
        self._report.counts["unchanged" if not steps.touched else "changed" if steps.before else "new"] += 1
