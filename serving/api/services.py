"""What the HTTP edge stands on, as plain values: whoever builds the app decides what each of them is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from serving.answer import Answerer, Retriever
from serving.index.catalog import Catalog
from serving.index.types import Collection, Embedder
from serving.settings import IndexSettings, LlmSettings, RetrievalSettings
from serving.telemetry import Telemetry

#: Returns when the part would do its work now; raises an error of `serving.errors` that says why not.
Probe: TypeAlias = Callable[[], Awaitable[None]]


class Collections(Protocol):
    """The part of the catalog that the edge reads."""

    async def collections(self) -> Sequence[Collection]:
        """Every collection of the tenant, by name. Raises CatalogUnavailable."""
        ...

    async def collection(self, name: str) -> Collection:
        """Raises UnknownCollection, CatalogUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """The embedder under the name clients use. `count_tokens` counts by the model's own tokenizer."""

    name: str
    dimension: int
    embedder: Embedder
    count_tokens: Callable[[Sequence[str]], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class DocumentDesk:
    """Where documents are handed in: the catalog's queue, and how to tell the worker that there is something in it."""

    catalog: Catalog
    poke: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Services:
    """All of it. `probes` are what `/readyz` asks, by the name of the part. Without a desk there is nothing to hand in
    and no list of documents."""

    answerer: Answerer
    retriever: Retriever
    collections: Collections
    embedding: EmbeddingModel
    telemetry: Telemetry
    desk: DocumentDesk | None = None
    probes: Mapping[str, Probe] = field(default_factory=dict)
    retrieval: RetrievalSettings = field(default_factory=RetrievalSettings)
    index: IndexSettings = field(default_factory=IndexSettings)
    llm: LlmSettings = field(default_factory=LlmSettings)
