"""Bounded admission: so many requests at a time, so many waiting, and 429 at once for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serving.errors import Overloaded

#: Weight of the newest service time in the moving average that Retry-After comes from.
_NEWEST = 0.2


class Admission:
    """Turns for one kind of work. First come, first served; lives on one event loop."""

    def __init__(self, name: str, *, concurrent: int, queued: int) -> None:
        self.name = name
        self.running = 0
        self.queued = 0
        self._turns = asyncio.Semaphore(concurrent)
        self._concurrent = concurrent
        self._max_queued = queued
        self._service_s = 1.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Raises Overloaded at once when the queue is full."""
        if self._turns.locked() and self.queued >= self._max_queued:
            raise Overloaded(
                f"The server is working on {self._concurrent} {self.name} and {self.queued} wait; try again later.",
                retry_after_s=self._retry_after_s(),
            )
        self.queued += 1
        try:
            await self._turns.acquire()
        finally:
            self.queued -= 1
        clock = asyncio.get_running_loop().time
        started = clock()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._turns.release()
            self._service_s += _NEWEST * (clock() - started - self._service_s)

    def _retry_after_s(self) -> float:
        """Until a newcomer would have had its turn, at the recent service time."""
        return self._service_s * (self.queued + 1) / self._concurrent
