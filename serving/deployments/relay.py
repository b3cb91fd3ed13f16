"""An engine's stream, read as fast as it comes, whoever reads the other end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any


class Relay:
    """A reader gets the first chunk at once and then all there is. `failure` is what the engine raised."""

    def __init__(self, source: AsyncGenerator[Any]) -> None:
        self.failure: BaseException | None = None
        self._source = source
        self._ready: list[Any] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._pump())

    async def batches(self, pause_s: Callable[[], float]) -> AsyncIterator[list[Any]]:
        while True:
            await self._news.wait()
            self._news.clear()
            batch, self._ready = self._ready, []
            if batch:
                yield batch
            if self._task.done() and not self._ready:
                return
            await self._breathe(pause_s())

    @property
    def over(self) -> bool:
        """Whether the engine says no more, be it finished or broken."""
        return self._task.done()

    @property
    def ended(self) -> bool:
        """Whether the engine said all, and all of it was given out."""
        return self._task.done() and not self._ready and self.failure is None

    async def close(self) -> None:
        """Abort what still runs; returns when the engine has been told."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._source.aclose()

    async def _breathe(self, pause_s: float) -> None:
        # A shorter pause than this costs more than it saves: it is the case of few streams.
        if pause_s > 0.001 and not self._task.done():
            await asyncio.sleep(pause_s)

    async def _pump(self) -> None:
        try:
            async for chunk in self._source:
                self._ready.append(chunk)
                self._news.set()
        except Exception as error:  # noqa: BLE001 - the process edge: what an engine raises cannot be pickled safely
            self.failure = error
        finally:
            self._news.set()
