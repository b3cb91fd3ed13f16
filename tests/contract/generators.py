"""Every implementation of `generation.Generator`, by name; add yours here and the contract tests run on it.

A maker is an async context manager that yields a ready Generator. `SLOW` names those that need more than a second.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import numpy as np

from serving.extractive import ExtractiveGenerator
from serving.generation import Generator
from serving.index.types import Vectors
from serving.scripted import Schedule, ScriptedGenerator
from serving.support import terms

Maker = Callable[[], AbstractAsyncContextManager[Generator]]


class WordEmbedder:
    """Implements `types.Embedder` without a model: each stem is a direction, so shared words are similarity."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.full((len(texts), 512), 1e-6, dtype=np.float32)
        for row, text in enumerate(texts):
            for term in terms(text):
                vectors[row, zlib.crc32(term.encode()) % 512] += 1.0
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@asynccontextmanager
async def scripted() -> AsyncIterator[Generator]:
    yield ScriptedGenerator("one two three four five six seven eight nine ten", Schedule(gap_s=0.001, max_batch=2))


@asynccontextmanager
async def extractive() -> AsyncIterator[Generator]:
    yield ExtractiveGenerator(WordEmbedder())


GENERATORS: dict[str, Maker] = {"scripted": scripted, "extractive": extractive}
