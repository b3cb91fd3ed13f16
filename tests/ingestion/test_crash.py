"""kill -9, at random moments, of any process that takes part in an ingestion: the index is that of an undisturbed run.

20 kills by default; ANCHORAGE_TEST_KILLS=200 for more, ANCHORAGE_TEST_SEED for others.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from ingestion.parts import Parts, open_parts
from ingestion.patience import Patience
from serving.index.types import Vectors
from serving.settings import Settings
from serving.stack import embedded_index, running_milvus

KILLS = int(os.environ.get("ANCHORAGE_TEST_KILLS", "20"))
SEED = int(os.environ.get("ANCHORAGE_TEST_SEED", "3"))
DOCUMENTS = 36
TIMEOUT_S = 240.0
WORDS = ("anchor", "harbour", "tide", "vessel", "compass", "rope", "chart", "wind", "wave", "port", "sail", "keel")

#: Cosine between two embeddings of one text: other company in a batch may change the last bits of a vector.
SAME = 0.9999


@dataclass(frozen=True)
class Index:
    """What readers see: the content digest of each chunk by (uri, chunk id), vectors by (uri, what was embedded)."""

    rows: dict[tuple[str, str], str]
    vectors: dict[tuple[str, str], Vectors]


class Forked:
    """Runs `anchorage ingest` in forks of a process that has imported everything (see forked.py)."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, data_dir: Path) -> None:
        self._process = process
        self._arguments = ["ingest", str(folder), "--data-dir", str(data_dir), "-c", "crash"]

    async def begin(self) -> int:
        """Start one; its pid."""
        assert self._process.stdin
        self._process.stdin.write((json.dumps(self._arguments) + "\n").encode())
        return int(await self._line())

    async def ended(self) -> int:
        """Its exit code; negative when a signal ended it."""
        return int(await self._line())

    async def _line(self) -> str:
        assert self._process.stdout
        return (await asyncio.wait_for(self._process.stdout.readline(), TIMEOUT_S)).decode().strip()


@asynccontextmanager
async def forked(folder: Path, data_dir: Path) -> AsyncIterator[Forked]:
    log = folder.with_suffix(".log").open("ab")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.ingestion.forked",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        env={**os.environ, "ANCHORAGE_INGESTION__WRITE_BATCH": "8"},
    )
    try:
        assert process.stdout
        assert await asyncio.wait_for(process.stdout.readline(), TIMEOUT_S) == b"ready\n"
        yield Forked(process, folder, data_dir)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        log.close()


