"""Another recipe for a collection that goes on being read and written."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from ingestion.erase import erase
from ingestion.options import Options
from ingestion.parts import Parts, open_parts
from ingestion.rebuild import rebuild, switch_to
from ingestion.rebuild_now import drop, switch_now
from ingestion.rebuild_report import RebuildOptions, RebuildReport
from serving.errors import ConfigurationError, InvalidRequest, UnknownCollection
from serving.index.catalog_models import Build
from serving.index.types import SearchRequest, Vectors
from serving.settings import Settings
from tests.ingestion.conftest import Shelf
from tests.ingestion.models import make_embedding_model

PAGE = "# Page {0}\n\nText of page {0}, version {1}.\n\n" + "\n\n".join(
    f"## Part {part}\n\n" + f"Passage {part} of this page: a question and an answer. " * 4 for part in range(5)
)
#: What an ingestion by the default model makes smaller chunks of.
TOKENS = 40
OPTIONS = RebuildOptions(wait_s=60.0)


@dataclass(frozen=True)
class Row:
    """All that readers may see of a chunk."""

    digest: str
    vector: Vectors


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another embedding model than the settings name, with vectors of another length."""
    return make_embedding_model(tmp_path_factory.mktemp("model") / "tiny")


async def rebuilt(shelf: Shelf, model: str, tokens: int = TOKENS, options: RebuildOptions = OPTIONS) -> RebuildReport:
    return await rebuild(shelf.collection, model, tokens, settings=shelf.settings, parts=shelf.parts, options=options)


async def switched(shelf: Shelf, key: str, options: RebuildOptions = OPTIONS) -> RebuildReport:
    return await switch_to(shelf.collection, key, settings=shelf.settings, parts=shelf.parts, options=options)


async def seen(parts: Parts, collection: str) -> dict[tuple[str, str], Row]:
    """By (uri, chunk id): the rows that readers see, each once and as many as the catalog says."""
    now = await parts.catalog.collection(collection)
    uris = [record.uri async for record in parts.catalog.documents(now.build)]
    rows = await parts.store.keys(now.index, now.build, uris)
    keys = [row for row in rows if row.born <= now.snapshot < row.died]
    found = {
        (stored.chunk.uri, stored.chunk.id): stored.vector
        async for stored in parts.store.chunks(now.index, now.build, [row.key for row in keys])
    }
    assert len(found) == len(keys) == now.chunks == await parts.store.count(now.index, now.build, now.snapshot)
    return {(row.uri, row.chunk_id): Row(row.digest, found[row.uri, row.chunk_id]) for row in keys}


@asynccontextmanager
async def scratch(
    shelf: Shelf, model: str, tokens: int, folder: Path, tenant: str = "default"
) -> AsyncIterator[dict[tuple[str, str], Row]]:
    """What a first ingestion by this recipe gives: with a catalog of its own, the same collection and tenant.

    Another tenant for another place in the same index, where chunks have other ids.
    """
    settings = shelf.settings
    own_catalog = {"catalog_url": f"sqlite:///{folder}/scratch.db", "tenant": tenant}
    index = settings.index.model_copy(update=own_catalog)
    ingestion = settings.ingestion.model_copy(update={"chunk_tokens": tokens})
    embedder = settings.embedder.model_copy(update={"model": model})
    own: Settings = settings.model_copy(update={"index": index, "ingestion": ingestion, "embedder": embedder})
    async with open_parts(own) as parts:
        await replace(shelf, settings=own, parts=parts).ingest()
        yield await seen(parts, shelf.collection)


def same(found: dict[tuple[str, str], Row], wanted: dict[tuple[str, str], Row]) -> None:
    assert {key: row.digest for key, row in found.items()} == {key: row.digest for key, row in wanted.items()}
    for key, row in found.items():
        np.testing.assert_array_equal(row.vector, wanted[key].vector)


def without_ids(rows: dict[tuple[str, str], Row]) -> dict[tuple[str, str], Row]:
    return {(uri, row.digest): row for (uri, _), row in rows.items()}


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not reached():  # noqa: ASYNC110 - there is nothing to be woken by
            await asyncio.sleep(0.01)


