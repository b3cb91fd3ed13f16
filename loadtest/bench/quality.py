"""Does hybrid search find the page that answers? Recall and reciprocal rank by mode, for questions of known source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtest.bench.client import BenchError
from loadtest.bench.table import Result, Row

MODES = ("dense", "text", "hybrid")


@dataclass(frozen=True, slots=True)
class Known:
    """A question and the ends of the uris that answer it."""

    question: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """Means over the questions: a right source among the first 1, 5, 10 documents, and 1/rank of the first."""

    recall_1: float
    recall_5: float
    recall_10: float
    reciprocal_rank: float


def load_questions(path: Path) -> list[Known]:
    """One JSON object a line: {"question", "sources": [...]}. Raises BenchError naming the line."""
    questions = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            item = json.loads(line)
            questions.append(Known(item["question"], tuple(item["sources"])))
        except (ValueError, KeyError) as error:
            raise BenchError(f"{path}:{number}: not a question with sources ({error})") from error
    return questions


async def score_mode(client: httpx.AsyncClient, collection: str, questions: list[Known], mode: str) -> Score:
    ranks = [_rank(await _uris(client, collection, known.question, mode), known) for known in questions]
    count = len(ranks)

    def recall(depth: int) -> float:
        return sum(1 for rank in ranks if rank and rank <= depth) / count

    return Score(recall(1), recall(5), recall(10), sum(1 / rank for rank in ranks if rank) / count)


async def _uris(client: httpx.AsyncClient, collection: str, question: str, mode: str) -> list[str]:
    body: dict[str, Any] = {"query": question, "collection": collection, "mode": mode, "top_k": 20}
    response = await client.post("/v1/search", json=body)
    if response.status_code != 200:
        raise BenchError(f"search failed with {response.status_code}: {response.text[:300]}")
    return list(dict.fromkeys(item["uri"] for item in response.json()["data"]))


def _rank(uris: list[str], known: Known) -> int:
    """Place (from 1) of the first right document, 0 when there is none."""
    return next((place for place, uri in enumerate(uris, 1) if uri.endswith(known.sources)), 0)


async def run(url: str, collection: str, questions: Path) -> Result:
    """Rows for the table; the bar is that hybrid is not below dense."""
    known = load_questions(questions)
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        scores = {mode: await score_mode(client, collection, known, mode) for mode in MODES}
    hybrid = scores["hybrid"]
    rows = [row for mode in ("dense", "text") for row in _rows(mode, hybrid, scores[mode])]
    return Result(rows, [f"{len(known)} questions on collection {collection!r}"])


def _rows(mode: str, hybrid: Score, other: Score) -> list[Row]:
    rows = []
    for name in ("recall_1", "recall_5", "recall_10", "reciprocal_rank"):
        ours, peer = getattr(hybrid, name), getattr(other, name)
        barred = mode == "dense" and name in ("recall_5", "reciprocal_rank")
        ratio = f"{ours / peer:.3f}" if peer else "-"
        passed = ours >= peer if barred else None
        rows.append(
            Row(f"{name}: hybrid / {mode}", f"{ours:.3f}", f"{peer:.3f}", ratio, ">= 1" if barred else "-", passed)
        )
    return rows
