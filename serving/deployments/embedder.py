"""The Embedder deployment: concurrent queries share a forward pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from ray import serve

from serving.index.embedder import LocalEmbedder
from serving.index.types import Vectors
from serving.settings import EmbedderSettings


class Embedder:
    """One copy of the embedding model."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self._model = LocalEmbedder(settings)
        self._batches = Batches(self._model, settings.max_batch_size, settings.batch_wait_s)

    async def embed(self, texts: list[str], bulk: bool = False) -> Vectors:
        return await self._batches.embed(texts, bulk=bulk)

    async def count_tokens(self, texts: list[str]) -> int:
        """Of all texts together."""
        return await asyncio.to_thread(lambda: sum(map(self._model.count_tokens, texts)))

    async def describe(self) -> tuple[str, int]:
        return self._model.name, self._model.dimension

    async def metrics_text(self) -> tuple[str, str]:
        """This replica's id and its Prometheus metrics."""
        return serve.get_replica_context().replica_tag, self._batches.metrics()

    async def ping(self) -> None:
        """Answers when this replica does."""


@dataclass(slots=True)
class _Waiting:
    texts: Sequence[str]
    vectors: asyncio.Future[Vectors] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class TwoLanes(Protocol):
    """What `Batches` needs of `LocalEmbedder`: bulk work makes way for the other kind."""

    async def embed(self, texts: Sequence[str], *, bulk: bool = False) -> Vectors: ...


class Batches:
    """Implements `types.Embedder`: what arrives while a forward pass runs goes into the next one.

    A lone query never waits; only when queries come together does the next pass wait `wait_s` for company. A request
    of more than `size` texts is bulk work, which no query waits for; so is what its caller calls that.
    """

    def __init__(self, model: TwoLanes, size: int, wait_s: float) -> None:
        self._model = model
        self._size = size
        self._wait_s = wait_s
        self._waiting: list[_Waiting] = []
        self._running: asyncio.Task[None] | None = None
        self._passes = 0
        self._texts = 0
        self._bulk_texts = 0

    async def embed(self, texts: Sequence[str], *, bulk: bool = False) -> Vectors:
        if bulk or len(texts) > self._size:
            vectors = await self._model.embed(texts, bulk=True)
            self._bulk_texts += len(vectors)
            return vectors
        return await self._joined(texts) if texts else await self._model.embed(texts)

    def metrics(self) -> str:
        """Prometheus's text format; texts / passes is how much company a query had."""
        return (
            "# HELP anchorage_embedder_passes_total Times that queries were embedded together.\n"
            "# TYPE anchorage_embedder_passes_total counter\n"
            f"anchorage_embedder_passes_total {self._passes}\n"
            "# HELP anchorage_embedder_texts_total Texts embedded for queries.\n"
            "# TYPE anchorage_embedder_texts_total counter\n"
            f"anchorage_embedder_texts_total {self._texts}\n"
            "# HELP anchorage_embedder_bulk_texts_total Texts embedded in bulk work.\n"
            "# TYPE anchorage_embedder_bulk_texts_total counter\n"
            f"anchorage_embedder_bulk_texts_total {self._bulk_texts}\n"
        )

    async def _joined(self, texts: Sequence[str]) -> Vectors:
        waiting = _Waiting(texts)
        self._waiting.append(waiting)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await waiting.vectors

    async def _run(self) -> None:
        crowded = False
        while self._waiting:
            if crowded and self._wait_s:
                await asyncio.sleep(self._wait_s)
            batch = self._take()
            crowded = len(batch) > 1
            if batch:
                await self._pass(batch)

    def _take(self) -> list[_Waiting]:
        """As many as fit, first come first served; those whose caller has gone are left out."""
        self._waiting = [waiting for waiting in self._waiting if not waiting.vectors.done()]
        count, texts = 0, 0
        for waiting in self._waiting:
            if count and texts + len(waiting.texts) > self._size:
                break
            count, texts = count + 1, texts + len(waiting.texts)
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _pass(self, batch: list[_Waiting]) -> None:
        async with _failing(batch):
            vectors = await self._model.embed([text for waiting in batch for text in waiting.texts])
            self._passes += 1
            self._texts += len(vectors)
            start = 0
            for waiting in batch:
                end = start + len(waiting.texts)
                if not waiting.vectors.done():
                    waiting.vectors.set_result(vectors[start:end])
                start = end


@asynccontextmanager
async def _failing(batch: list[_Waiting]) -> AsyncIterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the task's edge: each caller gets the error, the next batch runs
        for waiting in batch:
            if not waiting.vectors.done():
                waiting.vectors.set_exception(error)
