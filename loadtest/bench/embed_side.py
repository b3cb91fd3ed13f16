"""One side of the embedding bench, in a process of its own: reads a command a line, writes a JSON object a line.

`python -m loadtest.bench.embed_side SIDE PASSAGES`; SIDE is `sentence-transformers`, `auto` or `float32`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from loadtest.bench.embed_texts import passages, questions
from loadtest.bench.rounds import percentile
from serving.index.types import Vectors
from serving.settings import EmbedderSettings

BASELINE = "sentence-transformers"
#: Texts that ingestion hands over at a time (`IngestionSettings.write_batch`).
_CALL = 512
#: Rows of a product when its rate is measured: a bulk pass.
_ROWS = 512
_QUERY_GAP_S = 0.05
#: Texts of a bulk call while queries are asked.
_PART = 40

Embed: TypeAlias = Callable[[Sequence[str]], Awaitable[Vectors]]
Answer: TypeAlias = dict[str, Any]


class Work(Protocol):
    """What a side can be told to do."""

    async def __call__(self, argument: str) -> Answer: ...


class Baseline:
    """`SentenceTransformer.encode` as it comes."""

    def __init__(self, model: str) -> None:
        from sentence_transformers import SentenceTransformer

        from serving.index.tokenizer import resolve_model

        self._model = SentenceTransformer(resolve_model(model))

    async def bulk(self, texts: Sequence[str]) -> Vectors:
        vectors: Vectors = self._model.encode(list(texts))
        return vectors

    def commands(self) -> dict[str, Work]:
        return {}


class Ours:
    """`LocalEmbedder` as ingestion calls it, and behind the Embedder deployment's `Batches`."""

    def __init__(self, settings: EmbedderSettings) -> None:
        from serving.deployments.batches import Batches
        from serving.index.embedder import LocalEmbedder

        self._model = LocalEmbedder(settings)
        self._batches = Batches(self._model, settings.max_batch_size, settings.batch_wait_s)

    async def bulk(self, texts: Sequence[str]) -> Vectors:
        parts = [await self._model.embed(texts[at : at + _CALL], bulk=True) for at in range(0, len(texts), _CALL)]
        return np.concatenate(parts)

    def commands(self) -> dict[str, Work]:
        return {
            "limit": self._limit,
            "local": self._local,
            "deployment": self._deployment,
            "precision": self._precision,
        }

    async def _precision(self, argument: str) -> Answer:
        return {"precision": self._model.precision}

    async def _limit(self, argument: str) -> Answer:
        """Operations per second of the model's products at the rows of a bulk pass, in as many threads as we use."""
        threads, dtype = self._model.threads, self._model.precision
        return {"rate": await asyncio.to_thread(product_rate, dtype, threads, float(argument))}

    async def _local(self, argument: str) -> Answer:
        async def bulk(texts: Sequence[str]) -> Vectors:
            return await self._model.embed(texts, bulk=True)

        return await waits(self._model.embed, bulk, int(argument))

    async def _deployment(self, argument: str) -> Answer:
        return await waits(self._batches.embed, self._batches.embed, int(argument))


async def waits(one: Embed, bulk: Embed, count: int) -> Answer:
    """Milliseconds that `count` questions take, 20 a second, each from the moment when it should have been asked:
    with nothing else to do (`idle`), and beside bulk work (`busy`). Bulk texts/s without and with the questions.
    """
    texts = passages(EmbedderSettings().model, 12 * _PART)[0]
    asked = questions(count)
    done = 0

    async def forever(first: int) -> None:
        nonlocal done
        while True:
            # Little enough that what is finished can be counted, and more than a query of the deployment may have.
            for start in range(first, len(texts), 2 * _PART):
                done += len(await bulk(texts[start : start + _PART]))

    async def rate(while_: Awaitable[Any]) -> tuple[float, Any]:
        before, started = done, time.perf_counter()
        result = await while_
        return (done - before) / (time.perf_counter() - started), result

    idle = await _ask(one, asked)
    # Two callers, so that there is always work waiting.
    working = [asyncio.create_task(forever(first)) for first in (0, _PART)]
    try:
        alone, _ = await rate(asyncio.sleep(count * _QUERY_GAP_S))
        beside, busy = await rate(_ask(one, asked))
    finally:
        for task in working:
            task.cancel()
        await asyncio.wait(working)
    return {
        "idle": percentile(idle, 0.99),
        "busy": percentile(busy, 0.99),
        "idle_p50": percentile(idle, 0.5),
        "busy_p50": percentile(busy, 0.5),
        "alone": alone,
        "beside": beside,
    }


async def _ask(one: Embed, asked: Sequence[str]) -> list[float]:
    started = time.perf_counter()
    taken = []
    for number, question in enumerate(asked):
        due = started + number * _QUERY_GAP_S
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await one([question])
        taken.append(1000 * (time.perf_counter() - due))
    return taken


def product_rate(precision: str, threads: int, seconds: float) -> float:
    """Operations per second of MiniLM's four products with weights in oneDNN's order and nothing after them, each
    thread by itself.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch

    dtype = getattr(torch, precision)
    shapes = ((1152, 384), (384, 384), (1536, 384), (384, 1536))
    weights = [torch.randn(shape).to(dtype) for shape in shapes]
    ordered = [torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) for weight in weights]

    def run(_: int) -> float:
        torch.set_num_threads(1)
        rows = {width: torch.randn(_ROWS, width).to(dtype) for width in (384, 1536)}
        turns, started = 0, time.perf_counter()
        with torch.inference_mode():
            while (passed := time.perf_counter() - started) < seconds:
                for (_, width), weight in zip(shapes, ordered, strict=True):
                    torch.ops.mkldnn._linear_pointwise(rows[width], weight, None, "none", [], "")
                turns += 1
        return turns / passed

    operations = sum(2 * _ROWS * out * width for out, width in shapes)
    with ThreadPoolExecutor(threads) as pool:
        return operations * sum(pool.map(run, range(threads)))


async def answer(side: Baseline | Ours, command: str, argument: str, texts: Sequence[str]) -> Answer:
    if work := side.commands().get(command):
        return await work(argument)
    before, started = _cpu_s(), time.perf_counter()
    vectors = await side.bulk(texts)
    seconds, cpu = time.perf_counter() - started, _cpu_s() - before
    if command == "vectors":
        np.save(argument, vectors)
    return {"per_s": len(texts) / seconds, "cpu_ms": 1000 * cpu / len(texts), "seconds": seconds}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main(name: str, count: int) -> None:
    model = EmbedderSettings().model
    texts, _ = passages(model, count)
    if name == BASELINE:
        side: Baseline | Ours = Baseline(model)
    else:
        side = Ours(EmbedderSettings.model_validate({"precision": name}))
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command, _, argument = line.strip().partition(" ")
        print(json.dumps(await answer(side, command, argument, texts)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
