"""The embedder's contract, on the packaged MiniLM weights."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.errors import ConfigurationError
from serving.index.embedder import LocalEmbedder
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
