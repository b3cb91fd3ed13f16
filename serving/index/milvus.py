"""The store, on Milvus: the write side for ingestion and the read side for retrieval.

The same code talks to a Milvus cluster and to the Milvus Lite server. Both implement one gRPC protocol; where they
differ (BM25's sign, a collection that is not loaded after a restart, partial updates) this file is written so that
either answer is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from pymilvus import (
    AnnSearchRequest,
    AsyncMilvusClient,
    DataType,
    Function,
    FunctionType,
    MilvusClient,
    RRFRanker,
)

from serving.errors import ConfigurationError
from serving.index import schema
from serving.index.expressions import any_of, differing, literal, visible, within
from serving.index.lexical import lexical
from serving.index.milvus_connection import LONG_S, ONCE, Connection
from serving.index.types import Hit, SearchRequest, StoredChunk, StoredKey, Vectors
from serving.settings import IndexSettings

_T = TypeVar("_T")

#: Milvus answers at most 16,384 rows to a query (`quotaAndLimits.limits.maxQueryResultWindow`).
_PAGE = 8_192
#: Rows with their vectors and texts are some 5 kB each.
_VECTORS = 2_048
#: Keys or uris named in one expression: keeps expressions, which are parsed each time, below some 100 kB.
_NAMES = 1_000
#: A vector row is about 2 kB of request; gRPC messages of Milvus are limited to 64 MB.
_WRITE = 1_000
#: How far HNSW looks around. Over 10,000 random vectors of 384 dimensions, the hardest case, recall@10 is 0.77 with
#: 128, 0.91 with 256, 0.985 with 512 and 0.998 with 1,024; embeddings of text are far easier. It costs a few ms.
_EF = 512
#: What readers wait for: `flush` has made the published generation visible at this level.
_READ = {"consistency_level": "Bounded", **ONCE}
_READ_LATEST = {"consistency_level": "Strong", **ONCE}


class Milvus:
    """Implements `types.Searcher` and `types.ChunkStore` for one tenant. Every call raises IndexUnavailable."""

    def __init__(self, connection: Connection, tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant

    @classmethod
    def connect(cls, settings: IndexSettings) -> Milvus:
        """A store that connects with its first call."""
        return cls(Connection(settings), settings.tenant)

    async def close(self) -> None:
        await self._connection.close()

    async def ping(self) -> None:
        """Returns when Milvus answers."""
        await self._connection.read(lambda client: client.get_server_version(**ONCE))

    # -- write side ----------------------------------------------------------------------------------------------------

    async def ensure(self, index: str, dimension: int) -> None:
        """Create the Milvus collection if it is missing, and load it. ConfigurationError if it is of another make.

        A creation that was interrupted is completed. In a thread of its own: pymilvus's asynchronous client waits for
        an index with a call that Milvus Lite does not have.
        """
        connection = self._connection
        async with connection.errors(index, LONG_S), connection.alone(), asyncio.timeout(LONG_S):
            await asyncio.to_thread(_ensure, connection.arguments, index, dimension)

    async def upsert(self, index: str, rows: Sequence[StoredChunk]) -> None:
        """Write or overwrite, by key. DocumentError for a chunk that no row can hold; nothing is written then."""
        # Stemming thousands of chunks takes long enough to be felt by other tasks of the loop.
        values = await asyncio.to_thread(lambda: [schema.row(self._tenant, stored) for stored in rows])
        for batch in _batches(values, _WRITE):
            await self._upsert(index, list(batch))

    async def keys(self, index: str, collection: str, uris: Sequence[str]) -> list[StoredKey]:
        """Every row of these documents, dead ones included."""
        found: list[StoredKey] = []
        for batch in _batches(uris, _NAMES):
            where = f"{within(self._tenant, collection)} and {any_of(schema.URI, batch)}"
            async for page in self._pages(index, where, schema.KEY_FIELDS):
                found += map(schema.stored_key, page)
        return found

    async def vectors(
        self, index: str, collection: str, uris: Sequence[str], snapshot: int | None = None
    ) -> AsyncIterator[tuple[str, Vectors]]:
        """`embedding_digest` of each row of these documents (that is visible to `snapshot`), and its vector."""
        mine = within(self._tenant, collection) if snapshot is None else visible(self._tenant, collection, snapshot)
        fields = (schema.PK, schema.URI, schema.TITLE, schema.TEXT, schema.HEADING, schema.METADATA, schema.DENSE)
        for batch in _batches(uris, _NAMES):
            where = f"{mine} and {any_of(schema.URI, batch)}"
            async for page in self._pages(index, where, fields, size=_VECTORS):
                for entity in page:
                    yield schema.embedded(entity)

    async def chunks(self, index: str, collection: str, keys: Sequence[str]) -> AsyncIterator[StoredChunk]:
        """These rows as they were written, in the order of their keys; a title as far as a row holds it."""
        for batch in _batches(keys, _NAMES):
            async for page in self._pages(index, any_of(schema.PK, batch), schema.STORED_FIELDS, size=_VECTORS):
                for entity in page:
                    yield schema.stored_chunk(collection, entity)

    async def differing(self, index: str, collection: str, earlier: int, later: int) -> AsyncIterator[list[StoredKey]]:
        """Rows that only one of two snapshots shows, a page at a time. Later snapshots may be written meanwhile."""
        async for page in self._pages(index, differing(self._tenant, collection, earlier, later), schema.KEY_FIELDS):
            yield [schema.stored_key(entity) for entity in page]

    async def set_died(self, index: str, keys: Sequence[str], died: int) -> None:
        """Keys that are gone are left gone."""
        for batch in _batches(keys, _NAMES):
            await self._set_died(index, batch, died)

    async def delete(self, index: str, keys: Sequence[str]) -> None:
        for batch in _batches(keys, _NAMES):
            await self._delete(index, batch)

    async def purge(self, index: str, collection: str, generation: int) -> None:
        """Delete the rows that no generation from `generation` on can see (`died <= generation`)."""
        where = f"{within(self._tenant, collection)} and {schema.DIED} <= {generation:d}"
        async for page in self._pages(index, where, (schema.PK,)):
            await self.delete(index, [entity[schema.PK] for entity in page])

    async def drop(self, index: str) -> None:
        """Remove an index with all that is in it."""
        await self._connection.write(lambda client: client.drop_collection(index, **ONCE), index=index)

    async def compact(self, index: str) -> bool:
        """Have the space of deleted rows freed soon. False where the server does that on its own only."""
        try:
            await self._connection.write(lambda client: client.compact(index, **ONCE), index=index, refusal=_Refused)
        except _Refused:
            return False
        return True

    async def flush(self, index: str) -> None:
        """Make what was written durable, and visible to every search that starts after this returns.

        Searches read with bounded staleness: a strongly consistent one costs some 200 ms on a Milvus cluster. The one
        strong read here (of nothing) makes the query nodes catch up with this writer before a generation is published.
        """
        await self._connection.write(lambda client: client.flush(index, **ONCE), index=index)
        await self._query(index, any_of(schema.PK, [""]), (schema.PK,))

    async def count(self, index: str, collection: str, generation: int) -> int:
        """Rows visible to `generation`."""
        where = visible(self._tenant, collection, generation)
        found = await self._connection.read(
            lambda client: client.query(index, filter=where, output_fields=["count(*)"], **_READ_LATEST),
            index=index,
            limit_s=LONG_S,
        )
        return int(found[0]["count(*)"])

    # -- read side -----------------------------------------------------------------------------------------------------

    async def search(self, request: SearchRequest) -> list[Hit]:
        """Best first: by cosine (dense), BM25 (text) or reciprocal rank fusion of both (hybrid)."""
        terms = "" if request.mode == "dense" else lexical(request.text)
        if request.mode == "text" and not terms:
            return []
        return await self._connection.read(lambda client: self._search(client, request, terms), index=request.index)

    async def _search(self, client: AsyncMilvusClient, request: SearchRequest, terms: str) -> list[Hit]:
        where = visible(self._tenant, request.collection, request.generation)
        if request.expression:
            where = f"{where} and {request.expression}"
        dense = AnnSearchRequest(
            [request.vector.tolist()],
            schema.DENSE,
            {"metric_type": "COSINE", "params": {"ef": max(_EF, 2 * request.limit)}},
            limit=request.limit,
            expr=where,
        )
        text = AnnSearchRequest([terms], schema.SPARSE, {"metric_type": "BM25"}, limit=request.limit, expr=where)
        # The dense search says the cosine itself; the others need the vector to know it.
        fields = [*schema.PASSAGE_FIELDS] if request.mode == "dense" else [*schema.PASSAGE_FIELDS, schema.DENSE]
        wanted = {"limit": request.limit, "output_fields": fields, **_READ}
        if request.mode == "hybrid" and terms:
            found = await client.hybrid_search(request.index, [dense, text], RRFRanker(request.rrf_k), **wanted)
            # Ties are common (first of one search only, first of the other only): the closer one goes first.
            fused = [(hit["distance"], _hit(hit, request.vector)) for hit in found[0]]
            return [hit for _, hit in sorted(fused, key=lambda pair: (-pair[0], -pair[1].similarity))]
        one = text if request.mode == "text" else dense
        options = {"anns_field": one.anns_field, "search_params": one.param, **wanted}
        found = await client.search(request.index, one.data, where, **options)
        return [_hit(hit, request.vector) for hit in found[0]]

    # -- rows, for the writer ------------------------------------------------------------------------------------------

    async def _pages(
        self, index: str, where: str, fields: Sequence[str], size: int = _PAGE
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """All rows in the order of their keys, so that no page is disturbed when rows of earlier ones are deleted."""
        after = ""
        while page := await self._query(index, f"{where} and {schema.PK} > {literal(after)}", fields, size):
            yield page
            after = max(entity[schema.PK] for entity in page)

    async def _query(self, index: str, where: str, fields: Sequence[str], size: int = _PAGE) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._connection.read(
            lambda client: client.query(
                index,
                filter=where,
                output_fields=list(fields),
                limit=size,
                # What pymilvus's own iterator sends: the first rows by key, not just any rows.
                iterator="True",
                reduce_stop_for_best=True,
                **_READ_LATEST,
            ),
            index=index,
            limit_s=LONG_S,
        )
        return found

    async def _set_died(self, index: str, keys: Sequence[str], died: int) -> None:
        partial = [{schema.PK: key, schema.DIED: died} for key in keys]
        try:
            await self._connection.write(
                lambda client: client.upsert(index, partial, partial_update=True, **ONCE), index=index, refusal=_Refused
            )
            return
        except _Refused:
            pass
        # Milvus before 2.6 knows no partial updates, and one key that is gone spoils the batch: read, modify, write.
        fields = [*schema.VARCHAR_BYTES, *schema.INT64_FIELDS, schema.METADATA, schema.DENSE]
        rows = await self._query(index, any_of(schema.PK, keys), fields)
        if whole := [{**row, schema.DIED: died} for row in rows]:
            await self._upsert(index, whole)

    async def _upsert(self, index: str, values: list[dict[str, Any]]) -> None:
        await self._connection.write(lambda client: client.upsert(index, values, **ONCE), index=index)

    async def _delete(self, index: str, keys: Sequence[str]) -> None:
        where = any_of(schema.PK, keys)
        await self._connection.write(lambda client: client.delete(index, filter=where, **ONCE), index=index)


class _Refused(Exception):
    """Milvus understood the call and does not do it."""


def _ensure(arguments: dict[str, Any], index: str, dimension: int) -> None:
    client = MilvusClient(**arguments)
    try:
        if not client.has_collection(index, **ONCE):
            client.create_collection(index, schema=_layout(dimension), consistency_level="Bounded", **ONCE)
        _check(index, dimension, client.describe_collection(index, **ONCE))
        for field, description in schema.INDEXES.items():
            if not client.list_indexes(index, field_name=field, **ONCE):
                wanted = MilvusClient.prepare_index_params()
                wanted.add_index(field, index_name=field, **description)
                client.create_index(index, wanted, **ONCE)
        client.load_collection(index, **ONCE)
    finally:
        client.close()


def _layout(dimension: int) -> Any:
    layout = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    for name, length in schema.VARCHAR_BYTES.items():
        analyzed = {"enable_analyzer": True, "analyzer_params": schema.ANALYZER} if name == schema.LEXICAL else {}
        layout.add_field(
            name,
            DataType.VARCHAR,
            max_length=length,
            is_primary=name == schema.PK,
            is_partition_key=name == schema.PARTITION,
            **analyzed,
        )
    for name in schema.INT64_FIELDS:
        layout.add_field(name, DataType.INT64)
    layout.add_field(schema.METADATA, DataType.JSON)
    layout.add_field(schema.DENSE, DataType.FLOAT_VECTOR, dim=dimension)
    layout.add_field(schema.SPARSE, DataType.SPARSE_FLOAT_VECTOR)
    bm25 = Function("bm25", FunctionType.BM25, input_field_names=[schema.LEXICAL], output_field_names=[schema.SPARSE])
    layout.add_function(bm25)
    return layout


def _check(index: str, dimension: int, found: dict[str, Any]) -> None:
    fields = {field["name"]: field for field in found["fields"]}
    expected = {*schema.VARCHAR_BYTES, *schema.INT64_FIELDS, schema.METADATA, schema.DENSE, schema.SPARSE}
    if set(fields) != expected:
        differing = ", ".join(sorted(set(fields) ^ expected))
        raise ConfigurationError(f"Index {index!r} is of another make: its fields differ in {differing}.")
    stored = int(fields[schema.DENSE]["params"]["dim"])
    if stored != dimension:
        raise ConfigurationError(f"Index {index!r} holds vectors of {stored} dimensions; the model gives {dimension}.")


def _hit(hit: Any, vector: Vectors) -> Hit:
    dense = hit["entity"].get(schema.DENSE)
    similarity = float(hit["distance"] if dense is None else np.dot(vector, np.asarray(dense, dtype=np.float32)))
    return Hit(schema.passage(hit["entity"], similarity), similarity)


def _batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
