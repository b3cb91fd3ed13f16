"""Question to passages: embed, filter, search, drop duplicates, share out among documents, score, join neighbours."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, takewhile
from typing import Protocol

from serving.answer import RetrievalOptions, Retrieved
from serving.errors import ConfigurationError
from serving.index import schema
from serving.index.filters import compile_filter
from serving.index.types import Collection, Embedder, Hit, Passage, Searcher, SearchRequest, Vectors
from serving.settings import RetrievalSettings

#: Candidates for each passage asked for, and at least so many: what duplicates and the share per document use up, and
#: what rank fusion needs to see of both rankings. More cost time: a hit comes with its vector.
_OVERFETCH = 3
_LEAST = 30
#: Models read the first few hundred tokens of a question; nobody's BM25 query is longer than this.
_QUESTION_CHARACTERS = 8_000
#: The step between two scores that the order of the mode puts against the order of their similarities.
_STEP = 1e-6
#: Collections, and models, that are remembered.
_REMEMBERED = 1_000
#: White space that a chunker may leave out between two chunks that still touch, characters.
_GAP = 3


class Collections(Protocol):
    """What retrieval needs of the catalog: one read per question."""

    async def collection(self, name: str) -> Collection:
        """Raises UnknownCollection, CatalogUnavailable."""
        ...


class EmbeddingModels(Protocol):
    """Embedding models by their names."""

    async def embed(self, texts: Sequence[str], *, model: str | None) -> Vectors:
        """As `types.Embedder`. Raises ConfigurationError, too, for a model that cannot be loaded."""
        ...

    def prepare(self, model: str) -> None:
        """Load it in the background: it will be asked for."""
        ...


class HybridRetriever:
    """Implements `answer.Retriever` over an embedder, a store and a catalog.

    Holds no state but what it saw last: the model of each collection, so that a question is embedded while the catalog
    is read. When readers were switched to another build meanwhile, it is embedded again.
    """

    def __init__(
        self,
        embedder: Embedder,
        searcher: Searcher,
        catalog: Collections,
        settings: RetrievalSettings,
        embedding_model: str | None = None,
        models: EmbeddingModels | None = None,
    ) -> None:
        """`embedder` is that of `embedding_model`; collections of another one need `models`, or are refused."""
        self._embedder = embedder
        self._searcher = searcher
        self._catalog = catalog
        self._rrf_k = settings.rrf_k
        self._embedding_model = embedding_model
        self._models = models
        self._seen: dict[str, str] = {}
        self._prepared: set[str] = set()

    async def retrieve(self, question: str, options: RetrievalOptions) -> Retrieved:
        """Raises UnknownCollection, InvalidFilter, IndexUnavailable, CatalogUnavailable, EmbedderUnavailable.

        ConfigurationError when the collection's embedding model cannot be had here.
        """
        expression = compile_filter(options.filter)
        text = question[:_QUESTION_CHARACTERS]
        began = time.perf_counter()
        collection, vectors = await self._embedded(options.collection, text)
        embedded = time.perf_counter()
        if collection.generation == 0:
            return Retrieved((), 0, {"embed": _ms(embedded - began), "search": 0.0})
        self._same_model(collection, vectors)
        request = SearchRequest(
            collection=collection.build,
            generation=collection.snapshot,
            index=collection.index,
            text=text,
            vector=vectors[0],
            limit=max(_LEAST, _OVERFETCH * options.top_k),
            mode=options.mode,
            rrf_k=self._rrf_k,
            expression=expression,
        )
        hits = await self._searcher.search(request)
        passages = _scored(_shared_out(_without_duplicates(hits), options.top_k, options.per_document))
        if options.min_score is not None:
            passages = [passage for passage in passages if passage.score >= options.min_score]
        if options.join_neighbours:
            passages = _joined(passages)
        timings = {"embed": _ms(embedded - began), "search": _ms(time.perf_counter() - embedded)}
        return Retrieved(tuple(passages), collection.generation, timings)

    async def _embedded(self, name: str, text: str) -> tuple[Collection, Vectors]:
        """The collection as it is now, and the question by its model."""
        expected = self._seen.get(name, self._embedding_model)
        first = asyncio.create_task(self._embed(expected, text))
        try:
            collection = await self._catalog.collection(name)
            self._prepare(collection.preparing)
            if self._models is None or collection.model == expected:
                return collection, await first
        finally:
            await _ended(first)
        self._remember(collection)
        return collection, await self._embed(collection.model, text)

    async def _embed(self, model: str | None, text: str) -> Vectors:
        if self._models is None or model == self._embedding_model:
            return await self._embedder.embed([text])
        return await self._models.embed([text], model=model)

    def _prepare(self, model: str) -> None:
        """Readers will be switched to a build of this model: it is loaded before they are."""
        if not model or self._models is None or model in self._prepared:
            return
        if len(self._prepared) >= _REMEMBERED:
            self._prepared.clear()
        self._prepared.add(model)
        self._models.prepare(model)

    def _remember(self, collection: Collection) -> None:
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        self._seen[collection.name] = collection.model

    def _same_model(self, collection: Collection, vectors: Vectors) -> None:
        dimension = vectors.shape[1]
        same = self._models is not None or self._embedding_model in (None, collection.model)
        if not same or schema.dimension_of(collection.index) != dimension:
            raise ConfigurationError(
                f"Collection {collection.name!r} was made with another embedding model ({collection.model!r}, index "
                f"{collection.index!r}) than the one that answers here (vectors of {dimension} dimensions). Give "
                "the server that model (ANCHORAGE_EMBEDDER__MODEL), or make the collection anew by this one: "
                f"`anchorage rebuild -c {collection.name}`."
            )


async def _ended(task: asyncio.Task[Vectors]) -> None:
    """Whatever it came to: nobody needs it any more, or its result is known."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


