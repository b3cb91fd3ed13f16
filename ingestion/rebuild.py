"""`rebuild()`: another embedding model, chunk size or schema for a collection that goes on being read and written.

    a build beside the live one ─► pass after pass over what differs (rebuild_copy.py) ─► no writer any more ─►
    a last pass ─► verify ─► publish ─► switch readers: one transaction

The sources are not needed: the catalog keeps the texts. It may die at any point; the same call goes on from there. The
build that readers leave is kept, and `switch_to()` brings it up to date and lets them read it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from ingestion.parts import Parts
from ingestion.patience import Patience
from ingestion.progress import Watch
from ingestion.publish import Publication
from ingestion.rebuild_copy import Copier, Pass
from ingestion.rebuild_report import RebuildOptions, RebuildReport
from ingestion.records import summary
from ingestion.report import MAX_LISTED, Failure, IngestReport, OnProgress
from ingestion.sandbox import ParserPool
from ingestion.verify import verify_count, verify_rows
from ingestion.write import Writer
from serving.errors import InvalidRequest, LeaseLost, UnknownCollection
from serving.index.catalog_models import Build, Recipe, Run
from serving.index.leases import Lease
from serving.index.types import Vectors
from serving.settings import Settings

#: With so few documents left to do, other writers may be kept waiting.
_SMALL = 64
#: Looks at all documents before other writers are kept waiting all the same: they change more than one pass can do.
_MOST_PASSES = 12
#: How long they are at most, unless that has been tried so often, seconds.
_LAST_S = 20.0
_ATTEMPTS = 4
#: Others (an erasure) get their turn on the new build as often, for so long, seconds.
_TURN_S = 20.0
_PAUSE_S = 0.6
_TURN_WAIT_S = 300.0


async def rebuild(
    collection: str,
    model: str,
    chunk_tokens: int,
    *,
    settings: Settings,
    parts: Parts,
    options: RebuildOptions,
    on_progress: OnProgress | None = None,
) -> RebuildReport:
    """Make the collection by this recipe, and let readers read that.

    Raises UnknownCollection, ConfigurationError (the model cannot be loaded), WriterBusy, LeaseLost,
    VerificationFailed, IndexUnavailable, CatalogUnavailable, EmbedderUnavailable. Readers keep what they have then.
    """
    live = await live_build(parts, collection)
    recipe = Recipe(model, await parts.embedder(model).dimension(), chunk_tokens)
    async with parts.catalog.leases.hold(f"rebuild/{collection}", "a rebuild", wait_s=options.wait_s):
        if _is(live, recipe) and not options.again:
            report = RebuildReport(collection, live.key, live.key, recipe, already=True)
            report.holds(live)
            return report
        builds = [] if options.again else await parts.catalog.builds(collection)
        kept = [build for build in builds if _is(build, recipe) and build.state == "ready" and not build.live]
        beside = kept[-1] if kept else await parts.catalog.add_build(collection, recipe)
        return await CatchUp(settings, parts, live, beside, options, Watch(on_progress)).run()


async def switch_to(
    collection: str,
    key: str,
    *,
    settings: Settings,
    parts: Parts,
    options: RebuildOptions,
    on_progress: OnProgress | None = None,
) -> RebuildReport:
    """Bring another build of the collection up to date by its own recipe, and let readers read it.

    Raises as `rebuild`, and InvalidRequest for a build that there is not.
    """
    async with parts.catalog.leases.hold(f"rebuild/{collection}", "a switch", wait_s=options.wait_s):
        live, beside = await live_build(parts, collection), await find_build(parts, collection, key)
        if beside.live:
            report = RebuildReport(collection, live.key, live.key, live.recipe, already=True)
            report.holds(live)
            return report
        return await CatchUp(settings, parts, live, beside, options, Watch(on_progress)).run()


async def live_build(parts: Parts, collection: str) -> Build:
    """Raises UnknownCollection."""
    build = await parts.catalog.live_build(collection)
    if build is None:
        await parts.catalog.collection(collection)
        raise UnknownCollection(f"There is no collection {collection!r}.", param="collection")
    return build


async def find_build(parts: Parts, collection: str, key: str) -> Build:
    """By its key, or its number. Raises InvalidRequest, which lists those there are."""
    builds = [build for build in await parts.catalog.builds(collection) if build.state != "dropping"]
    for build in builds:
        if key in (build.key, str(build.number)):
            return build
    known = ", ".join(repr(build.key) for build in builds)
    raise InvalidRequest(f"Collection {collection!r} has no build {key!r}. There are {known or 'none'}.")


def _is(build: Build, recipe: Recipe) -> bool:
    """Whether a build is made by a recipe, in the index where it would be made now."""
    return build.index == recipe.index and build.recipe.chunk_tokens == recipe.chunk_tokens


class CatchUp:
    """Brings one build to what another one shows, and switches. Its caller holds the lease on all of this."""

    def __init__(
        self, settings: Settings, parts: Parts, live: Build, beside: Build, options: RebuildOptions, watch: Watch
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._live = live
        self._beside = beside
        self._options = options
        self._watch = watch
        self._patience = Patience(settings.ingestion.patience_s, watch.waiting)
        self._try = self._patience.call
        self._work = IngestReport(live.collection)
        self._report = RebuildReport(live.collection, beside.key, live.key, beside.recipe)

    async def run(self) -> RebuildReport:
        started = time.perf_counter()
        beside, catalog = self._beside, self._parts.catalog
        await self._parts.store.ensure(beside.index, beside.recipe.dimension)
        run = await catalog.begin_run(beside, "bulk")
        async with ParserPool(self._settings.ingestion, beside.recipe.model) as pool:
            writer = self._writer(run)
            copier = self._copier(run, pool, writer)
            if self._watch.told:
                _, size = await copier.to_copy(self._live)
                self._watch.expect(size)
            await self._approach(copier)
            await self._arrive(copier, writer, run)
        report, work = self._report, self._work
        report.written, report.embedded, report.seconds = work.written, work.embedded, work.seconds
        report.total_s = round(time.perf_counter() - started, 3)
        return report

    def _writer(self, run: Run) -> Writer:
        embedder = self._parts.embedder(self._beside.recipe.model)
        batch = self._settings.ingestion.write_batch
        return Writer(self._parts.catalog, self._parts.store, embedder, run, self._work, self._patience, batch=batch)

    def _copier(self, run: Run, pool: ParserPool, writer: Writer) -> Copier:
        same_model = self._live.recipe.model == self._beside.recipe.model
        return Copier(
            self._parts,
            self._settings,
            self._live,
            self._beside,
            run,
            pool,
            writer,
            self._work,
            self._patience,
            reuse=same_model and not self._options.again,
            force=self._options.force,
            on_done=lambda group: self._watch.done(group.size, self._work),
        )

    # -- while others write --------------------------------------------------------------------------------------------

    async def _approach(self, copier: Copier) -> None:
        """Look again and again, until little changes meanwhile."""
        for _ in range(_MOST_PASSES):
            done = self._pass()
            after: str | None = ""
            while after is not None:
                async with self._held(f"run/{self._beside.key}", wait_s=_TURN_WAIT_S):
                    after = await copier.go_on(self._live, done, after, seconds=_TURN_S)
                if after is not None:
                    await asyncio.sleep(_PAUSE_S)
            if done.changed <= _SMALL:
                return

    def _pass(self) -> Pass:
        self._report.passes += 1
        self._work.failures.clear()
        self._work.counts["failed"] = 0
        return Pass(samples=self._settings.ingestion.verify_samples)

    @asynccontextmanager
    async def _held(self, *names: str, wait_s: float) -> AsyncIterator[list[Lease]]:
        hold = self._parts.catalog.leases.hold
        async with AsyncExitStack() as stack:
            held = (hold(name, "a rebuild", wait_s=wait_s, eager=True) for name in names)
            yield [await stack.enter_async_context(one) for one in held]

    # -- while nobody else writes --------------------------------------------------------------------------------------

    async def _arrive(self, copier: Copier, writer: Writer, run: Run) -> None:
        live, beside = self._live.key, self._beside.key
        # Readers' build first: who holds that may want the other one, to remove a document from both.
        names = (f"run/{live}", f"publish/{live}", f"run/{beside}", f"publish/{beside}")
        for attempt in range(_ATTEMPTS):
            async with self._held(*names, wait_s=self._options.wait_s) as leases:
                patient = attempt + 1 == _ATTEMPTS
                done = await self._last_pass(copier, float("inf") if patient else _LAST_S)
                if done is not None:
                    await self._end(copier, writer, run, done, leases)
                    return
            await self._approach(copier)

    async def _last_pass(self, copier: Copier, seconds: float) -> Pass | None:
        """A look that found nothing to do. None: there was more to do than others should wait for."""
        live = await self._still_live()
        until = time.monotonic() + seconds
        while True:
            done = self._pass()
            if await copier.go_on(live, done, seconds=until - time.monotonic()) is not None:
                return None
            if not done.changed:
                return done

    async def _still_live(self) -> Build:
        live = await live_build(self._parts, self._live.collection)
        if live.key != self._live.key:
            raise LeaseLost(
                f"Readers of collection {live.collection!r} were switched to build {live.key!r} meanwhile. Nothing is "
                "lost: run the same command again."
            )
        return live

    async def _end(self, copier: Copier, writer: Writer, run: Run, done: Pass, leases: list[Lease]) -> None:
        live = await self._still_live()
        self._report.failures = _missing(self._work, done)
        self._report.obstacles = _obstacles(live, done)
        if self._options.switch and self._report.obstacles and not self._options.force:
            return
        await self._publish(copier, writer, run, done, leases)
        if self._options.switch:
            for lease in leases:
                await lease.check()
            await self._try(self._parts.catalog.unpin, self._beside.key)
            await self._try(self._parts.catalog.switch, live.collection, self._beside.key)
            self._report.switched = True
        self._report.holds(await find_build(self._parts, live.collection, self._beside.key))

    async def _publish(self, copier: Copier, writer: Writer, run: Run, done: Pass, leases: list[Lease]) -> None:
        catalog, ingestion = self._parts.catalog, self._settings.ingestion
        with self._work.timed("verify"):
            await writer.flush()
            stored, expected = await self._counts(run)
            if stored != expected:
                # The store has lost rows: everything is looked at, and what is missing written again.
                await copier.go_on(await self._still_live(), self._pass(), everything=True)
                await writer.flush()
                stored, expected = await self._counts(run)
            verify_count(run.collection, stored=stored, expected=expected)
            rows = [row for uri in done.sampled if (row := await self._row(run, uri)) is not None]
            self._report.verified = await self._try(
                verify_rows, self._parts.store, run.index, run.build, run.snapshot, rows
            )
        if done.written or not self._beside.snapshot:
            with self._work.timed("publish"):
                for lease in leases:
                    await lease.check()
                await self._try(catalog.publish, run, chunks=stored, summary=summary(self._work.counts))
                await Publication(ingestion, self._parts, self._beside, run, self._patience, leases).purge()

    async def _counts(self, run: Run) -> tuple[int, int]:
        """Rows that readers of the run's snapshot will see, and how many the catalog says there are."""
        stored = await self._try(self._parts.store.count, run.index, run.build, run.snapshot)
        return stored, await self._try(self._parts.catalog.chunk_sum, run.build, ("live", "written", "failed"))

    async def _row(self, run: Run, uri: str) -> tuple[str, Vectors] | None:
        rows = self._parts.store.vectors(run.index, run.build, [uri], run.snapshot)
        async for _, vector in rows:
            return uri, vector
        return None


def _missing(work: IngestReport, done: Pass) -> list[Failure]:
    lacking = [Failure(uri, reason) for reason, uris in done.without_text.items() for uri in uris]
    return [*work.failures, *lacking][:MAX_LISTED]


def _obstacles(live: Build, done: Pass) -> list[str]:
    """Why readers would lose something."""
    found = []
    if done.failed:
        found.append(f"{done.failed:,} documents cannot be made by this recipe.")
    if done.lacking:
        found.append(
            f"{done.lacking:,} documents cannot be made without their source, because "
            f"{'; or '.join(sorted(done.without_text))}. Ingest them again, then rebuild."
        )
    if done.interrupted:
        found.append(
            f"An interrupted run has left {done.interrupted:,} documents half changed. Run the same ingestion again "
            "(an upload: start the server), then rebuild."
        )
    if live.pinned:
        found.append(
            "Readers are pinned to an older generation. Unpin it (`anchorage generations unpin`), then rebuild."
        )
    return found
