"""Generations: readers can be held at one, and everybody brought back to one; whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from ingestion.erase import erase
from ingestion.generations import generation_of, generations
from ingestion.rollback import RolledBack, roll_back
from serving.errors import InvalidRequest, UnknownCollection, WriterBusy
from serving.index.milvus import Milvus
from serving.index.types import Vectors
from tests.ingestion.conftest import Shelf
from tests.ingestion.test_ingest import PAGE
from tests.ingestion.test_ingest_command import run

Seen = set[tuple[str, str]]


class PowerCut(Exception):
    """What a killed process does: nothing more."""


async def three_generations(shelf: Shelf) -> list[Seen]:
    """What readers saw of each: documents changed, came, went and stayed. However slow the machine, all are kept."""
    kept = shelf.settings.ingestion.model_copy(update={"keep_generations": 50})
    shelf.settings = shelf.settings.model_copy(update={"ingestion": kept})
    shelf.put("stays.md", PAGE.format("stays"))
    shelf.put("changes.md", PAGE.format("first"))
    shelf.put("goes.md", PAGE.format("goes"))
    await shelf.ingest()
    seen = [await shelf.visible()]
    shelf.put("changes.md", PAGE.format("second") * 2)
    (shelf.folder / "goes.md").unlink()
    shelf.put("comes.md", PAGE.format("comes"))
    await shelf.ingest()
    seen.append(await shelf.visible())
    shelf.put("changes.md", PAGE.format("third"))
    await shelf.ingest()
    return [*seen, await shelf.visible()]


async def back(shelf: Shelf, generation: int) -> RolledBack:
    return await roll_back(shelf.parts, shelf.settings, shelf.collection, generation)


async def vectors(shelf: Shelf) -> dict[str, Vectors]:
    """What readers see, by chunk id."""
    seen = await shelf.parts.catalog.collection(shelf.collection)
    keys = [row.key for row in await shelf.rows() if row.born <= seen.snapshot < row.died]
    return {row.chunk.id: row.vector async for row in shelf.parts.store.chunks(shelf.index, shelf.collection, keys)}


@asynccontextmanager
async def no_embedding(shelf: Shelf) -> AsyncIterator[None]:
    """Whoever embeds something fails."""
    model = shelf.parts.embedder(shelf.settings.embedder.model)
    embed = model.embed

    async def refused(texts: Sequence[str]) -> Vectors:
        raise AssertionError(f"{len(texts)} texts were embedded")

    model.embed = refused  # type: ignore[method-assign]
    try:
        yield
    finally:
        model.embed = embed  # type: ignore[method-assign]


async def consistent(shelf: Shelf) -> None:
    """Catalog and store agree about every published generation that is whole."""
    catalog, store = shelf.parts.catalog, shelf.parts.store
    records = [record async for record in catalog.documents(shelf.collection)]
    assert {record.state for record in records} <= {"live", "failed", "gone", "forgotten"}
    collection = await catalog.collection(shelf.collection)
    latest = await catalog.live_build(shelf.collection)
    assert latest is not None
    assert latest.chunks == sum(record.chunks for record in records)
    assert latest.documents == sum(record.chunks > 0 for record in records)
    assert collection.chunks == await store.count(shelf.index, shelf.collection, collection.snapshot)
    assert collection.documents == len({uri for uri, _ in await shelf.visible()})
    assert not [row for row in await shelf.rows() if row.born > latest.snapshot]


async def test_a_rollback_brings_back_what_a_generation_held(shelf: Shelf) -> None:
    """The same ids and vectors, nothing embedded; the next ingestion brings in what the sources hold now."""
    first, _, third = await three_generations(shelf)
    old = await vectors(shelf)
    async with no_embedding(shelf):
        done = await back(shelf, 1)
        assert await shelf.visible() == first
        await consistent(shelf)
        again = await back(shelf, 3)
    assert (done.report.published, done.report.generation, again.report.generation) == (True, 4, 5)
    assert shelf.counts(done.report) == {"new": 1, "changed": 1, "removed": 1}
    assert done.report.embedded == 0
    assert await shelf.visible() == third
    new = await vectors(shelf)
    assert old.keys() == new.keys()
    assert all(np.array_equal(old[chunk], new[chunk]) for chunk in old)
    await back(shelf, 4)
    assert await shelf.visible() == first
    report = await shelf.ingest()
    assert shelf.counts(report) == {"new": 1, "changed": 1, "removed": 1, "unchanged": 1}
    assert await shelf.visible() == third
    await consistent(shelf)
    assert shelf.counts(await shelf.ingest()) == {"unchanged": 3}


async def test_going_back_to_where_one_is_changes_nothing(shelf: Shelf) -> None:
    """No generation is made, no run is left behind."""
    *_, third = await three_generations(shelf)
    done = await back(shelf, 3)
    assert (done.report.published, done.report.generation) == (False, 3)
    assert await shelf.visible() == third
    found = await generations(shelf.parts.catalog, shelf.collection, 3, 10)
    assert [(one.generation.generation, one.standing) for one in found] == [
        (3, "current"),
        (2, "retained"),
        (1, "retained"),
    ]


async def test_a_rollback_may_be_cut_off_anywhere(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers are where they were to be brought from the first moment on, and the same call completes it."""
    first, *_ = await three_generations(shelf)
    cuts = 0
    for step in range(1, 40):
        with monkeypatch.context() as patched:
            left = cut_after(step, patched)
            try:
                await back(shelf, 1)
            except PowerCut:
                cuts += 1
                assert await shelf.visible() == first
            if left[0] > 0:
                break
    assert cuts > 4
    assert await shelf.visible() == first
    await consistent(shelf)
    assert (await shelf.parts.catalog.live_build(shelf.collection)).pinned == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("step", [2, 4])
