"""What is removed for good is gone from everything that keeps it, proven, and stays away until it is allowed again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingestion.erase import erase
from ingestion.forget import allow_again, documents_named
from ingestion.options import Options
from ingestion.receipt import Receipt, digest
from ingestion.write import Writer
from serving.errors import InvalidRequest, NotFound, WriterBusy
from serving.index.catalog_models import Build, DocumentRecord, Upload, document_id
from serving.index.milvus import Milvus
from tests.ingestion.conftest import Shelf
from tests.ingestion.test_generations import PowerCut, back, consistent, cut_after
from tests.ingestion.test_ingest import PAGE
from tests.ingestion.test_ingest_command import run


async def forget(shelf: Shelf, *paths: Path, for_good: bool = True, wait_s: float = 0.0) -> Receipt:
    uris = [path.as_uri() for path in paths]
    return await erase(shelf.parts, shelf.settings, shelf.collection, uris, for_good=for_good, wait_s=wait_s)


async def left_of(shelf: Shelf, path: Path, build: str = "") -> list[str]:
    """Rows of a document, whoever may see them, and its text."""
    rows = await shelf.parts.store.keys(shelf.index, build or shelf.collection, [path.as_uri()])
    text = await shelf.parts.catalog.text(shelf.collection, path.as_uri())
    return [row.key for row in rows] + [text.uri for text in (text,) if text is not None]


async def test_an_erased_document_is_gone_from_every_generation(shelf: Shelf) -> None:
    """Rows, text and counts; the other documents are as they were; the receipt says what was looked for."""
    path = shelf.put("a.md", PAGE.format("one"))
    shelf.put("b.md", PAGE.format("two"))
    await shelf.ingest()
    shelf.put("b.md", PAGE.format("two changed"))
    await shelf.ingest()
    before = await shelf.visible()
    receipt = await forget(shelf, path, for_good=False)
    said = receipt.as_json()
    assert (receipt.proven, said["proven"], receipt.failed()) == (True, True, [])
    assert said["sha256"] == digest(json.loads(json.dumps(said)))
    assert digest(said | {"rows_removed": 0}) != said["sha256"]
    mine = {row for row in before if row[0] == path.as_uri()}
    assert (said["documents_asked"], said["documents_found"], said["texts_removed"]) == (1, 1, 1)
    assert said["rows_removed"] == len(mine) == said["documents"][0]["rows"] > 0
    assert sum(check["asked"] for check in said["checks"]) == 2 + 2 * len(mine)
    assert any(path.as_uri() in limit for limit in said["not_covered"])
    assert await shelf.visible() == before - mine
    assert await left_of(shelf, path) == []
    for generation in await shelf.parts.catalog.generations(shelf.collection):
        stored = await shelf.parts.store.count(shelf.index, shelf.collection, generation.snapshot)
        assert (generation.chunks, generation.documents) == (stored, 1)
    await consistent(shelf)
    again = await forget(shelf, path, for_good=False)
    assert (again.proven, again.rows, again.found) == (True, 0, 0)
    assert shelf.counts(await shelf.ingest()) == {"new": 1, "unchanged": 1}
    assert await shelf.visible() == before


async def test_a_forgotten_document_stays_away_until_it_is_allowed(shelf: Shelf) -> None:
    """Ingestion passes over it and says so; nothing of an upload of it is kept."""
    path = shelf.put("a.md", PAGE.format("one"))
    shelf.put("b.md", PAGE.format("two"))
    await shelf.ingest()
    before = await shelf.visible()
    catalog = shelf.parts.catalog
    upload = await catalog.operations.enqueue(shelf.collection, "upload", [Upload(path.as_uri(), b"secret")])
    receipt = await forget(shelf, path)
    assert (receipt.proven, receipt.uploads, receipt.texts) == (True, 1, 1)
    assert [kept.data async for kept in catalog.operations.uploads(upload.id)] == [b""]
    assert (await catalog.states(shelf.collection))["forgotten"] == 1
    for _ in range(2):
        report = await shelf.ingest()
        assert (shelf.counts(report), report.published) == ({"unchanged": 1}, False)
        assert [reason for reason in report.skipped if "forgotten" in reason]
    assert await left_of(shelf, path) == []
    assert await allow_again(catalog, shelf.collection, [str(path)]) == [path.as_uri()]
    assert shelf.counts(await shelf.ingest()) == {"new": 1, "unchanged": 1}
    assert await shelf.visible() == before
    with pytest.raises(NotFound, match="not forgotten"):
        await allow_again(catalog, shelf.collection, [str(path)])


async def test_a_document_is_named_by_uri_path_or_id(shelf: Shelf) -> None:
    """A pattern, a folder or a slip of the pen removes nothing; what may be meant is said."""
    path = shelf.put("guides/install.md", PAGE.format("one"))
    await shelf.ingest()
    catalog, uri = shelf.parts.catalog, path.as_uri()
    for name in (uri, str(path), document_id(uri)):
        assert await documents_named(catalog, shelf.collection, [name]) == [uri]
    with pytest.raises(InvalidRequest, match="pattern"):
        await documents_named(catalog, shelf.collection, [f"{path.parent}/*.md"])
    for slip in (path.parent / "instal.md", path.parent, shelf.folder):
        with pytest.raises(NotFound, match=r"Do you mean .*install\.md"):
            await documents_named(catalog, shelf.collection, [str(slip)])


async def test_a_removal_may_be_cut_off_anywhere(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers see the document whole or not at all, and the same call completes it."""
    path = shelf.put("a.md", PAGE.format("one"))
    shelf.put("b.md", PAGE.format("two"))
    await shelf.ingest()
    with_it = await shelf.visible()
    without = {row for row in with_it if row[0] != path.as_uri()}
    cuts = 0
    for step in range(1, 20):
        with monkeypatch.context() as patched:
            left = cut_after(step, patched)
            try:
                receipt = await forget(shelf, path)
            except PowerCut:
                cuts += 1
                assert await shelf.visible() in (with_it, without)
            if left[0] > 0:
                break
    assert (cuts >= 3, receipt.proven) == (True, True)
    assert await shelf.visible() == without
    assert await left_of(shelf, path) == []
    await consistent(shelf)


