"""The state of every document in every build."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from sqlalchemy import Label, Row, ScalarSelect, Select, case, func, select, union_all

from serving.index.catalog_models import DocumentRecord, State, StoredText, collection_of, document_id
from serving.index.catalog_part import PAGE, batches, storable
from serving.index.catalog_tables import builds, documents
from serving.index.catalog_texts import Texts, packed

_FIELDS = [field.name for field in fields(DocumentRecord)]
#: Ten times as fast as dataclasses.asdict, which copies every value.
_VALUES = attrgetter(*_FIELDS)
_STATE = documents.c.state


class Documents(Texts):
    """`build` is a build's key. Every call raises CatalogUnavailable.

    A document that is stored as `written` is `live` from the publication of its snapshot on: it needs no change for
    that, so a publication takes no longer for a million documents than for one.
    """

    async def lookup(self, build: str, uris: Sequence[str]) -> dict[str, DocumentRecord]:
        """Those of the documents that the catalog knows, by uri."""
        found: dict[str, DocumentRecord] = {}
        query = self._records(build)
        async with self._database.read() as connection:
            for batch in batches(uris):
                rows = await connection.execute(query.where(documents.c.uri.in_(batch)))
                found |= {row.uri: _record(row) for row in rows}
        return found

    async def documents(
        self, build: str, *, states: Sequence[State] = (), source: str | None = None, after: str = ""
    ) -> AsyncIterator[DocumentRecord]:
        """By uri (byte order), a page at a time, so in bounded memory; rows may be changed while this runs."""
        while page := await self._page(build, states, after, PAGE):
            for record in page:
                # Not in the query: it could look for a page of a small source among a million rows of others.
                if source is None or record.source == source:
                    yield record
            after = page[-1].uri

    async def page(
        self, build: str, after_uri: str = "", limit: int = 100, state: State | None = None
    ) -> list[DocumentRecord]:
        """At most `limit` documents behind a uri, by uri."""
        return await self._page(build, () if state is None else (state,), after_uri, limit)

    async def document(self, build: str, id: str) -> DocumentRecord | None:
        """By `document_id`."""
        async with self._database.read() as connection:
            found = (await connection.execute(self._records(build).where(documents.c.id == storable(id)))).first()
        return _record(found) if found else None

    async def states(self, build: str) -> dict[State, int]:
        """Documents by state."""
        state = self._state(build)
        query = select(state, func.count()).where(*self._mine(documents, build=build)).group_by(state)
        async with self._database.read() as connection:
            return dict(iter(await connection.execute(query)))

    async def chunk_sum(self, build: str, states: Sequence[State]) -> int:
        """Chunks of all documents in these states."""
        total = func.coalesce(func.sum(documents.c.chunks), 0)
        query = select(total).where(*self._mine(documents, build=build), self._state(build).element.in_(states))
        async with self._database.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def same_content(self, build: str, content_hashes: Sequence[str]) -> dict[str, str]:
        """A live document with chunks for each of these hashes that has one: uri by hash."""
        live = self._state(build).element == "live"
        query = select(documents.c.content_hash, func.min(documents.c.uri)).where(
            *self._mine(documents, build=build), documents.c.chunks > 0, live
        )
        found: dict[str, str] = {}
        async with self._database.read() as connection:
            for batch in batches([wanted for wanted in content_hashes if wanted]):
                same = query.where(documents.c.content_hash.in_(batch)).group_by(documents.c.content_hash)
                found |= {row[0]: row[1] for row in await connection.execute(same)}
        return found

    async def record(self, build: str, records: Sequence[DocumentRecord], texts: Sequence[StoredText] = ()) -> None:
        """Insert or overwrite by uri, all of them or none; `updated_at` is set here.

        `texts` are kept for the build's collection in the same transaction, those of forgotten documents excepted.
        """
        if not records and not texts:
            return
        now = time.time()
        # In one order for all, or two writers could wait for each other.
        rows = [_row(self._tenant, build, record, now) for record in sorted(records, key=lambda record: record.uri)]
        kept = await asyncio.to_thread(packed, texts)
        insert = self._database.insert(documents)
        changed = {name: insert.excluded[name] for name in _FIELDS if name != "uri"}
        async with self._database.write() as connection:
            if kept:
                await self._keep(connection, collection_of(build), kept)
            if rows:
                key = list(documents.primary_key)
                await connection.execute(insert.on_conflict_do_update(index_elements=key, set_=changed), rows)
        await self._database.grew(documents, len(rows))

    # -- queries -------------------------------------------------------------------------------------------------------

    def _published(self, build: str) -> ScalarSelect[int]:
        return select(builds.c.snapshot).where(*self._mine(builds, key=build)).scalar_subquery()

    def _state(self, build: str) -> Label[State]:
        """The state of a document: what is stored, but for `written` ones whose snapshot is published."""
        shown = (_STATE == "written") & (documents.c.snapshot <= self._published(build))
        return case((shown, "live"), else_=_STATE).label("state")

    def _records(self, build: str) -> Select[Any]:
        columns = [self._state(build) if name == "state" else documents.c[name] for name in _FIELDS]
        return select(*columns).where(*self._mine(documents, build=build))

    async def _page(self, build: str, states: Sequence[State], after: str, limit: int) -> list[DocumentRecord]:
        query = self._records(build).where(documents.c.uri > storable(after)).order_by(documents.c.uri).limit(limit)
        if "live" in states:
            # Nearly every document is live, so going through all of them in their order is quickest.
            query = query.where(self._state(build).element.in_(states))
        elif states:
            query = self._rare(build, query, states, limit)
        async with self._database.read() as connection:
            return [_record(row) for row in await connection.execute(query)]

    def _rare(self, build: str, query: Select[Any], states: Sequence[State], limit: int) -> Select[Any]:
        """Each state for itself, as the index on states has it in the order of uris; then the first of all of them."""
        unpublished = documents.c.snapshot > self._published(build)
        arms = [query.where(documents.c.state == state, *([unpublished] * (state == "written"))) for state in states]
        if len(arms) == 1:
            return arms[0]
        found = union_all(*(select(arm.subquery()) for arm in arms)).subquery()
        return select(found).order_by(found.c.uri).limit(limit)


def _record(row: Row[*tuple[Any, ...]]) -> DocumentRecord:
    return DocumentRecord(**row._mapping)


def _row(tenant: str, build: str, record: DocumentRecord, now: float) -> dict[str, Any]:
    row = dict(zip(_FIELDS, _VALUES(record), strict=True))
    for name in ("source", "name", "title", "reason"):
        row[name] = storable(row[name])
    return row | {"tenant": tenant, "build": build, "id": document_id(record.uri), "updated_at": now}
