"""Chunks and vectors for the contract tests, made on the spot and always the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.index.types import FOREVER, Chunk, SearchRequest, StoredChunk, Vectors, chunk_id
from serving.settings import SearchMode

DIMENSION = 16


def unit(*values: float) -> Vectors:
    """A unit vector whose first components are in the proportion of `values`."""
    vector = np.zeros(DIMENSION, dtype=np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


def random_units(count: int, dimension: int = DIMENSION, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def stored(
    text: str,
    *,
    collection: str = "docs",
    uri: str = "file:///a.md",
    vector: Vectors | None = None,
    born: int = 1,
    died: int = FOREVER,
    ordinal: int = 0,
    start: int = 0,
    heading: Sequence[str] = (),
    title: str = "Title",
    metadata: dict[str, Any] | None = None,
) -> StoredChunk:
    chunk = Chunk(
        id=chunk_id("tenant", collection, uri, text, ordinal),
        uri=uri,
        title=title,
        text=text,
        start=start,
        end=start + len(text),
        heading=tuple(heading),
        ordinal=ordinal,
        metadata=metadata or {},
    )
    return StoredChunk(collection, chunk, unit(1.0) if vector is None else vector, born, died)


def request(
    index: str,
    *,
    collection: str = "docs",
    generation: int = 1,
    text: str = "",
    vector: Vectors | None = None,
    limit: int = 10,
    mode: SearchMode = "dense",
    expression: str = "",
) -> SearchRequest:
    query = unit(1.0) if vector is None else vector
    return SearchRequest(collection, generation, index, text, query, limit, mode, rrf_k=60, expression=expression)
