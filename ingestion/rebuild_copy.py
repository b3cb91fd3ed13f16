"""Brings a build to what readers see in another one: from the texts that the catalog keeps, by its own recipe.

    both builds' documents, by uri ─► step (rebuild_mirror.py) ─► text ─► chunk (processes) ─► groups ─► stages.py

It may end anywhere, go on behind any uri, and look again as often as it likes: what is right is left alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from ingestion.budget import Budget
from ingestion.parts import Parts
from ingestion.patience import Patience
from ingestion.rebuild_mirror import Mirror, Pair, held, paired, text_hash
from ingestion.records import Failed, Group, Parsed
from ingestion.report import IngestReport
from ingestion.sandbox import ParserPool, Rechunk, Refused
from ingestion.source import Body, Found
from ingestion.stages import write_all
from ingestion.write import Writer
from serving.errors import DocumentError
from serving.index.catalog_models import Build, DocumentRecord, Run, StoredText
from serving.index.types import Document, Vectors, embedding_digest
from serving.settings import Settings

#: Documents removed or noted together.
_PAGE = 256
#: As in parse.py: bytes of source under way, and those after which a group is written.
_BYTES = 128_000_000
_GROUP_BYTES = 4_000_000
_GROUP_DOCUMENTS = 128

NO_TEXT = "the catalog has no text of it: it was ingested by an earlier version"
OTHER_TEXT = "the catalog has the text of another of its states: it was brought back by a rollback"


@dataclass(slots=True)
class Pass:
    """What one look at all documents found and did.

    `without_text` counts by reason, and lists some, those that cannot be chunked for want of their text. `interrupted`:
    documents that a run over the other build has not published. `written`: documents that this run has changed.
    """

    samples: int = 0
    tried: int = 0
    forced: int = 0
    failed: int = 0
    removed: int = 0
    noted: int = 0
    interrupted: int = 0
    written: int = 0
    without_text: dict[str, list[str]] = field(default_factory=dict)
    lacking: int = 0
    sampled: list[str] = field(default_factory=list)
    seen: int = 0

    @property
    def changed(self) -> int:
        """Documents that were not as they should be, and are now."""
        return self.tried - self.failed + self.removed + self.noted

    def lack(self, uri: str, reason: str) -> None:
        self.lacking += 1
        some = self.without_text.setdefault(reason, [])
        if len(some) < _PAGE:
            some.append(uri)

    def look(self, ours: DocumentRecord | None, run: Run, dice: random.Random) -> None:
        """Each document with chunks has the same chance to be sampled (Vitter's algorithm R)."""
        if ours is None:
            return
        self.written += ours.snapshot == run.snapshot
        if not held(ours):
            return
        self.seen += 1
        if len(self.sampled) < self.samples:
            self.sampled.append(ours.uri)
        elif (place := dice.randrange(self.seen)) < self.samples:
            self.sampled[place] = ours.uri


class Copier:
    """`reuse`: both builds have the same embedding model, so equal texts have equal vectors. `force`: a text of another
    state is better than none.
    """

    def __init__(
        self,
        parts: Parts,
        settings: Settings,
        live: Build,
        beside: Build,
        run: Run,
        pool: ParserPool,
        writer: Writer,
        report: IngestReport,
        patience: Patience,
        *,
        reuse: bool,
        force: bool,
        on_done: Callable[[Group], None],
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._live = live
        self._beside = beside
        self._run = run
        self._pool = pool
        self._writer = writer
        self._report = report
        self._try = patience.call
        self._reuse = reuse
        self._force = force
        self._on_done = on_done
        self._budget = Budget(_BYTES)
        self._dice = random.Random(run.snapshot)
        self._finished: list[str] = []
        self._at: str | None = ""

    async def go_on(
        self, live: Build, done: Pass, after: str = "", *, seconds: float = float("inf"), everything: bool = False
    ) -> str | None:
        """Look at the documents behind a uri for so long. Where to go on, or None at the end.

        `live` as it is now. Raises what the parts raise.
        """
        failed = self._report.counts["failed"]
        groups = self._groups(Mirror(live, self._beside, self._run), done, after, seconds, everything)
        async with aclosing(groups):
            await write_all(self._writer, groups, self._on_group)
        await self._leave_out_removed()
        done.failed += self._report.counts["failed"] - failed
        return self._at

    def _on_group(self, group: Group) -> None:
        self._finished += [parsed.found.uri for parsed in group.parsed]
        self._on_done(group)

    async def to_copy(self, live: Build) -> tuple[int, int]:
        """Documents that differ, and the bytes of their sources."""
        mirror, number, size = Mirror(live, self._beside, self._run), 0, 0
        async for _, (theirs, ours) in self._pairs(""):
            if mirror.step(theirs, ours) in ("copy", "remove"):
                number += 1
                size += theirs.size if theirs else 0
        return number, size

    def _pairs(self, after: str) -> AsyncIterator[tuple[str, Pair]]:
        catalog = self._parts.catalog
        return paired(catalog.documents(self._live.key, after=after), catalog.documents(self._beside.key, after=after))

    # -- groups --------------------------------------------------------------------------------------------------------

    async def _groups(
        self, mirror: Mirror, done: Pass, after: str, seconds: float, everything: bool
    ) -> AsyncGenerator[Group]:
        parsed: list[Parsed] = []
        failed: list[Failed] = []
        chunks = size = 0
        async with aclosing(self._outcomes(mirror, done, after, seconds, everything)) as outcomes:
            async for outcome in outcomes:
                size += outcome.found.size
                if isinstance(outcome, Failed):
                    failed.append(outcome)
                else:
                    parsed.append(outcome)
                    chunks += len(outcome.chunks)
                full = chunks >= self._settings.ingestion.write_batch or len(parsed) + len(failed) >= _GROUP_DOCUMENTS
                if full or size > _GROUP_BYTES:
                    yield Group(tuple(await self._with_vectors(parsed)), tuple(failed), size)
                    parsed, failed, chunks, size = [], [], 0, 0
                    await self._leave_out_removed()
        if parsed or failed:
            yield Group(tuple(await self._with_vectors(parsed)), tuple(failed), size)

    async def _outcomes(
        self, mirror: Mirror, done: Pass, after: str, seconds: float, everything: bool
    ) -> AsyncGenerator[Parsed | Failed]:
        """Of documents to copy, as they are ready; the others are done on the way."""
        limit = self._settings.ingestion.read_concurrency + self._pool.workers
        working: set[asyncio.Task[Parsed | Failed | None]] = set()
        try:
            async for pair in self._to_copy(mirror, done, after, seconds, everything):
                while len(working) >= limit:
                    ready, working = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                    for task in ready:
                        if (outcome := task.result()) is not None:
                            yield outcome
                working.add(asyncio.create_task(self._outcome(mirror, done, *pair)))
            while working:
                ready, working = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                for task in ready:
                    if (outcome := task.result()) is not None:
                        yield outcome
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def _to_copy(
        self, mirror: Mirror, done: Pass, after: str, seconds: float, everything: bool
    ) -> AsyncIterator[tuple[DocumentRecord, DocumentRecord | None]]:
        until = time.monotonic() + seconds
        notes: list[DocumentRecord] = []
        leaving: list[DocumentRecord] = []
        self._at = None
        async for uri, (theirs, ours) in self._pairs(after):
            done.look(ours, self._run, self._dice)
            done.interrupted += theirs is not None and mirror.interrupted(theirs)
            step = mirror.step(theirs, ours, everything=everything)
            if step == "copy" and theirs is not None:
                yield theirs, ours
            elif step == "note" and theirs is not None:
                notes.append(mirror.noted(theirs, ours))
            elif step == "remove" and ours is not None:
                leaving.append(ours)
            if len(notes) + len(leaving) >= _PAGE:
                await self._settle(done, notes, leaving)
                notes, leaving = [], []
            if time.monotonic() > until:
                self._at = uri
                break
        await self._settle(done, notes, leaving)

    async def _settle(self, done: Pass, notes: Sequence[DocumentRecord], leaving: Sequence[DocumentRecord]) -> None:
        await self._writer.remove(leaving)
        await self._try(self._parts.catalog.record, self._beside.key, notes)
        done.removed += len(leaving)
        done.noted += len(notes)

    async def _leave_out_removed(self) -> None:
        """Documents that were removed from the other build while they were copied: an erasure may already have looked
        for them here."""
        uris, self._finished = self._finished, []
        if not uris:
            return
        catalog = self._parts.catalog
        theirs = await self._try(catalog.lookup, self._live.key, uris)
        gone = [uri for uri in uris if uri not in theirs or not held(theirs[uri])]
        if gone:
            ours = await self._try(catalog.lookup, self._beside.key, gone)
            await self._writer.remove(list(ours.values()))

    # -- one document --------------------------------------------------------------------------------------------------

    async def _outcome(
        self, mirror: Mirror, done: Pass, theirs: DocumentRecord, ours: DocumentRecord | None
    ) -> Parsed | Failed | None:
        async with self._budget.taken(theirs.size):
            with self._report.timed("read"):
                text = await self._try(self._parts.catalog.text, self._live.collection, theirs.uri)
            same = text is not None and text_hash(text.content_hash) == text_hash(theirs.content_hash) != ""
            if not same:
                done.lack(theirs.uri, NO_TEXT if text is None else OTHER_TEXT)
            if text is None or not (same or self._force):
                return None
            done.tried += same
            done.forced += not same
            return await self._chunked(mirror, text, theirs, ours)

    async def _chunked(
        self, mirror: Mirror, text: StoredText, theirs: DocumentRecord, ours: DocumentRecord | None
    ) -> Parsed | Failed:
        found = Found(theirs.uri, theirs.name, theirs.size, theirs.modified, "", _Kept())
        fingerprint = mirror.fingerprint(theirs)
        document = Document(text.uri, text.title, text.text, text.metadata)
        tenant, chunk_tokens = self._settings.index.tenant, self._beside.recipe.chunk_tokens
        with self._report.timed("parse"):
            result = await self._pool.parse(Rechunk(document, tenant, self._live.collection, chunk_tokens))
        if isinstance(result, Refused):
            return Failed(found, theirs.source, result.reason, fingerprint, ours)
        content_hash = mirror.content_hash(theirs)
        return Parsed(
            found, theirs.source, text.title, None, text.metadata, content_hash, fingerprint, result.chunks, ours
        )

    async def _with_vectors(self, parsed: Sequence[Parsed]) -> Sequence[Parsed]:
        """With the vectors that the other build has for the same texts."""
        if not (self._reuse and parsed):
            return parsed
        wanted = {embedding_digest(chunk) for document in parsed for chunk in document.chunks}
        known = await self._try(self._stored, [document.found.uri for document in parsed], wanted)
        return [replace(document, vectors=known) for document in parsed]

    async def _stored(self, uris: Sequence[str], wanted: set[str]) -> dict[str, Vectors]:
        found = self._parts.store.vectors(self._live.index, self._live.key, uris)
        return {digest: vector async for digest, vector in found if digest in wanted}


@dataclass(frozen=True, slots=True)
class _Kept:
    """The content of a document whose text the catalog keeps: nobody reads it."""

    def read(self, max_bytes: int, known: str = "") -> Body:
        raise DocumentError("the document is rebuilt from its text")
