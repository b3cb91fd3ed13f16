"""The retriever over its real parts: MiniLM, Milvus Lite, SQLite."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from serving.answer import RetrievalOptions
from serving.errors import ConfigurationError, InvalidFilter, UnknownCollection
from serving.index import schema
from serving.index.catalog import Catalog
from serving.index.catalog_models import Build, Recipe
from serving.index.embedder import LocalEmbedder
from serving.index.milvus import Milvus
from serving.index.types import Chunk, Document, Passage, StoredChunk, Vectors, chunk_id
from serving.retrieval import HybridRetriever
from serving.settings import EmbedderSettings, IndexSettings, RetrievalSettings, SearchMode
from tests.contract.conftest import MilvusLiteServer

MODES: tuple[SearchMode, ...] = ("hybrid", "dense", "text")

NETWORK = (
    "A network policy restricts the traffic between pods.",
    "A policy selects pods by their labels and lists the allowed peers.",
    "Without any network policy all traffic between pods is allowed.",
    "Traffic to a pod's own node is always allowed, whatever the policy.",
)
BREAD = ("Bread is baked from flour, water, salt and yeast.", "Dough rises for two hours before it is baked.")
DOCUMENTS = (
    Document("file:///network.md", "Network policies", "\n\n".join(NETWORK), {"topic": "network", "year": 2024}),
    Document("file:///copy.md", "Copies", "A  network policy\nrestricts the traffic between pods.", {"topic": "copy"}),
    Document("file:///bread.md", "Bread", " ".join(BREAD), {"topic": "food", "year": 1999}),
    Document(
        "file:///proxy.md", "Proxy", "The kube-proxy runs on each node and forwards traffic.", {"topic": "network"}
    ),
)


@dataclass(frozen=True)
class Parts:
    retriever: HybridRetriever
    store: Milvus
    catalog: Catalog
    embedder: LocalEmbedder
    index: str


def chunks(document: Document, parts: Sequence[str]) -> list[Chunk]:
    made, end = [], 0
    for ordinal, part in enumerate(parts):
        start = document.text.index(part, end)
        end = start + len(part)
        name = chunk_id("t", "docs", document.uri, part, 0)
        made.append(Chunk(name, document.uri, document.title, part, start, end, (), ordinal, document.metadata))
    return made


@pytest.fixture(scope="module")
async def parts(milvus_lite: MilvusLiteServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Parts]:
    """A published collection `docs` and an empty one, `begun`."""
    url = f"sqlite:///{tmp_path_factory.mktemp('retriever')}/catalog.db"
    settings = IndexSettings(milvus_uri=milvus_lite.uri, catalog_url=url, tenant=uuid.uuid4().hex)
    store, catalog = Milvus.connect(settings), Catalog.connect(settings)
    embedder = await asyncio.to_thread(LocalEmbedder, EmbedderSettings())
    index = schema.index_name(embedder.name, embedder.dimension)
    await store.ensure(index, embedder.dimension)
    recipe = Recipe(embedder.name, embedder.dimension, 200)
    run = await catalog.begin_run(await catalog.create("docs", recipe), "bulk")
    pieces = {DOCUMENTS[0].uri: NETWORK, DOCUMENTS[2].uri: BREAD}
    rows = [chunk for document in DOCUMENTS for chunk in chunks(document, pieces.get(document.uri, (document.text,)))]
    vectors = await embedder.embed([chunk.context() for chunk in rows])
    await store.upsert(
        index, [StoredChunk(run.build, c, v, born=run.snapshot) for c, v in zip(rows, vectors, strict=True)]
    )
    await store.flush(index)
    await catalog.publish(run, chunks=len(rows), summary={})
    await catalog.begin_run(await catalog.create("begun", recipe), "bulk")
    yield Parts(HybridRetriever(embedder, store, catalog, RetrievalSettings()), store, catalog, embedder, index)
    embedder.close()
    await store.close()
    await catalog.close()


def options(**changed: Any) -> RetrievalOptions:
    given = {"collection": "docs", "top_k": 10, "mode": "hybrid", "per_document": 10, "join_neighbours": False}
    return RetrievalOptions(**(given | changed))


async def ask(parts: Parts, question: str, **changed: Any) -> list[Passage]:
    return list((await parts.retriever.retrieve(question, options(**changed))).passages)


@pytest.mark.parametrize("mode", MODES)
async def test_the_answering_passage_comes_first(parts: Parts, mode: SearchMode) -> None:
    """In every mode the best passage is the one that answers, and it says where it is from."""
    first = (await ask(parts, "How is bread baked?", mode=mode))[0]
    assert (first.uri, first.title, first.text) == ("file:///bread.md", "Bread", BREAD[0])
    assert DOCUMENTS[2].text[first.start : first.end] == first.text
    assert dict(first.metadata) == {"topic": "food", "year": 1999}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("question", ["traffic between pods", "kube-proxy", "who is the pope"])
async def test_scores_fall_and_the_threshold_holds(parts: Parts, mode: SearchMode, question: str) -> None:
    """Scores fall from passage to passage, none is below the passage's cosine, and `min_score` cuts exactly there."""
    passages = await ask(parts, question, mode=mode)
    scores = [passage.score for passage in passages]
    assert all(higher > lower for higher, lower in pairwise(scores))
    (vector,) = await parts.embedder.embed([question])
    contexts = [f"{passage.title}\n{passage.text}" for passage in passages]
    cosines = (await parts.embedder.embed(contexts)) @ vector if passages else []
    assert all(score >= cosine - 1e-3 for score, cosine in zip(scores, cosines, strict=True))
    for limit in (-1.0, 0.3, 1.0):
        kept = await ask(parts, question, mode=mode, min_score=limit)
        assert kept == [passage for passage in passages if passage.score >= limit]


