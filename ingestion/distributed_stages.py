"""The stages that run on the cluster, as Ray Data knows them.

    Feed (one task) ─► Parse (actors, each with a parser process) ─► Embed (actors; GPUs where there are some) ─► driver

A block is one row, a row is one page: so what is lost with a worker is a page, and Ray does it again.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset, read_datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from ingestion.distributed_careful import Careful
from ingestion.distributed_desk import ask, driver_node
from ingestion.distributed_words import Done, Make, NextPages, Page, Stored
from ingestion.patience import Patience
from ingestion.report import IngestReport
from ingestion.sandbox import ParserPool
from ingestion.task import Bad, Good, Reader, Result, Task
from serving.errors import AnchorageError
from serving.index.embedder import LocalEmbedder
from serving.index.types import Vectors, embedding_digest

#: Pages that wait at an actor while it works on another one.
_IN_FLIGHT = 2


def pipeline(make: Make, desk: Any, *, workers: int, fixed: bool, gpus: float, embed: bool) -> Dataset:
    """Rows with a pickled `Done` each, in the order in which they are ready. `fixed`: all workers from the start."""
    cluster = make.settings.ingestion.cluster
    # The feed waits most of the time, and pages must not be lost with a machine: it runs beside the driver.
    here = {"ray.io/node-id": driver_node()}
    pages = read_datasource(Feed(desk), override_num_blocks=1, num_cpus=0, label_selector=here)
    pool = {"size": workers} if fixed else {"min_size": 1, "max_size": workers}
    arguments = {"fn_constructor_kwargs": {"make": make, "desk": desk}, "batch_size": None, "batch_format": "pyarrow"}
    done = pages.map_batches(
        Parse,
        compute=ActorPoolStrategy(**pool, max_tasks_in_flight_per_actor=_IN_FLIGHT),
        num_cpus=cluster.parse_cpus,
        **arguments,
    )
    if not embed:
        return done
    return done.map_batches(
        Embed,
        compute=ActorPoolStrategy(**pool, max_tasks_in_flight_per_actor=_IN_FLIGHT),
        num_cpus=cluster.embed_cpus,
        num_gpus=gpus,
        **arguments,
    )


class Feed(Datasource):  # type: ignore[misc]  # Ray has no types
    """The pages that the driver makes, as long as it makes some."""

    def __init__(self, desk: Any) -> None:
        super().__init__()
        self._desk = desk

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        desk = self._desk

        def read() -> Iterator[pa.Table]:
            number = 0
            while (pages := ask(desk, NextPages(number))) is not None:
                for page in pages:
                    yield _row(page)
                number += len(pages)

        nothing_known = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, nothing_known)]


class Parse:
    """Reads and parses pages, one document after another, in a limited process of its own."""

    def __init__(self, make: Make, desk: Any) -> None:
        self._make = make
        self._desk = desk
        self._runner = asyncio.Runner()
        settings = make.settings.ingestion.model_copy(update={"parse_workers": 1})
        self._pool = ParserPool(settings, make.recipe.model)
        self._report = IngestReport("")
        self._reader = Reader(
            self._pool,
            make.recipe,
            self._report,
            settings,
            collection=make.collection,
            tenant=make.settings.index.tenant,
        )

    def __call__(self, rows: pa.Table) -> pa.Table:
        return _rows(self._runner.run(self._done(page)) for page in unpickled(rows))

    async def _done(self, page: Page) -> Done:
        careful = Careful(self._desk, "parse", page.number)
        self._report.seconds.clear()
        try:
            results = await careful.done(page.tasks, self._read)
        except AnchorageError as error:
            return Done(page.number, {}, error=error)
        stored: frozenset[str] = frozenset()
        found = {
            page.tasks[number].found.uri: result.content_hash
            for number, result in results.items()
            if isinstance(result, Good) and result.chunks
        }
        if self._make.reuse and found:
            stored = await asyncio.to_thread(ask, self._desk, Stored(found))
        return Done(page.number, results, stored, seconds=dict(self._report.seconds))

    async def _read(self, tasks: Mapping[int, Task]) -> dict[int, Result]:
        """While one is parsed, others are read."""
        some = asyncio.Semaphore(self._make.settings.ingestion.read_concurrency)

        async def read(task: Task) -> Result:
            async with some:
                return await self._reader.do(task)

        return dict(zip(tasks, await asyncio.gather(*map(read, tasks.values())), strict=True))


class Embed:
    """Adds the vectors of what is not stored yet. The model is loaded when the first page comes."""

    def __init__(self, make: Make, desk: Any) -> None:
        self._make = make
        self._desk = desk
        self._runner = asyncio.Runner()
        self._patience = Patience(make.settings.ingestion.patience_s)
        self._loaded: LocalEmbedder | None = None

    def __call__(self, rows: pa.Table) -> pa.Table:
        return _rows(self._runner.run(self._done(done)) for done in unpickled(rows))

    async def _done(self, done: Done) -> Done:
        report = IngestReport("")
        wanted = {
            number: _texts(result, done.stored) for number, result in done.results.items() if isinstance(result, Good)
        }
        try:
            with report.timed("embed"):
                vectors = await Careful(self._desk, "embed", done.page).done(wanted, self._vectors)
        except AnchorageError as error:
            return Done(done.page, {}, error=error)
        results = {number: _with_vectors(result, vectors.get(number)) for number, result in done.results.items()}
        embedded = sum(map(len, wanted.values()))
        return replace(done, results=results, embedded=embedded, seconds={**(done.seconds or {}), **report.seconds})

    async def _vectors(self, wanted: Mapping[int, Mapping[str, str]]) -> dict[int, dict[str, Vectors]]:
        """Of each document, by digest."""
        texts = {digest: text for document in wanted.values() for digest, text in document.items()}
        if not texts:
            return {number: {} for number in wanted}
        embedder = await asyncio.to_thread(self._embedder)
        rows = await self._patience.call(embedder.embed, list(texts.values()), bulk=True)
        vectors = dict(zip(texts, rows, strict=True))
        return {number: {digest: vectors[digest] for digest in document} for number, document in wanted.items()}

    def _embedder(self) -> LocalEmbedder:
        if self._loaded is None:
            model = self._make.recipe.model
            self._loaded = LocalEmbedder(self._make.settings.embedder.model_copy(update={"model": model}))
        return self._loaded


def _texts(document: Good, stored: frozenset[str]) -> dict[str, str]:
    """What is to be embedded of it, by digest."""
    texts = {embedding_digest(chunk): chunk.embedded_text() for chunk in document.chunks}
    return {digest: text for digest, text in texts.items() if digest not in stored}


def _with_vectors(result: Result, vectors: Mapping[str, Vectors] | Bad | None) -> Result:
    if isinstance(vectors, Bad):
        return vectors
    return replace(result, vectors=vectors) if isinstance(result, Good) and vectors else result


def _row(data: bytes) -> pa.Table:
    return pa.table({"page": pa.array([data], pa.large_binary())})


def _rows(done: Iterable[Done]) -> pa.Table:
    data = [pickle.dumps(page, pickle.HIGHEST_PROTOCOL) for page in done]
    return pa.table({"page": pa.array(data, pa.large_binary())})


def unpickled(rows: pa.Table) -> Iterator[Any]:
    """What a block holds; a page that is done already is empty."""
    for value in rows["page"]:
        if data := value.as_buffer():
            yield pickle.loads(data)