async def build_of(shelf: Shelf, key: str) -> Build:
    return next(build for build in await shelf.parts.catalog.builds(shelf.collection) if build.key == key)


async def test_a_rebuild_is_what_a_first_ingestion_gives(shelf: Shelf, model: str, tmp_path: Path) -> None:
    """The same chunks with the same ids and vectors, from no source; afterwards nothing is new to an ingestion."""
    for number in range(12):
        shelf.put(f"{number}.md", PAGE.format(number, 1))
    shelf.put("table.csv", "name,height\nfir,30\noak,20\n")
    shelf.put("empty.md", "---\ntitle: Nothing\n---\n")
    shelf.put("broken.pdf", b"%PDF-1.7 broken")
    await shelf.ingest()
    await asyncio.to_thread(shelf.folder.rename, tmp_path / "away")
    report = await rebuilt(shelf, model)
    assert (report.switched, report.obstacles, report.failures) == (True, [], [])
    assert (report.build, report.previous) == (f"{shelf.collection}~2", shelf.collection)
    assert report.embedded == report.written == report.chunks > 60
    await asyncio.to_thread((tmp_path / "away").rename, shelf.folder)
    found = await seen(shelf.parts, shelf.collection)
    async with scratch(shelf, model, TOKENS, tmp_path) as wanted:
        same(found, wanted)

    again = await shelf.ingest()
    assert shelf.counts(again) == {"unchanged": 13, "failed": 1}
    assert (again.embedded, again.published) == (0, False)
    assert [note for note in again.notes if model in note and "anchorage rebuild" in note]
    assert (await rebuilt(shelf, model)).already


async def test_it_goes_on_while_others_read_and_write(shelf: Shelf, model: str, tmp_path: Path) -> None:
    """Each answer is from one whole build, embedded by its model; nothing that was written meanwhile is missing."""
    for number in range(14):
        shelf.put(f"{number}.md", PAGE.format(number, 1))
    await shelf.ingest()
    done = asyncio.Event()
    read: set[tuple[str, int]] = set()

    async def reader() -> None:
        while not done.is_set():
            now = await shelf.parts.catalog.collection(shelf.collection)
            (vector,) = await shelf.parts.embedder(now.model).embed(["Text of page 7"])
            request = SearchRequest(
                now.build, now.snapshot, now.index, "Text of page 7", vector, 10, mode="hybrid", rrf_k=10
            )
            hits = await shelf.parts.store.search(request)
            assert len(hits) == 10
            assert await shelf.parts.store.count(now.index, now.build, now.snapshot) == now.chunks
            read.add((now.build, now.generation))

    async def writer() -> None:
        version = 2
        while not done.is_set():
            for number in range(version % 7, 14, 7):
                shelf.put(f"{number}.md", PAGE.format(number, version))
            (shelf.folder / f"{13 - version % 5}.md").unlink(missing_ok=True)
            shelf.put(f"new-{version % 3}.md", PAGE.format("new", version))
            await shelf.ingest(options=Options(sync=True if version % 4 == 2 else None, wait_s=60.0))
            version += 1

    async with asyncio.TaskGroup() as others:
        others.create_task(reader())
        others.create_task(writer())
        await until(lambda: bool(read))
        report = await rebuilt(shelf, model)
        await until(lambda: report.build in {build for build, _ in read})
        done.set()
    assert report.switched
    assert report.passes > 2
    assert {build for build, _ in read} == {shelf.collection, report.build}
    await shelf.ingest(options=Options(sync=True))
    found = await seen(shelf.parts, shelf.collection)
    async with scratch(shelf, model, TOKENS, tmp_path) as wanted:
        same(found, wanted)


