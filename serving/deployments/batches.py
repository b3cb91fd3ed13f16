"""Concurrent queries of one embedding model share a forward pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from serving.deployments.workload import WORK, Meter
from serving.index.types import Vectors

#: Passes that a bulk request counts for as work: it makes way for queries, so two of them are what a replica is for.
_BULK = 0.5


@dataclass(slots=True)
class _Waiting:
    texts: Sequence[str]
    vectors: asyncio.Future[Vectors] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True)
class Tally:
    """What was embedded, by one model or by all of a replica's."""

    passes: int = 0
    texts: int = 0
    bulk_texts: int = 0
    work: Meter = field(default_factory=Meter)

    def report(self) -> dict[str, float]:
        """What `record_autoscaling_stats` returns: forward passes that run or wait, the mean since the last call."""
        return {WORK: self.work.mean()}

    def metrics(self) -> str:
        """Prometheus's text format; texts / passes is how much company a query had."""
        return (
            "# HELP anchorage_embedder_passes_total Times that queries were embedded together.\n"
            "# TYPE anchorage_embedder_passes_total counter\n"
            f"anchorage_embedder_passes_total {self.passes}\n"
            "# HELP anchorage_embedder_texts_total Texts embedded for queries.\n"
            "# TYPE anchorage_embedder_texts_total counter\n"
            f"anchorage_embedder_texts_total {self.texts}\n"
            "# HELP anchorage_embedder_bulk_texts_total Texts embedded in bulk work.\n"
            "# TYPE anchorage_embedder_bulk_texts_total counter\n"
            f"anchorage_embedder_bulk_texts_total {self.bulk_texts}\n"
        )


class TwoLanes(Protocol):
    """What `Batches` needs of `LocalEmbedder`: bulk work makes way for the other kind."""

    async def embed(self, texts: Sequence[str], *, bulk: bool = False) -> Vectors: ...


class Batches:
    """Implements `types.Embedder`: what arrives while a forward pass runs goes into the next one.

    A lone query never waits; only when queries come together does the next pass wait `wait_s` for company. A request
    of more than `size` texts is bulk work, which no query waits for; so is what its caller calls that.
    """

    def __init__(self, model: TwoLanes, size: int, wait_s: float, tally: Tally | None = None) -> None:
        self._model = model
        self._size = size
        self._wait_s = wait_s
        self._tally = tally or Tally()
        self._waiting: list[_Waiting] = []
        self._running: asyncio.Task[None] | None = None

    async def embed(self, texts: Sequence[str], *, bulk: bool = False) -> Vectors:
        if bulk or len(texts) > self._size:
            with self._tally.work.held(_BULK):
                vectors = await self._model.embed(texts, bulk=True)
            self._tally.bulk_texts += len(vectors)
            return vectors
        return await self._joined(texts) if texts else await self._model.embed(texts)

    def metrics(self) -> str:
        """Prometheus's text format."""
        return self._tally.metrics()

    async def _joined(self, texts: Sequence[str]) -> Vectors:
        waiting = _Waiting(texts)
        self._waiting.append(waiting)
        self._tally.work.add(len(texts) / self._size)
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
        before = self._waiting
        self._waiting = [waiting for waiting in before if not waiting.vectors.done()]
        count, texts = 0, 0
        for waiting in self._waiting:
            if count and texts + len(waiting.texts) > self._size:
                break
            count, texts = count + 1, texts + len(waiting.texts)
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._tally.work.add((_texts(self._waiting) - _texts(before)) / self._size)
        return batch

    async def _pass(self, batch: list[_Waiting]) -> None:
        async with _failing(batch):
            with self._tally.work.held():
                vectors = await self._model.embed([text for waiting in batch for text in waiting.texts])
            self._tally.passes += 1
            self._tally.texts += len(vectors)
            start = 0
            for waiting in batch:
                end = start + len(waiting.texts)
                if not waiting.vectors.done():
                    waiting.vectors.set_result(vectors[start:end])
                start = end


def _texts(waiting: Sequence[_Waiting]) -> int:
    return sum(len(one.texts) for one in waiting)


@asynccontextmanager
async def _failing(batch: list[_Waiting]) -> AsyncIterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the task's edge: each caller gets the error, the next batch runs
        for waiting in batch:
            if not waiting.vectors.done():
                waiting.vectors.set_exception(error)
