"""Documents over HTTP: they are kept in the catalog's queue here, and ingested by the worker, wherever that runs."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Path, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from serving.api.admission import Admission
from serving.api.clock import Timeout, deadline_of, left_s
from serving.api.document_replies import (
    cursor_of,
    document_of,
    operation_of,
    queued,
    uri_of,
    waiting_document,
)
from serving.api.document_schemas import DocumentBody, DocumentList, DocumentReply, OperationReply, State, UploadBody
from serving.api.documented import READS, WORK, statuses
from serving.api.services import DocumentDesk
from serving.api.trace import Trace, trace_of
from serving.api.uploads import digest_of, read_uploads
from serving.errors import InvalidRequest, NotFound, Overloaded
from serving.index.catalog_models import Build, DocumentRecord, Operation, check_collection, document_id
from serving.settings import ApiSettings

#: Between two looks whether an operation that somebody waits for is finished, seconds.
_LOOK_S = 0.05
#: So many operations may wait; their documents lie in the catalog.
_MAX_WAITING = 1_000
_RETRY_S = 30.0
#: Documents looked at for one page at most; a page among many removed ones may be short.
_LOOKED_AT = 5_000

CollectionName = Annotated[str, Path(max_length=128, description="1 to 128 letters, digits, '.', '_' or '-'.")]
DocumentId = Annotated[str, Path(max_length=64, description="As uploads and lists give it.")]
Wait = Annotated[bool, Query(description="Answer when it is done, within the server's limit, instead of at once.")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="A request that is repeated with the same key gives the same operation.",
    ),
]

_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_TOLD = {"type": "array", "items": {"type": "string"}}
_FORM = {
    "type": "object",
    "description": "Files, and for each of them, in the same order, what is known of it. One `metadata` (a JSON "
    "object) or `format` is for all files.",
    "properties": {"file": _FILES, "uri": _TOLD, "title": _TOLD, "format": _TOLD, "metadata": _TOLD},
    "required": ["file"],
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/UploadBody"},
                        {"$ref": "#/components/schemas/DocumentBody"},
                    ]
                }
            },
            "multipart/form-data": {"schema": _FORM},
        },
    }
}
#: Request bodies that FastAPI does not parse, and so does not document.
BODIES = (UploadBody, DocumentBody)

_ACCEPTED: dict[int | str, dict[str, Any]] = {
    200: {"model": OperationReply, "description": "`wait` was asked for, and it is finished: see `status`."},
    202: {
        "model": OperationReply,
        "description": "It is kept and will be done.",
        "headers": {"Location": {"description": "Where to poll it.", "schema": {"type": "string"}}},
    },
}


def documents_router(desk: DocumentDesk, settings: ApiSettings, admission: Admission) -> APIRouter:
    """What a collection holds, and changes of it."""
    router = APIRouter(prefix="/v1/collections/{collection}/documents", tags=["documents"])
    if settings.uploads:
        _add_changes(router, desk, settings, admission)

    @router.get("", responses=statuses(*READS, 400, 404), response_model=DocumentList)
    async def list_documents(
        collection: CollectionName,
        after: Annotated[str, Query(max_length=4096, description="The `next` of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        state: Annotated[State | None, Query(description="Only these; default: all that were not removed.")] = None,
    ) -> Response:
        """The documents of a collection, by uri."""
        build = await _live_build(desk, collection)
        records, more = await _page(desk, build.key, uri_of(after) if after else "", limit, state)
        last = records[-1].uri if records else ""
        return _json(
            {
                "object": "list",
                "data": [document_of(collection, record) for record in records if _listed(record, state)][:limit],
                "has_more": more,
                "next": cursor_of(last) if more else None,
            }
        )

    @router.get("/{id}", responses=statuses(*READS, 400, 404), response_model=DocumentReply)
    async def get_document(collection: CollectionName, id: DocumentId) -> Response:
        """One document: its state, and the generation that shows it."""
        build = await desk.catalog.live_build(collection)
        record = await desk.catalog.document(build.key, id) if build else None
        if build is None or record is None:
            found = waiting_document(collection, id, await desk.catalog.operations.waiting_uris(collection))
            if found is None:
                raise await _unknown(desk, collection, id)
            return _json(found | {"generation": None})
        generation = await desk.catalog.generation_of(build.key, record.snapshot)
        return _json(document_of(collection, record) | {"generation": generation})

    return router


def _add_changes(router: APIRouter, desk: DocumentDesk, settings: ApiSettings, admission: Admission) -> None:
    @router.post(
        "", responses=statuses(*WORK, also=_ACCEPTED), openapi_extra=_BODY, status_code=202, response_model=None
    )
    async def upload(
        request: Request,
        collection: CollectionName,
        wait: Wait = False,
        key: Key = None,
        timeout_s: Timeout = None,
    ) -> Response:
        """Add documents, or replace those of the same uri. The collection is made if there is none."""
        check_collection(collection)
        trace = trace_of(request.scope)
        try:
            async with admission.turn():
                documents = await read_uploads(request, collection, settings)
                digest = await asyncio.to_thread(digest_of, collection, documents)
                await _room(desk)
                operation = await desk.catalog.operations.enqueue(
                    collection,
                    "upload",
                    documents,
                    id=_id(collection, key),
                    result={"request": digest, "documents": queued([document.uri for document in documents])},
                )
                documents.clear()
        except ClientDisconnect:
            trace.gone = True
            return Response(status_code=400)  # nobody is left to read it
        if operation.result.get("request") != digest:
            raise InvalidRequest("Idempotency-Key: it was used for another request.", param="Idempotency-Key")
        return await _accepted(request, desk, operation, _until(trace, wait, timeout_s, settings))

    @router.delete("/{id}", responses=statuses(*READS, 400, 404, 429, also=_ACCEPTED), status_code=202)
    async def delete_document(
        request: Request, collection: CollectionName, id: DocumentId, wait: Wait = False, timeout_s: Timeout = None
    ) -> Response:
        """Remove a document for good, from all generations; the operation's `receipt` proves it."""
        build = await desk.catalog.live_build(collection)
        record = await desk.catalog.document(build.key, id) if build else None
        uri = record.uri if record else None
        if uri is None:
            waiting = await desk.catalog.operations.waiting_uris(collection)
            uri = next((uri for uri in waiting if document_id(uri) == id), None)
        if uri is None:
            raise await _unknown(desk, collection, id)
        await _room(desk)
        result = {"documents": queued([uri])}
        operation = await desk.catalog.operations.enqueue(collection, "delete", [uri], result=result)
        return await _accepted(request, desk, operation, _until(trace_of(request.scope), wait, timeout_s, settings))