async def test_smaller_chunks_by_the_same_model_copy_its_vectors(shelf: Shelf, tmp_path: Path) -> None:
    """Both builds share one index; neither counts, finds or purges a row of the other."""
    own = shelf.settings.embedder.model
    for number in range(6):
        shelf.put(f"{number}.md", PAGE.format(number, 1))
        shelf.put(f"short-{number}.md", f"# Short {number}\n\nOne sentence of page {number}.\n")
    await shelf.ingest()
    before = await seen(shelf.parts, shelf.collection)
    report = await rebuilt(shelf, own)
    assert report.written == report.chunks > len(before)
    assert 0 < report.embedded <= report.written - 6
    kept, beside = await build_of(shelf, shelf.collection), await build_of(shelf, report.build)
    assert kept.index == beside.index
    found = await seen(shelf.parts, shelf.collection)
    async with scratch(shelf, own, TOKENS, tmp_path, "another") as wanted:
        same(without_ids(found), without_ids(wanted))
    assert await shelf.parts.store.count(kept.index, kept.key, kept.snapshot) == kept.chunks == len(before)

    await drop(shelf.collection, "1", parts=shelf.parts, wait_s=0.0, readers_s=0.0)
    assert await shelf.parts.store.count(kept.index, kept.key, kept.snapshot) == 0
    same(await seen(shelf.parts, shelf.collection), found)
    assert [build.key for build in await shelf.parts.catalog.builds(shelf.collection)] == [report.build]


async def test_readers_can_be_switched_back(shelf: Shelf, model: str, tmp_path: Path) -> None:
    """The old build is first brought up to date, by its own recipe; or, at once, read as it was."""
    own = shelf.settings.embedder.model
    for number in range(8):
        shelf.put(f"{number}.md", PAGE.format(number, 1))
    await shelf.ingest()
    old = await seen(shelf.parts, shelf.collection)
    there = await rebuilt(shelf, model)
    shelf.put("3.md", PAGE.format(3, 2))
    shelf.put("8.md", PAGE.format(8, 1))
    (shelf.folder / "5.md").unlink()
    await shelf.ingest()

    at_once = await switch_now(shelf.collection, "1", parts=shelf.parts, wait_s=0.0)
    assert (at_once.build.key, at_once.previous, at_once.differing) == (shelf.collection, there.build, 3)
    same(await seen(shelf.parts, shelf.collection), old)
    back = await switch_now(shelf.collection, there.build, parts=shelf.parts, wait_s=0.0)
    assert back.differing == 3

    report = await switched(shelf, shelf.collection)
    assert (report.switched, report.documents) == (True, 8)
    assert report.embedded < report.chunks / 2
    async with scratch(shelf, own, 200, tmp_path, "another") as wanted:
        same(without_ids(await seen(shelf.parts, shelf.collection)), without_ids(wanted))
    again = await rebuilt(shelf, model)
    assert (again.build, again.switched, again.written) == (there.build, True, 0)
    with pytest.raises(InvalidRequest, match="what readers of"):
        await drop(shelf.collection, there.build, parts=shelf.parts, wait_s=0.0)
    with pytest.raises(InvalidRequest, match="has no build 'kb~7'"):
        await switched(shelf, "kb~7")


async def test_a_document_without_a_text_is_not_lost(shelf: Shelf, model: str) -> None:
    """It is named, with what to do, and readers keep what they have; unless somebody insists."""
    for number in range(4):
        shelf.put(f"{number}.md", PAGE.format(number, 1))
    await shelf.ingest()
    uri = (shelf.folder / "2.md").as_uri()
    await shelf.parts.catalog.drop_texts(shelf.collection, [uri])
    before = await seen(shelf.parts, shelf.collection)
    report = await rebuilt(shelf, model)
    assert (report.switched, [failure.path for failure in report.failures]) == (False, [uri])
    assert "Ingest them again" in report.obstacles[0]
    same(await seen(shelf.parts, shelf.collection), before)
    forced = await rebuilt(shelf, model, options=replace(OPTIONS, force=True))
    assert (forced.switched, forced.documents, forced.written) == (True, 3, 0)
    assert shelf.counts(await shelf.ingest()) == {"new": 1, "unchanged": 3}


