"""Builds beside the live one, snapshots, kept texts, leases, operations and forgotten documents.

What there was becomes build 1 of its collection, and its generation both snapshot and generation of that build.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_URI = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_PAGE = 1_000
#: The size of a chunk before it was kept with the build: the default of its setting.
_CHUNK_TOKENS = 200


def upgrade() -> None:
    for table in ("collections", "documents", "runs"):
        op.rename_table(table, f"old_{table}")
        if op.get_context().dialect.name == "postgresql":
            op.execute(f"ALTER INDEX {table}_pkey RENAME TO old_{table}_pkey")
    op.drop_index("documents_by_state", table_name="old_documents")
    _create_builds()
    _create_documents()
    _create_runs()
    _create_work()
    _copy_collections()
    _copy_documents()
    _copy_runs()
    for table in ("old_runs", "old_documents", "old_collections"):
        op.drop_table(table)


def _key(*names: str) -> Iterator[sa.Column[Any]]:
    lengths = {"tenant": 64, "name": 128, "collection": 128, "key": 140, "build": 140}
    for name in names:
        yield sa.Column(name, _URI if name == "uri" else sa.String(lengths[name]), primary_key=True)


def _columns(kind: Any, *names: str) -> Iterator[sa.Column[Any]]:
    for name in names:
        yield sa.Column(name, kind, nullable=False)


def _create_builds() -> None:
    op.create_table(
        "collections",
        *_key("tenant", "name"),
        *_columns(sa.String(140), "live"),
        *_columns(sa.Integer, "builds_made"),
        *_columns(sa.Float(53), "created_at"),
    )
    op.create_table(
        "builds",
        *_key("tenant", "key"),
        *_columns(sa.String(128), "collection"),
        *_columns(sa.Integer, "number"),
        *_columns(sa.Text, "embedding_model"),
        *_columns(sa.Integer, "dimension", "chunk_tokens"),
        *_columns(sa.String(255), "index_name"),
        *_columns(sa.String(16), "state"),
        *_columns(sa.BigInteger, "snapshot", "generation", "documents", "chunks", "pinned", "purged"),
        *_columns(sa.Float(53), "created_at", "published_at"),
    )
    op.create_index("builds_by_collection", "builds", ["tenant", "collection", "number"], unique=True)


def _create_documents() -> None:
    op.create_table(
        "documents",
        *_key("tenant", "build", "uri"),
        *_columns(sa.String(32), "id"),
        *_columns(sa.Text, "source", "name"),
        *_columns(sa.String(16), "state"),
        *_columns(sa.BigInteger, "snapshot"),
        *_columns(sa.Text, "title"),
        *_columns(sa.String(128), "content_hash"),
        *_columns(sa.Text, "fingerprint"),
        *_columns(sa.BigInteger, "size"),
        *_columns(sa.Float(53), "modified"),
        *_columns(sa.Integer, "chunks"),
        *_columns(sa.Text, "reason"),
        *_columns(sa.Integer, "attempts"),
        *_columns(sa.Float(53), "retry_at", "updated_at"),
    )
    op.create_index("documents_by_state", "documents", ["state", "tenant", "build", "uri"])
    op.create_index("documents_by_id", "documents", ["id", "tenant", "build"])
    op.create_index("documents_by_content", "documents", ["content_hash", "tenant", "build"])
    op.create_table(
        "texts",
        *_key("tenant", "collection", "uri"),
        *_columns(sa.String(128), "content_hash"),
        *_columns(sa.LargeBinary, "packed"),
    )
    op.create_table("forgotten", *_key("tenant", "collection", "uri"), *_columns(sa.Float(53), "at"))


def _create_runs() -> None:
    op.create_table(
        "runs",
        *_key("tenant", "build"),
        sa.Column("snapshot", sa.BigInteger, primary_key=True),
        *_columns(sa.String(16), "kind", "state"),
        *_columns(sa.BigInteger, "generation", "parent"),
        *_columns(sa.Float(53), "started_at", "finished_at", "superseded_at"),
        *_columns(sa.BigInteger, "documents", "chunks"),
        *_columns(sa.Text, "summary"),
    )
    op.create_index("runs_by_superseded", "runs", ["tenant", "build", "superseded_at"])


def _create_work() -> None:
    op.create_table(
        "leases",
        *_key("tenant"),
        sa.Column("name", sa.String(160), primary_key=True),
        *_columns(sa.Text, "holder"),
        *_columns(sa.String(32), "token"),
        *_columns(sa.Float(53), "expires_at"),
    )
    op.create_table(
        "operations",
        *_key("tenant"),
        sa.Column("id", sa.String(32), primary_key=True),
        *_columns(sa.String(128), "collection"),
        *_columns(sa.String(16), "kind", "state"),
        *_columns(sa.Float(53), "created_at", "started_at", "finished_at"),
        *_columns(sa.Text, "error", "result"),
    )
    op.create_index("operations_by_state", "operations", ["tenant", "state", "collection", "created_at"])
    op.create_index("operations_by_collection", "operations", ["tenant", "collection", "created_at"])
    op.create_index("operations_by_end", "operations", ["tenant", "finished_at"])
    op.create_table(
        "uploads",
        *_key("tenant"),
        sa.Column("operation", sa.String(32), primary_key=True),
        sa.Column("ordinal", sa.Integer, primary_key=True),
        *_columns(sa.Text, "uri", "name", "title"),
        *_columns(sa.String(32), "format"),
        *_columns(sa.Text, "metadata"),
        *_columns(sa.LargeBinary, "data"),
    )


def _copy_collections() -> None:
    op.execute(
        "INSERT INTO collections (tenant, name, live, builds_made, created_at) "
        "SELECT tenant, name, name, 1, created_at FROM old_collections"
    )
    op.execute(
        "INSERT INTO builds (tenant, key, collection, number, embedding_model, dimension, chunk_tokens, index_name, "
        "state, snapshot, generation, documents, chunks, pinned, purged, created_at, published_at) "
        f"SELECT tenant, name, name, 1, embedding_model, 0, {_CHUNK_TOKENS}, index_name, 'ready', generation, "
        "generation, documents, chunks, 0, generation, created_at, published_at FROM old_collections"
    )
    connection = op.get_bind()
    for name in connection.execute(sa.text("SELECT DISTINCT index_name FROM builds")).scalars().all():
        size = name.rpartition("_")[2]
        known = {"dimension": int(size) if size.isdecimal() else 0, "name": name}
        connection.execute(sa.text("UPDATE builds SET dimension = :dimension WHERE index_name = :name"), known)


def _copy_documents() -> None:
    """A page at a time: their ids are hashes that SQLite cannot compute."""
    connection = op.get_bind()
    key = "tenant, collection, uri"
    page = sa.text(f"SELECT * FROM old_documents WHERE ({key}) > (:t, :c, :u) ORDER BY {key} LIMIT {_PAGE}")
    insert = sa.text(
        "INSERT INTO documents (tenant, build, uri, id, source, name, state, snapshot, title, content_hash, "
        "fingerprint, size, modified, chunks, reason, attempts, retry_at, updated_at) VALUES (:tenant, :collection, "
        ":uri, :id, :source, '', :state, :generation, :title, :content_hash, '', :size, :mtime, :chunks, :reason, "
        "0, 0, :updated_at)"
    )
    after = {"t": "", "c": "", "u": ""}
    while rows := connection.execute(page, after).mappings().all():
        connection.execute(insert, [dict(row) | {"id": _id(row["uri"])} for row in rows])
        after = {"t": rows[-1]["tenant"], "c": rows[-1]["collection"], "u": rows[-1]["uri"]}


def _copy_runs() -> None:
    """Runs did not count what they published; of the latest the collection knows it."""
    now = "(SELECT {} FROM old_collections c WHERE c.tenant = r.tenant AND c.name = r.collection)"
    after = (
        "(SELECT min(n.finished_at) FROM old_runs n WHERE n.tenant = r.tenant AND n.collection = r.collection "
        "AND n.state = 'published' AND n.generation > r.generation)"
    )
    counted = f"CASE WHEN r.generation = {now.format('generation')} THEN {{}} ELSE 0 END"
    op.execute(
        "INSERT INTO runs (tenant, build, snapshot, kind, state, generation, parent, started_at, finished_at, "
        "superseded_at, documents, chunks, summary) "
        "SELECT r.tenant, r.collection, r.generation, 'bulk', r.state, CASE WHEN r.state = 'published' THEN "
        f"r.generation ELSE 0 END, r.generation - 1, r.started_at, r.finished_at, coalesce({after}, 0), "
        f"{counted.format(now.format('documents'))}, {counted.format(now.format('chunks'))}, r.summary FROM old_runs r"
    )


def _id(uri: str) -> str:
    return hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:32]
