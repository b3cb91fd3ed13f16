"""Puts the servers of a bench on: ours and its peers, on free ports, in a folder that goes away afterwards."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench import servers
from loadtest.bench.client import body_of, read_stream
from loadtest.bench.corpus import Loaded, load
from loadtest.bench.processes import Launch, Server, running
from loadtest.bench.raw import RawStore, connect, visible
from loadtest.bench.servers import COLLECTION, SCRIPTED_MODEL, Pace
from loadtest.bench.sides import CHAT, Side
from serving.index import schema
from serving.index.embedder import LocalEmbedder
from serving.ports import LOOPBACK, free_port
from serving.settings import EmbedderSettings, IndexSettings, Settings
from serving.stack import embedded_index

#: A side of a comparison of streams, with the process tree that serves it.
Player = tuple[Side, Server]


class Stage:
    """Starts servers; stops all of them, the last one first, when the block around it ends."""

    def __init__(self, stack: AsyncExitStack, folder: Path) -> None:
        self._stack = stack
        self.folder = folder
        self.data_dir = folder / "data"

    async def start(self, launch: Launch, port: int) -> Server:
        return await self._stack.enter_async_context(running(launch, port, self.folder))

    async def index(self) -> IndexSettings:
        """The embedded store of our data directory, which `anchorage serve` then finds running."""
        settings = await self._stack.enter_async_context(embedded_index(Settings(), self.data_dir))
        return settings.index

    async def ours(self, pace: Pace | None) -> Server:
        port = free_port()
        return await self.start(servers.ours(port, self.data_dir, pace), port)


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="anchorage-bench-", ignore_cleanup_errors=True) as folder:
        async with AsyncExitStack() as stack:
            yield Stage(stack, Path(folder))


@dataclass(frozen=True, slots=True)
class Filled:
    """A store with a collection in it, and the model that embedded it."""

    index: IndexSettings
    embedder: LocalEmbedder
    loaded: Loaded

    def raw(self, limit: int) -> RawStore:
        """The same collection without us: pymilvus and the model in this process, asking for `limit` hits."""
        index = schema.index_name(self.embedder.name, self.embedder.dimension)
        where = visible(self.index.tenant, COLLECTION, generation=1)
        return RawStore(connect(self.index.milvus_uri), self.embedder, index, where, limit)


async def filled(on: Stage, chunks: int, distinct: int) -> Filled:
    index = await on.index()
    embedder = LocalEmbedder(EmbedderSettings())
    loaded = await load(index, embedder, embedder.name, chunks, distinct=distinct)
    return Filled(index, embedder, loaded)


async def streamers(
    on: Stage, pace: Pace, tokens: int, *, retrieval: bool, peers: Mapping[str, bool], ceiling: bool
) -> dict[str, Player]:
    """Ours, a bare uvicorn that streams the same bytes, and Ray Serve: `peers` by name, True with all flags.

    Names: `ours`, `ours with retrieval`, `bare uvicorn`, `bare uvicorn, joined` (the machine's ceiling), those of
    `peers`.
    """
    if retrieval:
        await filled(on, 1_000, 100)
    server = await on.ours(pace)
    side = Side("ours", server.port, f"{SCRIPTED_MODEL}@none")
    players: dict[str, Player] = {"ours": (side, server)}
    if retrieval:
        asked = Side("ours with retrieval", server.port, f"{SCRIPTED_MODEL}@{COLLECTION}")
        players["ours with retrieval"] = (asked, server)
    events = on.folder / "events"
    spoken = await read_stream(LOOPBACK, side.port, side.path, {**CHAT, "model": side.model, "max_tokens": tokens})
    events.write_bytes(body_of(spoken.response))
    players["bare uvicorn"] = await _bare(on, events, pace, whole=False)
    if ceiling:
        players["bare uvicorn, joined"] = await _bare(on, events, pace, whole=True)
    for name, flags in peers.items():
        port = free_port()
        batching_ms = 0 if flags and "50 ms" not in name else None
        launch = servers.ray_llm(port, pace, on.folder, flags=flags, batching_ms=batching_ms)
        players[name] = (Side(name, port, SCRIPTED_MODEL), await on.start(launch, port))
    return players


async def _bare(on: Stage, events: Path, pace: Pace, *, whole: bool) -> Player:
    port = free_port()
    server = await on.start(servers.bare(port, events, pace, whole=whole), port)
    return Side(server.name, port, "bare"), server


async def started_once() -> tuple[float, Mapping[str, int]]:
    """Seconds from `anchorage serve` in an empty data directory until it is ready, and its memory then."""
    async with stage() as on:
        began = time.perf_counter()
        server = await on.ours(None)
        return time.perf_counter() - began, server.memory()
