"""What a run works with: catalog, store and embedding models, opened from settings and closed again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from ingestion.patience import Patience
from serving.index.catalog import Catalog
from serving.index.catalog_models import Build, Recipe
from serving.index.embedder import LocalEmbedder
from serving.index.leases import Lease
from serving.index.milvus import Milvus
from serving.index.types import Vectors
from serving.settings import EmbedderSettings, Settings

#: A run that begins waits less for a part that is away than one that is under way: its address may be wrong.
_BEGIN_S = 20.0


class BulkEmbedder(Protocol):
    """`types.Embedder` for many texts, which also tells how long its vectors are."""

    async def dimension(self) -> int:
        """Raises ConfigurationError, EmbedderUnavailable."""
        ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (len(texts), dimension), float32, unit length. Raises ConfigurationError, EmbedderUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The store and the catalog to write to, and the embedding model of each name."""

    catalog: Catalog
    store: Milvus
    embedder: Callable[[str], BulkEmbedder]


class Model:
    """An embedding model, loaded when it is first needed: a run that finds nothing new never needs it."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self._loaded: LocalEmbedder | None = None
        self._loading = threading.Lock()

    async def dimension(self) -> int:
        return (await asyncio.to_thread(self._load)).dimension

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return await (await asyncio.to_thread(self._load)).embed(texts, bulk=True)

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()

    def _load(self) -> LocalEmbedder:
        with self._loading:
            if self._loaded is None:
                self._loaded = LocalEmbedder(self._settings)
            return self._loaded


class Models:
    """The embedding models of this process, by name."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self._models: dict[str, Model] = {}

    def __call__(self, name: str) -> Model:
        if name not in self._models:
            self._models[name] = Model(self._settings.model_copy(update={"model": name}))
        return self._models[name]

    def close(self) -> None:
        for model in self._models.values():
            model.close()


@asynccontextmanager
async def open_parts(settings: Settings) -> AsyncIterator[Parts]:
    """The parts that the settings name."""
    models = Models(settings.embedder)
    parts = Parts(Catalog.connect(settings.index), Milvus.connect(settings.index), models)
    try:
        yield parts
    finally:
        models.close()
        await parts.store.close()
        await parts.catalog.close()


async def open_build(parts: Parts, settings: Settings, collection: str) -> Build:
    """The build of a collection that readers read, made by the settings' recipe where there is none yet.

    An existing collection keeps the recipe it was made by, whatever the settings say now. Raises InvalidRequest for a
    name that no collection can have, and what the parts raise.
    """
    build = await parts.catalog.live_build(collection)
    if build is None:
        model = settings.embedder.model
        dimension = await parts.embedder(model).dimension()
        build = await parts.catalog.create(collection, Recipe(model, dimension, settings.ingestion.chunk_tokens))
    await parts.store.ensure(build.index, build.recipe.dimension)
    return build


@asynccontextmanager
async def hold_build(
    parts: Parts, settings: Settings, collection: str, doing: str, *, wait_s: float
) -> AsyncIterator[tuple[Build, Lease]]:
    """The build of `open_build`, and the lease to run over it: while that is held, readers are not switched away.

    Raises WriterBusy when somebody else still holds it after `wait_s` seconds.
    """
    patience = Patience(min(_BEGIN_S, settings.ingestion.patience_s))
    while True:
        build = await patience.call(open_build, parts, settings, collection)
        async with parts.catalog.leases.hold(f"run/{build.key}", doing, wait_s=wait_s) as lease:
            live = await parts.catalog.live_build(collection)
            if live is not None and live.key == build.key:
                yield build, lease
                return
