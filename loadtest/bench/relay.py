"""Tokens per second through the whole HTTP path, many streams at full speed, and the CPU they cost the servers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from rich.progress import Progress

from loadtest.bench.client import request_bytes
from loadtest.bench.flood import flood
from loadtest.bench.processes import Server
from loadtest.bench.rounds import Measure, Sample, Samples, VoidRound, interleave, ratios, series, spread
from loadtest.bench.sides import CHAT, Side, same_pieces
from loadtest.bench.table import Result, Row, at_least
from loadtest.bench.watch import CPU_LIMIT
from serving.ports import LOOPBACK

#: Of a round's time: later than that the last request would decide when the round ends.
_DISPATCH_SHARE = 0.05
BARS: Mapping[str, float] = {"bare uvicorn": 0.5, "Ray Serve default": 2.0}


async def measure(
    sides: Mapping[str, tuple[Side, Server]], streams: int, tokens: int, rounds: int, progress: Progress | None = None
) -> Result:
    """`sides` has `ours` and its peers; every stream of every round must deliver every token."""
    table: dict[str, Measure] = {
        name: partial(_round, side, server, streams, tokens) for name, (side, server) in sides.items()
    }
    samples = await interleave(table, rounds, progress)
    busiest = max(sample["client_cpu"] for side in samples.values() for sample in side)
    notes = [
        f"{streams} streams x {tokens} tokens; every stream of every round delivered all of them, equal in content",
        f"the client used at most {busiest:.0%} of a core",
    ]
    return Result([*_speed(samples), *_cost(samples)], notes)


async def _round(side: Side, server: Server, streams: int, tokens: int) -> Sample:
    request = request_bytes(LOOPBACK, side.port, side.path, {**CHAT, "model": side.model, "max_tokens": tokens})
    before = server.cpu_s()
    found = await flood(LOOPBACK, side.port, request, streams)
    cpu = server.cpu_s() - before
    for response in found.responses:
        same_pieces(side.name, response, tokens)
    share = found.client_cpu_s / found.total_s
    if share > CPU_LIMIT:
        raise VoidRound(f"the client used {share:.0%} of a core")
    if found.dispatched_s > _DISPATCH_SHARE * found.total_s:
        raise VoidRound(f"sending the requests took {found.dispatched_s:.3f} s of {found.total_s:.3f} s")
    total = streams * tokens
    return {"tokens_per_s": total / found.total_s, "cpu_ms": 1e6 * cpu / total, "client_cpu": share}


def _speed(samples: Samples) -> list[Row]:
    ours = series(samples, "ours", "tokens_per_s")
    return [
        at_least(
            f"tokens/s: ours / {name}",
            spread(ours).text(0),
            spread(peer).text(0),
            ratios(ours, peer),
            BARS.get(name),
        )
        for name in samples
        if name != "ours"
        for peer in [series(samples, name, "tokens_per_s")]
    ]


def _cost(samples: Samples) -> list[Row]:
    ours = series(samples, "ours", "cpu_ms")
    return [
        at_least(
            f"server CPU ms per 1,000 tokens: {name} / ours",
            spread(ours).text(1),
            spread(peer).text(1),
            ratios(peer, ours),
        )
        for name in samples
        if name != "ours"
        for peer in [series(samples, name, "cpu_ms")]
    ]
