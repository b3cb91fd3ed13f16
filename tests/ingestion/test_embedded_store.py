"""What the embedded store cannot bear by itself does not reach it through our code.

Milvus Lite loses acknowledged rows when several clients write at once, and searches rows that are not flushed by brute
force. So everything that writes takes turns, and nothing is left unflushed by whatever publishes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ingestion.apply import apply
from ingestion.load import SUFFIXES
from ingestion.parts import Parts
from ingestion.pipeline import ingest
from ingestion.sandbox import ParserPool
from ingestion.source import Found, parse_sources
from ingestion.upload import UploadContent
from serving.errors import IndexUnavailable
from serving.index.catalog import Catalog
from serving.index.milvus import Milvus
from serving.index.schema import index_name
from serving.index.types import Chunk, SearchRequest, StoredChunk, Vectors
from serving.settings import Settings
from serving.stack import embedded_index, running_milvus
from tests.ingestion.conftest import ANCHORAGE

DEADLINE_S = 60.0
DIMENSION = 384
DOCUMENTS, UPLOADS = 60, 8


@dataclass(frozen=True)
class Desk:
    """A data directory with an embedded store of its own, which a test may kill."""

    data_dir: Path
    settings: Settings
    parts: Parts

    @property
    def index(self) -> str:
        return index_name(self.settings.embedder.model, DIMENSION)

    async def ingest(self, folder: Path, collection: str) -> None:
        sources = parse_sources([str(folder)], suffixes=SUFFIXES)
        await ingest(sources, collection, settings=self.settings, parts=self.parts)

    async def upload(self, name: str, text: str, collection: str, pool: ParserPool) -> None:
        data = text.encode()
        found = Found(
            uri=f"upload:{name}",
            name=name,
            size=len(data),
            modified=0.0,
            fingerprint="",
            content=UploadContent(data),
            metadata={},
        )
        await apply([found], [], collection, settings=self.settings, parts=self.parts, pool=pool)

    def kill_store(self) -> None:
        """As `kill -9` would; the block of `embedded_index` that is open brings another one to its address."""
        state = running_milvus(self.data_dir)
        assert state is not None
        process = state.server.process()
        assert process is not None
        process.kill()
        process.wait(DEADLINE_S)

    def unflushed(self) -> list[str]:
        """Files of the store's log: what was written and is in no segment yet."""
        return [path.name for path in (self.data_dir / "milvus").glob("collections/*/wal/*") if path.is_file()]

    async def differences(self, collection: str) -> dict[str, tuple[int, int]]:
        """Documents of which the store shows another number of rows, or one twice, than the catalog calls live."""
        published = await self.parts.catalog.collection(collection)
        records = [record async for record in self.parts.catalog.documents(published.build)]
        keys = await self.parts.store.keys(self.index, published.build, [record.uri for record in records])
        rows = [key for key in keys if key.born <= published.snapshot < key.died]
        assert len({key.chunk_id for key in rows}) == len(rows), "a chunk is there twice"
        assert published.chunks == len(rows) == sum(record.chunks for record in records)
        found = Counter(key.uri for key in rows)
        return {
            record.uri: (record.chunks, found[record.uri]) for record in records if record.chunks != found[record.uri]
        }


@pytest.fixture
async def desk(tmp_path: Path, parts: Parts) -> AsyncIterator[Desk]:
    """With the session's embedding model: only the store and the catalog are this test's own."""
    ingestion = Settings().ingestion.model_copy(update={"write_batch": 8, "verify_samples": 5})
    settings = Settings().model_copy(update={"ingestion": ingestion})
    async with embedded_index(settings, tmp_path / "data") as found:
        own = Parts(Catalog.connect(found.index), Milvus.connect(found.index), parts.embedder)
        try:
            yield Desk(tmp_path / "data", found, own)
        finally:
            await own.store.close()
            await own.catalog.close()


@pytest.fixture
async def pool(desk: Desk) -> AsyncIterator[ParserPool]:
    async with ParserPool(desk.settings.ingestion, desk.settings.embedder.model) as opened:
        yield opened


def page(number: int) -> str:
    return f"# Page {number}\n\nBerth {number} of the harbour holds {number * 7} boats.\n"


def folder_of(folder: Path, first: int) -> Path:
    folder.mkdir()
    for number in range(first, first + DOCUMENTS):
        (folder / f"page-{number}.md").write_text(page(number))
    return folder


def row(name: str, vector: Vectors) -> StoredChunk:
    """One of the build `loose`, written past the catalog."""
    chunk = Chunk(name, f"file:///{name}.md", "Loose", f"The loose row {name}.", 0, 0, (), 0)
    return StoredChunk("loose", chunk, vector, born=1)


