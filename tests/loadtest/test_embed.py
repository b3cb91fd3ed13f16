"""The embedding bench: its passages, its rows, and one side of it as a process."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest

from loadtest.bench.client import BenchError
from loadtest.bench.embed import cosine_row, operations, started
from loadtest.bench.embed_texts import LONGEST, SHORTEST, passages, questions
from serving.index.tokenizer import load_tokenizer

MODEL = "all-MiniLM-L6-v2"


def test_passages_are_of_mixed_length_and_the_same_each_time() -> None:
    """Log-normal between 20 and 256 tokens, as the model's tokenizer counts them."""
    texts, lengths = passages(MODEL, 300)
    assert (texts, lengths) == passages(MODEL, 300)
    counted = [tokens + 2 for tokens in load_tokenizer(MODEL).count(texts)]
    assert all(abs(min(LONGEST, real) - said) <= 0.1 * said for real, said in zip(counted, lengths, strict=True))
    assert min(lengths) >= SHORTEST
    assert statistics.median(lengths) < statistics.fmean(lengths) < 1.3 * statistics.median(lengths)
    assert len(set(questions(50))) == 50


def test_operations_of_a_passage() -> None:
    """A passage of 128 tokens takes 2.87 GFLOP."""
    assert operations([128]) / 1e9 == pytest.approx(2.87, abs=0.01)


def test_vectors_that_differ_fail() -> None:
    """The least similar pair decides."""
    expected = np.eye(3, dtype=np.float32)
    assert cosine_row(expected, expected, "float32").passed
    off = expected.copy()
    off[2] = [0.0, 0.2, np.sqrt(1 - 0.2**2)]
    assert cosine_row(off, expected, "bfloat16").passed is False


async def test_a_side_answers_until_it_is_stopped(tmp_path: Path) -> None:
    """A process that embeds when told, says what it took, and whose end is an error that names it."""
    async with started("float32", 4, tmp_path) as side:
        said = await side.ask("vectors", tmp_path / "vectors.npy")
        assert said["per_s"] > 0
        assert said["cpu_ms"] > 0
        assert np.load(tmp_path / "vectors.npy").shape == (4, 384)
        side.process.kill()
        await side.process.wait()
        with pytest.raises(BenchError, match="float32 ended"):
            await side.ask("rate")
