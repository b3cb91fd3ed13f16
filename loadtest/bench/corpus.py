"""A collection to search in: generated text that reads like technical pages, and real embeddings of it.

Words follow a Zipf law, so that BM25 has frequent and rare terms as in real text. A few hundred texts are embedded by
the real model; the others are near one of those (cosine about 0.9), so that the vectors cluster as real ones do.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.bench.servers import COLLECTION
from serving.index.catalog import Catalog
from serving.index.catalog_models import DocumentRecord, Recipe
from serving.index.milvus import Milvus
from serving.index.schema import index_name
from serving.index.types import Chunk, Embedder, StoredChunk, Vectors, chunk_id
from serving.settings import IndexSettings

_BATCH = 1_000
_CHUNKS_PER_DOCUMENT = 8
#: Standard deviation of what is added to each of the 384 coordinates of a unit vector: cosine to the original ~0.9.
_JITTER = 0.025

_SUBJECTS = (
    "pod node cluster service deployment volume secret container scheduler controller kubelet ingress namespace "
    "replica job daemon probe quota taint selector endpoint proxy registry image network policy certificate token "
    "account role binding webhook operator manifest snapshot backup gateway cache queue worker broker index shard "
    "partition leader follower session stream batch cursor transaction lock trigger view schema column table"
)
_VERBS = (
    "creates deletes updates watches schedules restarts evicts mounts binds exposes routes balances scales drains "
    "labels annotates validates rejects retries caches replicates compacts encrypts signs rotates renews limits"
)
_QUALITIES = (
    "ready pending failed terminating stale healthy immutable optional default static dynamic local remote shared "
    "private public ordered parallel periodic idle active orphaned finished bounded persistent temporary cold warm"
)
_LINKS = "when before after unless because while so that if although until"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was written: ids and unit vectors in the same order, and questions that were not."""

    ids: list[str]
    vectors: Vectors
    questions: list[str]


async def load(settings: IndexSettings, embedder: Embedder, model: str, chunks: int, *, distinct: int = 400) -> Loaded:
    """Write and publish `chunks` chunks as collection `bench`, through the index's own contract."""
    generator = random.Random(7)
    texts = [paragraph(generator, number) for number in range(chunks)]
    bases = await embedder.embed(texts[:distinct])
    vectors = _near(bases, chunks)
    store, catalog = Milvus.connect(settings), Catalog.connect(settings)
    try:
        index = index_name(model, int(bases.shape[1]))
        await store.ensure(index, int(bases.shape[1]))
        build = await catalog.create(COLLECTION, Recipe(model, int(bases.shape[1]), chunk_tokens=200))
        run = await catalog.begin_run(build, "bulk")
        written = list(_stored(settings.tenant, texts, vectors, run.snapshot))
        for start in range(0, len(written), _BATCH):
            await store.upsert(index, written[start : start + _BATCH])
        await store.flush(index)
        await catalog.record(build.key, _records(written, run.snapshot))
        await catalog.publish(run, chunks=chunks, summary={"new": chunks})
    finally:
        await store.close()
        await catalog.close()
    return Loaded([stored.chunk.id for stored in written], vectors, [question(generator) for _ in range(400)])


def question(generator: random.Random) -> str:
    subject, verb, other = _word(generator, _SUBJECTS), _word(generator, _VERBS), _word(generator, _SUBJECTS)
    return f"What happens when a {_word(generator, _QUALITIES)} {subject} {verb} the {other}?"


def _near(bases: Vectors, count: int) -> Vectors:
    noise = np.random.default_rng(7)
    vectors = bases[np.arange(count) % len(bases)]
    vectors = vectors + noise.normal(0, _JITTER, vectors.shape).astype(np.float32)
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _stored(tenant: str, texts: Sequence[str], vectors: Vectors, born: int) -> Iterator[StoredChunk]:
    for number, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
        document, ordinal = divmod(number, _CHUNKS_PER_DOCUMENT)
        uri = f"bench/{document:05}.md"
        chunk = Chunk(
            id=chunk_id(tenant, COLLECTION, uri, text, 0),
            uri=uri,
            title=f"Page {document}",
            text=text,
            start=ordinal * 2_000,
            end=ordinal * 2_000 + len(text),
            heading=(f"Section {ordinal}",),
            ordinal=ordinal,
            metadata={"part": document % 10},
        )
        yield StoredChunk(COLLECTION, chunk, vector, born=born)


def _records(written: Sequence[StoredChunk], snapshot: int) -> list[DocumentRecord]:
    counts = Counter(stored.chunk.uri for stored in written)
    return [DocumentRecord(uri, "bench", "written", snapshot, title=uri, chunks=count) for uri, count in counts.items()]


def paragraph(generator: random.Random, number: int, sentences: int = 14) -> str:
    """Sentences of 11 words, and a rare word of its own."""
    spoken = [_sentence(generator) for _ in range(sentences)]
    return " ".join([*spoken, f"See case {number}."])


def _sentence(generator: random.Random) -> str:
    first = f"The {_word(generator, _QUALITIES)} {_word(generator, _SUBJECTS)} {_word(generator, _VERBS)}"
    second = f"the {_word(generator, _SUBJECTS)} {_word(generator, _LINKS)} it {_word(generator, _VERBS)} them."
    return f"{first} {second}"


def _word(generator: random.Random, listed: str) -> str:
    """By Zipf's law: the n-th word with a frequency of 1/n."""
    words = listed.split()
    return words[min(len(words) - 1, int(len(words) ** generator.random()) - 1)]