async def test_a_dense_score_is_the_cosine(parts: Parts) -> None:
    """Dense passages are ordered by cosine, so that their scores are nothing else."""
    passages = await ask(parts, "allowed peers of a pod", mode="dense")
    (vector,) = await parts.embedder.embed(["allowed peers of a pod"])
    cosines = (await parts.embedder.embed([f"{p.title}\n{p.text}" for p in passages])) @ vector
    assert [passage.score for passage in passages] == pytest.approx(cosines.tolist(), abs=1e-2)


@pytest.mark.parametrize("mode", MODES)
async def test_equal_texts_are_one_passage(parts: Parts, mode: SearchMode) -> None:
    """A copy that differs in white space only is not shown beside its original."""
    texts = [" ".join(passage.text.split()) for passage in await ask(parts, "network policy traffic pods", mode=mode)]
    assert NETWORK[0] in texts
    assert len(set(texts)) == len(texts)


async def test_a_document_gives_more_than_its_share_only_to_fill_up(parts: Parts) -> None:
    """Others get their turn first; the order stays that of the ranking."""
    everything = await ask(parts, "network policy traffic between pods")
    shared = await ask(parts, "network policy traffic between pods", top_k=3, per_document=1)
    assert len({passage.uri for passage in shared}) == 3
    places = [[p.chunk_id for p in everything].index(passage.chunk_id) for passage in shared]
    assert places == sorted(places)
    assert len(await ask(parts, "network policy", top_k=6, per_document=1)) == 6


async def test_neighbours_become_one_slice_of_their_document(parts: Parts) -> None:
    """Retrieved chunks that touch are one passage whose text is the document's, in the place of the best of them."""
    separate = await ask(parts, "network policy traffic between pods")
    joined = await ask(parts, "network policy traffic between pods", join_neighbours=True)
    texts = {document.uri: document.text for document in DOCUMENTS}
    for passage in joined:
        original = texts[passage.uri][passage.start : passage.end]
        # What kind of white space stood between two chunks is not stored, only how much of it.
        assert (passage.text.split(), len(passage.text)) == (original.split(), len(original))
    assert len({passage.uri for passage in joined}) == len(joined) < len(separate)
    first_of = {passage.uri: passage for passage in reversed(separate)}
    assert [(p.chunk_id, p.score) for p in joined] == [
        (first_of[passage.uri].chunk_id, first_of[passage.uri].score) for passage in joined
    ]
    scores = [passage.score for passage in joined]
    assert scores == sorted(scores, reverse=True)


async def test_a_filter_narrows_and_a_wrong_one_is_refused(parts: Parts) -> None:
    """Only matching documents are searched; a broken filter is the caller's error, before anything else happens."""
    found = await ask(parts, "traffic", filter={"topic": "network", "year": 2024})
    assert {passage.uri for passage in found} == {"file:///network.md"}
    assert await ask(parts, "traffic", filter={"topic": "nothing"}) == []
    with pytest.raises(InvalidFilter, match=r"filter\.topic"):
        await ask(parts, "traffic", filter={"topic": None}, collection="missing")


