"""Parsed documents as text, for rebuilds; and the documents that must never come back."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serving.index.catalog_models import StoredText
from serving.index.catalog_part import Part, batches, storable
from serving.index.catalog_tables import builds, collections, documents, forgotten, texts

_TEXT = select(texts.c.uri, texts.c.content_hash, texts.c.packed)
_EMPTY = {"state": "forgotten", "name": "", "title": "", "content_hash": "", "fingerprint": "", "reason": ""}
_NOTHING = {"size": 0, "modified": 0.0, "chunks": 0, "attempts": 0, "retry_at": 0.0}


class Texts(Part):
    """`collection` is the public name. Every call raises CatalogUnavailable."""

    async def text(self, collection: str, uri: str) -> StoredText | None:
        """None when the catalog has no text of the document."""
        query = _TEXT.where(*self._mine(texts, collection=collection, uri=storable(uri)))
        async with self._database.read() as connection:
            found = (await connection.execute(query)).first()
        return await asyncio.to_thread(_unpacked, found) if found else None

    async def texts(self, collection: str, after: str = "", limit: int = 100) -> list[StoredText]:
        """At most `limit` behind a uri, by uri; the caller bounds the memory by `limit`."""
        query = _TEXT.where(*self._mine(texts, collection=collection), texts.c.uri > storable(after))
        async with self._database.read() as connection:
            rows = list(await connection.execute(query.order_by(texts.c.uri).limit(limit)))
        return await asyncio.to_thread(lambda: [_unpacked(row) for row in rows])

    async def drop_texts(self, collection: str, uris: Sequence[str]) -> None:
        """Of documents that are gone."""
        async with self._database.write() as connection:
            await self._drop(connection, collection, uris)

    # -- forgotten documents -------------------------------------------------------------------------------------------

    async def forgotten(self, collection: str, uris: Sequence[str]) -> set[str]:
        """Those of the documents that ingestion must pass over."""
        found: set[str] = set()
        async with self._database.read() as connection:
            for batch in batches(uris):
                found |= await self._forgotten(connection, collection, batch)
        return found

    async def forget(self, collection: str, uris: Sequence[str], at: float) -> None:
        """Remove what the catalog knows of these documents in every build, and pass over them from now on.

        One transaction. Their uris stay, as what is to be passed over.
        """
        ordered = sorted(set(uris))
        built = select(builds.c.key).where(*self._mine(builds, collection=collection))
        insert = self._database.insert(forgotten).on_conflict_do_nothing()
        async with self._database.write() as connection:
            await connection.execute(self._held(collection).with_for_update())
            await self._drop(connection, collection, ordered)
            for batch in batches(ordered):
                key = {"tenant": self._tenant, "collection": collection, "at": at}
                await connection.execute(insert, [key | {"uri": uri} for uri in batch])
                theirs = update(documents).where(documents.c.tenant == self._tenant, documents.c.build.in_(built))
                await connection.execute(
                    theirs.where(documents.c.uri.in_(batch)).values(**_EMPTY, **_NOTHING, updated_at=at)
                )

    async def allow_again(self, collection: str, uris: Sequence[str]) -> None:
        """Let ingestion take these documents again, as ones it never saw."""
        built = select(builds.c.key).where(*self._mine(builds, collection=collection))
        theirs = delete(documents).where(documents.c.tenant == self._tenant, documents.c.build.in_(built))
        passed_over = delete(forgotten).where(*self._mine(forgotten, collection=collection))
        async with self._database.write() as connection:
            for batch in batches(sorted(set(uris))):
                await connection.execute(passed_over.where(forgotten.c.uri.in_(batch)))
                again = theirs.where(documents.c.uri.in_(batch), documents.c.state == "forgotten")
                await connection.execute(again)

    async def _forgotten(self, connection: AsyncConnection, collection: str, uris: Sequence[str]) -> set[str]:
        query = select(forgotten.c.uri).where(*self._mine(forgotten, collection=collection))
        return set((await connection.execute(query.where(forgotten.c.uri.in_(uris)))).scalars())

    async def _drop(self, connection: AsyncConnection, collection: str, uris: Sequence[str]) -> None:
        query = delete(texts).where(*self._mine(texts, collection=collection))
        for batch in batches(uris):
            await connection.execute(query.where(texts.c.uri.in_(batch)))

    def _held(self, collection: str) -> Select[Any]:
        return select(collections.c.name).where(*self._mine(collections, name=collection))

    async def _keep(self, connection: AsyncConnection, collection: str, rows: list[dict[str, Any]]) -> None:
        # Shared by all that keep texts, and waited for by the one that forgets: no text slips in behind it.
        await connection.execute(self._held(collection).with_for_update(read=True))
        passed_over: set[str] = set()
        for batch in batches([row["uri"] for row in rows]):
            passed_over |= await self._forgotten(connection, collection, batch)
        key = {"tenant": self._tenant, "collection": collection}
        kept = [key | row for row in rows if row["uri"] not in passed_over]
        if not kept:
            return
        insert = self._database.insert(texts)
        changed = {name: insert.excluded[name] for name in ("content_hash", "packed")}
        await connection.execute(
            insert.on_conflict_do_update(index_elements=list(texts.primary_key), set_=changed), kept
        )


def packed(documents: Sequence[StoredText]) -> list[dict[str, Any]]:
    """Their rows, by uri: in one order for all, or two writers could wait for each other."""
    return [_packed(text) for text in sorted(documents, key=lambda text: text.uri)]


def _packed(text: StoredText) -> dict[str, Any]:
    content = json.dumps([text.title, text.text, dict(text.metadata)]).encode()
    return {"uri": text.uri, "content_hash": text.content_hash, "packed": zlib.compress(content)}


def _unpacked(row: Row[*tuple[Any, ...]]) -> StoredText:
    title, text, metadata = json.loads(zlib.decompress(row.packed))
    return StoredText(row.uri, title, text, metadata, row.content_hash)
