"""Three stages side by side: while one group is planned, another is embedded and a third one written.

The queues between them are short, so a slow store holds back the embedding, and that the parsing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

from ingestion.records import Group
from ingestion.write import Planned, Writer
from serving.index.types import StoredChunk

_Planned: TypeAlias = asyncio.Queue[tuple[Group, Planned] | None]
_Ready: TypeAlias = asyncio.Queue[list[StoredChunk] | tuple[Group, Planned] | None]

#: Batches of rows that may wait for the store.
_WAITING = 2


async def write_all(writer: Writer, groups: AsyncIterator[Group], on_done: Callable[[Group], None]) -> None:
    """Write every group; `on_done` is called when the last row of one is in the store. Raises what a stage raises."""
    planned: _Planned = asyncio.Queue(1)
    ready: _Ready = asyncio.Queue(_WAITING)
    try:
        async with asyncio.TaskGroup() as stages:
            stages.create_task(_plan(writer, groups, planned))
            stages.create_task(_embed(writer, planned, ready))
            stages.create_task(_write(writer, ready, on_done))
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


async def _plan(writer: Writer, groups: AsyncIterator[Group], planned: _Planned) -> None:
    async for group in groups:
        await planned.put((group, await writer.plan(group)))
    await planned.put(None)


async def _embed(writer: Writer, planned: _Planned, ready: _Ready) -> None:
    while (item := await planned.get()) is not None:
        async for rows in writer.embed(item[1]):
            await ready.put(rows)
        await ready.put(item)
    await ready.put(None)


async def _write(writer: Writer, ready: _Ready, on_done: Callable[[Group], None]) -> None:
    while (item := await ready.get()) is not None:
        if isinstance(item, list):
            await writer.upsert(item)
            continue
        group, planned = item
        await writer.finish(planned)
        on_done(group)
