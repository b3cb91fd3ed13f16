"""Text to unit vectors in this process: queries at once, bulk work on all cores without holding them up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from serving.errors import EmbedderUnavailable
from serving.index.embedder_lanes import Lanes, Pause
from serving.index.embedder_model import limit_threads, load, unit
from serving.index.tokenizer import encodable_text
from serving.index.types import Vectors
from serving.settings import EmbedderSettings

#: Texts that are tokenised, sorted by length and passed on together; those after them are prepared meanwhile.
_WINDOW = 512
#: Characters that are tokenised in less time than it takes to wake another thread.
_SHORT = 2_000
#: A pass of fewer tokens is not worth a thread of its own.
_LEAST_TOKENS = 64


@dataclass(frozen=True, slots=True)
class _Batch:
    """Texts of one forward pass: their places in the caller's list, and their token ids, longest first."""

    places: list[int]
    texts: list[str]
    ids: list[list[int]]


class LocalEmbedder:
    """Implements `types.Embedder`. Building one loads the model, which takes seconds: do it in a thread.

    `name` is the model as it was asked for, `dimension` the length of its vectors. `max_tokens` is how much of a text
    it reads, special tokens not counted: what is beyond is cut off, silently, by the model. `tokenizer` neither
    truncates nor pads, and may be used from any thread. `precision` is what `auto` came to, `threads` how many forward
    passes run at a time.

    A BERT on a CPU gives a text the same vector, to the last bit, however it is batched (`embedder_bert`).
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        """Raises ConfigurationError when the model cannot be loaded."""
        loaded = load(settings)
        self.name = settings.model
        self.precision = loaded.precision
        self.threads = loaded.threads
        self.dimension = loaded.dimension
        self.max_tokens = loaded.max_tokens
        self.tokenizer = loaded.tokenizer
        self._cut = loaded.cut
        self._forward = loaded.forward
        self._batch_tokens = loaded.batch_tokens
        self._lanes = Lanes(loaded.threads, partial(limit_threads, loaded.torch_threads))

    async def embed(self, texts: Sequence[str], *, bulk: bool = False) -> Vectors:
        """Shape (len(texts), dimension), float32, unit length. Raises EmbedderUnavailable.

        `bulk` work makes way for the other kind, also in the middle of a forward pass. What is queued ends with a
        caller that is cancelled.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        before: list[asyncio.Future[None]] = []
        running: list[asyncio.Future[None]] = []
        try:
            for start in range(0, len(texts), _WINDOW):
                batches = await self._prepared(texts[start : start + _WINDOW])
                window = vectors[start : start + _WINDOW]
                work = [partial(self._embed, batch, window) for batch in batches]
                running = [asyncio.wrap_future(self._lanes.submit(one, bulk=bulk)) for one in work]
                await asyncio.gather(*before)
                before = running
            await asyncio.gather(*before)
        finally:
            for future in (*before, *running):
                future.cancel()
        return vectors

    def count_tokens(self, text: str) -> int:
        """Tokens of the text alone, without special tokens and without truncation."""
        return len(self.tokenizer.encode(encodable_text(text), add_special_tokens=False).ids)

    def close(self) -> None:
        """Ends the worker threads; running batches are finished, waiting ones are not begun."""
        self._lanes.close()

    async def _prepared(self, texts: Sequence[str]) -> list[_Batch]:
        if sum(map(len, texts)) <= _SHORT:
            return self._batches(texts)
        return await asyncio.to_thread(self._batches, texts)

    def _batches(self, texts: Sequence[str]) -> list[_Batch]:
        """Passes of texts of similar length, long ones first and small ones last: all threads end at the same time."""
        encodable = [encodable_text(text) for text in texts]
        ids: list[list[int]] = [found.ids for found in self._cut.encode_batch_fast(encodable)]
        left = sum(map(len, ids))
        batches: list[_Batch] = []
        room = 0
        for place in sorted(range(len(ids)), key=lambda place: -len(ids[place])):
            if not batches or len(ids[place]) > room:
                batches.append(_Batch([], [], []))
                room = min(self._batch_tokens, max(_LEAST_TOKENS, -(-left // self.threads)))
            room -= len(ids[place])
            left -= len(ids[place])
            batch = batches[-1]
            batch.places.append(place)
            batch.texts.append(encodable[place])
            batch.ids.append(ids[place])
        return batches

    def _embed(self, batch: _Batch, vectors: Vectors, pause: Pause) -> None:
        try:
            vectors[batch.places] = unit(self._forward(batch.texts, batch.ids, pause))
        except (RuntimeError, MemoryError) as error:
            raise EmbedderUnavailable(f"The embedding model {self.name!r} failed: {str(error)[:200]}") from error
