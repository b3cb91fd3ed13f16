"""The Ingestor deployment: runs what does the work that was asked for over HTTP, found through an entry point.

Serving knows no ingestion: whoever can ingest registers a class in the group `anchorage.workers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import numpy as np
from ray import serve

from serving.deployments.remote import RemoteEmbedder
from serving.errors import ConfigurationError
from serving.index.types import Vectors
from serving.settings import Settings
from serving.telemetry import configure_logging

_GROUP = "anchorage.workers"
#: Texts per call of the embedder: a second or two of its work.
_TEXTS = 64


class Worker(Protocol):
    """What is registered: a class that is called with the settings and a way to have an embedding model by its name."""

    async def run(self) -> None:
        """Work until cancelled."""
        ...

    def poke(self) -> None:
        """There is something to do."""
        ...

    def metrics(self) -> str:
        """Prometheus's text format."""
        ...

    async def close(self) -> None: ...


def worker_class() -> EntryPoint | None:
    """The registered one; None where no ingestion is installed. Raises ConfigurationError for more than one."""
    found = list(entry_points(group=_GROUP))
    if len(found) > 1:
        names = ", ".join(sorted(entry.value for entry in found))
        raise ConfigurationError(f"More than one package registers a worker ({names}): leave one installed.")
    return found[0] if found else None


class Ingestor:
    """One replica with one worker. A second one would share the work out with it by collection."""

    def __init__(self, settings: Settings, embedder: Any) -> None:
        configure_logging(settings.telemetry)
        entry = worker_class()
        if entry is None:
            raise ConfigurationError("No worker is installed here.")
        remote = RemoteEmbedder(embedder)
        make: Callable[[Settings, Callable[[str], ModelOf]], Worker] = entry.load()
        self._worker = make(settings, lambda name: ModelOf(remote, name))
        self._running: asyncio.Task[None] | None = None

    async def check_health(self) -> None:
        """Serve calls this before the first request, and then again and again."""
        if self._running is None:
            self._running = asyncio.create_task(self._worker.run())
        if self._running.done():
            raise RuntimeError("the worker has ended") from self._running.exception()

    async def poke(self) -> None:
        """There is something to do."""
        self._worker.poke()

    async def metrics_text(self) -> tuple[str, str]:
        """This replica's id and its Prometheus metrics."""
        return serve.get_replica_context().replica_tag, self._worker.metrics()

    async def __del__(self) -> None:
        if self._running is not None:
            self._running.cancel()
        await self._worker.close()


class ModelOf:
    """An embedding model of the Embedder deployment, for many texts: they go behind those of questions."""

    def __init__(self, embedder: RemoteEmbedder, name: str) -> None:
        self._embedder = embedder
        self._name = name

    async def dimension(self) -> int:
        """Raises ConfigurationError when the model cannot be loaded, EmbedderUnavailable."""
        _, dimension = await self._embedder.describe(self._name)
        return dimension

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Raises EmbedderUnavailable, ConfigurationError."""
        dimension = await self.dimension()
        slices = [texts[at : at + _TEXTS] for at in range(0, len(texts), _TEXTS)]
        parts = [await self._embedder.embed(some, bulk=True, model=self._name) for some in slices]
        return np.concatenate(parts) if parts else np.empty((0, dimension), np.float32)
