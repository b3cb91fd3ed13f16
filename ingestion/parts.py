"""What a run works with: catalog, store and embedder, opened from settings and closed again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from serving.index.catalog import Catalog
from serving.index.embedder import LocalEmbedder
from serving.index.milvus import Milvus
from serving.index.types import Vectors
from serving.settings import EmbedderSettings, Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """The store and catalog to write to, and the embedding model."""

    catalog: Catalog
    store: Milvus
    model: Model


class Model:
    """The embedding model, loaded when it is first needed: a run that finds nothing new never needs it.

    Implements `types.Embedder` and `chunk.Tokenizer`. Any method may raise ConfigurationError.
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        self.name = settings.model
        self._settings = settings
        self._loaded: LocalEmbedder | None = None
        self._loading = threading.Lock()

    async def dimension(self) -> int:
        return (await asyncio.to_thread(self._load)).dimension

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return await (await asyncio.to_thread(self._load)).embed(texts)

    @property
    def max_tokens(self) -> int:
        return self._load().max_tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        tokenizer = self._load().tokenizer
        return [len(found.ids) for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()

    def _load(self) -> LocalEmbedder:
        with self._loading:
            if self._loaded is None:
                self._loaded = LocalEmbedder(self._settings)
            return self._loaded


@asynccontextmanager
async def open_parts(settings: Settings) -> AsyncIterator[Parts]:
    """The parts that the settings name."""
    parts = Parts(Catalog.connect(settings.index), Milvus.connect(settings.index), Model(settings.embedder))
    try:
        yield parts
    finally:
        parts.model.close()
        await parts.store.close()
        await parts.catalog.close()