async def command(desk: Desk, folder: Path, collection: str) -> None:
    """An ingestion by another process, which finds the running store by its data directory."""
    process = await asyncio.create_subprocess_exec(
        *(ANCHORAGE, "ingest", str(folder), "-c", collection, "--data-dir", str(desk.data_dir), "--json"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "ANCHORAGE_INGESTION__WRITE_BATCH": "8"},
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def search_until(desk: Desk, done: asyncio.Event) -> int:
    """Readers of whatever is published, all the while; how many searches were answered."""
    vector = np.full(DIMENSION, DIMENSION**-0.5, dtype=np.float32)
    answered = 0
    while not done.is_set():
        for collection in await desk.parts.catalog.collections():
            if collection.generation == 0:
                continue
            request = SearchRequest(
                collection.build, collection.snapshot, desk.index, "harbour", vector, 5, "hybrid", rrf_k=10
            )
            assert await desk.parts.store.search(request), f"{collection.name} has a generation and no answer"
            answered += 1
        await asyncio.sleep(0.02)
    return answered


async def answering(desk: Desk) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return await desk.parts.store.ping()
        except IndexUnavailable:
            assert time.monotonic() < deadline, "the store did not come back"
            await asyncio.sleep(0.1)


async def test_everything_at_once_then_kill_9_loses_nothing(desk: Desk, pool: ParserPool, tmp_path: Path) -> None:
    """Two ingestions (one by another process), uploads and searches: what the catalog calls live is there, once."""
    one, other = folder_of(tmp_path / "one", 0), folder_of(tmp_path / "other", DOCUMENTS)
    done = asyncio.Event()
    searching = asyncio.create_task(search_until(desk, done))

    async def uploads() -> None:
        for number in range(UPLOADS):
            await desk.upload(f"note-{number}.md", page(1_000 + number), "notes", pool)

    async def again_and_again() -> None:
        """The ingestion of this process goes on changing pages for as long as the other process works."""
        await desk.ingest(one, "one")
        turn = 0
        while not by_command.done():
            turn += 1
            for number in range(DOCUMENTS):
                (one / f"page-{number}.md").write_text(page(number) + f"\nSeen {turn} times.\n")
            await desk.ingest(one, "one")

    by_command = asyncio.create_task(command(desk, other, "other"))
    try:
        await asyncio.gather(by_command, again_and_again(), uploads())
    finally:
        done.set()
    assert await searching > 0
    desk.kill_store()
    await answering(desk)
    assert {name: await desk.differences(name) for name in ("one", "other", "notes")} == {
        "one": {},
        "other": {},
        "notes": {},
    }
    counts = {name: (await desk.parts.catalog.collection(name)).documents for name in ("one", "other", "notes")}
    assert counts == {"one": DOCUMENTS, "other": DOCUMENTS, "notes": UPLOADS}


async def test_writers_side_by_side_lose_nothing_that_the_store_acknowledged(desk: Desk) -> None:
    """Four of them, in small batches and without a flush, then kill -9: at the server itself, most rows were lost."""
    numbers = np.random.default_rng(7)
    writers = [Milvus.connect(desk.settings.index) for _ in range(4)]

    async def write(writer: int) -> None:
        for start in range(0, 200, 8):
            vectors = numbers.normal(size=(8, DIMENSION)).astype(np.float32)
            rows = [row(f"{writer}-{start + place}", vector) for place, vector in enumerate(vectors)]
            await writers[writer].upsert(desk.index, rows)

    try:
        await writers[0].ensure(desk.index, DIMENSION)
        await asyncio.gather(*(write(number) for number in range(4)))
        desk.kill_store()
        await answering(desk)
        assert await writers[0].count(desk.index, "loose", 1) == 800
    finally:
        for writer in writers:
            await writer.close()


async def test_nothing_published_is_left_unflushed(desk: Desk, pool: ParserPool, tmp_path: Path) -> None:
    """Readers of a new generation, by an ingestion or an upload, never search rows by brute force."""
    await desk.ingest(folder_of(tmp_path / "one", 0), "one")
    assert desk.unflushed() == []
    await desk.upload("note.md", page(1), "one", pool)
    assert desk.unflushed() == []
    (tmp_path / "one" / "page-0.md").unlink()
    await desk.ingest(tmp_path / "one", "one")
    assert desk.unflushed() == []

    # What the assertion would have seen: a row that nobody has flushed.
    await desk.parts.store.upsert(desk.index, [row("loose", np.ones(DIMENSION, dtype=np.float32))])
    assert desk.unflushed() != []
