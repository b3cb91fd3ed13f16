"""`ingest()`: sources to a published generation. The file to read first.

    walk ─► unchanged? ─► read ─► load, chunk ─► plan ─► embed ─► write ─► remove what vanished ─► verify ─► publish
            (parse.py; task.py; sandbox.py)      (stages.py: three side by side; write.py)        (publish.py)

Exactly once in effect: a run may die at any point. The next one finds in the catalog what was begun, and in the store
what was written, and goes on from there; readers see the published generation until the new one is complete.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from ingestion.options import PLAIN, Options
from ingestion.parse import Parser, Unchanged
from ingestion.parts import Parts, hold_build
from ingestion.patience import Patience
from ingestion.progress import Watch
from ingestion.publish import Publication
from ingestion.records import Failed
from ingestion.report import IngestReport, OnProgress
from ingestion.source import Source
from ingestion.stages import write_all
from ingestion.sync import erase_vanished
from ingestion.task import Work
from ingestion.vanished import Vanished
from ingestion.work import Assignment, OpenWork, here
from ingestion.write import Writer
from serving.index.catalog_models import Build, Recipe, Run
from serving.index.leases import Lease
from serving.settings import Settings

#: Runs that publish meanwhile take seconds; this is many of them.
_PUBLISH_WAIT_S = 300.0


async def ingest(
    sources: Sequence[Source],
    collection: str,
    *,
    settings: Settings,
    parts: Parts,
    options: Options = PLAIN,
    on_progress: OnProgress | None = None,
    open_work: OpenWork = here,
) -> IngestReport:
    """Make the collection hold what the sources hold now. `open_work`: who reads and parses.

    Raises SourceError, InvalidRequest (the collection's name), WriterBusy (another run is at it), ConfigurationError,
    VerificationFailed, IndexUnavailable, CatalogUnavailable, EmbedderUnavailable. Whatever is raised, the same call may
    be repeated.
    """
    started = time.perf_counter()
    if options.dry_run:
        report = await _preview(sources, collection, settings, parts, options, open_work)
    else:
        holding = hold_build(parts, settings, collection, "an ingestion", wait_s=options.wait_s)
        async with holding as (build, lease):
            watch = Watch(on_progress)
            report = await Ingestion(settings, parts, build, sources, options, watch, lease, open_work).run()
            report.notes += _kept(build, settings)
    report.total_s = round(time.perf_counter() - started, 3)
    return report


class Ingestion:
    """One run over a build: at most two passes over the sources, then publication. Its caller holds the run's lease."""

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        build: Build,
        sources: Sequence[Source],
        options: Options,
        watch: Watch,
        lease: Lease,
        open_work: OpenWork,
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._build = build
        self._sources = sources
        self._options = options
        self._watch = watch
        self._lease = lease
        self._open_work = open_work
        self._patience = Patience(settings.ingestion.patience_s, watch.waiting)

    async def run(self) -> IngestReport:
        run = await self._parts.catalog.begin_run(self._build, "bulk")
        await self._undo_rollback(run)
        report = await self._once(run, repair=False)
        report = report or await self._once(run, repair=True) or IngestReport(run.collection)
        if self._options.sync and not self._options.retry_failed:
            erased = await erase_vanished(self._parts, self._settings, self._build, self._sources, _PUBLISH_WAIT_S)
            report.receipt = erased.as_json() if erased else None
        return report

    async def _undo_rollback(self, run: Run) -> None:
        if await self._publication(run, self._lease).dead_rollbacks():
            async with self._publishing() as lease:
                publication = self._publication(run, self._lease, lease)
                await publication.undo_rollback(self._writer(run, IngestReport(run.collection)))

    async def _once(self, run: Run, *, repair: bool) -> IngestReport | None:
        """Once through the sources, and publication. None: the store has lost rows. `repair` writes all of them."""
        report = IngestReport(run.collection)
        writer = self._writer(run, report)
        assignment = Assignment(self._settings, self._parts, run, self._build.recipe, report)
        async with self._open_work(assignment) as work, self._watch.counting(self._sources):
            parser = _parser(assignment, work, self._patience)
            groups = parser.groups(self._sources, everything=repair, only_failed=self._options.retry_failed)
            async with aclosing(groups):
                await write_all(writer, groups, lambda group: self._watch.done(group.size, report))
        if not self._options.retry_failed:
            vanished = Vanished(self._sources, run.build, self._parts.catalog, parser.gone)
            await vanished.require(parser.met)
            await vanished.remove(writer, report, self._options.sync)
        async with self._publishing() as lease:
            published = await self._publication(run, self._lease, lease).bulk(writer, report, repaired=repair)
            return report if published else None

    def _publication(self, run: Run, *leases: Lease) -> Publication:
        return Publication(self._settings.ingestion, self._parts, self._build, run, self._patience, leases)

    @asynccontextmanager
    async def _publishing(self) -> AsyncIterator[Lease]:
        name = f"publish/{self._build.key}"
        async with self._parts.catalog.leases.hold(name, "a publication", wait_s=_PUBLISH_WAIT_S) as lease:
            yield lease

    def _writer(self, run: Run, report: IngestReport) -> Writer:
        ingestion = self._settings.ingestion
        return Writer(
            self._parts.catalog,
            self._parts.store,
            self._parts.embedder(self._build.recipe.model),
            run,
            report,
            self._patience,
            batch=ingestion.write_batch,
            samples=ingestion.verify_samples,
        )


def _kept(build: Build, settings: Settings) -> list[str]:
    """What somebody who has changed the settings may not expect."""
    recipe, model, size = build.recipe, settings.embedder.model, settings.ingestion.chunk_tokens
    if (recipe.model, recipe.chunk_tokens) == (model, size):
        return []
    return [
        f"Collection {build.collection!r} keeps its embedding model {recipe.model!r} and its chunks of at most "
        f"{recipe.chunk_tokens} tokens; the settings ({model!r}, {size}) are for new collections and for "
        f"`anchorage rebuild -c {build.collection}`."
    ]


async def _preview(
    sources: Sequence[Source],
    collection: str,
    settings: Settings,
    parts: Parts,
    options: Options,
    open_work: OpenWork,
) -> IngestReport:
    """What a run would do: everything is read and parsed, nothing is written anywhere."""
    report = IngestReport(collection, dry_run=True)
    build = await parts.catalog.live_build(collection)
    recipe = build.recipe if build else Recipe(settings.embedder.model, 0, settings.ingestion.chunk_tokens)
    key, published = (build.key, build.snapshot) if build else (collection, 0)
    run = Run(collection, key, recipe.index, published + 1, published, "bulk")
    assignment = Assignment(settings, parts, run, recipe, report, dry=True)
    async with open_work(assignment) as work:
        parser = _parser(assignment, work, Patience(0.0))
        outcomes = parser.outcomes(sources, only_failed=options.retry_failed)
        async with aclosing(outcomes):
            async for outcome in outcomes:
                if isinstance(outcome, Failed):
                    report.fail(outcome.found.name, outcome.reason)
                elif isinstance(outcome, Unchanged):
                    parser.unchanged(outcome)
                else:
                    known = outcome.record is not None and outcome.record.chunks > 0
                    report.counts["changed" if known else "new"] += 1
                    report.chunks += len(outcome.chunks)
    if not options.retry_failed:
        vanished = Vanished(sources, key, parts.catalog, parser.gone)
        await vanished.require(parser.met)
        _, report.missing = await vanished.count()
    if build is not None:
        report.generation = build.generation
        report.notes += _kept(build, settings)
    return report


def _parser(assignment: Assignment, work: Work, patience: Patience) -> Parser:
    catalog, settings = assignment.parts.catalog, assignment.settings.ingestion
    return Parser(catalog, work, assignment.run, assignment.recipe, assignment.report, settings, patience)
