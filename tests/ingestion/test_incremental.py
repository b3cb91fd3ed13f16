"""What did not change costs nothing, what moved is not embedded again, and nothing happens that was not asked for."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from ingestion.options import Options
from tests.ingestion.conftest import Shelf
from tests.ingestion.test_ingest import PAGE
from tests.ingestion.test_ingest_command import TIMEOUT_S, run


async def settle() -> None:
    """Files younger than this are read again, because a change after the look might not show in their times."""
    await asyncio.sleep(2.1)


async def test_an_unchanged_file_costs_a_look(shelf: Shelf) -> None:
    """Not even its bytes are read."""
    shelf.put("a.md", PAGE.format("one"))
    path = shelf.folder / "a.md"
    await settle()
    await shelf.ingest()
    record = (await shelf.parts.catalog.lookup(shelf.collection, [path.as_uri()]))[path.as_uri()]
    report = await shelf.ingest()
    assert shelf.counts(report) == {"unchanged": 1}
    assert "read" not in report.seconds
    assert (await shelf.parts.catalog.lookup(shelf.collection, [path.as_uri()]))[path.as_uri()] == record


async def test_a_touched_file_costs_a_hash(shelf: Shelf) -> None:
    """Nothing is parsed or embedded, and the next look is enough again."""
    shelf.put("a.md", PAGE.format("one"))
    await shelf.ingest()
    os.utime(shelf.folder / "a.md")
    await settle()
    report = await shelf.ingest()
    assert shelf.counts(report) == {"unchanged": 1}
    assert "read" in report.seconds
    assert "parse" not in report.seconds
    assert "read" not in (await shelf.ingest()).seconds


@pytest.mark.parametrize("name", ["b.md", "deeper/and/deeper/a.md"])
async def test_a_moved_file_is_not_embedded_again(shelf: Shelf, name: str) -> None:
    """It is one document, under its new uri, with the vectors that it had."""
    old = shelf.put("a.md", PAGE.format("one"))
    shelf.put("other.md", PAGE.format("two"))
    await shelf.ingest()
    chunks = len(await shelf.visible())
    new = shelf.folder / name
    new.parent.mkdir(parents=True, exist_ok=True)
    old.rename(new)
    report = await shelf.ingest()
    assert shelf.counts(report) == {"moved": 1, "unchanged": 1}
    assert (report.embedded, report.documents) == (0, 2)
    uris = {uri for uri, _ in await shelf.visible()}
    assert uris == {new.as_uri(), (shelf.folder / "other.md").as_uri()}
    assert len(await shelf.visible()) == chunks


async def test_a_renamed_text_file_is_not_embedded_again(shelf: Shelf) -> None:
    """Its title comes from its name; what is embedded does not."""
    old = shelf.put("harbour rules.txt", "Ships wait for the pilot before they enter the harbour. " * 20)
    await shelf.ingest()
    old.rename(shelf.folder / "port regulations.txt")
    report = await shelf.ingest()
    assert shelf.counts(report) == {"moved": 1}
    assert (report.embedded, report.written) == (0, report.chunks)


async def test_what_stayed_in_a_changed_file_is_not_embedded_again(shelf: Shelf) -> None:
    """A paragraph at the top moves everything below it, and is all there is to embed."""
    sections = "\n\n".join(f"## Part {n}\n\n" + f"Part {n} says what part {n} is about. " * 18 for n in range(8))
    shelf.put("a.md", f"# Title\n\n{sections}")
    first = await shelf.ingest()
    shelf.put("a.md", f"# Title\n\n## News\n\n{'Something new has come. ' * 25}\n\n{sections}")
    report = await shelf.ingest()
    assert shelf.counts(report) == {"changed": 1}
    assert report.written > report.embedded
    assert report.embedded < first.embedded / 2


async def test_a_dry_run_says_what_would_happen_and_does_nothing(shelf: Shelf) -> None:
    """The counts are those of the run that follows."""
    shelf.put("kept.md", PAGE.format("kept"))
    shelf.put("changed.md", PAGE.format("one"))
    gone = shelf.put("gone.md", PAGE.format("gone"))
    plan = await shelf.ingest(options=Options(dry_run=True))
    assert shelf.counts(plan) == {"new": 3}
    assert await shelf.parts.catalog.live_build(shelf.collection) is None
    await shelf.ingest()
    before = await shelf.rows()
    shelf.put("changed.md", PAGE.format("two"))
    shelf.put("new.md", PAGE.format("new"))
    shelf.put("bad.pdf", b"%PDF-1.4 no")
    gone.unlink()
    plan = await shelf.ingest(options=Options(dry_run=True))
    assert shelf.counts(plan) == {"new": 1, "changed": 1, "unchanged": 1, "failed": 1}
    assert (plan.missing, plan.published, plan.generation) == (1, False, 1)
    assert await shelf.rows() == before
    report = await shelf.ingest()
    assert shelf.counts(report) == {"new": 1, "changed": 1, "unchanged": 1, "failed": 1, "removed": 1}


async def test_an_emptied_folder_is_not_taken_at_its_word(shelf: Shelf) -> None:
    """A folder that is not mounted looks empty: its documents stay until --sync says that they are to go."""
    for number in range(30):
        shelf.put(f"{number}.md", f"# Page {number}\n\nThis is page {number}.")
    await shelf.ingest()
    for path in shelf.folder.iterdir():
        path.unlink()
    report = await shelf.ingest()
    assert (report.missing, report.documents, shelf.counts(report)) == (30, 30, {})
    report = await shelf.ingest(options=Options(sync=False))
    assert (report.missing, report.documents) == (30, 30)
    report = await shelf.ingest(options=Options(sync=True))
    assert (shelf.counts(report), report.documents) == ({"removed": 30}, 0)


async def test_patterns_take_documents_in_and_out(shelf: Shelf) -> None:
    """What is excluded now is removed, what is included again comes back."""
    shelf.put("a.md", PAGE.format("one"))
    shelf.put("drafts/b.md", PAGE.format("two"))
    assert shelf.counts(await shelf.ingest()) == {"new": 2}
    assert shelf.counts(await shelf.ingest(exclude=["drafts/"])) == {"unchanged": 1, "removed": 1}
    assert {Path(uri).name for uri, _ in await shelf.visible()} == {"a.md"}
    assert shelf.counts(await shelf.ingest()) == {"unchanged": 1, "new": 1}


async def test_a_watched_folder_is_followed(shelf: Shelf) -> None:
    """Each burst of changes becomes a report; Ctrl-C ends it in order."""
    shelf.put("a.md", PAGE.format("one"))
    process = await asyncio.create_subprocess_exec(
        *shelf.command(str(shelf.folder), "--watch", "--json"),
        env=shelf.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    try:
        async with asyncio.timeout(TIMEOUT_S):
            assert json.loads(await process.stdout.readline())["new"] == 1
            shelf.put("b.md", PAGE.format("two"))
            while (said := json.loads(await process.stdout.readline()))["new"] != 1:
                pass
            assert said["documents"] == 2
            (shelf.folder / "a.md").unlink()
            while (said := json.loads(await process.stdout.readline()))["removed"] != 1:
                pass
            assert said["documents"] == 1
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert not await shelf.dangling()


async def test_a_command_without_sources_says_what_is_missing(shelf: Shelf) -> None:
    """Nothing to watch, nothing to ingest."""
    code, _, err = await run(shelf)
    assert code == 2
    assert "Name at least one source" in err
    code, _, err = await run(shelf, "https://example.invalid/a.md", "--watch")
    assert code == 2
    assert "cannot be watched" in err
