"""The embedding model's weights, loaded with sentence-transformers, and the way its forward pass goes here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from serving.errors import ConfigurationError
from serving.index.embedder_lanes import Pause
from serving.index.tokenizer import resolve_model
from serving.index.types import Vectors
from serving.settings import EmbedderSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_log = logging.getLogger(__name__)

#: CPU flags that make bfloat16 the faster one (about twice, measured on an AMD EPYC with avx512_bf16).
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
#: Tokens of a bulk pass. On a CPU more make it 2 % faster at most (4,096), but a query waits for a product of as many.
_CPU_TOKENS, _GPU_TOKENS = 512, 16_384
#: Our own pass must agree with the model's to a cosine of one less this.
_TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-3}
_CHECKS = ("anchor", "How do I restrict the traffic between two pods?", "Dough is made of flour and water. " * 40)


class Forward(Protocol):
    """Texts, and their token ids (special ones included, cut at the model's limit), sorted by the number of tokens, to
    vectors of any length. Calls `pause` when it can be held up.
    """

    def __call__(self, texts: Sequence[str], ids: Sequence[Sequence[int]], pause: Pause) -> Vectors: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """`tokenizer` neither truncates nor pads, `cut` truncates as the model does. `threads` may be in `forward` at a
    time, each with `torch_threads` of PyTorch (0: its own choice); `batch_tokens` is a good size of a bulk pass.
    """

    forward: Forward
    precision: str
    dimension: int
    max_tokens: int
    tokenizer: Tokenizer
    cut: Tokenizer
    threads: int
    torch_threads: int
    batch_tokens: int


def load(settings: EmbedderSettings) -> Loaded:
    """Raises ConfigurationError."""
    import torch

    precision = settings.precision if settings.precision != "auto" else _fastest_precision()
    model = _sentence_transformer(settings.model, getattr(torch, precision))
    tokenizer, cut = _tokenizer(model, settings.model), _tokenizer(model, settings.model)
    cut.enable_truncation(int(model.max_seq_length))
    on_cpu = model.device.type == "cpu"
    forward = _bert(model, cut, _TOLERANCE[precision]) if on_cpu else None
    return Loaded(
        forward=forward or _encoding(model),
        precision=precision,
        dimension=int(model.get_embedding_dimension()),
        max_tokens=int(model.max_seq_length) - tokenizer.num_special_tokens_to_add(False),
        tokenizer=tokenizer,
        cut=cut,
        # Threads with a pass each need not wait for one another at every product, as PyTorch's threads within a pass
        # do: 1.1 times faster on two idle cores, and 5 to 8 times when another process keeps one of them busy.
        threads=(settings.threads or torch.get_num_threads()) if forward else 1,
        torch_threads=1 if forward else settings.threads,
        batch_tokens=settings.batch_tokens or (_CPU_TOKENS if on_cpu else _GPU_TOKENS),
    )


def limit_threads(count: int) -> None:
    """How many threads PyTorch uses for what the calling thread, and any that calls it later, asks it; 0: no change."""
    import torch

    if count:
        torch.set_num_threads(count)


def _sentence_transformer(name: str, dtype: Any) -> Any:
    # Loading is quick; its progress bar would only disturb the terminal of whoever runs us.
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    from sentence_transformers import SentenceTransformer

    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    try:
        model = SentenceTransformer(resolve_model(name), model_kwargs={"dtype": dtype})
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"The embedding model {name!r} cannot be loaded: it is neither the packaged all-MiniLM-L6-v2, "
            f"nor a local folder, nor a Hugging Face id that can be had from here ({str(error).splitlines()[0][:200]})."
        ) from error
    return model.eval()


def _encoding(model: Any) -> Forward:
    """The pass of any model, by sentence-transformers itself."""

    def forward(texts: Sequence[str], ids: Sequence[Sequence[int]], pause: Pause) -> Vectors:
        raw = model.encode(
            list(texts),
            batch_size=len(texts),
            convert_to_tensor=True,
            show_progress_bar=False,
            normalize_embeddings=False,
        )
        vectors: Vectors = raw.float().cpu().numpy()
        return vectors

    return forward


def _bert(model: Any, cut: Tokenizer, tolerance: float) -> Forward | None:
    """Our own pass, where the model is a plain BERT with mean pooling and both give the same vectors."""
    if not _is_plain_bert(model):
        return None
    from serving.index.embedder_bert import Bert

    ids = [found.ids for found in cut.encode_batch_fast(list(_CHECKS))]
    try:
        bert = Bert(model[0].auto_model)
        own = unit(bert.means(ids, lambda: None))
    except (AttributeError, RuntimeError) as error:
        _log.info("oneDNN is not to be had here (%s): the model runs as sentence-transformers runs it.", error)
        return None
    same = (own * unit(_encoding(model)(_CHECKS, ids, lambda: None))).sum(axis=1)
    if not same.min() >= 1 - tolerance:
        _log.warning("Our own pass gives other vectors than the model (cosine %.4f): it is not used.", same.min())
        return None

    def forward(texts: Sequence[str], ids: Sequence[Sequence[int]], pause: Pause) -> Vectors:
        return bert.means(ids, pause)

    return forward


def _is_plain_bert(model: Any) -> bool:
    """A BertModel with GELU, then the mean of the tokens, then at most a normalisation; no prompt in front."""
    kinds = [type(module).__name__ for module in model]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return False
    encoder = model[0].auto_model
    return bool(
        type(encoder).__name__ == "BertModel"
        and encoder.config.hidden_act == "gelu"
        and not encoder.config.is_decoder
        and model[1].pooling_mode == "mean"
        and not model.default_prompt_name
    )


def unit(raw: Vectors) -> Vectors:
    """Rows of length one. In float32: a bfloat16 vector of length one may be off by half a percent."""
    vectors: Vectors = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return vectors


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


def _tokenizer(model: Any, name: str) -> Tokenizer:
    """A copy of the model's tokenizer that neither truncates nor pads: the model's own is told to while it works."""
    from tokenizers import Tokenizer

    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigurationError(f"The embedding model {name!r} has no fast tokenizer, which chunking needs.")
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
