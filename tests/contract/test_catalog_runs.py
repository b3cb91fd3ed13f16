"""Runs, publications and generations, on SQLite and, where it is installed, PostgreSQL."""

from __future__ import annotations

import asyncio

import pytest

from serving.errors import InvalidRequest, LeaseLost, WriterBusy
from serving.index.catalog import Catalog
from serving.index.catalog_models import Build, DocumentRecord, Recipe, Run, RunKind, State
from serving.settings import IndexSettings

BULK = 1 << 20


@pytest.fixture
async def build(catalog: Catalog) -> Build:
    return await catalog.create("docs", Recipe("model-a", 8, 200))


def record(uri: str, run: Run, state: State = "written", chunks: int = 2) -> DocumentRecord:
    return DocumentRecord(uri, "s", state, run.snapshot, chunks=chunks)


async def publish(catalog: Catalog, build: Build, kind: RunKind = "short", chunks: int = 1) -> int:
    run = await catalog.begin_run(build, kind)
    await catalog.publish(run, documents_delta=1, chunks_delta=chunks, summary={})
    return run.snapshot


async def test_nothing_is_seen_before_it_is_published(catalog: Catalog, build: Build) -> None:
    """Readers see generation 0 while a run writes, and everything of it at once afterwards."""
    run = await catalog.begin_run(build, "bulk")
    assert run == Run("docs", "docs", build.index, BULK, 0, "bulk")
    failed, parsed = record("u2", run, "failed", chunks=0), record("u3", run, "parsed", chunks=0)
    await catalog.record("docs", [record("u1", run), failed, parsed])
    assert (await catalog.collection("docs")).generation == 0
    done = await catalog.publish(run, chunks=2, summary={"new": 1, "failed": 1})
    assert (done.generation, done.snapshot, done.kind, done.documents, done.chunks) == (1, BULK, "bulk", 1, 2)
    assert (done.state, done.current, done.retained, done.summary) == ("published", True, True, {"new": 1, "failed": 1})
    assert done.finished_at >= done.started_at > 0
    seen = await catalog.collection("docs")
    assert (seen.generation, seen.snapshot, seen.documents, seen.chunks) == (1, BULK, 1, 2)
    assert await catalog.states("docs") == {"live": 1, "failed": 1, "parsed": 1}
    assert await catalog.generations("docs") == [done]


async def test_an_unfinished_run_is_resumed(catalog: Catalog, build: Build) -> None:
    """Beginning again gives the same snapshot until it is published, each kind its own, and the next one then."""
    for kind in ("bulk", "short"):
        first = await catalog.begin_run(build, kind)
        again = await catalog.begin_run(build, kind)
        assert (again.snapshot, again.published, again.interrupted) == (first.snapshot, first.published, kind)
        assert (first.resumed, again.resumed) == (False, True)
    rollback = await catalog.begin_run(build, "rollback")
    assert (rollback.snapshot, rollback.kind, rollback.interrupted) == (1, "rollback", "short")
    assert [(run.snapshot, run.kind) for run in await catalog.generations("docs")] == [(BULK, "bulk"), (1, "rollback")]
    await catalog.publish(again, chunks=0, summary={})
    following = await catalog.begin_run(build, "short")
    assert (following.snapshot, following.published, following.resumed) == (2, 1, False)


async def test_short_runs_publish_during_a_bulk_run(catalog: Catalog, build: Build) -> None:
    """Several of them, each seen at once; the bulk run's publication counts everything."""
    bulk = await catalog.begin_run(build, "bulk")
    await catalog.record("docs", [record(f"b{i}", bulk) for i in range(5)])
    for number in (1, 2):
        short = await catalog.begin_run(build, "short")
        await catalog.record("docs", [record(f"s{number}", short)])
        assert short.snapshot == number
        await catalog.publish(short, documents_delta=1, chunks_delta=2, summary={})
        seen = await catalog.collection("docs")
        assert (seen.generation, seen.documents, seen.chunks) == (number, number, 2 * number)
    again = await catalog.begin_run(build, "bulk")
    assert (again.snapshot, again.published, again.resumed) == (BULK, 2, True)
    done = await catalog.publish(again, chunks=14, summary={})
    assert (done.generation, done.documents, done.chunks) == (3, 7, 14)
    assert (await catalog.begin_run(build, "bulk")).snapshot == 2 * BULK
    assert (await catalog.begin_run(build, "short")).snapshot == BULK + 1


