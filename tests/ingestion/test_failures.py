"""One bad file fails alone; it is tried again when that makes sense, and not for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from ingestion import task
from ingestion.failures import failed_documents
from ingestion.options import PLAIN, Options
from ingestion.pipeline import ingest
from ingestion.records import MAX_ATTEMPTS, next_try
from ingestion.report import IngestReport
from ingestion.source import Body, Found
from serving.errors import SourceUnavailable
from serving.index.catalog_models import DocumentRecord
from tests.ingestion.conftest import Shelf
from tests.ingestion.test_ingest import PAGE
from tests.ingestion.test_ingest_command import run


@dataclass
class Flaky:
    """A store of documents that answers only now and then."""

    fails: int
    reads: int = 0
    text: str = "flaky"
    prefix: str = "flaky://"
    selective: bool = field(default=False)

    def read(self, max_bytes: int, known: str = "") -> Body:
        self.reads += 1
        if self.reads <= self.fails:
            raise SourceUnavailable("flaky:// does not answer.")
        return Body(PAGE.format("flaky").encode())

    def walk(self) -> Iterator[Found]:
        yield Found("flaky://a.md", "a.md", 10, 1.0, "", self)

    def covers(self, uri: str, source: str) -> bool:
        return uri.startswith(self.prefix)

    def gone(self, uri: str) -> bool:
        return False

    def close(self) -> None:
        """Nothing to close."""


async def take(shelf: Shelf, source: Flaky, options: Options = PLAIN) -> IngestReport:
    return await ingest([source], shelf.collection, settings=shelf.settings, parts=shelf.parts, options=options)


async def failures(shelf: Shelf) -> list[DocumentRecord]:
    return [record async for record in failed_documents(shelf.parts.catalog, shelf.collection)]


async def test_a_source_that_does_not_answer_is_asked_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one run, with pauses between."""
    monkeypatch.setattr(task, "_AGAIN_S", (0.0, 0.0, 0.0))
    source = Flaky(fails=3)
    assert shelf.counts(await take(shelf, source)) == {"new": 1}
    assert source.reads == 4
    assert await failures(shelf) == []


async def test_tries_have_a_bound_and_back_off(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run before the next try is due does not try, and does not count; after the last one only a person can."""
    monkeypatch.setattr(task, "_AGAIN_S", ())
    source, waits = Flaky(fails=99), []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        report = await take(shelf, source)
        (failed,) = await failures(shelf)
        assert (source.reads, failed.attempts, report.failures[0].reason) == (attempt, attempt, failed.reason)
        again = await take(shelf, source)
        assert (shelf.counts(again), source.reads) == ({"failed": 1}, attempt)
        assert await failures(shelf) == [failed]
        waits.append(failed.retry_at - failed.updated_at)
        await shelf.parts.catalog.record(shelf.collection, [replace(failed, retry_at=0.0)])
    assert all(later > 1.5 * earlier for earlier, later in pairwise(waits))
    (failed,) = await failures(shelf)
    assert next_try(failed) is None
    source.fails = 0
    assert shelf.counts(await take(shelf, source)) == {"failed": 1}
    assert shelf.counts(await take(shelf, source, Options(retry_failed=True))) == {"new": 1}
    assert await failures(shelf) == []


async def test_a_bad_file_is_not_parsed_twice(shelf: Shelf) -> None:
    """Until its bytes change; the others are ingested meanwhile, and nothing is counted as a try."""
    shelf.put("bad.pdf", b"%PDF-1.7 nothing follows")
    shelf.put("good.md", PAGE.format("good"))
    assert shelf.counts(await shelf.ingest()) == {"new": 1, "failed": 1}
    report = await shelf.ingest(options=Options(retry_failed=True))
    assert shelf.counts(report)["failed"] == 1
    (failed,) = await failures(shelf)
    shelf.put("more.md", PAGE.format("more"))
    assert shelf.counts(await shelf.ingest()) == {"new": 1, "unchanged": 1, "failed": 1}
    assert await failures(shelf) == [failed]
    shelf.put("bad.pdf", b"%PDF-1.7 nothing follows, and more of it")
    await shelf.ingest()
    assert (await failures(shelf))[0].size > failed.size


async def test_the_command_lists_failures_and_retries_them(shelf: Shelf) -> None:
    """With reasons and tries; `--retry-failed` needs no sources and looks at nothing else."""
    bad = shelf.put("bad.md", b"\x00\x01\x02" * 500)
    shelf.put("good.md", PAGE.format("good"))
    await shelf.ingest()
    code, out, err = await run(shelf, "--json", program="failures")
    said = json.loads(out)
    assert (code, said["failed"]) == (0, 1), err
    (document,) = said["documents"]
    assert (document["uri"], document["attempts"], document["chunks"]) == (bad.as_uri(), 1, 0)
    assert "not text" in document["reason"]
    code, out, _ = await run(shelf, program="failures")
    assert (code, "not text" in out, "bad.md" in out) == (0, True, True)
    shelf.put("bad.md", PAGE.format("better"))
    shelf.put("good.md", PAGE.format("not looked at"))
    code, out, err = await run(shelf, "--retry-failed", "--json")
    said = json.loads(out)
    assert (code, said["new"], said["failed"], said["changed"]) == (0, 1, 0, 0), err
    code, out, _ = await run(shelf, program="failures")
    assert (code, "Nothing has failed" in out) == (0, True)
    code, _, err = await run(shelf, "--retry-failed")
    assert (code, "nothing to retry" in err) == (2, True)