async def test_a_document_that_a_run_is_changing_is_waited_for(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the run lives nothing is begun; when it is dead, what it has written goes as well."""
    path = shelf.put("a.md", PAGE.format("one"))
    other = shelf.put("b.md", PAGE.format("two"))
    await shelf.ingest()
    shelf.put("a.md", PAGE.format("changed"))
    with monkeypatch.context() as patched:
        cut_after(2, patched)
        with pytest.raises(PowerCut):
            await shelf.ingest()
    async with shelf.parts.catalog.leases.hold(f"run/{shelf.collection}", "an ingestion"):
        with pytest.raises(WriterBusy, match="an ingestion holds"):
            await forget(shelf, path)
        assert not await shelf.parts.catalog.forgotten(shelf.collection, [path.as_uri()])
        assert (await forget(shelf, other)).proven  # the run is not at this one
    assert {uri for uri, _ in await shelf.visible()} == {path.as_uri()}
    assert (await forget(shelf, path)).proven
    assert (await left_of(shelf, path), await shelf.visible()) == ([], set())
    await consistent(shelf)


async def test_a_run_that_has_read_it_does_not_bring_it_back(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgotten between being read and being written: the publication leaves it out."""
    shelf.put("a.md", PAGE.format("one"))
    await shelf.ingest()
    path = shelf.put("b.md", PAGE.format("two"))
    plan = Writer.plan

    async def late(self: Writer, group: Any) -> Any:
        await forget(shelf, path)
        return await plan(self, group)

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "plan", late)
        await shelf.ingest()
    assert path.as_uri() not in {uri for uri, _ in await shelf.visible()}
    assert await left_of(shelf, path) == []
    assert (await shelf.parts.catalog.lookup(shelf.collection, [path.as_uri()]))[path.as_uri()].state == "forgotten"
    await consistent(shelf)


