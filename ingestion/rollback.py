"""`roll_back()`: bring the collection back to a generation that is still kept.

    readers to it (pin) ─► undo what dead runs left ─► each document that differs: the rows of then ─► publish ─► unpin

Readers see that generation from the first moment on, and the new one, which has the same content, when it is whole.
Nothing is embedded: vectors are copied. It may be killed at any point: readers stay where they are, and the same call
goes on from there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ingestion.generations import generation_of
from ingestion.parts import Parts
from ingestion.patience import Patience
from ingestion.publish import Publication
from ingestion.records import Group, Parsed
from ingestion.report import IngestReport
from ingestion.source import Body, Found
from ingestion.verify import verify_count
from ingestion.write import Writer
from serving.errors import DocumentError
from serving.index.catalog_models import Build, DocumentRecord, Generation, Run, StoredText
from serving.index.leases import Lease
from serving.index.types import StoredChunk, embedding_digest
from serving.settings import Settings

#: Documents brought back together.
_PAGE = 128
#: Other short runs take seconds.
_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class RolledBack:
    """`generation` is the one that was wanted. `erased` documents cannot come back, if it had them."""

    generation: int
    erased: int
    report: IngestReport


async def roll_back(
    parts: Parts, settings: Settings, collection: str, generation: int, *, wait_s: float = 0.0
) -> RolledBack:
    """Make a generation that holds what `generation` held, but for erased documents, and let readers read that.

    Raises UnknownCollection, InvalidRequest (the generation is not kept), WriterBusy, LeaseLost, VerificationFailed,
    IndexUnavailable, CatalogUnavailable. Whatever is raised, the same call may be repeated.
    """
    catalog = parts.catalog
    build, target = await generation_of(catalog, collection, generation)
    hold = catalog.leases.hold
    async with (
        hold(f"run/{build.key}", "a rollback", wait_s=wait_s) as running,
        hold(f"publish/{build.key}", "a rollback", wait_s=max(wait_s, _WAIT_S)) as publishing,
    ):
        await catalog.pin(build.key, target.snapshot)
        report = await _Rollback(parts, settings, build, target, (running, publishing)).run()
        await catalog.unpin(build.key)
    erased = 0
    async for record in catalog.documents(build.key, states=("gone", "forgotten")):
        erased += record.state == "forgotten" or not record.snapshot
    return RolledBack(generation, erased, report)


class _Rollback:
    """One run of kind rollback. Its caller holds both leases of the build: whoever else began a run is dead."""

    def __init__(
        self, parts: Parts, settings: Settings, build: Build, target: Generation, leases: Sequence[Lease]
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._build = build
        self._target = target
        self._leases = leases

    async def run(self) -> IngestReport:
        parts, ingestion, build = self._parts, self._settings.ingestion, self._build
        run = await parts.catalog.begin_run(build, "rollback")
        report, patience = IngestReport(build.collection), Patience(ingestion.patience_s)
        writer = Writer(
            parts.catalog,
            parts.store,
            parts.embedder(build.recipe.model),
            run,
            report,
            patience,
            batch=ingestion.write_batch,
            samples=ingestion.verify_samples,
        )
        await self._undo(writer, run)
        async for page in parts.store.differing(build.index, build.key, self._target.snapshot, run.published):
            uris = sorted({row.uri for row in page})
            for start in range(0, len(uris), _PAGE):
                await self._bring_back(writer, run, uris[start : start + _PAGE])
        await self._verify(run, touched=writer.touched)
        publication = Publication(ingestion, parts, build, run, patience, self._leases)
        await publication.bulk(writer, report, repaired=True)
        return report

    async def _undo(self, writer: Writer, run: Run) -> None:
        """What is not published is of no use: it was begun over the state that readers leave now."""
        async for record in self._parts.catalog.documents(run.build, states=("parsed", "written", "gone")):
            if record.state == "parsed" or record.snapshot > run.published:
                await writer.restore(record)

    async def _bring_back(self, writer: Writer, run: Run, uris: Sequence[str]) -> None:
        catalog, store, then = self._parts.catalog, self._parts.store, self._target.snapshot
        records = await catalog.lookup(run.build, uris)
        # Rows of one document come with several pages; it is done with the first one.
        uris = [uri for uri in uris if not _done(records.get(uri), run)]
        rows = await store.keys(run.index, run.build, uris)
        seen = [row.key for row in rows if row.born <= then < row.died]
        chunks: defaultdict[str, list[StoredChunk]] = defaultdict(list)
        async for stored in store.chunks(run.index, run.build, seen):
            chunks[stored.chunk.uri].append(stored)
        await self._drop_other_texts(uris, chunks)
        back = [_parsed(uri, chunks[uri], records.get(uri)) for uri in uris if uri in chunks]
        planned = await writer.plan(Group(tuple(back)))
        async for batch in writer.embed(planned):
            await writer.upsert(batch)
        await writer.finish(planned)
        await writer.remove([records[uri] for uri in uris if uri not in chunks and uri in records])

    async def _drop_other_texts(self, uris: Sequence[str], chunks: dict[str, list[StoredChunk]]) -> None:
        """The catalog has the latest text of a document only: where that is another one, it has none from now on."""
        collection, other = self._build.collection, []
        for uri in uris:
            text = await self._parts.catalog.text(collection, uri)
            if text is not None and not _text_of(text, chunks.get(uri, ())):
                other.append(uri)
        await self._parts.catalog.drop_texts(collection, other)

    async def _verify(self, run: Run, *, touched: bool) -> None:
        count = self._parts.store.count
        snapshot = run.snapshot if touched else run.published
        stored = await count(run.index, run.build, snapshot)
        verify_count(run.collection, stored=stored, expected=await count(run.index, run.build, self._target.snapshot))


@dataclass(frozen=True, slots=True)
class _Stored:
    """The content of a document that is not read from anywhere."""

    def read(self, max_bytes: int, known: str = "") -> Body:
        raise DocumentError("It is known from the index only.")


def _done(record: DocumentRecord | None, run: Run) -> bool:
    return record is not None and record.snapshot == run.snapshot and record.state in ("written", "gone")


def _parsed(uri: str, rows: Sequence[StoredChunk], record: DocumentRecord | None) -> Parsed:
    """As if it came from its source as it was then; what was known of the bytes is not known any more."""
    chunks = tuple(sorted((row.chunk for row in rows), key=lambda chunk: chunk.ordinal))
    size, modified = (record.size, record.modified) if record else (0, 0.0)
    name = (record.name if record else "") or uri
    return Parsed(
        found=Found(uri, name, size, modified, "", _Stored()),
        source=record.source if record else "",
        title=chunks[0].title,
        text=None,
        metadata={},
        content_hash="",
        fingerprint="",
        chunks=chunks,
        record=record,
        vectors={embedding_digest(row.chunk): row.vector for row in rows},
    )


def _text_of(text: StoredText, rows: Iterable[StoredChunk]) -> bool:
    """Whether these chunks are cut from this text, from its beginning to its end."""
    chunks = [row.chunk for row in rows]
    end = max((chunk.end for chunk in chunks), default=0)
    cut = all(text.text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    return cut and end == len(text.text.rstrip())
