"""Work that was asked for over HTTP: kept until it is done, so that it outlives the replica that took it."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, delete, func, select, update

from serving.index.catalog_models import Operation, OperationKind, OperationState, Upload
from serving.index.catalog_part import PAGE, Part, storable
from serving.index.catalog_tables import operations, uploads

#: A finished operation can be polled for so long, seconds.
_KEPT_S = 7 * 24 * 3600.0
_UNFINISHED = ("queued", "running")
_OPERATION = select(operations)
_UPLOAD = select(uploads)


class Operations(Part):
    """Every call raises CatalogUnavailable."""

    async def enqueue(
        self,
        collection: str,
        kind: OperationKind,
        documents: Sequence[Upload | str],
        *,
        id: str = "",
        result: Mapping[str, Any] | None = None,
    ) -> Operation:
        """Keep the documents (to be deleted: their uris) with the wish; one transaction.

        `id` (32 hex digits) names the wish: where there is one of this name already, that one is given back and nothing
        is kept. `result` is what there is to say before anything is done. Operations that finished more than a week ago
        are removed.
        """
        operation = id or uuid.uuid4().hex
        early = dict(result or {})
        rows = (
            self._upload(operation, ordinal, Upload(document) if isinstance(document, str) else document)
            for ordinal, document in enumerate(documents)
        )
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            row: dict[str, Any] = {
                "tenant": self._tenant,
                "id": operation,
                "collection": collection,
                "kind": kind,
                "state": "queued",
            }
            row |= {"created_at": now, "started_at": 0.0, "finished_at": 0.0, "error": "", "result": json.dumps(early)}
            made = await connection.execute(self._database.insert(operations).on_conflict_do_nothing(), row)
            if not made.rowcount:
                mine = self._mine(operations, id=operation)
                return _operation((await connection.execute(_OPERATION.where(*mine))).one())
            for upload in rows:  # one by one: they may be large
                await connection.execute(self._database.insert(uploads), upload)
            ended = (operations.c.finished_at > 0.0) & (operations.c.finished_at < now - _KEPT_S)
            old = select(operations.c.id).where(*self._mine(operations), ended).limit(PAGE)
            await connection.execute(delete(operations).where(*self._mine(operations), operations.c.id.in_(old)))
        return Operation(operation, collection, kind, "queued", now, result=early)

    async def get(self, id: str) -> Operation | None:
        """None for an unknown one, and for one that finished more than a week ago."""
        query = _OPERATION.where(*self._mine(operations, id=storable(id)))
        async with self._database.read() as connection:
            found = (await connection.execute(query)).first()
        return _operation(found) if found else None

    async def latest(self, collection: str | None = None, limit: int = 20) -> list[Operation]:
        """Latest first, of one collection or of all."""
        mine = self._mine(operations) if collection is None else self._mine(operations, collection=storable(collection))
        query = _OPERATION.where(*mine).order_by(operations.c.created_at.desc(), operations.c.id.desc()).limit(limit)
        async with self._database.read() as connection:
            return [_operation(row) for row in await connection.execute(query)]

    async def waiting(self, limit: int = 100) -> list[str]:
        """Collections with work that is not finished, the longest waiting first.

        Work that runs is included: only who can take the collection's lease knows that its worker is gone.
        """
        query = select(operations.c.collection).where(*self._mine(operations), operations.c.state.in_(_UNFINISHED))
        query = query.group_by(operations.c.collection).order_by(func.min(operations.c.created_at)).limit(limit)
        async with self._database.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def backlog(self) -> tuple[int, float]:
        """How many operations are not finished, and when the oldest of them was asked for (0.0: there is none)."""
        query = select(func.count(), func.min(operations.c.created_at))
        query = query.where(*self._mine(operations), operations.c.state.in_(_UNFINISHED))
        async with self._database.read() as connection:
            number, oldest = (await connection.execute(query)).one()
        return int(number), float(oldest or 0.0)

    async def waiting_uris(self, collection: str) -> set[str]:
        """Of all documents that unfinished operations of the collection bring."""
        mine = *self._mine(operations, collection=storable(collection)), operations.c.state.in_(_UNFINISHED)
        waiting = select(operations.c.id).where(*mine, operations.c.kind == "upload")
        query = select(uploads.c.uri).where(*self._mine(uploads), uploads.c.operation.in_(waiting))
        async with self._database.read() as connection:
            return set((await connection.execute(query)).scalars())

    async def claim(self, collection: str, limit: int = 100) -> list[Operation]:
        """Take the collection's first unfinished operations, in their order; they run from now on.

        The caller holds a lease that only one worker of the collection can hold: what another one had begun is taken,
        too.
        """
        mine = *self._mine(operations, collection=collection), operations.c.state.in_(_UNFINISHED)
        first = _OPERATION.where(*mine).order_by(operations.c.created_at, operations.c.id).limit(limit)
        async with self._database.write() as connection:
            taken = [row.id for row in await connection.execute(first.with_for_update())]
            started = {"state": "running", "started_at": await self._database.now(connection)}
            await connection.execute(
                update(operations).where(*self._mine(operations), operations.c.id.in_(taken)).values(**started)
            )
            rows = await connection.execute(first)
            return [_operation(row) for row in rows]

    async def uploads(self, id: str) -> AsyncIterator[Upload]:
        """An operation's documents, in their order, one in memory at a time."""
        query = _UPLOAD.where(*self._mine(uploads, operation=id)).order_by(uploads.c.ordinal).limit(1)
        last = -1
        while True:
            async with self._database.read() as connection:
                row = (await connection.execute(query.where(uploads.c.ordinal > last))).first()
            if row is None:
                return
            last = row.ordinal
            yield Upload(row.uri, row.data, row.name, row.title, row.format, json.loads(row.metadata))

    async def finish(
        self, id: str, state: OperationState, *, result: Mapping[str, Any] | None = None, error: str = ""
    ) -> None:
        """Keep the outcome and drop the documents; one transaction. The first outcome stays."""
        mine = self._mine(operations, id=id)
        async with self._database.write() as connection:
            done = {"state": state, "finished_at": await self._database.now(connection), "error": storable(error)}
            done["result"] = json.dumps(dict(result or {}))
            await connection.execute(
                update(operations).where(*mine, operations.c.state.in_(_UNFINISHED)).values(**done)
            )
            await connection.execute(delete(uploads).where(*self._mine(uploads, operation=id)))

    async def requeue(self, id: str, reason: str = "") -> None:
        """Let it wait again, in its old place: its work could not be done now. `reason` says why, as its error."""
        mine = self._mine(operations, id=id, state="running")
        again = {"state": "queued", "started_at": 0.0, "error": storable(reason)}
        async with self._database.write() as connection:
            await connection.execute(update(operations).where(*mine).values(**again))

    def _upload(self, operation: str, ordinal: int, upload: Upload) -> dict[str, Any]:
        return {
            "tenant": self._tenant,
            "operation": operation,
            "ordinal": ordinal,
            "uri": storable(upload.uri),
            "name": storable(upload.name),
            "title": storable(upload.title),
            "format": storable(upload.format),
            "metadata": json.dumps(dict(upload.metadata)),
            "data": upload.data,
        }


def _operation(row: Row[*tuple[Any, ...]]) -> Operation:
    return Operation(
        id=row.id,
        collection=row.collection,
        kind=row.kind,
        state=row.state,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=row.error,
        result=json.loads(row.result),
    )
