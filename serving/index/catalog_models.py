"""The catalog's tables and the values that its rows are read as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from sqlalchemy import BigInteger, Column, Float, ForeignKeyConstraint, Index, Integer, MetaData, String, Table, Text

#: found: listed by its source. parsed: text and title are known. written: its chunks are in the store, for a
#: generation to come. live: readers see it. failed: it could not be ingested, `reason` says why. gone: its source no
#: longer has it, and neither has the store.
State: TypeAlias = Literal["found", "parsed", "written", "live", "failed", "gone"]

RunState: TypeAlias = Literal["running", "published"]


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """What the catalog knows of one document.

    `source` is what the caller of the run named (a folder, a glob): only a run over the same source may find that the
    document is gone. `generation` is the one that the last change was made for, `seen` the last whose run met the
    document. `chunks` counts those that readers see of it from `generation` on: a document whose new text failed
    keeps its old chunks and their number. `mtime` and `updated_at` are seconds since the epoch.
    """

    uri: str
    source: str
    state: State
    generation: int
    seen: int
    title: str = ""
    content_hash: str = ""
    size: int = 0
    mtime: float = 0.0
    chunks: int = 0
    reason: str = ""
    updated_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """An ingestion run, which writes `generation` while readers see `published`.

    `resumed`: an earlier run began this generation and did not publish it.
    """

    collection: str
    index: str
    generation: int
    published: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the catalog keeps it. Times are seconds since the epoch; `finished_at` 0: not finished."""

    collection: str
    generation: int
    state: RunState
    started_at: float
    finished_at: float
    summary: dict[str, int]


metadata = MetaData()

collections = Table(
    "collections",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("index_name", String(255), nullable=False),
    Column("embedding_model", Text, nullable=False),
    Column("documents", Integer, nullable=False),
    Column("chunks", BigInteger, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("published_at", Float(53), nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("collection", String(128), primary_key=True),
    Column("uri", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("seen", BigInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("content_hash", String(128), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime", Float(53), nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("updated_at", Float(53), nullable=False),
    ForeignKeyConstraint(["tenant", "collection"], ["collections.tenant", "collections.name"]),
    Index("documents_by_state", "tenant", "collection", "state"),
)

runs = Table(
    "runs",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("collection", String(128), primary_key=True),
    Column("generation", BigInteger, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("started_at", Float(53), nullable=False),
    Column("finished_at", Float(53), nullable=False),
    Column("summary", Text, nullable=False),
    ForeignKeyConstraint(["tenant", "collection"], ["collections.tenant", "collections.name"]),
)