async def test_nobody_publishes_half_a_rollback(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """What a dead rollback has written is undone by the next run, short or long."""
    await three_generations(shelf)
    gone = [shelf.put(f"more{number}.md", PAGE.format(f"more {number}")) for number in range(2)]
    await shelf.ingest()
    for path in gone:
        before = await shelf.visible()
        await _dead_rollback(shelf, monkeypatch, step)
        await erase(shelf.parts, shelf.settings, shelf.collection, [path.as_uri()])
        path.unlink()
        assert await shelf.visible() == {row for row in before if row[0] != path.as_uri()}
        await consistent(shelf)
    await _dead_rollback(shelf, monkeypatch, step)
    shelf.put("new.md", PAGE.format("new"))
    assert shelf.counts(await shelf.ingest())["new"] == 1
    assert {uri for uri, _ in await shelf.visible()} == {path.as_uri() for path in shelf.folder.iterdir()}
    await consistent(shelf)


async def _dead_rollback(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    with monkeypatch.context() as patched:
        cut_after(step, patched)
        with pytest.raises(PowerCut):
            await back(shelf, 1)
    await shelf.parts.catalog.unpin(shelf.collection)


async def test_readers_can_be_held_while_ingestion_goes_on(shelf: Shelf) -> None:
    """A pinned generation stays whole, however many follow."""
    first, *_ = await three_generations(shelf)
    build, generation = await generation_of(shelf.parts.catalog, shelf.collection, 1)
    await shelf.parts.catalog.pin(build.key, generation.snapshot)
    assert await shelf.visible() == first
    for number in range(4):
        shelf.put("changes.md", PAGE.format(f"again {number}"))
        await shelf.ingest()
    assert await shelf.visible() == first
    await consistent(shelf)
    await shelf.parts.catalog.unpin(build.key)
    assert len({uri for uri, _ in await shelf.visible()}) == 3
    with pytest.raises(InvalidRequest, match="no generation 99"):
        await generation_of(shelf.parts.catalog, shelf.collection, 99)


async def test_a_rollback_waits_for_the_ingestion(shelf: Shelf) -> None:
    """Two that write the whole index cannot both be right; readers are not moved."""
    *_, third = await three_generations(shelf)
    async with shelf.parts.catalog.leases.hold(f"run/{shelf.collection}", "an ingestion"):
        with pytest.raises(WriterBusy, match="an ingestion holds"):
            await back(shelf, 1)
    assert await shelf.visible() == third


async def test_erased_documents_do_not_come_back(shelf: Shelf) -> None:
    """Going back to a generation that had them gives the others."""
    first, *_ = await three_generations(shelf)
    uri = (shelf.folder / "stays.md").as_uri()
    await erase(shelf.parts, shelf.settings, shelf.collection, [uri])
    done = await back(shelf, 1)
    assert done.erased == 1
    assert await shelf.visible() == {row for row in first if row[0] != uri}
    await consistent(shelf)


async def test_an_interrupted_ingestion_is_undone_by_a_rollback(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its documents are ingested again by the next one, and none of them twice."""
    first, _, third = await three_generations(shelf)
    shelf.put("changes.md", PAGE.format("fourth"))
    shelf.put("new.md", PAGE.format("new"))
    with monkeypatch.context() as patched:
        cut_after(2, patched)
        with pytest.raises(PowerCut):
            await shelf.ingest()
    assert await shelf.visible() == third
    await back(shelf, 1)
    assert await shelf.visible() == first
    await consistent(shelf)
    await shelf.ingest()
    assert {uri for uri, _ in await shelf.visible()} == {path.as_uri() for path in shelf.folder.iterdir()}
    await consistent(shelf)


async def test_readers_never_see_a_mixture(shelf: Shelf) -> None:
    """While everything happens at once, each look shows one published state, whole."""
    states = await three_generations(shelf)
    uri = (shelf.folder / "comes.md").as_uri()
    allowed = [{row for row in state if row[0] != erased} for state in states for erased in ("", uri)]
    looks, ended = 0, asyncio.Event()

    async def read() -> None:
        nonlocal looks
        while not ended.is_set():
            collection = await shelf.parts.catalog.collection(shelf.collection)
            rows = [row for row in await shelf.rows() if row.born <= collection.snapshot < row.died]
            seen = {(row.uri, row.chunk_id) for row in rows}
            assert len(seen) == len(rows)
            assert seen in allowed, sorted(seen)
            looks += 1

    reader = asyncio.create_task(read())
    try:
        await back(shelf, 1)
        await shelf.ingest()
        build, second = await generation_of(shelf.parts.catalog, shelf.collection, 3)
        await shelf.parts.catalog.pin(build.key, second.snapshot)
        await back(shelf, 4)
        (shelf.folder / "comes.md").unlink()
        await erase(shelf.parts, shelf.settings, shelf.collection, [uri])
        await shelf.ingest()
    finally:
        ended.set()
        await reader
    assert looks > 5


async def test_the_command_lists_pins_and_rolls_back(shelf: Shelf) -> None:
    """As a person and as a script see it, with exit codes."""
    first, *_ = await three_generations(shelf)
    code, out, err = await run(shelf, "--json", program="generations")
    assert code == 0, err
    listed: list[dict[str, Any]] = json.loads(out)["generations"]
    assert [one["generation"] for one in listed] == [3, 2, 1]
    assert [one["state"] for one in listed] == ["current", "retained", "retained"]
    assert (listed[1]["new"], listed[1]["changed"], listed[1]["removed"]) == (1, 1, 1)
    code, out, err = await run(shelf, "pin", "1", program="generations")
    assert (code, "stay at generation 1" in out) == (0, True), err
    assert await shelf.visible() == first
    code, out, err = await run(shelf, program="generations")
    assert (code, "+3 ~0 -0 !0" in out, out.count("pinned")) == (0, True, 1), err
    code, out, err = await run(shelf, "rollback", "1", program="generations")
    assert (code, "which holds what generation 1 held" in out) == (0, True), err
    assert await shelf.visible() == first
    code, _, err = await run(shelf, "rollback", "77", program="generations")
    assert (code, "no generation 77" in err) == (2, True)
    with pytest.raises(UnknownCollection):
        await generations(shelf.parts.catalog, "nowhere", 3, 10)


def cut_after(steps: int, patched: pytest.MonkeyPatch) -> list[int]:
    """The power goes off with the n-th change of the store. What is left of the n afterwards."""
    left = [steps]
    for name in ("upsert", "set_died", "delete", "flush"):
        real = getattr(Milvus, name)

        async def cut(self: Milvus, *arguments: Any, real: Any = real) -> None:
            left[0] -= 1
            if left[0] <= 0:
                raise PowerCut
            await real(self, *arguments)

        patched.setattr(Milvus, name, cut)
    return left
