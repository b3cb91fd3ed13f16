"""The values that the catalog takes and gives. All times are seconds since the epoch, and 0.0 means not yet.

A collection has one *build* that readers read, and perhaps others that are made beside it or kept to switch back to. A
build goes from *snapshot* to snapshot: the number that says which of its rows are visible. People count its published
snapshots: those are its *generations*.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from serving.errors import DocumentError, InvalidRequest
from serving.index.schema import index_name
from serving.index.types import Metadata

#: found: listed by its source. parsed: text and title are known. written: its chunks are in the store, for a
#: snapshot to come. live: readers see it. failed: it could not be ingested, `reason` says why. gone: its source no
#: longer has it, and neither has the store. forgotten: removed for good, ingestion passes over it.
State: TypeAlias = Literal["found", "parsed", "written", "live", "failed", "gone", "forgotten"]

#: building: never switched to. ready: live, or it once was. dropping: being removed, of no further use.
BuildState: TypeAlias = Literal["building", "ready", "dropping"]

#: bulk: long, others publish meanwhile. short: seconds. rollback: a short one that brings an older state back.
RunKind: TypeAlias = Literal["bulk", "short", "rollback"]
RunState: TypeAlias = Literal["running", "published"]

OperationKind: TypeAlias = Literal["upload", "delete"]
OperationState: TypeAlias = Literal["queued", "running", "succeeded", "failed"]

#: What can stand in a model id behind the `@`.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: Longest uri that the catalog can key a document by, in bytes of UTF-8: an index entry of PostgreSQL holds 2,704.
MAX_URI_BYTES = 2_048


def build_key(collection: str, number: int) -> str:
    """The first build is named like its collection; `~` can stand in no collection's name."""
    return collection if number == 1 else f"{collection}~{number}"


def collection_of(key: str) -> str:
    """The collection that a build of `build_key` belongs to."""
    return key.partition("~")[0]


def document_id(uri: str) -> str:
    """What HTTP addresses a document by: the first 32 hex digits of SHA-256 over its uri."""
    return hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_collection(name: str) -> bool:
    """Whether a collection can have this name: a model id must be able to carry it."""
    return _NAME.fullmatch(name) is not None


def check_collection(name: str) -> None:
    """Raises InvalidRequest for a name that no model id could carry."""
    if not is_collection(name):
        raise InvalidRequest(
            f"{name[:128]!r} cannot name a collection: 1 to 128 letters, digits, '.', '_' or '-', "
            "the first one a letter or digit.",
            param="collection",
        )


def check_uri(uri: str) -> None:
    """Raises DocumentError for a uri that the catalog cannot key a document by."""
    try:
        size = len(uri.encode())
    except UnicodeEncodeError as error:
        raise DocumentError(f"Its uri {ascii(uri)[:200]} is not valid Unicode: give it another one.") from error
    if size > MAX_URI_BYTES:
        raise DocumentError(f"Its uri {uri[:100]!r}... has {size:,} bytes; the catalog takes {MAX_URI_BYTES:,}.")
    if not uri or "\0" in uri:
        raise DocumentError(f"{uri[:200]!r} cannot be the uri of a document: it is empty or has a NUL in it.")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a build is made by. `dimension` is the length of the vectors, `chunk_tokens` the size of a chunk."""

    model: str
    dimension: int
    chunk_tokens: int

    @property
    def index(self) -> str:
        """The Milvus collection that holds builds of this recipe."""
        return index_name(self.model, self.dimension)


@dataclass(frozen=True, slots=True)
class Build:
    """One physical copy of a collection's index; `key` names it in the store and in every other call.

    `snapshot` is the published one (0: none), `generation` its number, `documents` and `chunks` what it holds. `pinned`
    is the snapshot that readers are held at (0: they follow). `live`: it is the one that readers read.
    """

    key: str
    collection: str
    number: int
    recipe: Recipe
    index: str
    snapshot: int
    generation: int
    documents: int
    chunks: int
    pinned: int
    live: bool
    state: BuildState
    created_at: float
    published_at: float


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """What the catalog knows of one document in one build.

    `source` is what the caller of the run named (a folder, a glob): only a run over the same source may find that the
    document is gone. `snapshot` is the one that the last change was made for. `content_hash` and `chunks` are those of
    the state that readers see, or will see from `snapshot` on: a document whose new text failed keeps its old chunks.
    Equal `fingerprint`s mean equal bytes without reading. `attempts` counts failures in a row; the next try is due at
    `retry_at`.
    """

    uri: str
    source: str
    state: State
    snapshot: int
    name: str = ""
    title: str = ""
    content_hash: str = ""
    fingerprint: str = ""
    size: int = 0
    modified: float = 0.0
    chunks: int = 0
    reason: str = ""
    attempts: int = 0
    retry_at: float = 0.0
    updated_at: float = 0.0

    @property
    def id(self) -> str:
        return document_id(self.uri)


@dataclass(frozen=True, slots=True)
class StoredText:
    """A parsed document as the catalog keeps it, so that a rebuild needs no source."""

    uri: str
    title: str
    text: str
    metadata: Metadata
    content_hash: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run over a build, which writes `snapshot`; readers saw `published` when it began.

    `interrupted` is the kind of the earlier run that began this snapshot and did not publish it, or None.
    """

    collection: str
    build: str
    index: str
    snapshot: int
    published: int
    kind: RunKind
    interrupted: RunKind | None = None

    @property
    def resumed(self) -> bool:
        return self.interrupted is not None


@dataclass(frozen=True, slots=True)
class Generation:
    """A run as people see it. `generation` is 0 until it is published.

    `current`: readers see it. `pinned`: they are held at it. `retained`: all its rows are there and stay, so readers
    can be brought back to it.
    """

    generation: int
    snapshot: int
    kind: RunKind
    state: RunState
    started_at: float
    finished_at: float
    documents: int
    chunks: int
    summary: Mapping[str, int]
    current: bool
    pinned: bool
    retained: bool


@dataclass(frozen=True, slots=True)
class Upload:
    """A document that came over HTTP, as bytes that are not parsed yet; of one to be deleted only the uri."""

    uri: str
    data: bytes = b""
    name: str = ""
    title: str = ""
    format: str = ""
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """Work that was asked for over HTTP and can be polled. `result` is a JSON object, `error` fit for a user."""

    id: str
    collection: str
    kind: OperationKind
    state: OperationState
    created_at: float
    started_at: float = 0.0
    finished_at: float = 0.0
    error: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease, and what for. `machine` tells apart hosts, boots and containers that share a name."""

    name: str
    host: str
    machine: str
    pid: int
    started: float
    doing: str
    since: float