async def test_the_generation_and_the_times_are_told(parts: Parts) -> None:
    """What was searched, and how long embedding and searching took."""
    found = await parts.retriever.retrieve("bread", options())
    assert found.generation == 1
    assert set(found.timings_ms) == {"embed", "search"}
    assert all(value > 0 for value in found.timings_ms.values())


async def test_a_collection_without_anything_is_empty(parts: Parts) -> None:
    """Begun but never published: no passages and generation 0; never begun: unknown."""
    found = await parts.retriever.retrieve("bread", options(collection="begun"))
    assert (found.passages, found.generation) == ((), 0)
    with pytest.raises(UnknownCollection, match="'begun', 'docs'"):
        await ask(parts, "bread", collection="missing")


@pytest.mark.parametrize("question", ["", "the", "?!", "\ud83d", "日本語", "bread " * 50_000, "\x00"])
@pytest.mark.parametrize("mode", MODES)
async def test_any_question_can_be_asked(parts: Parts, question: str, mode: SearchMode) -> None:
    """Empty, wordless, broken or endless: passages or none, but no error."""
    assert isinstance(await ask(parts, question, mode=mode), list)


async def test_another_embedding_model_is_refused(parts: Parts) -> None:
    """Where no other can be had, a collection of one says so instead of giving nonsense, equal dimensions or not."""
    for recipe in (Recipe("other", 384, 200), Recipe(parts.embedder.name, 768, 200)):
        name = f"c{recipe.dimension}"
        run = await parts.catalog.begin_run(await parts.catalog.create(name, recipe), "bulk")
        await parts.catalog.publish(run, chunks=0, summary={})
        retriever = HybridRetriever(
            parts.embedder, parts.store, parts.catalog, RetrievalSettings(), embedding_model=parts.embedder.name
        )
        with pytest.raises(ConfigurationError, match="another embedding model"):
            await retriever.retrieve("bread", options(collection=name))


class Several:
    """Embedding models by name: unit vectors that point one way for each model, and a list of who was asked."""

    def __init__(self, broken: str = "") -> None:
        self.asked: list[str] = []
        self.prepared: list[str] = []
        self._broken = broken

    async def embed(self, texts: Sequence[str], *, model: str | None) -> Vectors:
        self.asked.append(str(model))
        if model == self._broken:
            raise ConfigurationError(f"{model} cannot be loaded")
        vectors = np.zeros((len(texts), 8), dtype=np.float32)
        vectors[:, int(str(model)[-1])] = 1.0
        return vectors

    def prepare(self, model: str) -> None:
        self.prepared.append(model)


async def test_a_question_is_embedded_by_the_model_of_the_build_that_readers_read(parts: Parts) -> None:
    """Before, at and after a switch, by a retriever that lives through it; the new model is loaded ahead, once."""
    models = Several()
    retriever = HybridRetriever(
        parts.embedder, parts.store, parts.catalog, RetrievalSettings(), parts.embedder.name, models
    )
    build = await parts.catalog.create("switched", Recipe("tiny-1", 8, 200))
    await publish_one(parts, build, "first")
    for _ in range(3):
        found = await retriever.retrieve("anything", options(collection="switched", mode="dense"))
        assert [passage.text for passage in found.passages] == ["first"]
    assert models.asked == ["tiny-1"] * 3

    beside = await parts.catalog.add_build("switched", Recipe("tiny-2", 8, 200))
    await publish_one(parts, beside, "second")
    for _ in range(3):
        await retriever.retrieve("anything", options(collection="switched", mode="dense"))
    assert models.prepared == ["tiny-2"]
    await parts.catalog.switch("switched", beside.key)
    models._broken = "tiny-1"  # it may be gone from the server
    for _ in range(3):
        found = await retriever.retrieve("anything", options(collection="switched", mode="dense"))
        assert [(passage.text, passage.score > 0.99) for passage in found.passages] == [("second", True)]
    assert models.asked[6:] == ["tiny-1", *["tiny-2"] * 3]


async def publish_one(parts: Parts, build: Build, text: str) -> None:
    """One chunk, whose vector is its build's model's."""
    await parts.store.ensure(build.index, build.recipe.dimension)
    (vector,) = await Several().embed([text], model=build.recipe.model)
    run = await parts.catalog.begin_run(build, "bulk")
    chunk = Chunk(chunk_id("t", "switched", "u", text, 0), "u", "", text, 0, len(text), (), 0)
    await parts.store.upsert(build.index, [StoredChunk(run.build, chunk, vector, born=run.snapshot)])
    await parts.store.flush(build.index)
    await parts.catalog.publish(run, chunks=1, summary={})
