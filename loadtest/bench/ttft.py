"""What the stack adds to the time to the first token, over the same schedule streamed by a bare uvicorn."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.progress import Progress

from loadtest.bench.client import Stream, read_stream
from loadtest.bench.rounds import Measure, Sample, Samples, differences, interleave, percentile, series, spread
from loadtest.bench.servers import Pace
from loadtest.bench.sides import CHAT, Side, same_pieces
from loadtest.bench.table import Result, Row, added
from loadtest.bench.watch import watched
from serving.ports import LOOPBACK

#: The gaps keep a stream going for longer than Ray Serve's 50 ms batches: one that ends sooner is sent when it ends.
PACE = Pace(first_s=0.020, gap_s=0.005)
TOKENS = 16
BAR_MS = 5.0
#: By number of clients: how late the client's timers may be (p90), ms. Many clients on few cores are shown, not judged.
_LATE_MS = {1: 2.0, 8: 10.0, 32: 25.0}


async def measure(
    sides: Mapping[str, Side], clients: tuple[int, ...], rounds: int, requests: int, progress: Progress | None = None
) -> Result:
    """`sides` has `direct`, `ours` and whatever is shown beside; `requests` a round and side."""
    rows: list[Row] = []
    notes: list[str] = []
    for count in clients:
        table: dict[str, Measure] = {name: partial(_round, side, count, requests) for name, side in sides.items()}
        samples = await interleave(table, rounds, progress)
        rows += _rows(samples, count)
        busiest = max(sample["client_cpu"] for side in samples.values() for sample in side)
        notes.append(f"{count} clients: the client used at most {busiest:.0%} of a core")
    return Result(rows, notes)


async def _round(side: Side, clients: int, requests: int) -> Sample:
    each = max(2, requests // clients)
    async with watched(_LATE_MS.get(clients, 25.0)) as client:
        groups = await asyncio.gather(*(_client(side, each) for _ in range(clients)))
    streams = [stream for group in groups for stream in group]
    for stream in streams:
        same_pieces(side.name, stream.response, TOKENS)
    values = [1000 * stream.first_s for stream in streams]
    return {
        "p50": statistics.median(values),
        "p99": percentile(values, 0.99),
        "client_cpu": client.cpu_share,
    }


async def _client(side: Side, requests: int) -> list[Stream]:
    body: dict[str, Any] = {**CHAT, "model": side.model, "max_tokens": TOKENS}
    return [await read_stream(LOOPBACK, side.port, side.path, body) for _ in range(requests)]


def _rows(samples: Samples, clients: int) -> list[Row]:
    direct = series(samples, "direct", "p50")
    rows = []
    for name in samples:
        if name == "direct":
            continue
        values = series(samples, name, "p50")
        judged = name == "ours" and clients == 1
        rows.append(
            added(
                f"first token p50, {clients} client{'s' if clients > 1 else ''}: {name}",
                spread(values).text(1, " ms"),
                f"direct {spread(direct).text(1, ' ms')}",
                differences(values, direct),
                BAR_MS if judged else None,
            )
        )
    return rows
