"""What is done to a build without bringing it up to date: let readers read it at once, or remove it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from ingestion.parts import Parts
from ingestion.rebuild import find_build, live_build
from ingestion.rebuild_mirror import Mirror, paired
from serving.errors import InvalidRequest
from serving.index.catalog_models import Build, Run
from serving.index.types import FOREVER

#: A reader reads the catalog, then the store: with what it knew before a switch it is through after this time, seconds.
_READERS_S = 10.0


@dataclass(frozen=True, slots=True)
class Switched:
    """`differing` documents are not the same in the two builds."""

    build: Build
    previous: str
    differing: int


async def switch_now(collection: str, key: str, *, parts: Parts, wait_s: float) -> Switched:
    """Let readers read a build as it is.

    Raises UnknownCollection, InvalidRequest (no such build, or nothing is published of it), WriterBusy,
    CatalogUnavailable.
    """
    hold = parts.catalog.leases.hold
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(hold(f"rebuild/{collection}", "a switch", wait_s=wait_s))
        live, beside = await live_build(parts, collection), await find_build(parts, collection, key)
        # A writer at work would go on writing what readers do not read any more.
        for name in (f"run/{live.key}", f"publish/{live.key}"):
            await stack.enter_async_context(hold(name, "a switch", wait_s=wait_s))
        differing = await differences(parts, live, beside)
        return Switched(await parts.catalog.switch(collection, beside.key), live.key, differing)


async def differences(parts: Parts, live: Build, beside: Build) -> int:
    """Documents that catching up would change."""
    mirror = Mirror(live, beside, Run(beside.collection, beside.key, beside.index, 0, beside.snapshot, "bulk"))
    pairs = paired(parts.catalog.documents(live.key), parts.catalog.documents(beside.key))
    return sum([mirror.step(theirs, ours) in ("copy", "remove") async for _, (theirs, ours) in pairs])


async def drop(collection: str, key: str, *, parts: Parts, wait_s: float, readers_s: float = _READERS_S) -> Build:
    """Remove a build that readers do not read: its rows, its records, and its index if nobody else uses that.

    Can be repeated after it was killed. Raises UnknownCollection, InvalidRequest (no such build, or the live one),
    WriterBusy, IndexUnavailable, CatalogUnavailable.
    """
    catalog, store = parts.catalog, parts.store
    hold = catalog.leases.hold
    await live_build(parts, collection)
    builds = [build for build in await catalog.builds(collection) if key in (build.key, str(build.number))]
    if not builds:
        return await find_build(parts, collection, key)  # raises, with those there are
    build = builds[0]
    if build.live:
        raise InvalidRequest(
            f"Build {build.key!r} is what readers of collection {collection!r} read. Switch to another one first."
        )
    async with AsyncExitStack() as stack:
        for name in (f"rebuild/{collection}", f"run/{build.key}", f"publish/{build.key}"):
            await stack.enter_async_context(hold(name, "a removal of a build", wait_s=wait_s))
        await catalog.begin_drop(collection, build.key)
        if build.state == "ready":
            await asyncio.sleep(readers_s)
        await store.ensure(build.index, build.recipe.dimension)
        await store.purge(build.index, build.key, FOREVER)
        await store.flush(build.index)
        if not await catalog.others_use(build.index, build.key):
            await store.drop(build.index)
        await catalog.drop_build(collection, build.key)
    return build
