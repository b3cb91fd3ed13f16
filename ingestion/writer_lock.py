"""One writer per data directory: the embedded store loses rows when two write at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from serving.errors import ConfigurationError, WriterBusy

LOCK_NAME = "writer.lock"


@asynccontextmanager
async def writer_lock(data_dir: Path, *, wait_s: float = 0.0) -> AsyncIterator[None]:
    """Hold the writer's lock, which falls with the process. Raises WriterBusy after `wait_s` seconds."""
    path = data_dir / LOCK_NAME
    lock = FileLock(path, thread_local=False)
    try:
        await asyncio.to_thread(data_dir.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(lock.acquire, timeout=wait_s, poll_interval=0.1)
    except Timeout as error:
        raise WriterBusy(
            f"Another ingestion is writing to {data_dir} (it holds {path}). Wait for it to end, or use --wait SECONDS."
        ) from error
    except OSError as error:
        raise ConfigurationError(f"The data directory {data_dir} cannot be written: {error.strerror}.") from error
    try:
        yield
    finally:
        lock.release()
