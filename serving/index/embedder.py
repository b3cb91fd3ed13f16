"""Text to unit vectors in this process, with sentence-transformers. The only importer of it and of torch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.errors import ConfigurationError, EmbedderUnavailable
from serving.index.tokenizer import encodable_text, resolve_model
from serving.index.types import Vectors
from serving.settings import EmbedderSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: CPU flags that make bfloat16 the faster one. Measured with MiniLM on 2 cores of an AMD EPYC (avx512_bf16): chunks of
#: 200 tokens 45/s against 22/s, a query 8 to 9 ms against 11 to 14 ms, cosine between both at least 0.9999.
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


class LocalEmbedder:
    """Implements `types.Embedder`. Building one loads the model, which takes seconds: do it in a thread.

    `name` is the model as it was asked for, `dimension` the length of its vectors. `max_tokens` is how much of a text
    it reads, special tokens not counted: what is beyond is cut off, silently, by the model. `tokenizer` neither
    truncates nor pads, and may be used from any thread.
    """

    def __init__(self, settings: EmbedderSettings) -> None:
        """Raises ConfigurationError when the model cannot be loaded."""
        self.name = settings.model
        self._batch_size = settings.batch_size
        self._model = _load(settings)
        self.dimension = int(self._model.get_embedding_dimension())
        self.tokenizer = _free_tokenizer(self._model, settings.model)
        self.max_tokens = int(self._model.max_seq_length) - self.tokenizer.num_special_tokens_to_add(False)
        # One thread: torch has its own threads inside a forward pass, and two passes at a time only slow each other.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (len(texts), dimension), float32, unit length. Raises EmbedderUnavailable.

        Many texts go through in batches of similar length, between which other callers have their turn.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        loop = asyncio.get_running_loop()
        for start in range(0, len(order), self._batch_size):
            places = order[start : start + self._batch_size]
            batch = [encodable_text(texts[place]) for place in places]
            vectors[places] = await loop.run_in_executor(self._thread, self._encode, batch)
        return vectors

    def count_tokens(self, text: str) -> int:
        """Tokens of the text alone, without special tokens and without truncation."""
        return len(self.tokenizer.encode(encodable_text(text), add_special_tokens=False).ids)

    def close(self) -> None:
        """Ends the worker thread; running batches are finished, waiting ones are not begun."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _encode(self, texts: list[str]) -> Vectors:
        try:
            # Normalised here, in float32: a bfloat16 vector of length one may be off by half a percent.
            raw = self._model.encode(
                texts,
                batch_size=len(texts),
                convert_to_tensor=True,
                show_progress_bar=False,
                normalize_embeddings=False,
            )
        except (RuntimeError, MemoryError) as error:
            raise EmbedderUnavailable(f"The embedding model {self.name!r} failed: {str(error)[:200]}") from error
        vectors: Vectors = raw.float().cpu().numpy()
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)
        return vectors


def _load(settings: EmbedderSettings) -> Any:
    # Loading is quick; its progress bar would only disturb the terminal of whoever runs us.
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    import torch
    from sentence_transformers import SentenceTransformer

    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    precision = settings.precision if settings.precision != "auto" else _fastest_precision()
    try:
        model = SentenceTransformer(resolve_model(settings.model), model_kwargs={"dtype": getattr(torch, precision)})
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"The embedding model {settings.model!r} cannot be loaded: it is neither the packaged all-MiniLM-L6-v2, "
            f"nor a local folder, nor a Hugging Face id that can be had from here ({str(error).splitlines()[0][:200]})."
        ) from error
    return model.eval()


def _fastest_precision() -> str:
    """bfloat16 where a GPU or the CPU calculates in it, float32 elsewhere."""
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    try:
        information = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "float32"
    return "bfloat16" if _BFLOAT16_FLAGS & set(information.split()) else "float32"


def _free_tokenizer(model: Any, name: str) -> Tokenizer:
    """A copy of the model's tokenizer: the model's own is told to truncate and pad while it works."""
    from tokenizers import Tokenizer

    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigurationError(f"The embedding model {name!r} has no fast tokenizer, which chunking needs.")
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