async def test_publishing_twice_changes_nothing(catalog: Catalog, build: Build) -> None:
    """A writer that died after publishing may repeat it, even when a later generation is out already."""
    run = await catalog.begin_run(build, "short")
    await catalog.publish(run, documents_delta=1, chunks_delta=5, summary={"new": 1})
    before = await catalog.collection("docs"), await catalog.generations("docs")
    await catalog.publish(run, documents_delta=1, chunks_delta=7, summary={})
    assert (await catalog.collection("docs"), await catalog.generations("docs")) == before
    await publish(catalog, build)
    await catalog.publish(run, documents_delta=1, chunks_delta=7, summary={})
    seen = await catalog.collection("docs")
    assert (seen.generation, seen.documents, seen.chunks) == (2, 2, 6)


async def test_readers_never_go_back(catalog: Catalog, build: Build) -> None:
    """A run that others have overtaken cannot publish, and leaves the list of runs."""
    short = await catalog.begin_run(build, "short")
    await publish(catalog, build, "bulk")
    with pytest.raises(LeaseLost, match="published a later state"):
        await catalog.publish(short, summary={})
    assert (await catalog.collection("docs")).snapshot == BULK
    assert [run.kind for run in await catalog.generations("docs")] == ["bulk"]


async def test_a_run_that_lost_its_lease_cannot_publish(catalog: Catalog, build: Build) -> None:
    """Whoever took over has the only word, also in the moment of publication."""
    run = await catalog.begin_run(build, "bulk")
    async with catalog.leases.hold("run/docs", "first") as lease:
        pass
    with pytest.raises(LeaseLost, match="taken over"):
        await catalog.publish(run, chunks=1, summary={}, lease=lease)
    assert (await catalog.collection("docs")).generation == 0
    async with catalog.leases.hold("run/docs", "second") as lease:
        await catalog.publish(run, chunks=1, summary={}, lease=lease)
    assert (await catalog.collection("docs")).generation == 1


async def test_a_document_whose_new_text_failed_still_counts(catalog: Catalog, build: Build) -> None:
    """Its old chunks are served, so it is among the documents; one that is gone, or never worked, is not."""
    run = await catalog.begin_run(build, "bulk")
    states = [record("old", run, "failed", chunks=3), record("never", run, "failed", chunks=0)]
    others = [record("away", run, "gone", chunks=0), record("fine", run, "live", chunks=1)]
    await catalog.record("docs", [*states, *others])
    assert (await catalog.publish(run, chunks=4, summary={})).documents == 2


async def test_a_full_step_between_two_bulk_runs(catalog: Catalog, build: Build) -> None:
    """Short runs cannot take a bulk run's number; they wait for it, and without one they go on."""
    run = await catalog.begin_run(build, "bulk")
    await catalog.publish(run, chunks=0, summary={})
    bulk = await catalog.begin_run(build, "bulk")
    crowded = BULK - 1
    last = Run("docs", "docs", build.index, BULK + crowded, BULK, "short")
    await _force(catalog, last)
    with pytest.raises(WriterBusy, match="bulk run"):
        await catalog.begin_run(build, "short")
    await catalog.publish(bulk, chunks=0, summary={})
    assert (await catalog.begin_run(build, "short")).snapshot == 2 * BULK + 1


async def _force(catalog: Catalog, run: Run) -> None:
    """As if a million short runs had been published."""
    from sqlalchemy import update

    from serving.index.catalog_tables import builds

    async with catalog._database.write() as connection:
        mine = builds.c.tenant == catalog._tenant, builds.c.key == run.build
        await connection.execute(update(builds).where(*mine).values(snapshot=run.snapshot))


