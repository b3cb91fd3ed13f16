"""The embedder's contract, on the packaged MiniLM weights."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.errors import ConfigurationError
from serving.index.embedder import LocalEmbedder
from serving.index.tokenizer import model_folder
from serving.settings import EmbedderSettings


@pytest.fixture(scope="module", params=["auto", "float32"])
def embedder(request: pytest.FixtureRequest) -> Iterator[LocalEmbedder]:
    built = LocalEmbedder(EmbedderSettings(precision=request.param))
    yield built
    built.close()


async def test_vectors_are_unit_float32_in_the_order_of_the_texts(embedder: LocalEmbedder) -> None:
    """One row per text, of length one, and the same whether embedded alone or among longer and shorter texts."""
    texts = [f"{'word ' * (i * 7 % 50)}text {i}" for i in range(70)]
    vectors = await embedder.embed(texts)
    assert vectors.shape == (70, embedder.dimension) == (70, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(70), abs=1e-5)
    for place in (0, 33, 69):
        (alone,) = await embedder.embed([texts[place]])
        assert float(alone @ vectors[place]) > 0.999


async def test_a_text_has_one_vector_to_the_last_bit(embedder: LocalEmbedder) -> None:
    """Alone, among few, in bulk of any order: what a second run writes is what the first one wrote."""
    sentence = "the pod that serves a volume restarts on another node when its lease runs out "
    texts = [sentence[at % 7 : at % 7 + 15 + at % 40] * (1 + at * 7 % 20) for at in range(160)]
    bulk = await embedder.embed(texts, bulk=True)
    assert (await embedder.embed(texts[::-1], bulk=True) == bulk[::-1]).all()
    assert (await embedder.embed(texts[:37]) == bulk[:37]).all()
    for place in (0, 5, 19, 59):
        assert (await embedder.embed([texts[place]]) == bulk[place]).all()


async def test_a_query_does_not_wait_for_bulk_work(embedder: LocalEmbedder) -> None:
    """It is answered in the middle, and what is bulk work comes to its end all the same."""
    bulk = asyncio.create_task(embedder.embed([f"{'word ' * 200}{n}" for n in range(100)], bulk=True))
    await asyncio.sleep(0.1)
    await embedder.embed(["a query"])
    assert not bulk.done()
    assert np.linalg.norm(await bulk, axis=1) == pytest.approx(np.ones(100), abs=1e-5)


async def test_bulk_work_ends_with_its_caller(embedder: LocalEmbedder) -> None:
    """What a cancelled caller had queued is not embedded."""
    texts = [f"{'word ' * 200}{n}" for n in range(2_000)]
    bulk = asyncio.create_task(embedder.embed(texts, bulk=True))
    await asyncio.sleep(0.5)
    bulk.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bulk
    async with asyncio.timeout(10):
        await embedder.embed(["what comes next"], bulk=True)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
async def test_other_models_give_what_sentence_transformers_makes_of_them(tmp_path: Path, pooling: str) -> None:
    """A BERT of another size goes through our own pass, one that takes the first token's vector does not."""
    model = small_bert(pooling, tmp_path / "bert")
    model.save(str(tmp_path / "small"))
    texts = ["one", "How do I restrict traffic between pods?", "Dough of flour and water. " * 20, "", "日本語"] * 4
    built = LocalEmbedder(EmbedderSettings(model=str(tmp_path / "small"), precision="float32"))
    assert (built.dimension, built.max_tokens) == (48, 62)
    vectors = await built.embed(texts, bulk=True)
    built.close()
    assert (vectors * model.encode(texts, normalize_embeddings=True)).sum(axis=1).min() > 0.99999


def small_bert(pooling: str, folder: Path) -> Any:
    """Random weights, large enough that every layer changes the outcome."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(3)
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80}
    config = BertConfig(vocab_size=30522, max_position_embeddings=64, initializer_range=0.3, **sizes)
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(model_folder("all-MiniLM-L6-v2"))).save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=64)
    return SentenceTransformer(modules=[transformer, Pooling(48, pooling_mode=pooling)], device="cpu")


async def test_precision_changes_no_meaning(embedder: LocalEmbedder) -> None:
    """Whatever `auto` chose, vectors agree with float32 to a cosine of 0.999."""
    exact = LocalEmbedder(EmbedderSettings(precision="float32"))
    texts = ["How do I restrict traffic between pods?", "Bread is baked from flour. " * 30]
    assert ((await exact.embed(texts)) * (await embedder.embed(texts))).sum(axis=1).min() > 0.999
    exact.close()


async def test_meaning_is_near(embedder: LocalEmbedder) -> None:
    """A question is nearer to its answer than to something else."""
    question, answer, other = await embedder.embed(
        ["How do I make bread?", "Dough of flour and water is baked.", "The kube-proxy runs on each node."]
    )
    assert float(question @ answer) > float(question @ other) + 0.2


async def test_nothing_and_odd_texts_are_embedded(embedder: LocalEmbedder) -> None:
    """No text gives no row; an empty one, half a surrogate pair and an endless one give a row each."""
    assert (await embedder.embed([])).shape == (0, embedder.dimension)
    vectors = await embedder.embed(["", "half \ud83d pair", "word " * 5_000, "日本語 \x00"])
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)


async def test_concurrent_callers_get_their_own_vectors(embedder: LocalEmbedder) -> None:
    """Callers at the same time do not mix, bulk and single."""
    texts = [f"subject number {i}" for i in range(12)]
    expected = await embedder.embed(texts)
    bulk, *single = await asyncio.gather(embedder.embed(texts * 8), *(embedder.embed([text]) for text in texts))
    for place, vectors in enumerate(single):
        assert float(vectors[0] @ expected[place]) > 0.999
        assert float(bulk[place] @ expected[place]) > 0.999


async def test_tokens_are_counted_without_truncation(embedder: LocalEmbedder) -> None:
    """A text longer than the model reads is counted in full, also while the model is at work."""
    assert embedder.max_tokens == 254
    working = asyncio.gather(*(embedder.embed(["word " * 400]) for _ in range(4)))
    counts = [await asyncio.to_thread(embedder.count_tokens, "word " * 1_000) for _ in range(20)]
    await working
    assert set(counts) == {1_000}
    assert embedder.count_tokens("") == 0


async def test_what_is_beyond_the_limit_is_not_read(embedder: LocalEmbedder) -> None:
    """The model cuts a text at `max_tokens`: what follows changes nothing."""
    beginning = "word " * embedder.max_tokens
    one, two = await embedder.embed([beginning, beginning + "zebra " * 50])
    assert float(one @ two) > 0.9999


def test_a_model_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    """An unknown name and an empty folder are refused, naming the model."""
    for model in ("nobody/nothing", str(tmp_path)):
        with pytest.raises(ConfigurationError, match="cannot be loaded"):
            LocalEmbedder(EmbedderSettings(model=model))
