"""What clients send about documents, and what they get."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

#: What the catalog keys a document by has fewer bytes; this bounds what is looked at.
_URI_CHARACTERS = 2048

Uri = Annotated[str, StringConstraints(min_length=1, max_length=_URI_CHARACTERS)]
State = Literal["found", "parsed", "written", "live", "failed", "gone", "forgotten"]


class DocumentBody(BaseModel):
    """One document to upload: its text, or a file's bytes."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    uri: Uri | None = Field(None, description="What the document is known by: an upload of the same uri replaces it.")
    id: Uri | None = Field(None, description="Instead of a uri: it becomes anchorage://COLLECTION/ID.")
    name: str | None = Field(None, min_length=1, max_length=512, description="A file name; its suffix says the format.")
    text: str | None = Field(None, min_length=1, description="The document as text.")
    content: str | None = Field(None, min_length=1, description="Or a file's bytes, as base64.")
    title: str | None = Field(None, max_length=1000)
    metadata: dict[str, Any] | None = Field(None, description="What a search can filter by.")
    format: str | None = Field(
        None,
        pattern=r"^\.?[A-Za-z0-9_+-]{1,16}$",
        description="markdown, text, html, pdf, docx ... Default: by the name; of a text that has none, text.",
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> DocumentBody:
        if (self.text is None) == (self.content is None):
            raise ValueError("Give either 'text' or 'content' (base64)")
        if self.uri is not None and self.id is not None:
            raise ValueError("Give either 'uri' or 'id'")
        return self


class UploadBody(BaseModel):
    """Body of POST /v1/collections/{collection}/documents: several documents."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    documents: list[DocumentBody] = Field(min_length=1)


class OperationDocument(BaseModel):
    """A document of an operation. `state`: queued, and in the end live, failed or gone."""

    id: str
    uri: str
    state: Literal["queued", "live", "failed", "gone"]
    reason: str | None = None
    chunks: int | None = None


class OperationReply(BaseModel):
    """Work that was asked for: poll it at /v1/operations/{id}. Kept for a week after its end.

    `reason`: why it is still queued. `generation`: the collection's state from which on its documents are found.
    `receipt`: the proof of a deletion. Times are seconds since the epoch.
    """

    object: Literal["operation"]
    id: str
    kind: Literal["upload", "delete"]
    status: Literal["queued", "running", "succeeded", "failed"]
    collection: str
    documents: list[OperationDocument]
    created_at: float
    started_at: float | None
    finished_at: float | None
    reason: str | None
    error: str | None
    generation: int | None
    receipt: dict[str, Any] | None


class OperationList(BaseModel):
    """Latest first."""

    object: Literal["list"]
    data: list[OperationReply]


class CollectionReply(BaseModel):
    """A collection as readers see it now. `generation` 0: nothing of it is published yet."""

    object: Literal["collection"]
    id: str
    documents: int
    chunks: int
    generation: int
    embedding_model: str
    published_at: float | None


class CollectionList(BaseModel):
    """By name."""

    object: Literal["list"]
    data: list[CollectionReply]


class DocumentReply(BaseModel):
    """A document as the catalog knows it.

    `state`: live (readers find it), failed (`reason`; what was found of it before still is), parsed or written (an
    ingestion is at it), gone (removed), forgotten (removed for good). `attempts` failed; the next is due at `retry_at`.
    """

    object: Literal["document"]
    id: str
    uri: str
    collection: str
    state: State | Literal["queued"]
    title: str | None
    name: str | None
    source: str | None
    size: int
    chunks: int
    reason: str | None
    attempts: int
    retry_at: float | None
    modified_at: float | None
    updated_at: float | None
    generation: int | None = None


class DocumentList(BaseModel):
    """By uri. `next` is the `after` of the next page."""

    object: Literal["list"]
    data: list[DocumentReply]
    has_more: bool
    next: str | None
