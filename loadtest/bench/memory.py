"""Resident memory of every process of the stack, at rest and after requests, and how long a start takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from rich.progress import Progress

from loadtest.bench.client import read_stream
from loadtest.bench.keepalive import connected
from loadtest.bench.processes import Server
from loadtest.bench.rounds import spread
from loadtest.bench.servers import COLLECTION, SCRIPTED_MODEL
from loadtest.bench.table import Result, Row
from serving.ports import LOOPBACK

MIB = 2**20
#: What a process may vary by without growing: allocators return pages when they like.
NOISE_SHARE = 0.02
NOISE_BYTES = 8 * MIB
_SETTLE_S = 5.0
_AT_ONCE = 4


async def measure(server: Server, questions: Sequence[str], requests: int, progress: Progress | None = None) -> Result:
    """Memory at rest, after `requests` that warm up, and after as many again: the second part must add nothing."""
    task = progress.add_task("requests", total=2 * requests) if progress else None

    def advance() -> None:
        if progress and task is not None:
            progress.update(task, advance=1)

    rest = server.memory()
    await _ask(server.port, questions, requests, advance)
    await asyncio.sleep(_SETTLE_S)
    warm = server.memory()
    await _ask(server.port, questions, requests, advance)
    await asyncio.sleep(_SETTLE_S)
    after = server.memory()
    return Result(_rows(rest, warm, after, requests), _notes(rest, after))


def growth_row(name: str, rest: int, warm: int, after: int, requests: int) -> Row:
    """One process; the bar is on what the second `requests` added."""
    allowed = max(NOISE_BYTES, NOISE_SHARE * warm)
    grown = after - warm
    return Row(
        name,
        f"{after / MIB:,.0f} MiB",
        f"{warm / MIB:,.0f} MiB warm, {rest / MIB:,.0f} at rest",
        f"{grown / MIB:+,.1f} MiB in {requests:,}",
        f"<= {allowed / MIB:,.0f} MiB",
        grown <= allowed,
    )


def _rows(rest: Mapping[str, int], warm: Mapping[str, int], after: Mapping[str, int], requests: int) -> list[Row]:
    """Processes that came or went meanwhile are shown without a bar."""
    rows = []
    for name in sorted(after, key=lambda name: -after[name]):
        if name in warm:
            rows.append(growth_row(name, rest.get(name, 0), warm[name], after[name], requests))
        else:
            rows.append(Row(name, f"{after[name] / MIB:,.0f} MiB", "not there before", "-"))
    total = (sum(rest.values()), sum(warm.values()), sum(after.values()))
    return [*rows, growth_row("all together", *total, requests)]


def _notes(rest: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    gone = sorted(set(rest) - set(after))
    return [f"gone since the start: {', '.join(gone)}"] if gone else []


async def _ask(port: int, questions: Sequence[str], requests: int, advance: Callable[[], None]) -> None:
    """A third searches, a third extractive answers, a third streams; four at a time."""
    numbers = iter(range(requests))

    async def worker() -> None:
        for number in numbers:
            await _request(port, questions[number % len(questions)], number % 3)
            advance()

    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))


async def _request(port: int, question: str, kind: int) -> None:
    messages = [{"role": "user", "content": question}]
    if kind == 2:
        body: dict[str, Any] = {"model": f"{SCRIPTED_MODEL}@{COLLECTION}", "messages": messages}
        await read_stream(LOOPBACK, port, "/v1/chat/completions", {**body, "stream": True, "max_tokens": 64})
        return
    async with connected(LOOPBACK, port) as connection:
        if kind == 0:
            await connection.post("/v1/search", {"query": question, "collection": COLLECTION})
        else:
            body = {"model": f"extractive@{COLLECTION}", "messages": messages}
            await connection.post("/v1/chat/completions", body)


async def startup(
    start: Callable[[], Awaitable[tuple[float, Mapping[str, int]]]], runs: int, progress: Progress | None = None
) -> Result:
    """Seconds from the command to /readyz 200, over several runs, and the memory of the last one."""
    task = progress.add_task("starts", total=runs) if progress else None
    seconds: list[float] = []
    memory: Mapping[str, int] = {}
    for _ in range(runs):
        took, memory = await start()
        seconds.append(took)
        if progress and task is not None:
            progress.update(task, advance=1)
    rows = [Row("anchorage serve to ready", spread(seconds).text(1, " s"), "-", "-")]
    rows += [
        Row(f"memory: {name}", f"{size / MIB:,.0f} MiB", "-", "-")
        for name, size in sorted(memory.items(), key=lambda item: -item[1])
    ]
    rows.append(Row("memory: all together", f"{sum(memory.values()) / MIB:,.0f} MiB", "-", "-"))
    return Result(rows, ["resident memory counts pages that processes share in each of them"])
