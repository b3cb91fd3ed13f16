"""Documents that came over HTTP, and what is told of them when they have been dealt with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from ingestion.apply import Applied
from ingestion.source import Body, Found
from ingestion.source.items import too_large
from serving.errors import DocumentError
from serving.index.catalog_models import DocumentRecord, Operation, Upload, document_id

#: Reasons that fit into the one line of an operation's error.
_LISTED = 3


@dataclass(frozen=True, slots=True)
class UploadContent:
    """Bytes that are here already."""

    data: bytes = field(repr=False)

    def read(self, max_bytes: int, known: str = "") -> Body:
        if len(self.data) > max_bytes:
            raise DocumentError(too_large(len(self.data), max_bytes))
        return Body(self.data)


@dataclass(frozen=True, slots=True)
class Asked:
    """An operation with its documents."""

    operation: Operation
    documents: tuple[Upload, ...]

    @property
    def uris(self) -> set[str]:
        return {document.uri for document in self.documents}

    @property
    def size(self) -> int:
        return sum(len(document.data) for document in self.documents)

    def found(self) -> list[Found]:
        """The documents as a source would find them."""
        return [
            Found(
                uri=document.uri,
                name=document.name,
                size=len(document.data),
                modified=self.operation.created_at,
                fingerprint="",
                content=UploadContent(document.data),
                metadata=document.metadata,
                format=document.format or None,
                title=document.title,
            )
            for document in self.documents
        ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an operation: of each of its documents, in their order."""

    documents: list[dict[str, Any]]
    error: str = ""


def uploaded(asked: Asked, applied: Applied) -> Outcome:
    """Of an upload that has been applied."""
    told = [_told(document.uri, applied.records.get(document.uri)) for document in asked.documents]
    failed = [document for document in told if document["state"] == "failed"]
    if not failed:
        return Outcome(told)
    reasons = "; ".join(f"{document['uri']}: {document['reason']}" for document in failed[:_LISTED])
    more = f"; and {len(failed) - _LISTED} more" if len(failed) > _LISTED else ""
    return Outcome(told, f"{len(failed)} of {len(told)} documents failed: {reasons}{more}")


def removed(uris: Sequence[str]) -> Outcome:
    """Of a deletion that has been carried out."""
    return Outcome([{"id": document_id(uri), "uri": uri, "state": "gone", "reason": "", "chunks": 0} for uri in uris])


def changing(uris: Collection[str]) -> str:
    """Why an operation has to wait that would change these documents."""
    first = min(uris)
    others = f" and {len(uris) - 1} more" if len(uris) > 1 else ""
    return f"Another ingestion is changing {first}{others}: this goes on when that one has published or was given up."


def _told(uri: str, record: DocumentRecord | None) -> dict[str, Any]:
    told: dict[str, Any] = {"id": document_id(uri), "uri": uri}
    if record is None or record.state in ("forgotten", "gone"):
        reason = f"It was forgotten on request and is passed over. `anchorage forget --allow {uri}` lets it in again."
        return told | {"state": "failed", "reason": reason, "chunks": 0}
    state = "failed" if record.state == "failed" else "live"
    return told | {"state": state, "reason": record.reason if state == "failed" else "", "chunks": record.chunks}
