"""Our sides of the ingestion bench, each in a process of its own: before each pass it waits for a line, then says how
long it took, as a JSON object.

`python -m loadtest.bench.ingest_side embed CHUNKS VECTORS` embeds texts and does nothing else; asked once more, it says
what bounds that.
`python -m loadtest.bench.ingest_side ours DATA_DIR FOLDER` is what `anchorage ingest` does after its start, twice.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np

from ingestion.load import SUFFIXES
from ingestion.parts import Parts, open_parts
from ingestion.pipeline import ingest
from ingestion.report import IngestReport
from ingestion.source import parse_sources
from loadtest.bench.embed import operations
from loadtest.bench.embed_side import product_rate
from loadtest.bench.ingest_documents import texts_of, write_documents
from serving.index.embedder import LocalEmbedder
from serving.index.tokenizer import load_tokenizer
from serving.settings import Settings
from serving.stack import embedded_index

COLLECTION = "bench"


async def embed(texts: Sequence[str], vectors: Path) -> None:
    """As ingestion calls it: `write_batch` texts at a time, in the order in which documents come."""
    settings = Settings()
    model = LocalEmbedder(settings.embedder)
    batch = settings.ingestion.write_batch
    await model.embed(texts[:8], bulk=True)

    async def work() -> int:
        parts = [await model.embed(texts[at : at + batch], bulk=True) for at in range(0, len(texts), batch)]
        np.save(vectors, np.concatenate(parts))
        return len(texts)

    await _pass(work)
    await asyncio.to_thread(sys.stdin.readline)
    rate = await asyncio.to_thread(product_rate, model.precision, model.threads, 1.0)
    each = operations(load_tokenizer(settings.embedder.model).count(texts))
    print(json.dumps({"product_rate": rate, "operations": each}), flush=True)


async def ours(data_dir: Path, folder: Path) -> None:
    """Models, clients and the store's collection are there when the first pass begins, as with the peers."""
    async with embedded_index(Settings(), data_dir) as settings, open_parts(settings) as parts:
        with tempfile.TemporaryDirectory(prefix="anchorage-bench-") as warm:
            write_documents(Path(warm), 1, 1)
            await _ingest(Path(warm), "warm", settings, parts)

        async def work() -> int:
            return (await _ingest(folder, COLLECTION, settings, parts)).chunks

        await _pass(work)
        await _pass(work)


async def _ingest(folder: Path, collection: str, settings: Settings, parts: Parts) -> IngestReport:
    sources = parse_sources([str(folder)], suffixes=SUFFIXES)
    try:
        return await ingest(sources, collection, settings=settings, parts=parts)
    finally:
        for source in sources:
            source.close()


async def _pass(work: Callable[[], Awaitable[int]]) -> None:
    await asyncio.to_thread(sys.stdin.readline)
    before, started = _cpu_s(), time.perf_counter()
    rows = await work()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "cpu_s": _cpu_s() - before, "rows": rows}), flush=True)


def _cpu_s() -> float:
    """Of this process and those that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    side, first, second = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    asyncio.run(embed(texts_of(first), second) if side == "embed" else ours(first, second))


if __name__ == "__main__":
    main()
