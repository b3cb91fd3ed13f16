"""Watches the client while it measures: its own CPU, and how late its event loop wakes up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from loadtest.bench.rounds import VoidRound, percentile

#: A client that uses more of a core than this queues on itself.
CPU_LIMIT = 0.70
_PROBE_EVERY_S = 0.005


@dataclass(slots=True)
class Watched:
    """Filled when the block ends. `late_ms`: 90th percentile of how late a timer of this loop fired.

    What is judged are medians: one late timer in ten cannot move them.
    """

    cpu_share: float = 0.0
    late_ms: float = 0.0
    delays: list[float] = field(default_factory=list)


@asynccontextmanager
async def watched(late_limit_ms: float) -> AsyncIterator[Watched]:
    """Raises VoidRound when the client was the bottleneck."""
    found = Watched()
    probe = asyncio.create_task(_probe(found.delays))
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        yield found
    finally:
        probe.cancel()
        await asyncio.wait([probe])
    found.cpu_share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    found.late_ms = 1000 * percentile(found.delays, 0.90) if found.delays else 0.0
    if found.cpu_share > CPU_LIMIT:
        raise VoidRound(f"the client used {found.cpu_share:.0%} of a core")
    if found.late_ms > late_limit_ms:
        raise VoidRound(f"the client's timers were {found.late_ms:.1f} ms late (p90)")


async def _probe(delays: list[float]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _PROBE_EVERY_S
        await asyncio.sleep(_PROBE_EVERY_S)
        delays.append(loop.time() - due)
