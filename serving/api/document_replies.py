"""Collections, documents and operations as clients see them. Times are seconds since the epoch."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection as Many
from collections.abc import Sequence
from typing import Any

from serving.errors import InvalidRequest
from serving.index.catalog_models import Build, DocumentRecord, Operation, document_id
from serving.index.types import Collection


def operation_of(operation: Operation) -> dict[str, Any]:
    """An operation; one that waits says why in `reason`."""
    result, finished = operation.result, operation.state in ("succeeded", "failed")
    return {
        "object": "operation",
        "id": operation.id,
        "kind": operation.kind,
        "status": operation.state,
        "collection": operation.collection,
        "documents": [_document(document) for document in result.get("documents", ())],
        "created_at": operation.created_at,
        "started_at": operation.started_at or None,
        "finished_at": operation.finished_at or None,
        "reason": None if finished else operation.error or None,
        "error": operation.error or None if finished else None,
        "generation": result.get("generation"),
        "receipt": result.get("receipt"),
    }


def queued(uris: Sequence[str]) -> list[dict[str, Any]]:
    """The documents of an operation that nobody has begun."""
    return [{"id": document_id(uri), "uri": uri, "state": "queued", "reason": "", "chunks": None} for uri in uris]


def collection_of(collection: Collection, published_at: float) -> dict[str, Any]:
    return {
        "object": "collection",
        "id": collection.name,
        "documents": collection.documents,
        "chunks": collection.chunks,
        "generation": collection.generation,
        "embedding_model": collection.model,
        "published_at": published_at or None,
    }


def published_at(builds: Sequence[Build]) -> float:
    return next((build.published_at for build in builds if build.live), 0.0)


def document_of(collection: str, record: DocumentRecord) -> dict[str, Any]:
    failed = record.state == "failed"
    return {
        "object": "document",
        "id": record.id,
        "uri": record.uri,
        "collection": collection,
        "state": record.state,
        "title": record.title or None,
        "name": record.name or None,
        "source": record.source or None,
        "size": record.size,
        "chunks": record.chunks,
        "reason": record.reason or None,
        "attempts": record.attempts,
        "retry_at": record.retry_at or None if failed else None,
        "modified_at": record.modified or None,
        "updated_at": record.updated_at or None,
    }


def waiting_document(collection: str, id: str, uris: Many[str]) -> dict[str, Any] | None:
    """A document that is known only from an upload that waits; None if it is not among these."""
    uri = next((uri for uri in uris if document_id(uri) == id), None)
    if uri is None:
        return None
    return document_of(collection, DocumentRecord(uri, "upload", "found", 0)) | {"state": "queued"}


def cursor_of(uri: str) -> str:
    """Where the next page begins."""
    return base64.urlsafe_b64encode(uri.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def uri_of(cursor: str) -> str:
    """The inverse. Raises InvalidRequest."""
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequest("after: not the `next` of an earlier page.", param="after") from None


def _document(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "reason": document["reason"] or None}
