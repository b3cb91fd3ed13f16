"""The catalog's tables, as the newest migration leaves them (a test compares the two)."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()

#: Ordered byte by byte on both databases, whatever the locale of the server.
_URI = Text().with_variant(Text(collation="C"), "postgresql")
_TENANT = String(64)
_COLLECTION = String(128)
#: A collection's name, `~` and a number.
_BUILD = String(140)
_SECONDS = Float(53)

collections = Table(
    "collections",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("name", _COLLECTION, primary_key=True),
    Column("live", _BUILD, nullable=False),
    Column("builds_made", Integer, nullable=False),
    Column("created_at", _SECONDS, nullable=False),
)

builds = Table(
    "builds",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("key", _BUILD, primary_key=True),
    Column("collection", _COLLECTION, nullable=False),
    Column("number", Integer, nullable=False),
    Column("embedding_model", Text, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("chunk_tokens", Integer, nullable=False),
    Column("index_name", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("snapshot", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("documents", BigInteger, nullable=False),
    Column("chunks", BigInteger, nullable=False),
    Column("pinned", BigInteger, nullable=False),
    # Rows that died at or before this snapshot are purged: no earlier snapshot is whole any more.
    Column("purged", BigInteger, nullable=False),
    Column("created_at", _SECONDS, nullable=False),
    Column("published_at", _SECONDS, nullable=False),
    Index("builds_by_collection", "tenant", "collection", "number", unique=True),
)

documents = Table(
    "documents",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("build", _BUILD, primary_key=True),
    Column("uri", _URI, primary_key=True),
    Column("id", String(32), nullable=False),
    Column("source", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("snapshot", BigInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("content_hash", String(128), nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("modified", _SECONDS, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("retry_at", _SECONDS, nullable=False),
    Column("updated_at", _SECONDS, nullable=False),
    # None but the primary key begins with tenant and build: PostgreSQL would page through the wrong one.
    Index("documents_by_state", "state", "tenant", "build", "uri"),
    Index("documents_by_id", "id", "tenant", "build"),
    Index("documents_by_content", "content_hash", "tenant", "build"),
)

texts = Table(
    "texts",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("collection", _COLLECTION, primary_key=True),
    Column("uri", _URI, primary_key=True),
    Column("content_hash", String(128), nullable=False),
    # zlib over JSON: [title, text, metadata].
    Column("packed", LargeBinary, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("build", _BUILD, primary_key=True),
    Column("snapshot", BigInteger, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("parent", BigInteger, nullable=False),
    Column("started_at", _SECONDS, nullable=False),
    Column("finished_at", _SECONDS, nullable=False),
    Column("superseded_at", _SECONDS, nullable=False),
    Column("documents", BigInteger, nullable=False),
    Column("chunks", BigInteger, nullable=False),
    Column("summary", Text, nullable=False),
    Index("runs_by_superseded", "tenant", "build", "superseded_at"),
)

leases = Table(
    "leases",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("name", String(160), primary_key=True),
    Column("holder", Text, nullable=False),
    Column("token", String(32), nullable=False),
    Column("expires_at", _SECONDS, nullable=False),
)

operations = Table(
    "operations",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("id", String(32), primary_key=True),
    Column("collection", _COLLECTION, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", _SECONDS, nullable=False),
    Column("started_at", _SECONDS, nullable=False),
    Column("finished_at", _SECONDS, nullable=False),
    Column("error", Text, nullable=False),
    Column("result", Text, nullable=False),
    Index("operations_by_state", "tenant", "state", "collection", "created_at"),
    Index("operations_by_collection", "tenant", "collection", "created_at"),
    Index("operations_by_end", "tenant", "finished_at"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("operation", String(32), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("uri", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("format", String(32), nullable=False),
    Column("metadata", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

forgotten = Table(
    "forgotten",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("collection", _COLLECTION, primary_key=True),
    Column("uri", _URI, primary_key=True),
    Column("at", _SECONDS, nullable=False),
)
