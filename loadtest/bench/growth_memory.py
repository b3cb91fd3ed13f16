"""Resident memory of an ingestion while it goes on: the command, its parsers, Milvus Lite."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil

_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Peaks:
    """Largest resident bytes of each part, and of all at one moment. Pages that processes share count in each."""

    command: int = 0
    parsers: int = 0
    store: int = 0
    together: int = 0


class Watch:
    """Looks twice a second."""

    def __init__(self, store: psutil.Process) -> None:
        self._store = store
        self._command: psutil.Process | None = None
        self.peaks = Peaks()

    def follow(self, pid: int) -> None:
        """The command, from now on, with all that it starts."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._command = psutil.Process(pid)

    def look(self) -> None:
        below: list[psutil.Process] = []
        if self._command is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                below = self._command.children(recursive=True)
        command = _resident([self._command] if self._command else [])
        parsers, store = _resident(process for process in below if process != self._store), _resident([self._store])
        old = self.peaks
        self.peaks = Peaks(
            max(old.command, command),
            max(old.parsers, parsers),
            max(old.store, store),
            max(old.together, command + parsers + store),
        )


@asynccontextmanager
async def watching(store: psutil.Process) -> AsyncIterator[Watch]:
    watch = Watch(store)

    async def look() -> None:
        while True:
            await asyncio.to_thread(watch.look)
            await asyncio.sleep(_EVERY_S)

    looking = asyncio.create_task(look())
    try:
        yield watch
    finally:
        looking.cancel()
        await asyncio.wait([looking])


def _resident(processes: Iterable[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += int(process.memory_info().rss)
    return total
