"""A real embedding model that costs next to nothing: the packaged one's tokenizer before one random layer.

What it embeds means nothing; what it lets us see is how everything around an embedding model grows.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoTokenizer, BertConfig, BertModel

from serving.index.tokenizer import resolve_model
from serving.settings import Settings

DIMENSION = 384


def make(folder: Path) -> Path:
    """A sentence-transformers folder: BERT with one layer of 384 dimensions and mean pooling, always the same."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(Settings().embedder.model))
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=DIMENSION,
        num_hidden_layers=1,
        num_attention_heads=12,
        intermediate_size=DIMENSION,
        max_position_embeddings=512,
    )
    bert = folder / "bert"
    BertModel(config).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    transformer = Transformer(str(bert), max_seq_length=256)
    model = SentenceTransformer(modules=[transformer, Pooling(DIMENSION, pooling_mode="mean")], device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"
