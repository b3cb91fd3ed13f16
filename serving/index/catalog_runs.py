"""Runs over a build, the generations that they publish, and which of those stay."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serving.errors import ConfigurationError, InvalidRequest, LeaseLost, WriterBusy
from serving.index.catalog_models import Build, Generation, Run, RunKind
from serving.index.catalog_part import Part
from serving.index.catalog_tables import builds, documents, runs
from serving.index.leases import Lease

#: Short runs between two bulk runs have the numbers between two multiples of 2**20.
_BULK_BITS = 20


class Runs(Part):
    """`build` is a build's key. Every call raises CatalogUnavailable."""

    async def begin_run(self, build: Build, kind: RunKind) -> Run:
        """Begin a snapshot, or resume the one that an interrupted run of this kind did not publish.

        A bulk run writes the next multiple of 2**20, all others the number behind the published one, so that these can
        publish while a bulk run is under way. A rollback counts as short: the two resume each other.
        Raises ConfigurationError when the build is being removed, WriterBusy when no number is free.
        """
        kinds = ("bulk",) if kind == "bulk" else ("short", "rollback")
        mine = self._mine(runs, build=build.key)
        row: dict[str, Any] = {"tenant": self._tenant, "build": build.key, "kind": kind, "state": "running"}
        row |= dict.fromkeys(("generation", "documents", "chunks"), 0) | {"summary": "{}"}
        row |= dict.fromkeys(("finished_at", "superseded_at"), 0.0)
        async with self._database.write() as connection:
            published = (await self._locked_build(connection, build.key)).snapshot
            running = select(runs.c.snapshot, runs.c.kind).where(*mine, runs.c.snapshot > published)
            open_runs = {run.snapshot: run.kind for run in await connection.execute(running)}
            resumed = [snapshot for snapshot, other in open_runs.items() if other in kinds]
            if resumed:
                if kind == "rollback":  # and stays one until it is published: nobody else publishes half of it
                    again = update(runs).where(*mine, runs.c.snapshot == resumed[0]).values(kind=kind)
                    await connection.execute(again)
                return Run(build.collection, build.key, build.index, resumed[0], published, kind, open_runs[resumed[0]])
            row |= {"snapshot": _next(published, kind, open_runs), "parent": published}
            row["started_at"] = await self._database.now(connection)
            await connection.execute(self._database.insert(runs), row)
        return Run(build.collection, build.key, build.index, row["snapshot"], published, kind)

    async def publish(
        self,
        run: Run,
        *,
        summary: Mapping[str, int],
        chunks: int | None = None,
        documents_delta: int = 0,
        chunks_delta: int = 0,
        lease: Lease | None = None,
    ) -> Generation:
        """Let readers see the run's snapshot: one transaction, and the only moment at which they see anything new.

        `written` documents become `live`. With `chunks`, what the store counts for the snapshot, documents are counted
        here; without it, both change by the deltas. A writer that died after this may repeat it: a published run is not
        published again. Raises LeaseLost when readers are beyond the snapshot, or when `lease` is not held any more.
        """
        mine = self._mine(runs, build=run.build, snapshot=run.snapshot)
        async with self._database.write() as connection:
            built = await self._locked_build(connection, run.build)
            ran = (await connection.execute(select(runs).where(*mine))).first()
            if ran is None or (ran.state != "published" and built.snapshot >= run.snapshot):
                raise LeaseLost(
                    f"Another run over collection {run.collection!r} has published a later state than this one's. "
                    "Nothing of this run is seen by readers; start it again."
                )
            if ran.state != "published":
                if lease is not None:
                    await lease.confirm(connection)
                held = built.documents + documents_delta, built.chunks + chunks_delta
                if chunks is not None:
                    held = await self._documents(connection, run), chunks
                await self._show(connection, run, built, held, summary)
            ran = (await connection.execute(select(runs).where(*mine))).one()
            built = await self._locked_build(connection, run.build)
            others = select(runs.c.snapshot).where(*self._mine(runs, build=run.build, state="running")).limit(1)
            alone = (await connection.execute(others)).first() is None
        if alone:
            await self._settle(run.build, built.snapshot)
        return _generation(ran, built, retained=True)

    async def abandon(self, run: Run) -> None:
        """Take back a run that changed nothing; it is not resumed then. One that is published stays."""
        mine = self._mine(runs, build=run.build, snapshot=run.snapshot, state="running")
        async with self._database.write() as connection:
            await connection.execute(delete(runs).where(*mine))

    async def _documents(self, connection: AsyncConnection, run: Run) -> int:
        """Those that have chunks for readers of the run's snapshot."""
        state = documents.c.state
        served = state.in_(("live", "failed")) | ((state == "written") & (documents.c.snapshot <= run.snapshot))
        mine = self._mine(documents, build=run.build)
        query = select(func.count()).select_from(documents).where(*mine, served, documents.c.chunks > 0)
        return int((await connection.execute(query)).scalar_one())

    async def _show(
        self,
        connection: AsyncConnection,
        run: Run,
        built: Row[*tuple[Any, ...]],
        held: tuple[int, int],
        summary: Mapping[str, int],
    ) -> None:
        now = await self._database.now(connection)
        mine = self._mine(runs, build=run.build)
        # Counted over all builds, so that the number never falls for readers who are switched to a newer build.
        latest = select(func.max(builds.c.generation)).where(*self._mine(builds, collection=run.collection))
        generation = (await connection.execute(latest)).scalar_one() + 1
        seen = {"generation": generation, "documents": held[0], "chunks": held[1]}
        done = {
            "state": "published",
            "kind": run.kind,
            "finished_at": now,
            "parent": built.snapshot,
            "summary": json.dumps(dict(summary)),
        }
        before = update(runs).where(*mine, runs.c.snapshot == built.snapshot).values(superseded_at=now)
        this = update(runs).where(*mine, runs.c.snapshot == run.snapshot).values(**seen, **done)
        # What a dead short run began is part of this snapshot, or was undone by this run.
        overtaken = delete(runs).where(*mine, runs.c.snapshot < run.snapshot, runs.c.state == "running")
        show = update(builds).where(*self._mine(builds, key=run.build))
        for statement in (before, this, overtaken, show.values(**seen, snapshot=run.snapshot, published_at=now)):
            await connection.execute(statement)

    async def _settle(self, build: str, snapshot: int) -> None:
        """Store as `live` what is live already, which keeps lists of the `written` ones short.

        A page at a time: in one go, other writers would wait for long.
        """
        written = self._mine(documents, build=build, state="written")
        written.append(documents.c.snapshot <= snapshot)
        async for page in self._uri_ranges(documents, *written):
            async with self._database.write() as connection:
                await connection.execute(update(documents).where(*written, page).values(state="live"))

    # -- generations ---------------------------------------------------------------------------------------------------

    async def generations(self, build: str, limit: int = 20, keep: int = 1) -> list[Generation]:
        """Newest first, runs that are not published included. `keep` is the number of generations that are retained."""
        query = select(runs).where(*self._mine(runs, build=build)).order_by(runs.c.snapshot.desc()).limit(limit)
        async with self._database.read() as connection:
            built = (await connection.execute(select(builds).where(*self._mine(builds, key=build)))).first()
            rows = list(await connection.execute(query))
        if built is None:
            return []
        return [_generation(row, built, retained=row.generation > built.generation - keep) for row in rows]

    async def generation_of(self, build: str, snapshot: int) -> int | None:
        """The number of the generation that showed this snapshot first; None for one that is not published."""
        published = self._mine(runs, build=build, state="published")
        query = select(func.min(runs.c.generation)).where(*published, runs.c.snapshot == snapshot)
        async with self._database.read() as connection:
            found: int | None = (await connection.execute(query)).scalar_one()
        return found

    async def pin(self, build: str, snapshot: int) -> Generation:
        """Hold readers at a published snapshot, whatever is published after it. Raises InvalidRequest if it is gone."""
        async with self._database.write() as connection:
            built = await self._locked_build(connection, build)
            query = select(runs).where(*self._mine(runs, build=build, snapshot=snapshot, state="published"))
            ran = (await connection.execute(query)).first()
            if ran is None or snapshot < built.purged:
                raise InvalidRequest("This generation is not kept any more, or never was: see `anchorage generations`.")
            hold = update(builds).where(*self._mine(builds, key=build)).values(pinned=snapshot)
            await connection.execute(hold)
            built = await self._locked_build(connection, build)
        return _generation(ran, built, retained=True)

    async def unpin(self, build: str) -> None:
        """Let readers follow again."""
        async with self._database.write() as connection:
            await connection.execute(update(builds).where(*self._mine(builds, key=build)).values(pinned=0))

    async def oldest_needed(self, build: str, keep: int, grace_s: float) -> int:
        """The oldest snapshot that somebody may read: rows that died at or before it may be purged.

        Needed are the `keep` latest published ones, the pinned one, and those superseded less than `grace_s` ago. From
        here on, earlier ones can be neither pinned nor brought back: purging may begin.
        """
        published = self._mine(runs, build=build, state="published")
        latest = select(runs.c.snapshot).where(*published).order_by(runs.c.snapshot.desc()).limit(max(keep, 1))
        async with self._database.write() as connection:
            built = await self._locked_build(connection, build)
            since = await self._database.now(connection) - grace_s
            read = select(func.min(runs.c.snapshot)).where(*published, runs.c.superseded_at > since)
            kept = (await connection.execute(latest)).scalars().all()
            recent = (await connection.execute(read)).scalar_one()
            needed = [*kept[-1:], *([built.pinned] if built.pinned else []), *([recent] if recent else [])]
            oldest: int = max(built.purged, min(needed, default=0))
            await connection.execute(update(builds).where(*self._mine(builds, key=build)).values(purged=oldest))
        return oldest

    async def _locked_build(self, connection: AsyncConnection, build: str) -> Row[*tuple[Any, ...]]:
        """The build's row, which no other transaction changes until this one ends. Raises ConfigurationError."""
        query = select(builds).where(*self._mine(builds, key=build)).with_for_update()
        found = (await connection.execute(query)).first()
        if found is None or found.state == "dropping":
            raise ConfigurationError(f"Build {build!r} is not there any more: it was removed, or never made.")
        return found


def _next(published: int, kind: RunKind, taken: Mapping[int, str]) -> int:
    if kind == "bulk":
        following = ((published >> _BULK_BITS) + 1) << _BULK_BITS
        return following if following not in taken else following + (1 << _BULK_BITS)
    if published + 1 in taken:
        raise WriterBusy(
            "A bulk run has to be published before another short one can begin. Wait for it, or resume it."
        )
    return published + 1


def _generation(row: Row[*tuple[Any, ...]], built: Row[*tuple[Any, ...]], *, retained: bool) -> Generation:
    published = row.state == "published"
    pinned = published and row.snapshot == built.pinned
    return Generation(
        generation=row.generation,
        snapshot=row.snapshot,
        kind=row.kind,
        state=row.state,
        started_at=row.started_at,
        finished_at=row.finished_at,
        documents=row.documents,
        chunks=row.chunks,
        summary=json.loads(row.summary),
        current=published and row.snapshot == (built.pinned or built.snapshot),
        pinned=pinned,
        retained=published and row.snapshot >= built.purged and (retained or pinned),
    )
