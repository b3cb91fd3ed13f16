"""`apply()`: a few documents at once, while somebody waits: uploads and removals over HTTP. Seconds, not hours.

The same stages and the same guarantees as `ingest()`, as a short run: it publishes on its own, also while a long
ingestion of the same collection is under way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from ingestion.parse import Parser
from ingestion.parts import Parts, open_build
from ingestion.patience import Patience
from ingestion.publish import Publication
from ingestion.records import taken
from ingestion.report import IngestReport
from ingestion.sandbox import ParserPool
from ingestion.source import Found
from ingestion.stages import write_all
from ingestion.work import Assignment, reader
from ingestion.write import Writer
from serving.errors import LeaseLost
from serving.index.catalog_models import Build, DocumentRecord
from serving.index.leases import Lease
from serving.settings import Settings

#: The source of documents that have none that could be walked again.
UPLOADED = "upload"
#: Other short runs take seconds.
_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Given:
    """A source of documents that somebody handed over: nothing vanishes from it."""

    found: Sequence[Found]
    text: str = UPLOADED
    prefix: str = UPLOADED

    def walk(self) -> Iterator[Found]:
        return iter(self.found)

    @property
    def selective(self) -> bool:
        return False

    def covers(self, uri: str, source: str) -> bool:
        return False

    def gone(self, uri: str) -> bool:
        return False

    def close(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of each document, as the catalog says it, and of the whole. `busy`: another run is changing these."""

    records: dict[str, DocumentRecord]
    busy: frozenset[str]
    report: IngestReport


async def apply(
    uploads: Sequence[Found],
    removals: Sequence[str],
    collection: str,
    *,
    settings: Settings,
    parts: Parts,
    pool: ParserPool,
) -> Applied:
    """Write and remove these documents (by uri), and publish. The pool parses for the collection's model.

    Raises what `ingest` raises. Whatever is raised, the same call may be repeated.
    """
    started = time.perf_counter()
    build = await open_build(parts, settings, collection)
    async with parts.catalog.leases.hold(f"publish/{build.key}", "an upload", wait_s=_WAIT_S) as lease:
        live = await parts.catalog.live_build(collection)
        if live is None or live.key != build.key:
            raise LeaseLost(f"Readers of collection {collection!r} were switched to another build just now: try again.")
        applied = await _apply(uploads, removals, build, settings, parts, pool, lease)
    applied.report.total_s = round(time.perf_counter() - started, 3)
    return applied


async def _apply(
    uploads: Sequence[Found],
    removals: Sequence[str],
    build: Build,
    settings: Settings,
    parts: Parts,
    pool: ParserPool,
    lease: Lease,
) -> Applied:
    catalog, ingestion = parts.catalog, settings.ingestion
    run = await catalog.begin_run(build, "short")
    report = IngestReport(run.collection)
    patience = Patience(0.0)
    embedder = parts.embedder(build.recipe.model)
    writer = Writer(
        catalog,
        parts.store,
        embedder,
        run,
        report,
        patience,
        batch=ingestion.write_batch,
        samples=ingestion.verify_samples,
    )
    publication = Publication(ingestion, parts, build, run, patience, (lease,))
    await publication.restore_interrupted(writer)
    work = reader(Assignment(settings, parts, run, build.recipe, report), pool)
    parser = Parser(catalog, work, run, build.recipe, report, ingestion, patience)
    groups = parser.groups([Given(uploads)], retry=True)
    async with aclosing(groups):
        await write_all(writer, groups, lambda _: None)
    leaving = await catalog.lookup(run.build, removals)
    await writer.remove([record for record in leaving.values() if record.state != "gone" and not taken(record, run)])
    await publication.short(writer, report)
    records = await catalog.lookup(run.build, [*(found.uri for found in uploads), *removals])
    busy = frozenset(uri for uri, record in records.items() if taken(record, run))
    return Applied(records, busy, report)
