"""An embedding model made on the spot: a BERT of random weights, as sentence-transformers saves and loads it."""

from __future__ import annotations

from pathlib import Path

#: Letters alone and within a word, so that every ASCII text has tokens.
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_MARKS = "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = ("the", "and", "is", "for", "with", "page", "part", "text", "document", "passage", "question", "answer")


def make_embedding_model(folder: Path, *, dimension: int = 48, max_tokens: int = 64, seed: int = 1) -> str:
    """Saves it and gives its folder. Takes about a second; another seed gives other vectors for the same texts."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    vocabulary = [*_SPECIAL, *_MARKS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *_WORDS]
    words = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    backend = BertWordPieceTokenizer(vocab=words, lowercase=True)
    backend.save(str(folder / "tokenizer.json"))
    bert = folder / "bert"
    BertTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), model_max_length=max_tokens).save_pretrained(bert)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=dimension,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * dimension,
        max_position_embeddings=max_tokens,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(bert)
    transformer = Transformer(str(bert), max_seq_length=max_tokens)
    made = folder / "model"
    SentenceTransformer(modules=[transformer, Pooling(dimension, "mean")]).save(str(made))
    return str(made)
