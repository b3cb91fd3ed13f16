"""The Embedder deployment: text to vectors, by the settings' model and by those that collections are made with."""

from __future__ import annotations

import asyncio

from ray import serve

from serving.deployments.models import Models
from serving.index.embedder import LocalEmbedder
from serving.index.types import Vectors
from serving.settings import EmbedderSettings


class Embedder:
    """One replica. `model` None is the settings' own."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self._models = Models(settings, LocalEmbedder)

    async def embed(self, texts: list[str], bulk: bool = False, model: str | None = None) -> Vectors:
        """Raises ConfigurationError for a model that there is not, EmbedderUnavailable."""
        async with self._models.use(model) as loaded:
            return await loaded.batches.embed(texts, bulk=bulk)

    async def count_tokens(self, texts: list[str]) -> int:
        """Of all texts together, by the settings' model."""
        return await asyncio.to_thread(lambda: sum(map(self._models.own.count_tokens, texts)))

    async def describe(self, model: str | None = None) -> tuple[str, int]:
        """Name and dimension."""
        async with self._models.use(model) as loaded:
            return model or self._settings.model, loaded.model.dimension

    async def prepare(self, model: str) -> None:
        """Begin to load a model that will be asked for."""
        self._models.prepare(model)

    async def metrics_text(self) -> tuple[str, str]:
        """This replica's id and its Prometheus metrics."""
        return serve.get_replica_context().replica_tag, self._models.tally.metrics()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve: what this replica has to do."""
        return self._models.tally.report()

    async def ping(self) -> None:
        """Answers when this replica does."""