@dataclass
class Library:
    """A folder of documents that changes."""

    folder: Path
    dice: random.Random
    version: int = 0

    def write(self, number: int) -> None:
        words = " ".join(self.dice.choices(WORDS, k=120))
        above = f"# Page {number}\n\nVersion {self.version} of what {number} is about: {words}."
        (self.folder / f"{number}.md").write_text(f"{above}\n\n## More\n\n{words[:400]}\n")

    def change(self) -> None:
        """Some documents are written anew, some go, some come back, one is renamed, one is broken."""
        self.version += 1
        for number in self.dice.sample(range(DOCUMENTS), DOCUMENTS // 2):
            self.write(number)
        for number in self.dice.sample(range(DOCUMENTS), 3):
            (self.folder / f"{number}.md").unlink(missing_ok=True)
        for path in self.dice.sample(sorted(self.folder.glob("*.md")), 1):
            path.rename(self.folder / f"renamed-{self.version}.md")
        (self.folder / "broken.pdf").write_bytes(b"%PDF-1.7 " + self.dice.randbytes(100))


async def whole_index(parts: Parts) -> Index:
    """Read as readers do, and checked to be one whole state with every chunk once."""
    index = Index({}, {})
    collections = [collection for collection in await parts.catalog.collections() if collection.snapshot]
    for collection in collections:
        uris = [record.uri async for record in parts.catalog.documents(collection.build)]
        keys = await parts.store.keys(collection.index, collection.build, uris)
        seen = [key for key in keys if key.born <= collection.snapshot < key.died]
        index.rows.update({(key.uri, key.chunk_id): key.digest for key in seen})
        assert len(index.rows) == len(seen) == collection.chunks
        for uri in uris:
            stored = parts.store.vectors(collection.index, collection.build, [uri], collection.snapshot)
            index.vectors.update({(uri, digest): vector async for digest, vector in stored})
    return index


def kill_one(dice: random.Random, pid: int, data_dir: Path) -> str:
    """The ingestion itself, one of its parsing processes, or the store. What was killed; "" if it was too late."""
    with suppress(psutil.NoSuchProcess):
        ingestion = psutil.Process(pid)
        kind = dice.choice(["ingestion", "ingestion", "ingestion", "parser", "store"])
        milvus = running_milvus(data_dir)
        children = ingestion.children()
        if kind == "parser" and children:
            dice.choice(children).kill()
        elif kind == "store" and milvus:
            psutil.Process(milvus.server.pid).kill()
        else:
            kind = "ingestion"
            ingestion.kill()
        return kind
    return ""


@pytest.fixture
def library(tmp_path: Path) -> Library:
    folder = tmp_path / "docs"
    folder.mkdir()
    shelf = Library(folder, random.Random(SEED))
    for number in range(DOCUMENTS):
        shelf.write(number)
    return shelf


async def test_killed_anywhere_the_index_is_that_of_an_undisturbed_run(library: Library, tmp_path: Path) -> None:
    """Ids, contents and vectors; readers see a whole state after each kill; nothing is left over."""
    data_dir = tmp_path / "data"
    async with (
        embedded_index(Settings(), data_dir) as settings,
        open_parts(settings) as parts,
        forked(library.folder, data_dir) as runs,
    ):
        await _disturb(library, runs, parts, data_dir)
        await runs.begin()
        assert await runs.ended() in (0, 3)
        disturbed = await whole_index(parts)
        states = await parts.catalog.states("crash")
        assert not {"found", "parsed", "written"} & states.keys()
    undisturbed = await _undisturbed(library, tmp_path / "fresh")
    assert disturbed.rows == undisturbed.rows
    assert disturbed.vectors.keys() == undisturbed.vectors.keys()
    cosines = [float(np.dot(vector, undisturbed.vectors[key])) for key, vector in disturbed.vectors.items()]
    assert min(cosines) >= SAME


async def _disturb(library: Library, runs: Forked, parts: Parts, data_dir: Path) -> None:
    """Kill until there were enough, of the ingestion itself, too. Whenever a run comes through, give the next one
    something to do."""
    kills: Counter[str] = Counter()
    dice, usual_s = library.dice, 3.0
    while kills.total() < KILLS or kills["ingestion"] <= KILLS / 3:
        began = time.monotonic()
        pid = await runs.begin()
        ending = asyncio.ensure_future(runs.ended())
        await asyncio.wait([ending], timeout=dice.uniform(0.0, usual_s))  # a random moment, not a wait for something
        if not ending.done() and (killed := kill_one(dice, pid, data_dir)):
            kills[killed] += 1
        code = await asyncio.wait_for(ending, TIMEOUT_S)
        await Patience(60.0).call(whole_index, parts)
        assert code in (0, 3, -signal.SIGKILL), library.folder.with_suffix(".log").read_text()[-3000:]
        if code in (0, 3):
            usual_s = (usual_s + time.monotonic() - began) / 2
            library.change()


async def _undisturbed(library: Library, data_dir: Path) -> Index:
    async with (
        embedded_index(Settings(), data_dir) as settings,
        open_parts(settings) as parts,
        forked(library.folder, data_dir) as runs,
    ):
        await runs.begin()
        assert await runs.ended() == 3, "the broken PDF is reported, all the rest is there"
        return await whole_index(parts)
