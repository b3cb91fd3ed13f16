"""GET /v1/collections and /v1/collections/{collection}."""

from __future__ import annotations

from typing import Annotated

import orjson
from fastapi import APIRouter, Path
from starlette.responses import Response

from serving.api.document_replies import collection_of, published_at
from serving.api.document_schemas import CollectionList, CollectionReply
from serving.api.documented import READS, statuses
from serving.api.services import DocumentDesk


def collections_router(desk: DocumentDesk) -> APIRouter:
    """What can be asked."""
    router = APIRouter(prefix="/v1/collections", tags=["documents"])

    @router.get("", responses=statuses(*READS), response_model=CollectionList)
    async def list_collections() -> Response:
        """All of them, by name."""
        data = [
            collection_of(collection, published_at(await desk.catalog.builds(collection.name)))
            for collection in await desk.catalog.collections()
        ]
        return Response(orjson.dumps({"object": "list", "data": data}), media_type="application/json")

    @router.get("/{collection}", responses=statuses(*READS, 400, 404), response_model=CollectionReply)
    async def get_collection(collection: Annotated[str, Path(max_length=128)]) -> Response:
        """One of them: how much it holds, of which generation, and when that was published."""
        found = await desk.catalog.collection(collection)
        body = collection_of(found, published_at(await desk.catalog.builds(collection)))
        return Response(orjson.dumps(body), media_type="application/json")

    return router
