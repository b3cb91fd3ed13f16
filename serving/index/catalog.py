"""The catalog: which collections there are, which generation of each is published, and the state of every document.

Readers ask for one row by its key; the writer works in batches, and publishes a generation in one transaction.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, Table, func, select, text, update

from serving.errors import ConfigurationError, InvalidRequest, UnknownCollection
from serving.index.catalog_models import DocumentRecord, Run, RunRecord, State, collections, documents, metadata, runs
from serving.index.database import Database
from serving.index.types import Collection
from serving.settings import IndexSettings

#: What can stand in a model id behind the `@`.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PAGE = 1_000

_COLLECTION = select(
    collections.c.name,
    collections.c.generation,
    collections.c.index_name,
    collections.c.documents,
    collections.c.chunks,
)
_DOCUMENT_FIELDS = [field.name for field in fields(DocumentRecord)]
_DOCUMENT = select(*(documents.c[name] for name in _DOCUMENT_FIELDS))
_RUN_FIELDS = [field.name for field in fields(RunRecord)]


class Catalog:
    """Read and write side for one tenant. Every call raises CatalogUnavailable. Connects with its first call."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database = database
        self._tenant = tenant

    @classmethod
    def connect(cls, settings: IndexSettings) -> Catalog:
        """Raises ConfigurationError for a URL that is neither SQLite's nor PostgreSQL's."""
        return cls(Database(settings.catalog_url, metadata), settings.tenant)

    async def close(self) -> None:
        await self._database.close()

    async def ping(self) -> None:
        """Returns when the catalog answers."""
        async with self._database.read() as connection:
            await connection.execute(text("SELECT 1"))

    # -- read side -----------------------------------------------------------------------------------------------------

    async def collections(self) -> list[Collection]:
        """By name, those without a published generation included."""
        query = _COLLECTION.where(collections.c.tenant == self._tenant).order_by(collections.c.name)
        async with self._database.read() as connection:
            return [_collection(row) for row in await connection.execute(query)]

    async def collection(self, name: str) -> Collection:
        """Raises UnknownCollection, whose message lists those there are."""
        query = _COLLECTION.where(*self._key(collections, name=name))
        async with self._database.read() as connection:
            found = (await connection.execute(query)).first()
        if found is not None:
            return _collection(found)
        known = ", ".join(repr(collection.name) for collection in await self.collections())
        others = f"Known are {known}." if known else "Nothing is ingested yet."
        raise UnknownCollection(f"There is no collection {name[:128]!r}. {others}", param="collection")

    async def runs(self, collection: str, limit: int = 10) -> list[RunRecord]:
        """Latest first."""
        query = select(*(runs.c[name] for name in _RUN_FIELDS)).where(*self._key(runs, collection=collection))
        async with self._database.read() as connection:
            rows = await connection.execute(query.order_by(runs.c.generation.desc()).limit(limit))
            return [RunRecord(**{**row._mapping, "summary": json.loads(row.summary)}) for row in rows]

    async def states(self, collection: str) -> dict[State, int]:
        """Documents by state."""
        query = select(documents.c.state, func.count()).where(*self._key(documents, collection=collection))
        async with self._database.read() as connection:
            return {row[0]: row[1] for row in await connection.execute(query.group_by(documents.c.state))}

    # -- documents -----------------------------------------------------------------------------------------------------

    async def lookup(self, collection: str, uris: Sequence[str]) -> dict[str, DocumentRecord]:
        """Those of the documents that the catalog knows, by uri."""
        found: dict[str, DocumentRecord] = {}
        query = _DOCUMENT.where(*self._key(documents, collection=collection))
        async with self._database.read() as connection:
            for batch in _batches(uris):
                rows = await connection.execute(query.where(documents.c.uri.in_(batch)))
                found |= {row.uri: _document(row) for row in rows}
        return found

    async def documents(
        self,
        collection: str,
        *,
        states: Sequence[State] = (),
        source: str | None = None,
        unseen_by: int | None = None,
    ) -> AsyncIterator[DocumentRecord]:
        """By uri, a page at a time, so in bounded memory; rows may be changed while this runs.

        `unseen_by` G gives those that the run of generation G has not met (`seen < G`).
        """
        query = _DOCUMENT.where(*self._key(documents, collection=collection)).order_by(documents.c.uri).limit(_PAGE)
        if states:
            query = query.where(documents.c.state.in_(states))
        if source is not None:
            query = query.where(documents.c.source == source)
        if unseen_by is not None:
            query = query.where(documents.c.seen < unseen_by)
        after: ColumnElement[bool] = documents.c.uri > ""
        while page := await self._page(query.where(after)):
            for record in page:
                yield record
            after = documents.c.uri > page[-1].uri

    async def _page(self, query: Select[Any]) -> list[DocumentRecord]:
        async with self._database.read() as connection:
            return [_document(row) for row in await connection.execute(query)]

    async def record(self, collection: str, records: Sequence[DocumentRecord]) -> None:
        """Insert or overwrite by uri, all of them or none; `updated_at` is set here."""
        if not records:
            return
        key, now = {"tenant": self._tenant, "collection": collection}, time.time()
        rows = [key | asdict(replace(record, updated_at=now)) for record in records]
        insert = self._database.insert(documents)
        key_names = [column.name for column in documents.primary_key]
        changed = {name: insert.excluded[name] for name in _DOCUMENT_FIELDS if name != "uri"}
        async with self._database.write() as connection:
            await connection.execute(insert.on_conflict_do_update(index_elements=key_names, set_=changed), rows)

    async def mark_seen(self, collection: str, generation: int, uris: Sequence[str]) -> None:
        """Note that the run of `generation` met these documents."""
        query = update(documents).where(*self._key(documents, collection=collection)).values(seen=generation)
        async with self._database.write() as connection:
            for batch in _batches(uris):
                await connection.execute(query.where(documents.c.uri.in_(batch)))

    # -- runs ----------------------------------------------------------------------------------------------------------

    async def begin_run(self, collection: str, index: str, embedding_model: str) -> Run:
        """Begin the generation after the published one, or resume it; creates the collection.

        Raises InvalidRequest for a name that no model id could carry, ConfigurationError when the collection was made
        with another embedding model.
        """
        if not _NAME.fullmatch(collection):
            raise InvalidRequest(
                f"{collection[:128]!r} cannot name a collection: 1 to 128 letters, digits, '.', '_' or '-', "
                "the first one a letter or digit.",
                param="collection",
            )
        now = time.time()
        new = {"tenant": self._tenant, "name": collection, "generation": 0, "index_name": index}
        new |= {"embedding_model": embedding_model, "documents": 0, "chunks": 0, "created_at": now, "published_at": 0.0}
        where = self._key(collections, name=collection)
        query = select(collections.c.generation, collections.c.index_name, collections.c.embedding_model).where(*where)
        async with self._database.write() as connection:
            await connection.execute(self._database.insert(collections).on_conflict_do_nothing(), new)
            made = (await connection.execute(query)).one()
            _same_make(collection, made, index, embedding_model)
            run = {"tenant": self._tenant, "collection": collection, "generation": made.generation + 1}
            run |= {"state": "running", "started_at": now, "finished_at": 0.0, "summary": "{}"}
            begun = await connection.execute(self._database.insert(runs).on_conflict_do_nothing(), run)
        return Run(collection, index, made.generation + 1, published=made.generation, resumed=begun.rowcount == 0)

    async def publish(self, run: Run, *, chunks: int, summary: Mapping[str, int]) -> Collection:
        """Let readers see the run's generation: one transaction, and the only moment at which they see anything new.

        `written` documents become `live`; `chunks` is what the store counts for the generation. A writer that died
        after this may repeat it: a published generation is not published again.
        """
        now = time.time()
        mine = self._key(documents, collection=run.collection)
        live = update(documents).where(*mine, documents.c.state == "written", documents.c.generation <= run.generation)
        served = documents.c.state.in_(("live", "failed")) & (documents.c.chunks > 0)
        finish = update(runs).where(*self._key(runs, collection=run.collection), runs.c.generation == run.generation)
        show = update(collections).where(
            *self._key(collections, name=run.collection), collections.c.generation < run.generation
        )
        async with self._database.write() as connection:
            await connection.execute(live.values(state="live", updated_at=now))
            count = select(func.count()).select_from(documents).where(*mine, served)
            number = (await connection.execute(count)).scalar_one()
            seen = {"generation": run.generation, "documents": number, "chunks": chunks, "published_at": now}
            shown = await connection.execute(show.values(**seen))
            if shown.rowcount:
                done = {"state": "published", "finished_at": now, "summary": json.dumps(dict(summary))}
                await connection.execute(finish.values(**done))
        return Collection(run.collection, run.generation, run.index, number, chunks)

    def _key(self, table: Table, **values: str) -> list[ColumnElement[bool]]:
        return [table.c.tenant == self._tenant, *(table.c[name] == value for name, value in values.items())]


def _batches(uris: Sequence[str]) -> list[Sequence[str]]:
    return [uris[start : start + _PAGE] for start in range(0, len(uris), _PAGE)]


def _collection(row: Row[*tuple[Any, ...]]) -> Collection:
    return Collection(row.name, row.generation, row.index_name, row.documents, row.chunks)


def _document(row: Row[*tuple[Any, ...]]) -> DocumentRecord:
    return DocumentRecord(**row._mapping)


def _same_make(collection: str, made: Row[*tuple[Any, ...]], index: str, embedding_model: str) -> None:
    if made.embedding_model != embedding_model:
        raise ConfigurationError(
            f"Collection {collection!r} was built with the embedding model {made.embedding_model!r}, this run has "
            f"{embedding_model!r}. Ingest into a new collection, or set "
            f"ANCHORAGE_EMBEDDER__MODEL={made.embedding_model}."
        )
    if made.index_name != index:
        raise ConfigurationError(
            f"Collection {collection!r} is in the index {made.index_name!r}, which this version does not write "
            f"({index!r}). Ingest into a new collection."
        )