def _without_duplicates(hits: Sequence[Hit]) -> list[Hit]:
    """The best of those whose texts differ in white space only."""
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(" ".join(hit.passage.text.split()), hit)
    return list(best.values())


def _shared_out(hits: Sequence[Hit], top_k: int, per_document: int) -> list[Hit]:
    """The `top_k` best such that a document gives more than `per_document` only where others have nothing left.

    In the order they came in.
    """
    given: Counter[str] = Counter()
    first: list[int] = []
    rest: list[int] = []
    for rank, hit in enumerate(hits):
        given[hit.passage.uri] += 1
        (first if given[hit.passage.uri] <= per_document else rest).append(rank)
    return [hits[rank] for rank in sorted([*first, *rest][:top_k])]


def _scored(hits: Sequence[Hit]) -> list[Passage]:
    """Scores on the scale of cosine similarity that fall with the rank, from the last one up.

    A passage that its mode ranks above another scores above it, if only by a millionth.
    """
    scored: list[Passage] = []
    below = float("-inf")
    for hit in reversed(hits):
        below = max(hit.similarity, below + _STEP)
        scored.append(replace(hit.passage, score=below))
    return scored[::-1]


def _joined(passages: Sequence[Passage]) -> list[Passage]:
    """Passages that touch in their document become one, in the place and with the score and id of the best of them."""
    runs: list[list[int]] = []
    for rank in sorted(range(len(passages)), key=lambda rank: (passages[rank].uri, passages[rank].ordinal)):
        if runs and _touch(passages[runs[-1][-1]], passages[rank]):
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return [_one([passages[rank] for rank in run], passages[min(run)]) for run in sorted(runs, key=min)]


def _touch(one: Passage, other: Passage) -> bool:
    follows = one.uri == other.uri and other.ordinal == one.ordinal + 1
    return follows and one.start < other.start and one.end < other.end and other.start - one.end <= _GAP


def _one(parts: Sequence[Passage], best: Passage) -> Passage:
    """The parts, in document order, as one passage: overlaps once, a gap as that many new lines."""
    text = parts[0].text
    for before, part in pairwise(parts):
        gap = part.start - before.end
        text += "\n" * gap + part.text[max(0, -gap) :]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*(part.heading for part in parts), strict=False))
    heading = tuple(level[0] for level in levels)
    return replace(best, text=text, start=parts[0].start, end=parts[-1].end, heading=heading, ordinal=parts[0].ordinal)


def _ms(seconds: float) -> float:
    return seconds * 1000.0
