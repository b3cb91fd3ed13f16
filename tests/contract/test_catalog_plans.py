"""What every call costs on a large catalog: SQLite tells how it would find the rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from serving.index.catalog import Catalog
from serving.index.catalog_models import Build, DocumentRecord, Recipe, Run, StoredText, Upload, document_id
from serving.settings import IndexSettings

Call = Callable[[Catalog, Build], Awaitable[Any]]
URIS = [f"u{i:04d}" for i in range(300)]


async def _listed(catalog: Catalog, **conditions: Any) -> None:
    async for _ in catalog.documents("docs", **conditions):
        pass


async def _publish(catalog: Catalog, build: Build) -> None:
    bulk = await catalog.begin_run(build, "bulk")
    short = await catalog.begin_run(build, "short")
    await catalog.publish(short, documents_delta=1, chunks_delta=1, summary={})
    await catalog.publish(bulk, chunks=1, summary={})


async def _operate(catalog: Catalog, build: Build) -> None:
    operation = await catalog.operations.enqueue("docs", "upload", [Upload("u", b"data")])
    await catalog.operations.latest("docs")
    await catalog.operations.claim("docs")
    async for _ in catalog.operations.uploads(operation.id):
        pass
    await catalog.operations.finish(operation.id, "succeeded")


async def _lease(catalog: Catalog, build: Build) -> None:
    async with catalog.leases.hold("run/docs", "testing") as lease:
        await lease.check()


CALLS: dict[str, Call] = {
    "collection": lambda catalog, build: catalog.collection("docs"),
    "live_build": lambda catalog, build: catalog.live_build("docs"),
    "lookup": lambda catalog, build: catalog.lookup("docs", URIS),
    "document": lambda catalog, build: catalog.document("docs", document_id("u0001")),
    "documents": lambda catalog, build: _listed(catalog),
    "documents of a source": lambda catalog, build: _listed(catalog, source="s"),
    "live documents": lambda catalog, build: _listed(catalog, states=("live",)),
    "failed documents": lambda catalog, build: _listed(catalog, states=("failed",)),
    "unfinished documents": lambda catalog, build: _listed(catalog, states=("parsed", "written", "gone")),
    "record": lambda catalog, build: catalog.record("docs", [], [StoredText("u", "", "text", {}, "h")]),
    "states": lambda catalog, build: catalog.states("docs"),
    "chunk_sum": lambda catalog, build: catalog.chunk_sum("docs", ("live", "failed")),
    "same_content": lambda catalog, build: catalog.same_content("docs", [f"h{i}" for i in range(300)]),
    "texts": lambda catalog, build: catalog.texts("docs"),
    "forgotten": lambda catalog, build: catalog.forgotten("docs", URIS),
    "forget": lambda catalog, build: catalog.forget("docs", URIS, at=1.0),
    "allow_again": lambda catalog, build: catalog.allow_again("docs", URIS),
    "pass_over": lambda catalog, build: catalog.pass_over("docs", URIS, at=1.0),
    "erased": lambda catalog, build: catalog.erased("docs", URIS, {1: (1, 1)}),
    "texts_of": lambda catalog, build: catalog.texts_of("docs", URIS),
    "returned": lambda catalog, build: catalog.returned("docs"),
    "abandon": lambda catalog, build: catalog.abandon(Run("docs", "docs", build.index, 1, 0, "short")),
    "publish": _publish,
    "generations": lambda catalog, build: catalog.generations("docs"),
    "oldest_needed": lambda catalog, build: catalog.oldest_needed("docs", 3, 60.0),
    "drop_build": lambda catalog, build: catalog.drop_build("docs", "docs~2"),
    "operations": _operate,
    "leases": _lease,
}


@contextmanager
def _statements(path: Path) -> Iterator[list[tuple[str, Any]]]:
    """Of this database: other catalogs of the process are at work, too."""
    met: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if connection.engine.url.database == str(path) and statement.startswith(("SELECT", "UPDATE", "DELETE")):
            met.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield met
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.parametrize("name", CALLS)
async def test_every_call_finds_its_rows_by_an_index(tmp_path: Path, name: str) -> None:
    """No statement goes through a whole table, and none sorts more than it gives back."""
    path = tmp_path / "catalog.db"
    catalog = Catalog.connect(IndexSettings(catalog_url=f"sqlite:///{path}"))
    build = await catalog.create("docs", Recipe("m", 8, 200))
    await catalog.add_build("docs", Recipe("other", 8, 200))
    records = [DocumentRecord(uri, "s", "written", 1, content_hash=f"h{i}", chunks=1) for i, uri in enumerate(URIS)]
    await catalog.record("docs", records)
    with _statements(path) as statements:
        await CALLS[name](catalog, build)
    await catalog.close()
    assert statements
    with sqlite3.connect(path) as connection:
        for statement, parameters in statements:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            # The last page of several states is merged from one page of each.
            merged = "UNION ALL" in statement
            slow = [step for step in plan if step.startswith("SCAN") and not (merged and "SCAN anon" in step)]
            slow += [step for step in plan if "TEMP B-TREE FOR ORDER BY" in step and not merged]
            assert not slow, f"{statement}\n{plan}"
    connection.close()