async def test_what_is_removed_meanwhile_is_not_kept_by_a_rebuild(shelf: Shelf, model: str) -> None:
    """An erasure between building and switching takes the document out of the new build, too."""
    for number in range(4):
        shelf.put(f"{number}.md", PAGE.format(number, 1))
    await shelf.ingest()
    built = await rebuilt(shelf, model, options=replace(OPTIONS, switch=False))
    assert (built.switched, built.documents) == (False, 4)
    assert (await shelf.parts.catalog.collection(shelf.collection)).preparing == model
    uri = (shelf.folder / "1.md").as_uri()
    receipt = await erase(shelf.parts, shelf.settings, shelf.collection, [uri])
    assert all(check.passed for check in receipt.checks)
    report = await rebuilt(shelf, model)
    assert (report.switched, report.documents, report.build) == (True, 3, built.build)
    beside = await build_of(shelf, built.build)
    assert await shelf.parts.store.keys(beside.index, beside.key, [uri]) == []


async def test_what_nobody_may_switch_to(shelf: Shelf, model: str) -> None:
    """Readers that are held at a generation, a model that is not there, a collection that is not there."""
    with pytest.raises(UnknownCollection):
        await rebuilt(shelf, model)
    shelf.put("a.md", PAGE.format("a", 1))
    await shelf.ingest()
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        await rebuilt(shelf, "/no/such/model")
    now = await shelf.parts.catalog.collection(shelf.collection)
    await shelf.parts.catalog.pin(now.build, now.snapshot)
    held = await rebuilt(shelf, model)
    assert (held.switched, len(held.obstacles)) == (False, 1)
    await shelf.parts.catalog.unpin(now.build)
    assert (await rebuilt(shelf, model)).switched


async def test_killed_anywhere_the_same_command_completes_it(shelf: Shelf, model: str, tmp_path: Path) -> None:
    """After any number of kill -9 the new build is that of an undisturbed one; readers never notice."""
    dice = random.Random(5)
    for number in range(24):
        shelf.put(f"{number}.md", PAGE.format(number, 1))
    await shelf.ingest()
    before = await seen(shelf.parts, shelf.collection)
    arguments = ["rebuild", "-c", shelf.collection, "--model", model, "--chunk-tokens", str(TOKENS)]
    kills = 0
    async with commands(shelf) as run:
        for attempt in range(20):
            code = await run([*arguments, "--json"], kill_after=dice.uniform(0.05, 0.6) * (1 + attempt))
            if code == 0:
                break
            kills += 1
            now = await shelf.parts.catalog.collection(shelf.collection)
            if now.build == shelf.collection:
                same(await seen(shelf.parts, shelf.collection), before)
        assert await run([*arguments, "--json"]) == 0
        assert kills >= 3
        found = await seen(shelf.parts, shelf.collection)
        async with scratch(shelf, model, TOKENS, tmp_path) as wanted:
            same(found, wanted)
        assert [build.state for build in await shelf.parts.catalog.builds(shelf.collection)] == ["ready", "ready"]
        assert await run(["builds", "-c", shelf.collection]) == 0
        assert await run(["builds", "switch", "7", "-c", shelf.collection]) == 2
        assert await run(["builds", "switch", "1", "-c", shelf.collection]) == 0
        assert await run(["builds", "drop", "2", "-c", shelf.collection]) == 0
    same(await seen(shelf.parts, shelf.collection), before)


class Run(Protocol):
    async def __call__(self, arguments: list[str], *, kill_after: float | None = None) -> int:
        """The exit code of a command; negative when it was killed."""
        ...


@asynccontextmanager
async def commands(shelf: Shelf) -> AsyncIterator[Run]:
    """Runs `anchorage ...` on the shelf's store and catalog, in forks of a process that has imported everything."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.ingestion.forked",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=shelf.environment,
    )
    assert process.stdin
    assert process.stdout
    stdin, stdout = process.stdin, process.stdout

    async def line() -> str:
        return (await asyncio.wait_for(stdout.readline(), 120)).decode().strip()

    async def run(arguments: list[str], *, kill_after: float | None = None) -> int:
        data_dir = ["--data-dir", str(shelf.folder.parent / "data")]
        stdin.write((json.dumps([*arguments, *data_dir]) + "\n").encode())
        pid = int(await line())
        ended = asyncio.create_task(line())
        if kill_after is not None:
            await asyncio.wait([ended], timeout=kill_after)
            if not ended.done():
                os.kill(pid, signal.SIGKILL)
        return int(await ended)

    try:
        assert await line() == "ready"
        yield run
    finally:
        process.kill()
        await process.wait()
