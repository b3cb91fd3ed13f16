"""Untrusted files are parsed apart: by a few processes that may take so much time and memory and nothing else.

    ParserPool.parse(job) ─► a thread per worker ─► sandbox_process.Worker ═ socket ═ sandbox_worker (its own process)
                                                                                      load ► chunk, within its limits

A process that dies, hangs or grows takes only its own job with it, and is replaced when the next one comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from ingestion.sandbox_process import Limits, Worker
from ingestion.sandbox_wire import Job, ParsedDocument, Rechunk, Refused
from serving.index.tokenizer import model_folder
from serving.settings import IngestionSettings

__all__ = ["Job", "ParsedDocument", "ParserPool", "Rechunk", "Refused"]

#: Parsing is quicker than embedding: more processes would only wait.
_MAX_WORKERS = 4


class ParserPool:
    """Parses files for one embedding model. Processes start when they are first needed, and stay warm."""

    def __init__(self, settings: IngestionSettings, model: str) -> None:
        self.workers = settings.parse_workers or min(_MAX_WORKERS, max(1, len(os.sched_getaffinity(0))))
        self._settings = settings
        self._model = model
        self._limits: asyncio.Task[Limits] | None = None
        # Threads of its own: a worker ends with the thread that started it.
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="parser")
        self._free = asyncio.Semaphore(self.workers)
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._closed = False

    async def __aenter__(self) -> ParserPool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def parse(self, job: Job | Rechunk) -> ParsedDocument | Refused:
        """Load and chunk one file, or chunk one text; as many at a time as there are `workers`, others wait their turn.

        Raises ConfigurationError when a process cannot be started or the model has no tokenizer. Cancelled, it ends
        the process that works on the job.
        """
        async with self._free:
            if self._closed:
                raise RuntimeError("the parser pool is closed")
            limits = await self._resolved()
            worker = self._idle.pop() if self._idle else Worker(limits)
            self._busy.add(worker)
            running = asyncio.get_running_loop().run_in_executor(self._threads, worker.run, job)
            try:
                outcome = await asyncio.shield(running)
            except BaseException:
                worker.kill()
                await _ended(running)
                worker.close()
                raise
            finally:
                self._busy.discard(worker)
            if self._closed:
                worker.close()
                raise RuntimeError("the parser pool was closed")
            self._idle.append(worker)
            return outcome

    async def close(self) -> None:
        """Ends all processes. May be called again."""
        self._closed = True
        for worker in self._busy:
            worker.kill()
        while self._idle:
            await asyncio.to_thread(self._idle.pop().close)
        await asyncio.to_thread(self._threads.shutdown)

    async def _resolved(self) -> Limits:
        """The workers have no network: what must be fetched of the model is fetched here, once."""
        if self._limits is None:
            self._limits = asyncio.create_task(asyncio.to_thread(self._resolve))
        return await asyncio.shield(self._limits)

    def _resolve(self) -> Limits:
        settings = self._settings
        return Limits(
            str(model_folder(self._model)),
            settings.parse_timeout_s,
            settings.parse_memory_bytes,
            settings.max_text_characters,
        )


async def _ended(running: asyncio.Future[ParsedDocument | Refused]) -> None:
    """Waits until a killed worker's thread is free, through further cancellations."""
    while not running.done():
        with contextlib.suppress(BaseException):
            await asyncio.shield(running)
