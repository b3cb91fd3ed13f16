"""Bulk embedding against sentence-transformers at its defaults, the limit of it, and what queries notice of it."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from loadtest.bench.client import BenchError
from loadtest.bench.embed_side import BASELINE
from loadtest.bench.embed_texts import passages
from loadtest.bench.rounds import Measure, Sample, Samples, Spread, interleave, ratios, series, spread
from loadtest.bench.table import Result, Row, at_least, at_most
from serving.settings import EmbedderSettings

_ROOT = Path(__file__).resolve().parents[2]
BAR = {"bfloat16": 2.7, "float32": 1.0}
LEAST_COSINE = {"bfloat16": 0.99, "float32": 0.99999}
WAIT_BAR = 3.0
#: Loading a model takes seconds; a round of the slowest side half a minute. An answer that takes longer never comes.
_TIMEOUT_S = 600.0
#: Operations of MiniLM-L6 for a text of `tokens`: 6 layers of 2 * (4 * 384^2 + 2 * 384 * 1536) a token, and attention.
_PER_TOKEN, _PER_PAIR = 21.2e6, 9216


@dataclass(frozen=True, slots=True)
class Side:
    """A process of `embed_side`."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    async def ask(self, command: str, argument: object = "") -> dict[str, Any]:
        """Raises BenchError with the end of its output when it is gone."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command} {argument}\n".encode())
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(_TIMEOUT_S):
            line = await self.process.stdout.readline()
        if not line:
            raise BenchError(f"{self.name} ended:\n{self.log.read_text(errors='replace')[-2000:]}")
        found: dict[str, Any] = json.loads(line)
        return found


async def measure(count: int, rounds: int, questions: int, progress: Progress | None = None) -> Result:
    """`count` passages a round; `questions` with nothing to do and as many beside bulk work, for each of two ways."""
    with tempfile.TemporaryDirectory(prefix="anchorage-bench-") as folder:
        async with AsyncExitStack() as stack:
            start = [started(name, count, Path(folder)) for name in (BASELINE, "auto", "float32")]
            baseline, auto, exact = [await stack.enter_async_context(side) for side in start]
            vectors = await _vectors([baseline, auto, exact], Path(folder))
            sides: dict[str, Measure] = {
                "baseline": partial(baseline.ask, "rate"),
                "auto": partial(auto.ask, "rate"),
                "auto limit": partial(auto.ask, "limit", 1.0),
                "float32": partial(exact.ask, "rate"),
                "float32 limit": partial(exact.ask, "limit", 1.0),
            }
            rates = await interleave(sides, rounds, progress)
            asked: dict[str, Measure] = {
                "LocalEmbedder": partial(auto.ask, "local", questions),
                "the Embedder deployment": partial(auto.ask, "deployment", questions),
            }
            waits = await interleave(asked, rounds, progress)
            precision = str((await auto.ask("precision"))["precision"])
    return _result(rates, waits, vectors, precision, count)


@asynccontextmanager
async def started(name: str, count: int, folder: Path) -> AsyncIterator[Side]:
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtest.bench.embed_side", name, str(count)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            cwd=_ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    side = Side(name, process, log)
    try:
        await side.answer()
        yield side
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _vectors(sides: Sequence[Side], folder: Path) -> list[Any]:
    """What each side makes of the passages. It warms them up, too."""
    for side in sides:
        await side.ask("vectors", folder / f"{side.name}.npy")
    return [np.load(folder / f"{side.name}.npy") for side in sides]


def _result(rates: Samples, waits: Samples, vectors: Sequence[Any], precision: str, count: int) -> Result:
    expected, auto, exact = vectors
    rows = [
        *_side_rows(rates, "auto", precision),
        cosine_row(auto, expected, precision),
        *_side_rows(rates, "float32", "float32"),
        cosine_row(exact, expected, "float32"),
    ]
    for way, samples in waits.items():
        rows += _wait_rows(way, samples)
    lengths = passages(EmbedderSettings().model, count)[1]
    mean = operations(lengths)
    notes = [
        f"{count:,} passages of 20 to 256 tokens, log-normal, mean {statistics.fmean(lengths):.0f}: "
        f"{mean / 1e9:.2f} GFLOP each",
        *(_limit_note(rates, side, mean) for side in ("auto", "float32")),
    ]
    return Result(rows, notes)


def _side_rows(rates: Samples, side: str, precision: str) -> list[Row]:
    ours, peer = (series(rates, name, "per_s") for name in (side, "baseline"))
    cost, peer_cost = (series(rates, name, "cpu_ms") for name in (side, "baseline"))
    name = f"{side} ({precision})" if side != precision else side
    return [
        at_least(
            f"passages/s, {name} / {BASELINE} at its defaults",
            spread(ours).text(1),
            spread(peer).text(1),
            ratios(ours, peer),
            BAR[precision],
        ),
        at_most(
            f"CPU time of a passage, {name} / {BASELINE}",
            spread(cost).text(1, " ms"),
            spread(peer_cost).text(1, " ms"),
            ratios(cost, peer_cost),
        ),
    ]


def cosine_row(ours: Any, expected: Any, precision: str) -> Row:
    least = float((ours * expected).sum(axis=1).min())
    bar = LEAST_COSINE[precision]
    return Row(f"least cosine, {precision}", f"{least:.6f}", "1", "-", f">= {bar:g}", least >= bar, spread([least]))


def _wait_rows(way: str, samples: Sequence[Sample]) -> list[Row]:
    def of(name: str) -> list[float]:
        return [sample[name] for sample in samples]

    def both(name: str) -> str:
        return f"p99 {spread(of(name)).text(1, ' ms')}, p50 {statistics.median(of(name + '_p50')):.1f} ms"

    waiting, loss = ratios(of("busy"), of("idle")), ratios(of("beside"), of("alone"))
    return [
        at_most(f"a query during bulk work / idle, {way}", both("busy"), both("idle"), waiting, WAIT_BAR),
        at_least(
            f"bulk passages/s beside 20 queries/s / alone, {way}",
            spread(of("beside")).text(1),
            spread(of("alone")).text(1),
            loss,
        ),
    ]


def _limit_note(rates: Samples, side: str, mean: float) -> str:
    """The limit: what the machine multiplies at best, over what a passage takes."""
    speed = spread(series(rates, f"{side} limit", "rate"))
    shares = ratios(series(rates, side, "per_s"), [rate / mean for rate in series(rates, f"{side} limit", "rate")])
    return (
        f"limit of {side}: products alone run at {_giga(speed)} GFLOP/s, enough for {speed.median / mean:.1f} "
        f"passages/s; {shares.median:.0%} ({shares.low:.0%} to {shares.high:.0%}) of it is reached"
    )


def _giga(speed: Spread) -> str:
    return Spread(speed.median / 1e9, speed.low / 1e9, speed.high / 1e9).text(0)


def operations(lengths: Sequence[int]) -> float:
    """Mean over texts."""
    return statistics.fmean(_PER_TOKEN * tokens + _PER_PAIR * tokens**2 for tokens in lengths)
