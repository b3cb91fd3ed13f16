"""Following folders: one look after each burst of changes. The only importer of `watchfiles`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from serving.errors import SourceError

#: Changes that come within this time of each other are ingested together, milliseconds.
_TOGETHER_MS = 1_600
#: A burst has ended when nothing changed for this long, milliseconds.
_SETTLED_MS = 400
#: How long one round of looking lasts, milliseconds.
_ROUND_MS = 500


def watched(sources: Sequence[str]) -> list[Path]:
    """The folders and files that these sources name. Raises SourceError for anything else."""
    paths = [Path(source).expanduser() for source in sources]
    for source, path in zip(sources, paths, strict=True):
        if not path.exists():
            raise SourceError(f"{source!r} cannot be watched: --watch follows folders and files of this machine.")
    return paths


@asynccontextmanager
async def following(paths: Sequence[Path]) -> AsyncIterator[asyncio.Event]:
    """An event that is set after each burst of changes below these paths, from the moment the block begins."""
    ready, changed = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(_follow(paths, ready, changed))
    try:
        await asyncio.wait([task, asyncio.ensure_future(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
        yield changed
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _follow(paths: Sequence[Path], ready: asyncio.Event, changed: asyncio.Event) -> None:
    from watchfiles import awatch

    # It looks from its first round on; a round without changes says that it does.
    rounds = awatch(*paths, debounce=_TOGETHER_MS, step=_SETTLED_MS, rust_timeout=_ROUND_MS, yield_on_timeout=True)
    async for found in rounds:
        ready.set()
        if found:
            changed.set()
