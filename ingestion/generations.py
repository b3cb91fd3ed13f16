"""The published states of a collection that people can name, pin and go back to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from serving.errors import InvalidRequest
from serving.index.catalog import Catalog
from serving.index.catalog_models import Build, Generation

#: pinned: readers are held at it. current: they read it. retained: they can be brought back to it. purged: they cannot.
#: running: not published yet. interrupted: neither, and nobody is at it.
Standing: TypeAlias = Literal["pinned", "current", "retained", "purged", "running", "interrupted"]

#: Runs of a build among which a generation is looked for by its number.
_ALL = 100_000


@dataclass(frozen=True, slots=True)
class Listed:
    """A generation, and how it stands."""

    generation: Generation
    standing: Standing


async def live_build(catalog: Catalog, collection: str) -> Build:
    """The build that readers read. Raises UnknownCollection."""
    await catalog.collection(collection)
    build = await catalog.live_build(collection)
    if build is None:
        raise InvalidRequest(f"Collection {collection!r} has just been removed.")
    return build


async def generations(catalog: Catalog, collection: str, keep: int, limit: int) -> list[Listed]:
    """The latest `limit`, newest first; `keep` of them are retained. Raises UnknownCollection."""
    build = await live_build(catalog, collection)
    held = {holder.name for holder in await catalog.leases.holders()}
    busy = not held.isdisjoint({f"run/{build.key}", f"publish/{build.key}"})
    found = await catalog.generations(build.key, limit=limit, keep=keep)
    return [Listed(generation, _standing(generation, busy=busy)) for generation in found]


async def generation_of(catalog: Catalog, collection: str, number: int) -> tuple[Build, Generation]:
    """The live build and its generation of this number. Raises UnknownCollection, InvalidRequest."""
    build = await live_build(catalog, collection)
    for generation in await catalog.generations(build.key, limit=_ALL):
        if generation.generation == number and generation.state == "published":
            return build, generation
    raise InvalidRequest(
        f"Collection {collection!r} has no generation {number}: its latest is {build.generation}. "
        "`anchorage generations` lists them."
    )


def _standing(generation: Generation, *, busy: bool) -> Standing:
    if generation.state == "running":
        return "running" if busy else "interrupted"
    if generation.pinned:
        return "pinned"
    if generation.current:
        return "current"
    return "retained" if generation.retained else "purged"
