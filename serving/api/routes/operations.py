"""GET /v1/operations and /v1/operations/{id}: what became of uploads and deletions."""

from __future__ import annotations

from typing import Annotated

import orjson
from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from serving.api.document_replies import operation_of
from serving.api.document_schemas import OperationList, OperationReply
from serving.api.documented import READS, statuses
from serving.api.services import DocumentDesk
from serving.errors import NotFound


def operations_router(desk: DocumentDesk) -> APIRouter:
    """What was asked for, and how far it is."""
    router = APIRouter(prefix="/v1/operations", tags=["documents"])

    @router.get("", responses=statuses(*READS, 400), response_model=OperationList)
    async def list_operations(
        collection: Annotated[str | None, Query(max_length=128, description="Default: of all collections.")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        """The latest first."""
        found = await desk.catalog.operations.latest(collection, limit)
        body = {"object": "list", "data": [operation_of(operation) for operation in found]}
        return Response(orjson.dumps(body), media_type="application/json")

    @router.get("/{id}", responses=statuses(*READS, 400, 404), response_model=OperationReply)
    async def get_operation(id: Annotated[str, Path(max_length=64)]) -> Response:
        """One of them. It is kept for a week after its end."""
        operation = await desk.catalog.operations.get(id)
        if operation is None:
            raise NotFound(f"There is no operation {id!r}: it never was, or it ended more than a week ago.", param="id")
        return Response(orjson.dumps(operation_of(operation)), media_type="application/json")

    return router
