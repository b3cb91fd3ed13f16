"""One writer at a time for a Milvus on this machine.

Concurrent writers corrupt the log of Milvus Lite: of 8,000 rows that it had acknowledged, 50 were left after a restart.
Milvus Lite listens on loopback only, so every process that can write to it is on this machine, and a file lock named
for the server's port holds them all back, whichever data directory or setting they know it by. A Milvus elsewhere is a
real one, which takes many writers.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from serving.errors import IndexUnavailable
from serving.ports import LOOPBACK_NAMES

#: One write is at most a batch or a flush; this is many of them.
_WAIT_S = 300.0
_LOOK_S = 0.005
_LOOK_AGAIN_S = 0.05


@asynccontextmanager
async def write_lock(milvus_uri: str) -> AsyncIterator[None]:
    """Hold the turn to write to this server. Raises IndexUnavailable when it does not come within minutes."""
    path = _path(milvus_uri)
    if path is None:
        yield
        return
    lock = FileLock(path, thread_local=False)
    await _acquire(lock, path)
    try:
        yield
    finally:
        lock.release()


def _path(milvus_uri: str) -> Path | None:
    try:
        parts = urlsplit(milvus_uri)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if host not in LOOPBACK_NAMES:
        return None
    # The user's own: a lock file of another user could not be opened.
    folder = Path(tempfile.gettempdir()) / f"anchorage-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"milvus-{port or 19530}.lock"


async def _acquire(lock: FileLock, path: Path) -> None:
    """Looks instead of waiting in a thread: a task that is cancelled leaves no thread that takes the lock later."""
    deadline, pause = time.monotonic() + _WAIT_S, _LOOK_S
    while True:
        try:
            lock.acquire(blocking=False)
            return
        except Timeout:
            if time.monotonic() > deadline:
                raise IndexUnavailable(
                    f"Other processes have been writing for {_WAIT_S:.0f} s (lock {path})."
                ) from None
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LOOK_AGAIN_S)
