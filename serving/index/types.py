"""The words of the index: Document, Chunk, Passage, and the protocols of the parts that hold them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # half of what a parser's process would import
    from serving.settings import SearchMode

Metadata: TypeAlias = Mapping[str, Any]
Vectors: TypeAlias = NDArray[np.float32]

#: `died` of a chunk that is alive: larger than any generation, and exact in JSON (2**53 - 1).
FOREVER = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Document:
    """One source, loaded: `text` is what chunk offsets count in (characters)."""

    uri: str
    title: str
    text: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stored piece of a document: `text == document.text[start:end]`.

    `heading` is the path of headings above it, outermost first. `ordinal` counts chunks within the document.
    """

    id: str
    uri: str
    title: str
    text: str
    start: int
    end: int
    heading: tuple[str, ...]
    ordinal: int
    metadata: Metadata = field(default_factory=dict)

    def context(self) -> str:
        """What is searched by its words: title and heading path above the text."""
        return self._below([self.title, *(heading for heading in self.heading if heading != self.title)])

    def embedded_text(self) -> str:
        """What is embedded: like `context`, but without a title that only a file's name gave.

        So a renamed file needs no new vectors.
        """
        if self.metadata.get("title_from") == "name":
            return self._below(self.heading)
        return self.context()

    def _below(self, path: Sequence[str]) -> str:
        above = " > ".join(part for part in path if part)
        return f"{above}\n{self.text}" if above else self.text


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrieved chunk. `score` is on the scale of cosine similarity in every mode and never rises down a list."""

    chunk_id: str
    uri: str
    title: str
    text: str
    start: int
    end: int
    heading: tuple[str, ...]
    ordinal: int
    score: float
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of documents that clients can ask, as readers see it now.

    `generation` is the number that people count by (0: nothing is published yet), `snapshot` what the store filters by,
    `build` the key of the rows in the store, and `model` the embedding model that they were made with. `preparing` is
    the embedding model of a build that is made beside this one, or empty: servers load it ahead of the switch.
    """

    name: str
    generation: int
    snapshot: int
    build: str
    index: str
    model: str
    documents: int
    chunks: int
    preparing: str = ""


def chunk_id(tenant: str, collection: str, uri: str, text: str, occurrence: int) -> str:
    """Same content, same id, whatever the run: SHA-256 over the five, 40 hex digits.

    `occurrence` counts equal texts within one document, from 0.
    """
    joined = "\x1f".join((tenant, collection, uri, text, str(occurrence)))
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:40]


class Embedder(Protocol):
    """Text to unit vectors. Implemented in this process and by the Serve deployment."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (len(texts), dimension), float32, unit length. Raises EmbedderUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk as the store found it: its rank is its place in the list; `similarity` is cosine to the query."""

    passage: Passage
    similarity: float


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One search in one published generation of one collection.

    `expression` is a Milvus boolean expression that our own filter compiler wrote, or empty.
    """

    collection: str
    generation: int
    index: str
    text: str
    vector: Vectors
    limit: int
    mode: SearchMode
    rrf_k: int
    expression: str = ""


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as it is written: visible to generations `born <= g < died`.

    `collection` is the key of a build: `kb`, or `kb~2` for the second one. The primary key is `{chunk.id}-{born}`, in
    other builds than the first with their mark behind it: a new state never overwrites the row that readers of the
    published generation still see, and the same step repeated writes the same row.
    """

    collection: str
    chunk: Chunk
    vector: Vectors
    born: int
    died: int = FOREVER

    @property
    def key(self) -> str:
        return row_key(self.collection, self.chunk.id, self.born)


def row_key(build: str, chunk_id: str, born: int) -> str:
    """Primary key of a row: see StoredChunk."""
    _, mark, number = build.partition("~")
    return f"{chunk_id}-{born}{mark}{number}"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What a writer must know of a row to decide about it, without its vector.

    `digest` is `content_digest` of the chunk as it was written.
    """

    key: str
    chunk_id: str
    uri: str
    born: int
    died: int
    digest: str


def content_digest(chunk: Chunk) -> str:
    """SHA-256 (40 hex digits) over everything a row stores of a chunk but its id: equal digests need no new row."""
    payload = json.dumps(
        [chunk.title, chunk.text, chunk.start, chunk.end, chunk.heading, chunk.ordinal, dict(chunk.metadata)],
        sort_keys=True,
        ensure_ascii=True,
    )
    return hashlib.sha256(payload.encode()).hexdigest()[:40]


def embedding_digest(chunk: Chunk) -> str:
    """SHA-256 (40 hex digits) of what is embedded of a chunk: with equal digests, vectors are equal."""
    return hashlib.sha256(chunk.embedded_text().encode("utf-8", "surrogatepass")).hexdigest()[:40]


class ChunkStore(Protocol):
    """The write side of the store. One writer at a time; every call can be repeated. All raise IndexUnavailable."""

    async def ensure(self, index: str, dimension: int) -> None:
        """Create the Milvus collection if it is missing, and load it. ConfigurationError if it is of another make."""
        ...

    async def upsert(self, index: str, rows: Sequence[StoredChunk]) -> None: ...

    async def keys(self, index: str, collection: str, uris: Sequence[str]) -> list[StoredKey]:
        """Every row of these documents, dead ones included."""
        ...

    def vectors(
        self, index: str, collection: str, uris: Sequence[str], snapshot: int | None = None
    ) -> AsyncIterator[tuple[str, Vectors]]:
        """`embedding_digest` of each row of these documents (that is visible to `snapshot`), and its vector."""
        ...

    async def set_died(self, index: str, keys: Sequence[str], died: int) -> None: ...

    async def delete(self, index: str, keys: Sequence[str]) -> None: ...

    async def purge(self, index: str, collection: str, generation: int) -> None:
        """Delete the rows that no generation from `generation` on can see (`died <= generation`)."""
        ...

    async def flush(self, index: str) -> None: ...

    async def count(self, index: str, collection: str, generation: int) -> int:
        """Rows visible to `generation`."""
        ...


class Searcher(Protocol):
    """The read side of the store."""

    async def search(self, request: SearchRequest) -> list[Hit]:
        """Best first, by the mode's own order. Raises IndexUnavailable."""
        ...
