"""What a stored chunk looks like in Milvus: field names, lengths, and the way from a Chunk to a row and back.

Knows no client. One Milvus collection ("index") holds the chunks of every tenant and collection that share an
embedding model; `partition` is Milvus's partition key and keeps them apart.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np

from serving.errors import DocumentError
from serving.index.lexical import lexical
from serving.index.types import Chunk, Passage, StoredChunk, StoredKey, Vectors, content_digest, embedding_digest

#: Part of every index name: rows of another version are never read as this one's.
SCHEMA_VERSION = 1

PK = "pk"
PARTITION = "partition"
CHUNK_ID = "chunk_id"
URI = "uri"
TITLE = "title"
TEXT = "text"
LEXICAL = "lexical"
HEADING = "heading"
START = "start"
END = "end"
ORDINAL = "ordinal"
METADATA = "metadata"
DIGEST = "digest"
BORN = "born"
DIED = "died"
DENSE = "dense"
SPARSE = "sparse"

#: VARCHAR fields and their `max_length`, which Milvus counts in bytes of UTF-8, not in characters.
VARCHAR_BYTES: Mapping[str, int] = {
    PK: 64,  # 40 hex digits, a dash, a generation
    PARTITION: 1024,
    CHUNK_ID: 40,
    URI: 4096,
    TITLE: 2048,
    TEXT: 65_535,
    LEXICAL: 65_535,
    HEADING: 16_384,
    DIGEST: 40,
}
INT64_FIELDS = (START, END, ORDINAL, BORN, DIED)
#: Milvus refuses larger JSON values (`common.json` limit of the proxy).
METADATA_BYTES = 65_536

#: The text arrives stemmed and stop-worded (serving.index.lexical): Milvus only has to split it at the blanks.
ANALYZER = {"tokenizer": "standard"}
#: Index of each vector field. k1 and b are Okapi BM25's usual constants (Robertson & Zaragoza 2009).
INDEXES: Mapping[str, Mapping[str, Any]] = {
    DENSE: {"index_type": "HNSW", "metric_type": "COSINE", "params": {"M": 16, "efConstruction": 200}},
    SPARSE: {
        "index_type": "SPARSE_INVERTED_INDEX",
        "metric_type": "BM25",
        "params": {"inverted_index_algo": "DAAT_MAXSCORE", "bm25_k1": 1.2, "bm25_b": 0.75},
    },
}

PASSAGE_FIELDS = (CHUNK_ID, URI, TITLE, TEXT, HEADING, START, END, ORDINAL, METADATA)
KEY_FIELDS = (PK, CHUNK_ID, URI, BORN, DIED, DIGEST)
STORED_FIELDS = (*PASSAGE_FIELDS, PK, BORN, DIED, DENSE)


def index_prefix(model: str) -> str:
    """What the names of all indexes of an embedding model begin with."""
    slug = re.sub(r"[^a-z0-9]+", "_", model.lower()).strip("_")[-40:]
    mark = hashlib.sha256(model.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"anchorage_v{SCHEMA_VERSION}_{slug}_{mark}_"


def index_name(model: str, dimension: int) -> str:
    """The Milvus collection for an embedding model: letters, digits and underscores, below 100 characters."""
    return f"{index_prefix(model)}{dimension}"


def dimension_of(index: str) -> int:
    """Length of the vectors that an index of `index_name` holds."""
    return int(index.rpartition("_")[2])


def partition(tenant: str, collection: str) -> str:
    """Value of the partition key. The tenant is percent-encoded, so that no pair of names reads like another pair."""
    return f"{quote(tenant, safe='')}/{collection}"


def row(tenant: str, stored: StoredChunk) -> dict[str, Any]:
    """A stored chunk as Milvus takes it. Raises DocumentError for what does not fit."""
    chunk = stored.chunk
    values: dict[str, Any] = {
        PK: stored.key,
        PARTITION: partition(tenant, stored.collection),
        CHUNK_ID: chunk.id,
        URI: chunk.uri,
        TITLE: _cut(chunk.title, VARCHAR_BYTES[TITLE]),
        TEXT: chunk.text,
        LEXICAL: _cut(lexical(chunk.context()), VARCHAR_BYTES[LEXICAL]),
        HEADING: json.dumps(chunk.heading, ensure_ascii=False),
        START: chunk.start,
        END: chunk.end,
        ORDINAL: chunk.ordinal,
        METADATA: _metadata(chunk),
        DIGEST: content_digest(chunk),
        BORN: stored.born,
        DIED: stored.died,
        DENSE: stored.vector,
    }
    _require({name: values[name] for name in VARCHAR_BYTES}, chunk.uri)
    return values


def check(chunk: Chunk) -> None:
    """Raises DocumentError for a chunk that no row can hold."""
    _metadata(chunk)
    heading = json.dumps(chunk.heading, ensure_ascii=False)
    _require(
        {CHUNK_ID: chunk.id, URI: chunk.uri, TITLE: chunk.title[:1], TEXT: chunk.text, HEADING: heading}, chunk.uri
    )


def passage(entity: Mapping[str, Any], score: float) -> Passage:
    """A row of PASSAGE_FIELDS as a passage."""
    return Passage(
        chunk_id=entity[CHUNK_ID],
        uri=entity[URI],
        title=entity[TITLE],
        text=entity[TEXT],
        start=entity[START],
        end=entity[END],
        heading=tuple(json.loads(entity[HEADING])),
        ordinal=entity[ORDINAL],
        score=score,
        metadata=entity[METADATA] or {},
    )


def stored_chunk(collection: str, entity: Mapping[str, Any]) -> StoredChunk:
    """A row of STORED_FIELDS as it was written; of a very long title, what the row holds."""
    chunk = Chunk(
        id=entity[CHUNK_ID],
        uri=entity[URI],
        title=entity[TITLE],
        text=entity[TEXT],
        start=entity[START],
        end=entity[END],
        heading=tuple(json.loads(entity[HEADING])),
        ordinal=entity[ORDINAL],
        metadata=entity[METADATA] or {},
    )
    vector = np.asarray(entity[DENSE], dtype=np.float32)
    return StoredChunk(collection, chunk, vector, entity[BORN], entity[DIED])


def stored_key(entity: Mapping[str, Any]) -> StoredKey:
    """A row of KEY_FIELDS."""
    return StoredKey(
        key=entity[PK],
        chunk_id=entity[CHUNK_ID],
        uri=entity[URI],
        born=entity[BORN],
        died=entity[DIED],
        digest=entity[DIGEST],
    )


def embedded(entity: Mapping[str, Any]) -> tuple[str, Vectors]:
    """What a row's vector was made from, as `embedding_digest`, and the vector: of title, text, heading, metadata."""
    chunk = Chunk(
        id="",
        uri="",
        title=entity[TITLE],
        text=entity[TEXT],
        start=0,
        end=0,
        heading=tuple(json.loads(entity[HEADING])),
        ordinal=0,
        metadata=entity[METADATA] or {},
    )
    return embedding_digest(chunk), np.asarray(entity[DENSE], dtype=np.float32)


def _require(values: Mapping[str, str], uri: str) -> None:
    for name, value in values.items():
        size, limit = _bytes(value, uri, name), VARCHAR_BYTES[name]
        if size > limit:
            raise DocumentError(f"{uri!r}: the {name} of a chunk has {size:,} bytes; the index takes {limit:,}.")


def _metadata(chunk: Chunk) -> dict[str, Any]:
    try:
        text = json.dumps(dict(chunk.metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DocumentError(f"{chunk.uri!r}: metadata is not JSON ({error}).") from error
    if len(text) > METADATA_BYTES:
        raise DocumentError(f"{chunk.uri!r}: metadata has {len(text):,} bytes; the index takes {METADATA_BYTES:,}.")
    return dict(chunk.metadata)


def _bytes(text: str, uri: str, name: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise DocumentError(f"{uri!r}: the {name} of a chunk is not valid Unicode.") from error


def _cut(text: str, limit: int) -> str:
    """The longest beginning of at most `limit` bytes; never half a character."""
    if len(text) * 4 <= limit:
        return text
    return text.encode("utf-8", "surrogatepass")[:limit].decode("utf-8", "ignore")
