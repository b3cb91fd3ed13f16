"""The states of documents and their kept texts, on SQLite and, where it is installed, PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from serving.errors import CatalogUnavailable
from serving.index.catalog import Catalog
from serving.index.catalog_models import (
    MAX_URI_BYTES,
    Build,
    DocumentRecord,
    Recipe,
    State,
    StoredText,
    document_id,
)

RECIPE = Recipe("model-a", 8, 200)


@pytest.fixture
async def build(catalog: Catalog) -> Build:
    return await catalog.create("docs", RECIPE)


def record(uri: str, state: State = "written", snapshot: int = 1, chunks: int = 2, **more: Any) -> DocumentRecord:
    return DocumentRecord(uri, more.pop("source", "s"), state, snapshot, chunks=chunks, **more)


def text(uri: str, content: str = "text") -> StoredText:
    return StoredText(uri, "Title", content, {"page": [1, 2], "tag": "é\0"}, f"hash of {len(content)}")


async def uris(catalog: Catalog, **conditions: Any) -> list[str]:
    return [found.uri async for found in catalog.documents("docs", **conditions)]


async def test_records_are_found_listed_and_overwritten(catalog: Catalog, build: Build) -> None:
    """Thousands of documents page by page, in the order of their uris, each once."""
    names = sorted(f"file:///{i:05d} 'é\".md" for i in range(2_500))
    await catalog.record("docs", [record(uri) for uri in reversed(names)])
    full = DocumentRecord(names[7], "src", "failed", 5, "name", "T", "h", "f", 9, 1.5, 3, "broken\nfile", 2, 7.5)
    await catalog.record("docs", [full])
    await catalog.record("docs", [])
    assert await uris(catalog) == names
    assert await uris(catalog, after=names[1_999]) == names[2_000:]
    assert await uris(catalog, states=("failed",)) == [names[7]]
    found = await catalog.lookup("docs", [*names[:1_200], "missing"])
    assert sorted(found) == names[:1_200]
    seven = found[names[7]]
    assert seven.updated_at > 0
    assert replace(seven, updated_at=0.0) == full
    assert await catalog.document("docs", full.id) == seven
    for unknown in (document_id("missing"), "", "\0", "\ud83d"):
        assert await catalog.document("docs", unknown) is None


async def test_uris_are_in_byte_order(catalog: Catalog, build: Build) -> None:
    """On both databases, whatever the server's locale: capitals before small letters, ASCII before the rest."""
    names = ["B", "a", "a-b", "a_b", "ab", "b", "é", "日", "\U0001f600"]
    await catalog.record("docs", [record(uri) for uri in reversed(names)])
    assert await uris(catalog) == names


