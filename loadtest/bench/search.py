"""Search over HTTP against the raw store call plus the query's embedding, and against the obvious server."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rich.progress import Progress

from loadtest.bench.client import BenchError
from loadtest.bench.keepalive import Connection, connected
from loadtest.bench.processes import Server
from loadtest.bench.raw import RawStore
from loadtest.bench.rounds import Measure, Sample, Samples, interleave, ratios, series, spread
from loadtest.bench.servers import COLLECTION
from loadtest.bench.table import Result, Row, at_least, at_most
from loadtest.bench.watch import watched
from serving.ports import LOOPBACK

BAR = 1.3
MODES = ("dense", "hybrid")
TOP_K = 10
#: Hits that the product's retrieval asks the store for when a caller wants TOP_K (`serving/retrieval.py`).
ASKED = 30
CLIENTS = 8
_LATE_MS = 25.0


class Questions:
    """Gives every side the same questions in the same round, and other ones in the next: nothing is cached."""

    def __init__(self, questions: Sequence[str], count: int) -> None:
        self._questions = questions
        self._count = count
        self._turns: dict[str, int] = {}

    def next_for(self, side: str) -> list[str]:
        turn = self._turns.get(side, 0)
        self._turns[side] = turn + 1
        start = turn * self._count
        return [self._questions[(start + place) % len(self._questions)] for place in range(self._count)]


async def latency(
    server: Server, raw: RawStore, questions: Sequence[str], rounds: int, each: int, progress: Progress | None = None
) -> Result:
    """p50 of one client, dense and hybrid. The bar is against a store call that asks for as many hits as we do.

    We ask for more than we show (duplicates, shares of documents); asking only for those is shown beside.
    """
    rows: list[Row] = []
    for mode in MODES:
        await _same_answers(server, raw, questions[:10], mode)
        turns = Questions(questions, each)
        sides: dict[str, Measure] = {
            "ours": partial(_http_round, server.port, turns, mode, "ours"),
            "raw": partial(_raw_round, raw, turns, mode, "raw"),
            "least": partial(_raw_round, replace(raw, limit=TOP_K), turns, mode, "least"),
        }
        samples = await interleave(sides, rounds, progress)
        rows += [_latency_row(samples, mode, "raw", raw.limit, BAR), _latency_row(samples, mode, "least", TOP_K, None)]
    return Result(rows)


def _latency_row(samples: Samples, mode: str, side: str, hits: int, bar: float | None) -> Row:
    ours, peer = series(samples, "ours", "p50"), series(samples, side, "p50")
    name = f"p50 {mode}: HTTP / embedding + store call for {hits} hits"
    return at_most(name, spread(ours).text(1, " ms"), spread(peer).text(1, " ms"), ratios(ours, peer), bar)


async def throughput(
    servers: Mapping[str, Server], questions: Sequence[str], rounds: int, each: int, progress: Progress | None = None
) -> Result:
    """Requests per second with 8 clients, ours against every other; shown without a bar."""
    rows: list[Row] = []
    busiest = 0.0
    for mode in MODES:
        turns = Questions(questions, each * CLIENTS)
        sides: dict[str, Measure] = {
            name: partial(_flood_round, server, turns, mode, name) for name, server in servers.items()
        }
        samples = await interleave(sides, rounds, progress)
        busiest = max([busiest, *(sample["client_cpu"] for side in samples.values() for sample in side)])
        rows += _throughput_rows(samples, mode)
    return Result(rows, [f"{CLIENTS} clients: this one process used at most {busiest:.0%} of a core"])


def _throughput_rows(samples: Samples, mode: str) -> list[Row]:
    rows = []
    ours, cost = series(samples, "ours", "per_s"), series(samples, "ours", "cpu_ms")
    for name in samples:
        if name == "ours":
            continue
        peer, peer_cost = series(samples, name, "per_s"), series(samples, name, "cpu_ms")
        rows.append(
            at_least(
                f"requests/s {mode}, {CLIENTS} clients: ours / {name}",
                f"{spread(ours).text(1)}, {statistics.median(cost):.0f} ms CPU each",
                f"{spread(peer).text(1)}, {statistics.median(peer_cost):.0f} ms CPU each",
                ratios(ours, peer),
            )
        )
    return rows


async def _http_round(port: int, turns: Questions, mode: str, side: str) -> Sample:
    bodies = [_body(question, mode) for question in turns.next_for(side)]
    async with watched(_LATE_MS), connected(LOOPBACK, port) as connection:
        seconds = await connection.timed("/v1/search", bodies)
    return {"p50": 1000 * statistics.median(seconds)}


async def _raw_round(raw: RawStore, turns: Questions, mode: str, side: str) -> Sample:
    seconds = [await raw.timed(question, mode) for question in turns.next_for(side)]
    return {"p50": 1000 * statistics.median(seconds)}


async def _flood_round(server: Server, turns: Questions, mode: str, side: str) -> Sample:
    bodies = [_body(question, mode) for question in turns.next_for(side)]
    cpu = server.cpu_s()
    started = time.perf_counter()
    async with watched(_LATE_MS) as client:
        await asyncio.gather(*(_client(server.port, bodies[place::CLIENTS]) for place in range(CLIENTS)))
    total = time.perf_counter() - started
    cpu = server.cpu_s() - cpu
    return {"per_s": len(bodies) / total, "cpu_ms": 1000 * cpu / len(bodies), "client_cpu": client.cpu_share}


async def _client(port: int, bodies: Sequence[Mapping[str, Any]]) -> None:
    async with connected(LOOPBACK, port) as connection:
        await connection.timed("/v1/search", bodies)


async def _same_answers(server: Server, raw: RawStore, questions: Sequence[str], mode: str) -> None:
    """Both sides must find the same. Raises BenchError."""
    found = wanted = 0
    async with connected(LOOPBACK, server.port) as connection:
        for question in questions:
            ours = set(await ids(connection, question, mode))
            peer = {hit["chunk_id"] for hit in (await raw.search(question, mode))[:TOP_K]}
            found += len(ours & peer)
            wanted += len(peer)
    if found < 0.95 * wanted:
        raise BenchError(f"{mode}: over HTTP {found} of the {wanted} chunks were found that the store finds")


async def ids(connection: Connection, question: str, mode: str) -> list[str]:
    """Chunk ids of a search, best first, as the mode ranks them: no document is held back."""
    answer = json.loads(await connection.post("/v1/search", _body(question, mode)))
    return [item["chunk_id"] for item in answer["data"]]


def _body(question: str, mode: str) -> dict[str, Any]:
    return {"query": question, "collection": COLLECTION, "mode": mode, "top_k": TOP_K, "per_document": TOP_K}
