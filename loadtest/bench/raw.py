"""The store and the model without any server: what a search cannot be cheaper than."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from pymilvus import AnnSearchRequest, MilvusClient, RRFRanker

from serving.index import schema
from serving.index.lexical import lexical
from serving.index.types import Embedder

#: The product's own.
_RRF_K = 60


@dataclass(frozen=True, slots=True)
class RawStore:
    """pymilvus and the model in this process. `where` and `limit` are those that the product sends."""

    client: MilvusClient
    embedder: Embedder
    index: str
    where: str
    limit: int

    async def search(self, question: str, mode: str) -> list[dict[str, Any]]:
        vector = (await self.embedder.embed([question]))[0].tolist()
        return raw_search(self.client, self.index, vector, lexical(question), self.where, self.limit, mode)

    async def timed(self, question: str, mode: str) -> float:
        """Seconds of one search."""
        started = time.perf_counter()
        await self.search(question, mode)
        return time.perf_counter() - started


def connect(uri: str) -> MilvusClient:
    """pymilvus pings every 10 s by default, for which servers close the connection now and then: less often here."""
    return MilvusClient(uri, grpc_options={"grpc.keepalive_time_ms": 330_000})


def visible(tenant: str, collection: str, generation: int) -> str:
    """The filter that every search of the product has."""
    partition = f'{schema.PARTITION} == "{schema.partition(tenant, collection)}"'
    return f"{partition} and {schema.BORN} <= {generation} and {schema.DIED} > {generation}"


def raw_search(
    client: MilvusClient, index: str, vector: list[float], terms: str, where: str, limit: int, mode: str
) -> list[dict[str, Any]]:
    """One call of the store, with the parameters and output fields of the product."""
    fields = list(schema.PASSAGE_FIELDS)
    near = {"metric_type": "COSINE", "params": {"ef": max(128, 2 * limit)}}
    if mode == "dense":
        found = client.search(
            index,
            data=[vector],
            anns_field=schema.DENSE,
            filter=where,
            limit=limit,
            output_fields=fields,
            search_params=near,
            consistency_level="Bounded",
        )
    else:
        dense = AnnSearchRequest([vector], schema.DENSE, near, limit=limit, expr=where)
        text = AnnSearchRequest([terms], schema.SPARSE, {"metric_type": "BM25"}, limit=limit, expr=where)
        found = client.hybrid_search(
            index,
            [dense, text],
            RRFRanker(_RRF_K),
            limit=limit,
            output_fields=[*fields, schema.DENSE],
            consistency_level="Bounded",
        )
    return [{**hit["entity"], "score": hit["distance"]} for hit in found[0]]