# -- generations -------------------------------------------------------------------------------------------------------


async def test_generations_are_listed_newest_first(catalog: Catalog, build: Build) -> None:
    """With what each held, which one readers see, and which can be brought back."""
    snapshots = [await publish(catalog, build) for _ in range(4)]
    await catalog.begin_run(build, "bulk")
    running, *found = await catalog.generations("docs", limit=4, keep=2)
    assert (running.state, running.generation, running.retained, running.current) == ("running", 0, False, False)
    assert [generation.generation for generation in found] == [4, 3, 2]
    assert [generation.snapshot for generation in found] == snapshots[:0:-1]
    assert [generation.documents for generation in found] == [4, 3, 2]
    assert [generation.current for generation in found] == [True, False, False]
    assert [generation.retained for generation in found] == [True, True, False]


async def test_readers_can_be_held_at_a_generation(catalog: Catalog, build: Build) -> None:
    """They see its number and its counts while later ones are published, until they follow again."""
    snapshots = [await publish(catalog, build, chunks=10) for _ in range(3)]
    pinned = await catalog.pin("docs", snapshots[1])
    assert (pinned.generation, pinned.pinned, pinned.current) == (2, True, True)
    snapshots.append(await publish(catalog, build, chunks=10))
    seen = await catalog.collection("docs")
    assert (seen.generation, seen.snapshot, seen.documents, seen.chunks) == (2, snapshots[1], 2, 20)
    flags = [(found.pinned, found.current, found.retained) for found in await catalog.generations("docs", keep=1)]
    assert flags == [(False, False, True), (False, False, False), (True, True, True), (False, False, False)]
    await catalog.unpin("docs")
    assert (await catalog.collection("docs")).generation == 4


async def test_what_nobody_needs_may_be_purged(catalog: Catalog, build: Build) -> None:
    """Kept are the latest ones, the pinned one and those just left; what is given up cannot be brought back."""
    assert await catalog.oldest_needed("docs", 3, 60.0) == 0
    snapshots = [await publish(catalog, build) for _ in range(6)]
    assert await catalog.oldest_needed("docs", 3, 60.0) == snapshots[0]
    await catalog.pin("docs", snapshots[1])
    assert await catalog.oldest_needed("docs", 3, 0.0) == snapshots[1]
    with pytest.raises(InvalidRequest, match="not kept"):
        await catalog.pin("docs", snapshots[0])
    await catalog.unpin("docs")
    assert await catalog.oldest_needed("docs", 3, 0.0) == snapshots[3]
    assert await catalog.oldest_needed("docs", 1, 0.0) == snapshots[5]
    assert await catalog.oldest_needed("docs", 6, 0.0) == snapshots[5], "what is purged does not come back"
    retained = [found.retained for found in await catalog.generations("docs", keep=6)]
    assert retained == [True, False, False, False, False, False]
    for snapshot in (snapshots[4], 999):
        with pytest.raises(InvalidRequest):
            await catalog.pin("docs", snapshot)


async def test_publications_and_purges_at_once(catalog_settings: IndexSettings) -> None:
    """Many at the same moment leave one order of generations."""
    catalogs = [Catalog.connect(catalog_settings) for _ in range(4)]
    build = await catalogs[0].create("docs", Recipe("model-a", 8, 200))
    run = await catalogs[0].begin_run(build, "short")

    async def work(catalog: Catalog) -> None:
        await catalog.publish(run, documents_delta=1, chunks_delta=1, summary={})
        await catalog.oldest_needed("docs", 1, 0.0)

    await asyncio.gather(*(work(catalog) for catalog in catalogs))
    (only,) = await catalogs[0].generations("docs")
    assert (only.generation, only.documents) == (1, 1)
    for catalog in catalogs:
        await catalog.close()
