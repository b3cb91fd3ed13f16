"""How far a run is, told while it goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol, runtime_checkable

from ingestion.report import IngestReport, OnProgress, Progress
from ingestion.source import Source
from serving.errors import Unavailable


@runtime_checkable
class Countable(Protocol):
    """A source that can say quickly how much there is."""

    def total_bytes(self) -> int:
        """Bytes of all its documents. Blocking."""
        ...


class Watch:
    """Passes on what changes. Without anybody to tell, nothing is counted."""

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        self._on_progress = on_progress
        self._now = Progress(0, 0, 0, 0)

    @asynccontextmanager
    async def counting(self, sources: Sequence[Source]) -> AsyncIterator[None]:
        """Learn beside the block how much there is, where a source can tell without asking anybody."""
        self._show(Progress(0, 0, 0, 0))
        counting = asyncio.create_task(self._count(sources)) if self._on_progress else None
        try:
            yield
        finally:
            if counting is not None:
                counting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await counting

    @property
    def told(self) -> bool:
        """Whether somebody is told."""
        return self._on_progress is not None

    def expect(self, size: int) -> None:
        """Where it is known how much there is."""
        self._show(replace(self._now, total=size))

    def done(self, size: int, report: IngestReport) -> None:
        """Documents of together `size` bytes are through."""
        documents = sum(report.counts.values())
        self._show(replace(self._now, done=self._now.done + size, documents=documents, chunks=report.written))

    def waiting(self, error: Unavailable | None) -> None:
        """A part is away, or there again."""
        self._show(replace(self._now, waiting_for=error.part if error else ""))

    async def _count(self, sources: Sequence[Source]) -> None:
        if all(isinstance(source, Countable) for source in sources):
            sizes = [await asyncio.to_thread(source.total_bytes) for source in sources if isinstance(source, Countable)]
            self._show(replace(self._now, total=sum(sizes)))

    def _show(self, progress: Progress) -> None:
        self._now = progress
        if self._on_progress:
            self._on_progress(progress)
