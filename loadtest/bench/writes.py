"""Rows per second into Milvus Lite: the product's store against pymilvus alone at the batch size that suits it best.

Both write the same rows into collections of the same make (dense vector, BM25 by Milvus's own function), and flush.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import MilvusClient
from rich.progress import Progress

from loadtest.bench.client import BenchError
from loadtest.bench.corpus import paragraph
from loadtest.bench.ingest import Store
from loadtest.bench.raw import connect
from loadtest.bench.rounds import Measure, Sample, Samples, interleave, ratios, series, spread
from loadtest.bench.table import Result, at_least
from serving.index import schema
from serving.index.milvus import Milvus
from serving.index.types import Chunk, StoredChunk, chunk_id
from serving.settings import IndexSettings, Settings
from serving.stack import embedded_index

BAR = 0.9
#: Rows of one upsert.
SWEEP = (100, 250, 500, 1_000, 2_500, 5_000)
_DIMENSION = 384


class Sides:
    """Each measure fills a collection of its own, which is dropped after it."""

    def __init__(self, settings: IndexSettings, data_dir: Path, chunks: Sequence[StoredChunk]) -> None:
        self._settings = settings
        self._server = Store(settings.milvus_uri, data_dir)
        self._chunks = chunks
        self._rows = [schema.row(settings.tenant, stored) for stored in chunks]
        self._count = 0

    async def ours(self) -> Sample:
        """`Milvus.upsert`, as many rows at a time as a run hands over, and `flush`. Makes its rows as it goes."""
        batch = Settings().ingestion.write_batch

        async def write(store: Milvus, _: MilvusClient, index: str) -> None:
            for start in range(0, len(self._chunks), batch):
                await store.upsert(index, self._chunks[start : start + batch])
            await store.flush(index)

        return await self._measured(write)

    async def raw(self, batch: int, *, made: bool) -> Sample:
        """pymilvus, so many rows at a time. `made`: with rows that are ready made, stemmed text and all."""

        async def write(_: Milvus, client: MilvusClient, index: str) -> None:
            await asyncio.to_thread(self._raw, client, index, batch, made)

        return await self._measured(write)

    def _raw(self, client: MilvusClient, index: str, batch: int, made: bool) -> None:
        for start in range(0, len(self._rows), batch):
            if made:
                rows = self._rows[start : start + batch]
            else:
                rows = [schema.row(self._settings.tenant, stored) for stored in self._chunks[start : start + batch]]
            client.upsert(index, rows)
        client.flush(index)

    async def _measured(self, write: Any) -> Sample:
        self._count += 1
        index = f"writes_{self._count}_{_DIMENSION}"
        store, client = Milvus.connect(self._settings), connect(self._settings.milvus_uri)
        try:
            await store.ensure(index, _DIMENSION)
            cpu, started = time.process_time() + self._server.cpu_s(), time.perf_counter()
            await write(store, client, index)
            seconds = time.perf_counter() - started
            cpu = time.process_time() + self._server.cpu_s() - cpu
            stored = client.query(index, filter="", output_fields=["count(*)"])[0]["count(*)"]
            client.drop_collection(index)
        finally:
            client.close()
            await store.close()
        if stored != len(self._rows):
            raise BenchError(f"{stored:,} rows are stored instead of {len(self._rows):,}")
        return {"per_s": stored / seconds, "cpu_us": 1e6 * cpu / stored}


async def measure(rows: int, rounds: int, folder: Path, progress: Progress | None = None) -> Result:
    """Every batch size once, to find the best one; then ours and that one in turn."""
    chunks = await asyncio.to_thread(_stored, rows)
    async with embedded_index(Settings(), folder / "writes") as settings:
        sides = Sides(settings.index, folder / "writes", chunks)
        sizes = [size for size in SWEEP if size <= rows] or [rows]
        sweep: dict[str, Measure] = {str(size): partial(sides.raw, size, made=True) for size in sizes}
        swept = await interleave(sweep, 1, progress)
        best = max(sizes, key=lambda size: swept[str(size)][0]["per_s"])
        compared: dict[str, Measure] = {
            "ours": sides.ours,
            "raw": partial(sides.raw, best, made=True),
            "raw, making rows": partial(sides.raw, best, made=False),
        }
        samples = await interleave(compared, rounds, progress)
    found = ", ".join(f"{size:,}: {swept[str(size)][0]['per_s']:,.0f}" for size in sizes)
    bars = {"raw": None, "raw, making rows": BAR}
    return Result(
        [_row(samples, side, best, bar) for side, bar in bars.items()],
        [
            f"{rows:,} rows of {_DIMENSION} dimensions; rows/s of pymilvus by rows an upsert: {found}",
            "the stemmed text that BM25 searches is part of a row: raw is handed rows that have it; with `making rows` "
            "it makes them, as ours does",
        ],
    )


def _row(samples: Samples, side: str, batch: int, bar: float | None) -> Any:
    def text(name: str) -> str:
        cost = statistics.median(series(samples, name, "cpu_us"))
        return f"{spread(series(samples, name, 'per_s')).text(0)}, {cost:.0f} us CPU each"

    both = ratios(series(samples, "ours", "per_s"), series(samples, side, "per_s"))
    return at_least(f"rows/s: store / pymilvus, {batch:,} an upsert ({side})", text("ours"), text(side), both, bar)


def _stored(count: int, seed: int = 7) -> list[StoredChunk]:
    draw, numbers = random.Random(seed), np.random.default_rng(seed)
    vectors = numbers.normal(size=(count, _DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for number, vector in enumerate(vectors):
        text, uri = paragraph(draw, number), f"file:///bench/page-{number // 8:06}.md"
        name = chunk_id("default", "bench", uri, text, 0)
        heading = (f"Page {number // 8}", f"Section {number % 8}")
        chunk = Chunk(name, uri, heading[0], text, 0, len(text), heading, number % 8)
        found.append(StoredChunk("bench", chunk, vector, born=1))
    return found
