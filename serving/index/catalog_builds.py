"""Collections and their builds: what readers read, and what is made beside it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, and_, case, delete, func, insert, not_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serving.errors import InvalidRequest, UnknownCollection
from serving.index.catalog_models import Build, Recipe, build_key, check_collection, is_collection
from serving.index.catalog_part import Part
from serving.index.catalog_tables import builds, collections, documents, runs
from serving.index.types import Collection

_beside = builds.alias("beside")
_BESIDE = (
    select(_beside.c.embedding_model)
    .where(
        _beside.c.tenant == collections.c.tenant,
        _beside.c.collection == collections.c.name,
        _beside.c.key != collections.c.live,
        _beside.c.state == "building",
    )
    .order_by(_beside.c.number.desc())
    .limit(1)
    .scalar_subquery()
)
_LIVE = and_(builds.c.tenant == collections.c.tenant, builds.c.key == collections.c.live)
_PINNED = and_(runs.c.tenant == builds.c.tenant, runs.c.build == builds.c.key, runs.c.snapshot == builds.c.pinned)
# What readers see: the published state, or the one that they are held at.
_COLLECTION = select(
    collections.c.name,
    builds.c.key.label("build"),
    builds.c.index_name.label("index"),
    builds.c.embedding_model.label("model"),
    func.coalesce(runs.c.generation, builds.c.generation).label("generation"),
    func.coalesce(runs.c.snapshot, builds.c.snapshot).label("snapshot"),
    func.coalesce(runs.c.documents, builds.c.documents).label("documents"),
    func.coalesce(runs.c.chunks, builds.c.chunks).label("chunks"),
    func.coalesce(_BESIDE, "").label("preparing"),
).select_from(collections.join(builds, _LIVE).outerjoin(runs, _PINNED))

_OWNER = and_(collections.c.tenant == builds.c.tenant, collections.c.name == builds.c.collection)
_BUILD = select(builds, case((collections.c.live == builds.c.key, 1), else_=0).label("live")).select_from(
    builds.join(collections, _OWNER)
)


class Builds(Part):
    """Every call raises CatalogUnavailable."""

    # -- read side -----------------------------------------------------------------------------------------------------

    async def collections(self) -> list[Collection]:
        """By name, those without a published generation included."""
        query = _COLLECTION.where(*self._mine(collections)).order_by(collections.c.name)
        async with self._database.read() as connection:
            return [Collection(**row._mapping) for row in await connection.execute(query)]

    async def collection(self, name: str) -> Collection:
        """Raises UnknownCollection, whose message lists those there are."""
        if is_collection(name):
            query = _COLLECTION.where(*self._mine(collections, name=name))
            async with self._database.read() as connection:
                found = (await connection.execute(query)).first()
            if found is not None:
                return Collection(**found._mapping)
        known = ", ".join(repr(collection.name) for collection in await self.collections())
        others = f"Known are {known}." if known else "Nothing is ingested yet."
        raise UnknownCollection(f"There is no collection {name[:128]!r}. {others}", param="collection")

    async def builds(self, collection: str) -> list[Build]:
        """By number; none for an unknown collection."""
        query = _BUILD.where(*self._mine(builds, collection=collection)).order_by(builds.c.number)
        async with self._database.read() as connection:
            return [_build(row) for row in await connection.execute(query)]

    async def others_use(self, index: str, key: str) -> bool:
        """Whether the store's index holds another build than this one, of any collection and any tenant."""
        same = and_(builds.c.tenant == self._tenant, builds.c.key == key)
        query = select(builds.c.key).where(builds.c.index_name == index, not_(same)).limit(1)
        async with self._database.read() as connection:
            return (await connection.execute(query)).first() is not None

    async def live_build(self, collection: str) -> Build | None:
        """The one that readers read, published or not; None for an unknown collection."""
        return next((build for build in await self.builds(collection) if build.live), None)

    # -- write side ----------------------------------------------------------------------------------------------------

    async def create(self, collection: str, recipe: Recipe) -> Build:
        """Make the collection with a first build by this recipe, or give the live build that it has, whatever its own.

        Raises InvalidRequest for a name that no model id could carry.
        """
        check_collection(collection)
        row = {"tenant": self._tenant, "name": collection, "live": collection, "builds_made": 1}
        async with self._database.write() as connection:
            row["created_at"] = await self._database.now(connection)
            made = await connection.execute(self._database.insert(collections).on_conflict_do_nothing(), row)
            if made.rowcount:
                await self._insert(connection, collection, 1, recipe, "ready")
            query = _BUILD.where(*self._mine(builds, collection=collection), builds.c.key == collections.c.live)
            return _build((await connection.execute(query)).one())

    async def add_build(self, collection: str, recipe: Recipe) -> Build:
        """Begin a build beside the live one; one of the same recipe that never became live is gone on with.

        Raises UnknownCollection.
        """
        alike = {"embedding_model": recipe.model, "dimension": recipe.dimension, "chunk_tokens": recipe.chunk_tokens}
        unfinished = _BUILD.where(
            *self._mine(builds, collection=collection, state="building", index_name=recipe.index, **alike)
        )
        async with self._database.write() as connection:
            made = await self._locked_collection(connection, collection)
            found = (await connection.execute(unfinished.order_by(builds.c.number.desc()).limit(1))).first()
            if found is not None:
                return _build(found)
            number = made.builds_made + 1
            count = update(collections).where(*self._mine(collections, name=collection))
            await connection.execute(count.values(builds_made=number))
            await self._insert(connection, collection, number, recipe, "building")
            key = build_key(collection, number)
            return _build((await connection.execute(_BUILD.where(*self._mine(builds, key=key)))).one())

    async def switch(self, collection: str, key: str) -> Build:
        """Let readers read this build from now on: one transaction. Raises InvalidRequest if it cannot be read."""
        mine = self._mine(builds, collection=collection, key=key)
        async with self._database.write() as connection:
            await self._locked_collection(connection, collection)
            found = (await connection.execute(select(builds.c.snapshot, builds.c.state).where(*mine))).first()
            if found is None or found.state == "dropping" or not found.snapshot:
                what = "is not published yet" if found else "does not exist"
                raise InvalidRequest(
                    f"Build {key!r} of collection {collection!r} {what}: readers cannot be switched to it."
                )
            await connection.execute(update(builds).where(*mine).values(state="ready"))
            show = update(collections).where(*self._mine(collections, name=collection)).values(live=key)
            await connection.execute(show)
            return _build((await connection.execute(_BUILD.where(*mine))).one())

    async def begin_drop(self, collection: str, key: str) -> None:
        """Let nobody read or write a build any more: from here on it can only be dropped.

        Raises UnknownCollection, InvalidRequest for the live one.
        """
        async with self._database.write() as connection:
            if (await self._locked_collection(connection, collection)).live == key:
                raise InvalidRequest(
                    f"Build {key!r} is what readers of {collection!r} read. Switch to another one first."
                )
            mine = self._mine(builds, collection=collection, key=key)
            await connection.execute(update(builds).where(*mine).values(state="dropping", snapshot=0))

    async def drop_build(self, collection: str, key: str) -> None:
        """Remove a build's documents and runs from the catalog; can be repeated.

        Its rows in the store are the caller's to delete, between `begin_drop` and this. Raises as that does.
        """
        await self.begin_drop(collection, key)
        mine = self._mine(builds, collection=collection, key=key)
        mine_of = self._mine(documents, build=key)
        async for page in self._uri_ranges(documents, *mine_of):
            async with self._database.write() as connection:
                await connection.execute(delete(documents).where(*mine_of, page))
        async with self._database.write() as connection:
            await connection.execute(delete(runs).where(*self._mine(runs, build=key)))
            await connection.execute(delete(builds).where(*mine))

    async def _locked_collection(self, connection: AsyncConnection, collection: str) -> Row[*tuple[Any, ...]]:
        """The collection's row, which no other transaction changes until this one ends. Raises UnknownCollection."""
        query = select(collections).where(*self._mine(collections, name=collection)).with_for_update()
        found = (await connection.execute(query)).first()
        if found is None:
            raise UnknownCollection(f"There is no collection {collection[:128]!r}.", param="collection")
        return found

    async def _insert(
        self, connection: AsyncConnection, collection: str, number: int, recipe: Recipe, state: str
    ) -> None:
        row = {"tenant": self._tenant, "key": build_key(collection, number), "collection": collection, "number": number}
        row |= {"embedding_model": recipe.model, "dimension": recipe.dimension, "chunk_tokens": recipe.chunk_tokens}
        row |= {"index_name": recipe.index, "state": state, "created_at": await self._database.now(connection)}
        row |= dict.fromkeys(("snapshot", "generation", "documents", "chunks", "pinned", "purged"), 0)
        await connection.execute(insert(builds), row | {"published_at": 0.0})


def _build(row: Row[*tuple[Any, ...]]) -> Build:
    return Build(
        key=row.key,
        collection=row.collection,
        number=row.number,
        recipe=Recipe(row.embedding_model, row.dimension, row.chunk_tokens),
        index=row.index_name,
        snapshot=row.snapshot,
        generation=row.generation,
        documents=row.documents,
        chunks=row.chunks,
        pinned=row.pinned,
        live=bool(row.live),
        state=row.state,
        created_at=row.created_at,
        published_at=row.published_at,
    )
