"""Operations: what was asked for over HTTP is kept until it is done, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import func, select, update

from serving.index.catalog import Catalog
from serving.index.catalog_models import Operation, Upload
from serving.index.catalog_tables import operations, uploads
from serving.settings import IndexSettings

UPLOADS = [
    Upload("u1", b"\x00\xff" * 500_000, "a.pdf", "Title", ".pdf", {"tag": ["a", "b"], "page": 1}),
    Upload("u2", b"", "b\0\ud83d.md"),
]


async def documents(catalog: Catalog, operation: Operation) -> list[Upload]:
    return [upload async for upload in catalog.operations.uploads(operation.id)]


async def kept(catalog: Catalog) -> int:
    query = select(func.count()).select_from(uploads).where(uploads.c.tenant == catalog._tenant)
    async with catalog._database.read() as connection:
        return int((await connection.execute(query)).scalar_one())


async def test_documents_wait_until_they_are_worked_on(catalog: Catalog) -> None:
    """They come back byte by byte in their order, and are dropped when the outcome is known."""
    operation = await catalog.operations.enqueue("docs", "upload", UPLOADS)
    assert (operation.state, operation.kind, operation.collection) == ("queued", "upload", "docs")
    assert await catalog.operations.get(operation.id) == operation
    (claimed,) = await catalog.operations.claim("docs")
    assert (claimed.id, claimed.state) == (operation.id, "running")
    assert claimed.started_at >= claimed.created_at > 0
    first, second = await documents(catalog, claimed)
    assert first == UPLOADS[0]
    assert (second.uri, second.data, second.name) == ("u2", b"", "b\ufffd\ufffd.md")
    await catalog.operations.finish(operation.id, "succeeded", result={"documents": 2})
    found = await catalog.operations.get(operation.id)
    assert found is not None
    assert (found.state, found.result, found.error) == ("succeeded", {"documents": 2}, "")
    assert found.finished_at >= found.started_at
    assert await documents(catalog, operation) == []
    assert await kept(catalog) == 0


async def test_the_first_outcome_stays(catalog: Catalog) -> None:
    """A worker that was given up for dead cannot change what another one has told."""
    operation = await catalog.operations.enqueue("docs", "upload", UPLOADS[1:])
    await catalog.operations.claim("docs")
    await catalog.operations.finish(operation.id, "failed", error="broken\0")
    await catalog.operations.finish(operation.id, "succeeded", result={"documents": 1})
    await catalog.operations.requeue(operation.id)
    found = await catalog.operations.get(operation.id)
    assert found is not None
    assert (found.state, found.error, found.result) == ("failed", "broken\ufffd", {})


async def test_operations_are_taken_in_their_order(catalog: Catalog) -> None:
    """Those of a worker that is gone come first again; one that is put back keeps its place."""
    made = [await catalog.operations.enqueue("docs", "delete", [f"u{i}"]) for i in range(4)]
    names = [operation.id for operation in made]
    assert [upload.uri for upload in await documents(catalog, made[3])] == ["u3"]
    assert [taken.id for taken in await catalog.operations.claim("docs", limit=2)] == names[:2]
    assert [taken.id for taken in await catalog.operations.claim("docs", limit=3)] == names[:3]
    await catalog.operations.finish(names[0], "succeeded")
    await catalog.operations.requeue(names[1])
    found = await catalog.operations.get(names[1])
    assert found is not None
    assert (found.state, found.started_at) == ("queued", 0.0)
    assert [taken.id for taken in await catalog.operations.claim("docs")] == names[1:]
    assert [operation.id for operation in await catalog.operations.latest("docs", limit=2)] == names[:1:-1]


async def test_collections_with_work_are_found(catalog: Catalog) -> None:
    """The longest waiting first, those whose work was begun included, those that are done not."""
    first = await catalog.operations.enqueue("b", "delete", ["u"])
    for collection in ("a", "b", "c"):
        await catalog.operations.enqueue(collection, "delete", ["u"])
    await catalog.operations.claim("b", limit=1)
    assert await catalog.operations.waiting() == ["b", "a", "c"]
    assert await catalog.operations.waiting(limit=1) == ["b"]
    await catalog.operations.finish(first.id, "succeeded")
    assert await catalog.operations.waiting() == ["a", "b", "c"]


async def test_outcomes_are_kept_for_a_week(catalog: Catalog) -> None:
    """Those that finished earlier leave with the next wish; what waits stays, however old."""
    old = await catalog.operations.enqueue("docs", "delete", ["u1"])
    waiting = await catalog.operations.enqueue("docs", "delete", ["u2"])
    await catalog.operations.finish(old.id, "succeeded")
    async with catalog._database.write() as connection:
        mine = operations.c.tenant == catalog._tenant
        aged = {"created_at": operations.c.created_at - 8 * 86_400}
        await connection.execute(update(operations).where(mine).values(**aged))
        ended = update(operations).where(mine, operations.c.id == old.id)
        await connection.execute(ended.values(finished_at=operations.c.finished_at - 8 * 86_400))
    assert await catalog.operations.get(old.id) is not None
    latest = await catalog.operations.enqueue("docs", "delete", ["u3"])
    assert await catalog.operations.get(old.id) is None
    assert [operation.id for operation in await catalog.operations.latest("docs")] == [latest.id, waiting.id]


@pytest.mark.parametrize("name", ["", "0" * 32, "\0", "\ud83d", "x' OR '1'='1"])
async def test_an_unknown_operation_is_none(catalog: Catalog, name: str) -> None:
    """Whatever a client sends as its id."""
    assert await catalog.operations.get(name) is None


async def test_tenants_do_not_see_each_others_work(catalog: Catalog, catalog_settings: IndexSettings) -> None:
    """Neither the operation nor its documents."""
    operation = await catalog.operations.enqueue("docs", "upload", UPLOADS)
    other = Catalog.connect(catalog_settings.model_copy(update={"tenant": "somebody else"}))
    assert await other.operations.get(operation.id) is None
    assert await other.operations.claim("docs") == []
    assert await documents(other, operation) == []
    await other.operations.finish(operation.id, "failed")
    assert len(await documents(catalog, operation)) == 2
    await other.close()


async def test_many_clients_at_once(catalog_settings: IndexSettings) -> None:
    """Every wish is kept, and each is claimed."""
    catalogs = [Catalog.connect(catalog_settings) for _ in range(4)]
    wishes = (catalogs[i % 4].operations.enqueue("docs", "upload", UPLOADS[1:]) for i in range(24))
    made = await asyncio.gather(*wishes)
    claimed = await catalogs[0].operations.claim("docs")
    assert sorted(operation.id for operation in claimed) == sorted(operation.id for operation in made)
    for catalog in catalogs:
        await catalog.close()
