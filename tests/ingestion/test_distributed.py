"""Ingestion on a private Ray with real workers: killed or not, the index is that of one undisturbed machine."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
from ray._private import state

from ingestion.distributed import on_cluster
from ingestion.load import SUFFIXES
from ingestion.parts import open_parts
from ingestion.pipeline import ingest
from ingestion.report import IngestReport
from ingestion.source import Body, Content, Found, Problem, Source, parse_sources
from ingestion.work import OpenWork, here
from serving.index.types import Vectors
from serving.settings import Settings
from tests.ingestion.models import make_embedding_model

DOCUMENTS = 70
DEADLINE_S = 120.0
WORDS = ("anchor", "harbour", "tide", "vessel", "compass", "rope", "chart", "wind", "wave", "port", "sail", "keel")


@dataclass(frozen=True)
class Held:
    """Content that is not given before somebody opens the `gate`; it says that it is waited for."""

    content: Content
    gate: Path

    def read(self, max_bytes: int, known: str = "") -> Body:
        self.gate.with_suffix(".waiting").touch()
        deadline = time.monotonic() + DEADLINE_S
        while not self.gate.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.content.read(max_bytes, known)


@dataclass(frozen=True)
class Poison:
    """Content that kills whoever reads it."""

    log: Path

    def read(self, max_bytes: int, known: str = "") -> Body:
        with self.log.open("a") as log:
            log.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Changed:
    """A source with other contents for some names."""

    def __init__(self, source: Source, contents: dict[str, Callable[[Content], Content]]) -> None:
        self._source = source
        self._contents = contents

    def walk(self) -> Iterator[Found | Problem]:
        for item in self._source.walk():
            change = self._contents.get(Path(item.name).name)
            yield replace(item, content=change(item.content)) if change and isinstance(item, Found) else item

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)


@dataclass(frozen=True)
class Index:
    """What readers see: the content digest of each chunk by (uri, chunk id), vectors by (uri, what was embedded)."""

    rows: dict[tuple[str, str], str]
    vectors: dict[tuple[str, str], Vectors]

    def without(self, name: str) -> Index:
        return Index(
            {key: digest for key, digest in self.rows.items() if not key[0].endswith(name)},
            {key: vector for key, vector in self.vectors.items() if not key[0].endswith(name)},
        )


@dataclass
class Place:
    """A catalog and a copy of the model of its own (which gives a Milvus collection of its own)."""

    settings: Settings

    async def ingest(
        self, folder: Path, open_work: OpenWork, contents: dict[str, Callable[[Content], Content]]
    ) -> IngestReport:
        sources = [Changed(one, contents) for one in parse_sources([str(folder)], suffixes=SUFFIXES)]
        async with open_parts(self.settings) as parts:
            return await ingest(sources, "ships", settings=self.settings, parts=parts, open_work=open_work)

    async def index(self) -> Index:
        index = Index({}, {})
        async with open_parts(self.settings) as parts:
            collection = await parts.catalog.collection("ships")
            uris = [record.uri async for record in parts.catalog.documents(collection.build)]
            for key in await parts.store.keys(collection.index, collection.build, uris):
                if key.born <= collection.snapshot < key.died:
                    assert (key.uri, key.chunk_id) not in index.rows
                    index.rows[key.uri, key.chunk_id] = key.digest
            for uri in uris:
                stored = parts.store.vectors(collection.index, collection.build, [uri], collection.snapshot)
                index.vectors.update({(uri, digest): vector async for digest, vector in stored})
        return index


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT."""
    return Path(make_embedding_model(tmp_path_factory.mktemp("model") / "bert"))


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of documents: one broken, two alike."""
    folder = tmp_path_factory.mktemp("documents")
    dice = random.Random(6)
    for number in range(DOCUMENTS):
        text = " ".join(dice.choices(WORDS, k=150))
        (folder / f"{number:03}.md").write_text(f"# Ship {number}\n\n{text}.\n\n## More of {number}\n\n{text[:300]}.\n")
    shutil.copy(folder / "001.md", folder / "alike.md")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 " + dice.randbytes(100))
    return folder


@pytest.fixture
def places(tmp_path: Path, embedded: Settings, model: Path) -> Callable[[str], Place]:
    """Places by name."""

    def place(name: str) -> Place:
        shutil.copytree(model, tmp_path / f"model-{name}")
        embedder = embedded.embedder.model_copy(update={"model": str(tmp_path / f"model-{name}")})
        index = embedded.index.model_copy(update={"catalog_url": f"sqlite:///{tmp_path / name}.db"})
        ingestion = embedded.ingestion.model_copy(update={"chunk_tokens": 40})
        return Place(embedded.model_copy(update={"embedder": embedder, "index": index, "ingestion": ingestion}))

    return place


def workers_of(stage: str) -> list[int]:
    """Process ids of the living actors of a stage, as Ray knows them."""
    if not ray.is_initialized():
        return []
    return [
        actor["Pid"]
        for actor in state.actors().values()
        if f"({stage})" in actor["ActorClassName"] and actor["State"] == "ALIVE"
    ]


async def until(condition: Callable[[], Awaitable[bool]], run: asyncio.Task[IngestReport]) -> None:
    """Poll with a bounded deadline, while the run goes on."""
    deadline = time.monotonic() + DEADLINE_S
    while not await condition():
        assert not run.done(), run.exception() or run.result()
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def both() -> bool:
    """Two workers of each stage live."""
    return len(workers_of("Parse")) == len(workers_of("Embed")) == 2


async def begun(place: Place) -> bool:
    async with open_parts(place.settings) as parts:
        build = await parts.catalog.live_build("ships")
        return build is not None and bool(await parts.catalog.chunk_sum(build.key, ("written",)))


def kill(pids: Sequence[int]) -> None:
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def assert_same(index: Index, expected: Index) -> None:
    """Ids and digests, and vectors to the last bit: a text has the same one, whatever it was embedded with."""
    assert index.rows == expected.rows
    assert index.vectors.keys() == expected.vectors.keys()
    assert all(np.array_equal(vector, expected.vectors[key]) for key, vector in index.vectors.items())


async def test_workers_that_are_killed_change_nothing(
    places: Callable[[str], Place], documents: Path, tmp_path: Path
) -> None:
    """With 2 workers, one of each stage killed at work, and with 4, and a document that kills all who read it, the
    index is that of one machine: ids, digests, vectors. A second run finds nothing to do."""
    alone = places("alone")
    report = await alone.ingest(documents, here, {})
    expected = await alone.index()
    assert (report.counts["new"], report.counts["failed"]) == (DOCUMENTS + 1, 1)

    two, gate = places("two"), tmp_path / "gate"
    held = {"040.md": lambda content: Held(content, gate)}
    run = asyncio.create_task(two.ingest(documents, on_cluster(workers=2), held))
    try:
        await until(partial(asyncio.to_thread, gate.with_suffix(".waiting").exists), run)
        await until(partial(begun, two), run)
        await until(both, run)
        kill(workers_of("Embed")[:1])
        kill(workers_of("Parse"))
    finally:
        gate.touch()
        report = await run
    assert (report.counts["new"], report.counts["failed"]) == (DOCUMENTS + 1, 1)
    assert_same(await two.index(), expected)

    four, log = places("four"), tmp_path / "deaths"
    report = await four.ingest(documents, on_cluster(workers=4), {"040.md": lambda _: Poison(log)})
    assert (report.counts["new"], report.counts["failed"]) == (DOCUMENTS, 2)
    reasons = {Path(failure.path).name: failure.reason for failure in report.failures}
    assert "3 workers of the cluster died while reading and parsing it" in reasons["040.md"]
    assert len(log.read_text()) == 3
    assert_same(await four.index(), expected.without("040.md"))
    report = await two.ingest(documents, on_cluster(workers=2), {})
    assert report.counts["unchanged"] == DOCUMENTS + 1
    assert not ray.is_initialized()
