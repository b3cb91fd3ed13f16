"""The benches, each with the servers it needs."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.progress import Progress

from loadtest.bench import embed as _embed
from loadtest.bench import fidelity as _fidelity
from loadtest.bench import growth as _growth
from loadtest.bench import ingest as _ingest
from loadtest.bench import knee as _knee
from loadtest.bench import memory as _memory
from loadtest.bench import reaction as _reaction
from loadtest.bench import recall as _recall
from loadtest.bench import relay as _relay
from loadtest.bench import search as _search
from loadtest.bench import servers
from loadtest.bench import ttft as _ttft
from loadtest.bench import writes as _writes
from loadtest.bench.growth_plot import keep
from loadtest.bench.search import ASKED
from loadtest.bench.servers import Pace
from loadtest.bench.stages import filled, stage, started_once, streamers
from loadtest.bench.table import Result
from loadtest.machine import describe
from serving.ports import free_port


def ray_peers(*, default: bool, all_flags: bool) -> dict[str, bool]:
    """Ray Serve's own path, by the name it has in the tables; True: with HAProxy and throughput mode."""
    peers = {"Ray Serve default": False} if default else {}
    if all_flags:
        peers |= {"Ray Serve all flags": True, "Ray Serve all flags, 50 ms batches": True}
    return peers


async def ttft(rounds: int, peers: Mapping[str, bool], progress: Progress, *, quick: bool) -> Result:
    clients, requests = ((1, 8), 16) if quick else ((1, 8, 32), 64)
    async with stage() as on:
        players = await streamers(on, _ttft.PACE, _ttft.TOKENS, retrieval=True, peers=peers, ceiling=False)
        sides = {name: side for name, (side, _) in players.items()}
        sides["direct"] = sides.pop("bare uvicorn")
        return await _ttft.measure(sides, clients, rounds, requests, progress)


async def relay(streams: int, tokens: int, rounds: int, peers: Mapping[str, bool], progress: Progress) -> Result:
    async with stage() as on:
        players = await streamers(on, Pace(), tokens, retrieval=False, peers=peers, ceiling=True)
        return await _relay.measure(players, streams, tokens, rounds, progress)


async def search(chunks: int, rounds: int, progress: Progress, *, quick: bool) -> Result:
    each, flood = (10, 4) if quick else (20, 12)
    async with stage() as on:
        store = await filled(on, chunks, min(400, chunks))
        server = await on.ours(None)
        raw = store.raw(ASKED)
        questions = store.loaded.questions
        latency = await _search.latency(server, raw, questions, rounds, each, progress)
        peers = {"ours": server}
        for precision in ("float32", "bfloat16"):
            port = free_port()
            launch = servers.plain_search(port, store.index.milvus_uri, raw.index, raw.where, raw.limit, precision)
            peers[launch.name] = await on.start(launch, port)
        rate = await _search.throughput(peers, questions, rounds, flood, progress)
    note = f"{chunks:,} chunks; every side asks the store for {raw.limit} hits with the same filter"
    return Result([*latency.rows, *rate.rows], [note, *rate.notes])


async def embed(passages: int, rounds: int, progress: Progress, *, quick: bool) -> Result:
    return await _embed.measure(passages, rounds, 100 if quick else 200, progress)


async def ingest(documents: int, rows: int, rounds: int, progress: Progress, *, peers: bool) -> Result:
    pipeline = await _ingest.measure(documents, rounds, peers=peers, progress=progress)
    with tempfile.TemporaryDirectory(prefix="anchorage-bench-", ignore_cleanup_errors=True) as folder:
        store = await _writes.measure(rows, rounds, Path(folder), progress)
    return Result([*pipeline.rows, *store.rows], [*pipeline.notes, *store.notes])


async def growth(chunks: int, results: Path | None, progress: Progress) -> Result:
    """`results`: the folder that keeps the numbers, with where they were measured, and the picture of them."""
    machine = describe("python -m loadtest.bench")
    result, points, line = await _growth.measure(chunks, progress)
    if results is not None:
        await asyncio.to_thread(keep, points, line, machine, results)
        result.notes.append(f"kept in {results / 'growth.json'} and {results / 'growth.svg'}")
    return result


async def recall(chunks: int, questions: int, progress: Progress) -> Result:
    async with stage() as on:
        store = await filled(on, chunks, min(400, chunks))
        server = await on.ours(None)
        return await _recall.measure(server.port, store.loaded, questions)


async def fidelity(rounds: int, keep: Path | None, progress: Progress, *, peers: bool, quick: bool) -> Result:
    sides = await _fidelity.sides(peers=peers)
    size = _fidelity.QUICK if quick else _fidelity.Size(rounds=rounds)
    return await _fidelity.measure(size, progress, sides=sides, keep=keep)


async def memory(requests: int, progress: Progress) -> Result:
    async with stage() as on:
        store = await filled(on, 1_000, 100)
        server = await on.ours(Pace())
        return await _memory.measure(server, store.loaded.questions, requests, progress)


async def startup(runs: int, progress: Progress) -> Result:
    return await _memory.startup(started_once, runs, progress)


async def reaction(rounds: int, progress: Progress, *, quick: bool) -> Result:
    warm_s, hours = (3.0, 0.5) if quick else (30.0, 6.0)
    return await _reaction.measure(rounds, warm_s, hours, progress)


async def knee(progress: Progress, *, quick: bool) -> Result:
    return await _knee.measure(_knee.Size(0.05, 1, 8, 1) if quick else _knee.Size(), progress)
