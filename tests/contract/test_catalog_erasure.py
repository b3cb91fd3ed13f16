"""What a deletion changes in the catalog, on SQLite and, where it is installed, PostgreSQL."""

from __future__ import annotations

import pytest

from serving.index.catalog import Catalog
from serving.index.catalog_models import Build, DocumentRecord, Recipe, StoredText, Upload


@pytest.fixture
async def build(catalog: Catalog) -> Build:
    return await catalog.create("docs", Recipe("model-a", 8, 200))


async def test_what_is_passed_over_leaves_no_bytes(catalog: Catalog, build: Build) -> None:
    """Texts go, uploads that wait are emptied, no text can be kept again; the rest is untouched."""
    texts = [StoredText(uri, "", "text", {}, "h") for uri in ("u1", "u2")]
    await catalog.record("docs", [], texts)
    operation = await catalog.operations.enqueue("docs", "upload", [Upload("u1", b"1", title="t"), Upload("u2", b"2")])
    assert await catalog.pass_over("docs", ["u1", "u1", "never seen"], at=1.0) == (1, 1)
    assert await catalog.texts_of("docs", ["u1", "u2", "never seen"]) == {"u2"}
    kept = [(upload.uri, upload.data, upload.title) async for upload in catalog.operations.uploads(operation.id)]
    assert kept == [("u1", b"", ""), ("u2", b"2", "")]
    assert await catalog.forgotten("docs", ["u1", "u2"]) == {"u1"}
    await catalog.record("docs", [], texts)
    assert await catalog.texts_of("docs", ["u1", "u2"]) == {"u2"}
    assert await catalog.pass_over("docs", ["u1"], at=2.0) == (0, 0)


async def test_generations_lose_what_is_erased(catalog: Catalog, build: Build) -> None:
    """The counts of each, the text, and what the record told of the document; only of one that is gone."""
    run = await catalog.begin_run(build, "short")
    await catalog.publish(run, documents_delta=3, chunks_delta=9, summary={})
    gone = DocumentRecord("u1", "s", "gone", run.snapshot, title="secret", chunks=0)
    live = DocumentRecord("u2", "s", "live", run.snapshot, title="public", chunks=4)
    await catalog.record("docs", [gone, live], [StoredText("u1", "", "text", {}, "h")])
    assert await catalog.erased("docs", ["u1", "u2"], {run.snapshot: (1, 5), 99: (1, 1)}) == 1
    (generation,) = await catalog.generations("docs")
    assert (generation.documents, generation.chunks) == (2, 4)
    found = await catalog.lookup("docs", ["u1", "u2"])
    assert (found["u1"].snapshot, found["u1"].title) == (0, "")
    assert (found["u2"].snapshot, found["u2"].title) == (run.snapshot, "public")


async def test_a_forgotten_document_that_returned_is_found(catalog: Catalog, build: Build) -> None:
    """One that a run has written since; not those that are away."""
    await catalog.pass_over("docs", ["u1", "u2", "u3"], at=1.0)
    records = [DocumentRecord("u1", "s", "written", 1), DocumentRecord("u2", "s", "gone", 1)]
    await catalog.record("docs", [*records, DocumentRecord("u4", "s", "live", 1)])
    assert await catalog.returned("docs") == ["u1"]


async def test_a_run_that_changed_nothing_leaves_no_trace(catalog: Catalog, build: Build) -> None:
    """The next one begins afresh; a published one stays."""
    run = await catalog.begin_run(build, "short")
    await catalog.abandon(run)
    assert await catalog.generations("docs") == []
    again = await catalog.begin_run(build, "short")
    assert (again.snapshot, again.resumed) == (run.snapshot, False)
    await catalog.publish(again, summary={})
    await catalog.abandon(again)
    assert len(await catalog.generations("docs")) == 1