async def _accepted(request: Request, desk: DocumentDesk, operation: Operation, until: float | None) -> Response:
    """202, or 200 when it is finished before `until`, a moment on the event loop's clock."""
    trace = trace_of(request.scope)
    trace.fields |= {"operation": operation.id, "documents": len(operation.result.get("documents", ()))}
    desk.poke()
    while until is not None and operation.state not in ("succeeded", "failed") and left_s(until):
        if await request.is_disconnected():
            trace.gone = True
            break
        await asyncio.sleep(min(_LOOK_S, left_s(until)))
        operation = await desk.catalog.operations.get(operation.id) or operation
    finished = operation.state in ("succeeded", "failed") and until is not None
    response = _json(operation_of(operation))
    response.status_code = 200 if finished else 202
    response.headers["Location"] = f"/v1/operations/{operation.id}"
    return response


def _until(trace: Trace, wait: bool, timeout_s: float | None, settings: ApiSettings) -> float | None:
    return deadline_of(trace, timeout_s, settings.upload_wait_s) if wait else None


def _id(collection: str, key: str | None) -> str:
    return hashlib.sha256(f"{collection}\0{key}".encode()).hexdigest()[:32] if key else ""


async def _room(desk: DocumentDesk) -> None:
    waiting, _ = await desk.catalog.operations.backlog()
    if waiting >= _MAX_WAITING:
        raise Overloaded(f"{waiting:,} uploads and deletions wait already; try again later.", retry_after_s=_RETRY_S)


async def _live_build(desk: DocumentDesk, collection: str) -> Build:
    build = await desk.catalog.live_build(collection)
    if build is None:
        await desk.catalog.collection(collection)
        raise NotFound(f"Collection {collection!r} has no build.", param="collection")
    return build


async def _unknown(desk: DocumentDesk, collection: str, id: str) -> NotFound:
    """Raises UnknownCollection where that is what is wrong."""
    await desk.catalog.collection(collection)
    return NotFound(f"There is no document {id!r} in collection {collection!r}.", param="id")


async def _page(
    desk: DocumentDesk, build: str, after: str, limit: int, state: State | None
) -> tuple[list[DocumentRecord], bool]:
    """At least `limit` documents that are listed, if there are; all that were looked at, and whether there are more."""
    records: list[DocumentRecord] = []
    listed = 0
    while len(records) < _LOOKED_AT:
        page = await desk.catalog.page(build, after, limit + 1, state)
        for place, record in enumerate(page):
            if listed == limit:
                return records, True
            records.append(record)
            listed += _listed(record, state)
            after = record.uri
            if listed == limit and place + 1 < len(page):
                return records, True
        if len(page) <= limit:
            return records, False
    return records, True


def _listed(record: DocumentRecord, state: State | None) -> bool:
    return state is not None or record.state not in ("gone", "forgotten")


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