async def test_every_build_of_the_collection_loses_it(shelf: Shelf) -> None:
    """One that was switched from, and one that is not published yet."""
    path = shelf.put("a.md", PAGE.format("one"))
    shelf.put("b.md", PAGE.format("two"))
    await shelf.ingest()
    kept, begun = await _copy(shelf, 111, published=True), await _copy(shelf, 222, published=False)
    receipt = await forget(shelf, path)
    assert (receipt.proven, receipt.failed()) == (True, [])
    assert [removed.build for removed in receipt.builds] == [kept.key, begun.key, shelf.collection]
    assert len({removed.rows for removed in receipt.builds}) == 1
    for build in (shelf.collection, kept.key, begun.key):
        assert await left_of(shelf, path, build) == []
    builds = {build.key: build for build in await shelf.parts.catalog.builds(shelf.collection)}
    assert builds[kept.key].documents == builds[shelf.collection].documents == 1
    assert builds[kept.key].chunks == await shelf.parts.store.count(shelf.index, kept.key, builds[kept.key].snapshot)
    assert builds[begun.key].snapshot == 0


async def _copy(shelf: Shelf, chunk_tokens: int, *, published: bool) -> Build:
    """Another build of the same rows."""
    catalog, store = shelf.parts.catalog, shelf.parts.store
    live = await catalog.live_build(shelf.collection)
    assert live is not None
    build = await catalog.add_build(shelf.collection, replace(live.recipe, chunk_tokens=chunk_tokens))
    work = await catalog.begin_run(build, "bulk")
    keys = [row.key for row in await shelf.rows()]
    rows = [row async for row in store.chunks(shelf.index, build.key, keys)]
    await store.upsert(shelf.index, [replace(row, born=work.snapshot) for row in rows])
    records: list[DocumentRecord] = [record async for record in catalog.documents(shelf.collection)]
    await catalog.record(build.key, [replace(one, state="written", snapshot=work.snapshot) for one in records])
    if published:
        await catalog.publish(work, chunks=len(rows), summary={})
    return build


async def test_a_check_that_fails_is_told(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that keeps what it was to delete is found out."""
    path = shelf.put("a.md", PAGE.format("one"))
    await shelf.ingest()

    async def nothing(self: Milvus, index: str, keys: Sequence[str]) -> None:
        return None

    with monkeypatch.context() as patched:
        patched.setattr(Milvus, "delete", nothing)
        receipt = await forget(shelf, path)
    assert (receipt.proven, [check.check for check in receipt.failed()]) == (False, ["no row is left"])
    assert receipt.failed()[0].answers[0] == path.as_uri()
    assert (await forget(shelf, path)).proven


async def test_sync_erases_what_has_vanished(shelf: Shelf) -> None:
    """With a receipt; without it, what has vanished can be brought back."""
    shelf.put("a.md", PAGE.format("one"))
    early, late = (shelf.put(f"{name}.md", PAGE.format(name)) for name in ("early", "late"))
    await shelf.ingest()
    early.unlink()
    assert (await shelf.ingest()).receipt is None
    assert await left_of(shelf, early)
    late.unlink()
    report = await shelf.ingest(options=Options(sync=True))
    assert report.receipt is not None
    assert (report.receipt["proven"], report.receipt["documents_found"]) == (True, 2)
    assert await left_of(shelf, early) + await left_of(shelf, late) == []
    assert (await shelf.ingest(options=Options(sync=True))).receipt is None
    assert (await back(shelf, 1)).erased == 2
    assert {Path(uri).name for uri, _ in await shelf.visible()} == {"a.md"}
    await consistent(shelf)


async def test_the_command_prints_and_keeps_a_receipt(shelf: Shelf) -> None:
    """Exit code 0 with a proof, 2 for what is not known, and the way back."""
    path = shelf.put("a.md", PAGE.format("one"))
    shelf.put("b.md", PAGE.format("two"))
    await shelf.ingest()
    kept = shelf.folder.parent / "receipt.json"
    code, out, err = await run(shelf, str(path), "--receipt", str(kept), program="forget")
    assert (code, "They are gone." in out) == (0, True), err
    said = json.loads(kept.read_text())
    assert (said["sha256"], said["proven"], said["passed_over_from_now_on"]) == (digest(said), True, True)
    assert said["sha256"] in out
    assert await left_of(shelf, path) == []
    code, out, err = await run(shelf, str(shelf.folder / "bb.md"), "--json", program="forget")
    assert (code, out, "b.md" in err) == (2, "", True)
    code, out, err = await run(shelf, str(path), "--allow", "--json", program="forget")
    assert (code, json.loads(out)["allowed"]) == (0, [path.as_uri()]), err
