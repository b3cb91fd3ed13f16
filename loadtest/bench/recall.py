"""Dense search over HTTP against brute force over the same vectors: does the path lose anything?"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from loadtest.bench.corpus import Loaded
from loadtest.bench.keepalive import Connection, connected
from loadtest.bench.search import TOP_K, ids
from loadtest.bench.table import Result, Row
from serving.index.types import Vectors
from serving.ports import LOOPBACK

BAR = 0.99
MODEL = "all-MiniLM-L6-v2"


async def measure(port: int, loaded: Loaded, questions: int) -> Result:
    """Mean recall@10 over the questions, whose vectors come from /v1/embeddings."""
    recalls, exact = [], 0
    async with connected(LOOPBACK, port) as connection:
        for question in loaded.questions[:questions]:
            wanted = nearest(loaded, await _vector(connection, question), TOP_K)
            found = await ids(connection, question, "dense")
            recalls.append(len(set(wanted) & set(found)) / len(wanted))
            exact += found == wanted
    recall = sum(recalls) / len(recalls)
    row = Row(
        "recall@10: dense over HTTP / brute-force cosine",
        f"{recall:.4f}",
        "1",
        f"{recall:.4f}",
        f">= {BAR}",
        recall >= BAR,
    )
    share = exact / len(recalls)
    order = Row("the same ten in the same order", f"{share:.1%}", "100%", f"{share:.3f}")
    notes = [f"{len(loaded.ids):,} chunks, {len(recalls)} questions; the worst recall is {min(recalls):.2f}"]
    return Result([row, order], notes)


def nearest(loaded: Loaded, vector: Vectors, count: int) -> list[str]:
    """Ids by cosine (the vectors are of unit length), best first."""
    order = np.argsort(-(loaded.vectors @ vector), kind="stable")[:count]
    return [loaded.ids[place] for place in order]


async def _vector(connection: Connection, question: str) -> Vectors:
    answer = json.loads(await connection.post("/v1/embeddings", {"model": MODEL, "input": question}))
    vector: Sequence[float] = answer["data"][0]["embedding"]
    return np.asarray(vector, dtype=np.float32)