async def test_the_longest_uri_can_be_stored(catalog: Catalog, build: Build) -> None:
    """What compresses badly is the worst case for PostgreSQL's index entries."""
    digits = "".join(document_id(str(i)) for i in range(MAX_URI_BYTES // 32))
    await catalog.record("docs", [record(digits)], [text(digits)])
    assert await uris(catalog) == [digits]


@pytest.mark.parametrize("limit", [1, 2, 1_000])
async def test_several_states_come_in_one_order(catalog: Catalog, build: Build, limit: int) -> None:
    """Merged by uri, whichever states are asked for, a page after the other."""
    states: Sequence[State] = ("failed", "gone", "parsed", "found", "live", "forgotten", "written")
    await catalog.record("docs", [record(f"u{i:03d}", states[i % 7]) for i in range(70)])
    for wanted in (("failed",), ("gone", "parsed"), ("live", "gone", "found"), states, ()):
        expected = [f"u{i:03d}" for i in range(70) if not wanted or states[i % 7] in wanted]
        assert await uris(catalog, states=wanted) == expected
        if len(wanted) == 1:
            pages, after = [], ""
            while page := await catalog.page("docs", after, limit, wanted[0]):
                pages += page
                after = page[-1].uri
            assert [found.uri for found in pages] == expected
    assert await catalog.states("docs") == dict.fromkeys(states, 10)
    assert await catalog.chunk_sum("docs", ("live", "failed")) == 40
    assert await catalog.chunk_sum("docs", ()) == 0


async def test_a_source_lists_its_own(catalog: Catalog, build: Build) -> None:
    """Also when thousands of another source lie before them."""
    await catalog.record("docs", [record(f"a{i:04d}", source="a") for i in range(2_100)])
    await catalog.record("docs", [record("b", source="b"), record("c", "failed", source="b")])
    assert await uris(catalog, source="b") == ["b", "c"]
    assert await uris(catalog, source="b", states=("failed",)) == ["c"]
    assert await uris(catalog, source="c") == []


async def test_rows_may_change_under_a_reader(catalog: Catalog, build: Build) -> None:
    """A listing that runs while its documents are recorded anew gives each once."""
    await catalog.record("docs", [record(f"u{i:04d}", "parsed") for i in range(1_500)])
    met = []
    async for found in catalog.documents("docs", states=("parsed",)):
        met.append(found.uri)
        if len(met) % 50 == 0:
            await catalog.record("docs", [replace(found, state="live", uri=uri) for uri in met[-50:]])
    assert met == [f"u{i:04d}" for i in range(1_500)]


async def test_written_documents_are_live_once_their_snapshot_is_published(catalog: Catalog, build: Build) -> None:
    """In every answer, at once, for as many documents as there are; what is written for later stays `written`."""
    run = await catalog.begin_run(build, "bulk")
    short = await catalog.begin_run(build, "short")
    await catalog.record("docs", [record(f"u{i:04d}", snapshot=run.snapshot, content_hash="h") for i in range(2_500)])
    await catalog.record("docs", [record("quick", snapshot=short.snapshot, content_hash="q")])
    await catalog.publish(short, documents_delta=1, chunks_delta=2, summary={})
    assert await uris(catalog, states=("live",)) == ["quick"]
    assert await catalog.states("docs") == {"live": 1, "written": 2_500}
    assert await catalog.same_content("docs", ["h", "q", ""]) == {"q": "quick"}
    await catalog.publish(run, chunks=5_002, summary={})
    later = await catalog.begin_run(build, "short")
    await catalog.record("docs", [record("u0007", snapshot=later.snapshot)])
    assert len(await uris(catalog, states=("live",))) == 2_500
    assert await uris(catalog, states=("written",)) == ["u0007"]
    assert await uris(catalog, states=("written", "gone")) == ["u0007"]
    assert (await catalog.lookup("docs", ["u0000"]))["u0000"].state == "live"
    assert await catalog.chunk_sum("docs", ("live",)) == 5_000
    assert await catalog.same_content("docs", ["h", "q"]) == {"h": "u0000", "q": "quick"}


async def test_a_batch_is_recorded_whole_or_not_at_all(catalog: Catalog, build: Build) -> None:
    """One row the database refuses leaves none of its batch, and none of its texts."""
    broken = replace(record("bad"), size=None)  # type: ignore[arg-type]
    with pytest.raises(CatalogUnavailable):
        await catalog.record("docs", [record("good"), broken], [text("good")])
    assert await uris(catalog) == []
    assert await catalog.text("docs", "good") is None


async def test_what_no_database_stores_is_replaced(catalog: Catalog, build: Build) -> None:
    """NUL and half characters in names, titles and reasons of broken files do not stop a run."""
    odd = "a\0b\ud83dc\U0001f600"
    await catalog.record("docs", [record("u", "failed", name=odd, title=odd, reason=odd)])
    found = (await catalog.lookup("docs", ["u"]))["u"]
    assert found.name == found.title == found.reason == "a\ufffdb\ufffdc\U0001f600"


# -- texts -------------------------------------------------------------------------------------------------------------


async def test_texts_come_back_as_they_were(catalog: Catalog, build: Build) -> None:
    """Any text, with its metadata; written with the records of any build, they belong to the collection."""
    kept = [text("u1", "long " * 10_000), text("u2", ""), text("u3", "nul \0, half \ud83d, 日本")]
    await catalog.add_build("docs", Recipe("model-b", 8, 200))
    await catalog.record("docs", [record("u1"), record("u3")], [kept[2], kept[0]])
    await catalog.record("docs~2", [], [kept[1], text("u1")])
    assert await catalog.text("docs", "u1") == text("u1")
    assert await catalog.texts("docs") == [text("u1"), *kept[1:]]
    assert await catalog.texts("docs", after="u1", limit=1) == [kept[1]]
    await catalog.drop_texts("docs", ["u1", "u2", "missing"])
    assert await catalog.texts("docs") == [kept[2]]


async def test_forgotten_documents_leave_nothing_behind(catalog: Catalog, build: Build) -> None:
    """Text, title, name, hash and reason are gone from every build, and ingestion can ask what to pass over."""
    await catalog.add_build("docs", Recipe("model-b", 8, 200))
    secret = record("u1", name="secret.md", title="Secret", content_hash="h", fingerprint="f", reason="r", size=5)
    await catalog.record("docs", [secret, record("u2")], [text("u1"), text("u2")])
    await catalog.record("docs~2", [secret])
    await catalog.forget("docs", ["u1", "never seen", "u1"], at=12.5)
    for key in ("docs", "docs~2"):
        left = (await catalog.lookup(key, ["u1"]))["u1"]
        assert left == DocumentRecord("u1", "s", "forgotten", 1, updated_at=12.5)
    assert await catalog.text("docs", "u1") is None
    assert await catalog.forgotten("docs", ["u1", "u2", "never seen"]) == {"u1", "never seen"}
    await catalog.record("docs~2", [], [text("u1"), text("u2", "new")])
    assert await catalog.texts("docs") == [text("u2", "new")]


async def test_a_forgotten_document_can_be_allowed_again(catalog: Catalog, build: Build) -> None:
    """It is then one that the catalog has never seen; others stay as they are."""
    await catalog.record("docs", [record("u1"), record("u2")])
    await catalog.forget("docs", ["u1", "u2"], at=1.0)
    await catalog.allow_again("docs", ["u1", "u3"])
    assert await catalog.forgotten("docs", ["u1", "u2"]) == {"u2"}
    assert list(await catalog.lookup("docs", ["u1", "u2"])) == ["u2"]
    await catalog.record("docs", [record("u1")], [text("u1")])
    assert await catalog.text("docs", "u1") == text("u1")
    await catalog.allow_again("docs", ["u1"])
    assert list(await catalog.lookup("docs", ["u1"])) == ["u1"]
