"""A collection holds what its sources hold: whatever changes, fails, vanishes or is repeated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from serving.errors import InvalidRequest, SourceError, UnknownCollection
from serving.index.types import Vectors
from tests.ingestion.conftest import Shelf
from tests.ingestion.pdf import make_pdf

PAGE = "# Page {0}\n\n" + "This page tells what {0} is about, in a few words that fill it. " * 14


async def test_all_kinds_of_files_are_ingested_and_published(shelf: Shelf) -> None:
    """Markdown, text, HTML and PDF, in folders of any depth."""
    shelf.put("a.md", PAGE.format("one"))
    shelf.put("deep/er/b.txt", PAGE.format("two"))
    shelf.put("c.html", "<h1>Three</h1><p>" + PAGE.format("three"))
    shelf.put("d.pdf", make_pdf(["Fourth document, first page."]))
    report = await shelf.ingest()
    assert shelf.counts(report) == {"new": 4}
    assert (report.published, report.generation, report.documents) == (True, 1, 4)
    assert report.chunks == len(await shelf.visible()) == report.written > 4


async def test_running_twice_changes_nothing(shelf: Shelf) -> None:
    """No generation is published, no row is touched, however often."""
    shelf.put("a.md", PAGE.format("one"))
    await shelf.ingest()
    rows = await shelf.rows()
    for _ in range(2):
        report = await shelf.ingest()
        assert shelf.counts(report) == {"unchanged": 1}
        assert (report.published, report.generation, report.written) == (False, 1, 0)
    assert await shelf.rows() == rows


async def test_a_changed_file_replaces_its_chunks(shelf: Shelf) -> None:
    """What stayed the same within it is not written again."""
    shelf.put("a.md", PAGE.format("one") + "\n\n# End\n\nThe old end. " + "Old words. " * 50)
    shelf.put("b.md", PAGE.format("two"))
    before = (await shelf.ingest(), await shelf.visible())[1]
    shelf.put("a.md", PAGE.format("one") + "\n\n# End\n\nThe new end. " + "New words. " * 50)
    report = await shelf.ingest()
    after = await shelf.visible()
    assert shelf.counts(report) == {"changed": 1, "unchanged": 1}
    assert 0 < report.written < len(after)
    assert len(after & before) == len(after) - report.written


async def test_a_removed_file_takes_its_chunks_away(shelf: Shelf) -> None:
    """And comes back when it comes back."""
    path = shelf.put("a.md", PAGE.format("one"))
    shelf.put("b.md", PAGE.format("two"))
    await shelf.ingest()
    both = await shelf.visible()
    path.unlink()
    assert shelf.counts(await shelf.ingest()) == {"removed": 1, "unchanged": 1}
    assert {Path(uri).name for uri, _ in await shelf.visible()} == {"b.md"}
    assert shelf.counts(await shelf.ingest()) == {"unchanged": 1}
    shelf.put("a.md", PAGE.format("one"))
    assert shelf.counts(await shelf.ingest()) == {"new": 1, "unchanged": 1}
    assert await shelf.visible() == both


async def test_other_sources_of_the_collection_are_left_alone(shelf: Shelf) -> None:
    """Only what a run looks at can be found missing."""
    shelf.put("left/a.md", PAGE.format("one"))
    path = shelf.put("right/b.md", PAGE.format("two"))
    await shelf.ingest()
    path.unlink()
    assert shelf.counts(await shelf.ingest(shelf.folder / "left")) == {"unchanged": 1}
    assert shelf.counts(await shelf.ingest(shelf.folder / "right")) == {"removed": 1}


async def test_the_last_good_state_outlives_a_failure(shelf: Shelf) -> None:
    """A file that breaks keeps its passages, and is taken up again when it is whole."""
    shelf.put("a.md", PAGE.format("one"))
    await shelf.ingest()
    good = await shelf.visible()
    shelf.put("a.md", b"\x00\x01\x02" * 500)
    shelf.put("b.md", PAGE.format("two"))
    report = await shelf.ingest()
    assert shelf.counts(report) == {"new": 1, "failed": 1}
    assert "not text" in report.failures[0].reason
    assert good < await shelf.visible()
    shelf.put("a.md", PAGE.format("one"))
    report = await shelf.ingest()
    assert shelf.counts(report) == {"unchanged": 2}
    assert (report.published, report.written) == (False, 0)


async def test_bad_files_fail_alone_with_their_reasons(shelf: Shelf) -> None:
    """Broken, empty, huge, binary, piped, looped: reported, and the rest is ingested."""
    shelf.put("good.md", PAGE.format("good"))
    shelf.put("empty.md", "")
    shelf.put("binary.md", os.urandom(3000))
    shelf.put("broken.pdf", b"%PDF-1.7 nothing follows")
    shelf.put("deep.html", "<div>" * 50_000)
    with (shelf.folder / "huge.txt").open("wb") as file:
        file.truncate(200_000_000)
    os.mkfifo(shelf.folder / "pipe.md")
    (shelf.folder / "dangling.md").symlink_to("nowhere.md")
    (shelf.folder / "sub").mkdir()
    (shelf.folder / "sub" / "loop").symlink_to(shelf.folder)
    shelf.put("image.png", b"\x89PNG")
    report = await shelf.ingest()
    reasons = {Path(failure.path).name: failure.reason for failure in report.failures}
    assert shelf.counts(report) == {"new": 1, "failed": 7}
    assert {name: word for name, word in _EXPECTED.items() if word not in reasons.get(name, "")} == {}
    assert any("loop" in reason for reason in report.skipped)
    assert any(".png" in reason for reason in report.skipped)


_EXPECTED = {
    "empty.md": "empty",
    "binary.md": "not text",
    "broken.pdf": "broken PDF",
    "deep.html": "empty",
    "huge.txt": "too large",
    "pipe.md": "not a regular file",
    "dangling.md": "broken symbolic link",
}


async def test_a_page_that_loses_its_text_loses_its_passages(shelf: Shelf) -> None:
    """A title alone is no failure, and nothing to find."""
    shelf.put("a.md", "---\ntitle: Page\n---\n" + PAGE.format("one"))
    shelf.put("b.md", PAGE.format("two"))
    await shelf.ingest()
    shelf.put("a.md", "---\ntitle: Page\n---\n")
    assert shelf.counts(await shelf.ingest()) == {"changed": 1, "unchanged": 1}
    assert {Path(uri).name for uri, _ in await shelf.visible()} == {"b.md"}
    report = await shelf.ingest()
    assert (shelf.counts(report), report.skipped.total(), report.published) == ({"unchanged": 1}, 1, False)


async def test_collections_do_not_see_each_other(shelf: Shelf) -> None:
    """The same documents in two collections, removed from one."""
    path = shelf.put("a.md", PAGE.format("one"))
    other = shelf.collection + "-other"
    await shelf.ingest()
    await shelf.ingest(collection=other)
    path.unlink()
    await shelf.ingest()
    assert await shelf.visible() == set()
    assert await shelf.visible(other) != set()


async def test_readers_see_the_old_state_until_the_new_one_is_published(shelf: Shelf) -> None:
    """A run that ends half way leaves the published generation as it was, and the next run goes on."""
    shelf.put("a.md", PAGE.format("one"))
    await shelf.ingest()
    old = await shelf.visible()
    shelf.put("a.md", PAGE.format("two"))
    shelf.put("b.md", PAGE.format("three") * 24)
    model = shelf.parts.embedder(shelf.settings.embedder.model)
    embed = model.embed
    calls = 0

    async def failing(texts: Sequence[str]) -> Vectors:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise UnknownCollection("the power went off")
        return await embed(texts)

    model.embed = failing  # type: ignore[method-assign]
    try:
        with pytest.raises(UnknownCollection):
            await shelf.ingest()
    finally:
        model.embed = embed  # type: ignore[method-assign]
    assert await shelf.visible() == old
    assert await shelf.dangling()
    assert shelf.counts(await shelf.ingest()) == {"changed": 1, "new": 1}
    assert not await shelf.dangling()


async def test_what_an_interrupted_run_began_elsewhere_is_undone(shelf: Shelf) -> None:
    """A later run over other sources publishes no half-written document."""
    shelf.put("left/a.md", PAGE.format("one") * 24)
    shelf.put("right/b.md", PAGE.format("two"))
    model = shelf.parts.embedder(shelf.settings.embedder.model)
    embed = model.embed
    calls = 0

    async def failing(texts: Sequence[str]) -> Vectors:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise UnknownCollection("the power went off")
        return await embed(texts)

    model.embed = failing  # type: ignore[method-assign]
    try:
        with pytest.raises(UnknownCollection):
            await shelf.ingest(shelf.folder / "left")
    finally:
        model.embed = embed  # type: ignore[method-assign]
    await shelf.ingest(shelf.folder / "right")
    assert {Path(uri).name for uri, _ in await shelf.visible()} == {"b.md"}
    await shelf.ingest(shelf.folder)
    assert {Path(uri).name for uri, _ in await shelf.visible()} == {"a.md", "b.md"}


async def test_an_index_that_lost_rows_is_repaired(shelf: Shelf) -> None:
    """What the catalog calls live and the store has lost is written again."""
    shelf.put("a.md", PAGE.format("one"))
    shelf.put("b.md", PAGE.format("two"))
    await shelf.ingest()
    whole = await shelf.visible()
    await shelf.parts.store.delete(shelf.index, [(await shelf.rows())[0].key])
    report = await shelf.ingest()
    assert (report.published, report.written) == (True, 1)
    assert await shelf.visible() == whole


async def test_patterns_choose_files_and_notice_their_removal(shelf: Shelf) -> None:
    """`**` crosses folders; what the pattern does not match is left alone."""
    shelf.put("a.md", PAGE.format("one"))
    path = shelf.put("x/y/b.md", PAGE.format("two"))
    shelf.put("x/c.txt", PAGE.format("three"))
    pattern = f"{shelf.folder}/**/*.md"
    assert shelf.counts(await shelf.ingest(pattern)) == {"new": 2}
    path.unlink()
    assert shelf.counts(await shelf.ingest(pattern)) == {"removed": 1, "unchanged": 1}
    (shelf.folder / "a.md").unlink()
    assert shelf.counts(await shelf.ingest(pattern)) == {"removed": 1}
    with pytest.raises(SourceError, match="matches no file"):
        await shelf.ingest(f"{shelf.folder}/*.pdf")


async def test_one_file_can_be_a_source(shelf: Shelf) -> None:
    """Named twice or inside a named folder, it is one document."""
    path = shelf.put("a.md", PAGE.format("one"))
    assert shelf.counts(await shelf.ingest(path, path, shelf.folder)) == {"new": 1}


@pytest.mark.parametrize("source", ["missing.md", "no/such/*.md", "nul\0.md"])
async def test_a_source_that_is_not_there_is_said_at_once(shelf: Shelf, source: str) -> None:
    """Nothing is begun."""
    with pytest.raises(SourceError):
        await shelf.ingest(shelf.folder / source)


async def test_a_collection_has_a_sound_name(shelf: Shelf) -> None:
    """Names become model ids: no blanks, no `@`."""
    with pytest.raises(InvalidRequest):
        await shelf.ingest(collection="a@b c")
