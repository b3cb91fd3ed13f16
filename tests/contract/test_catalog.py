"""The catalog's contract, on SQLite and, where it is installed, PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from serving.errors import CatalogUnavailable, ConfigurationError, InvalidRequest, UnknownCollection
from serving.index.catalog import Catalog
from serving.index.catalog_models import DocumentRecord, State
from serving.index.types import Collection
from serving.settings import IndexSettings
from tests.contract.conftest import free_port


def record(
    uri: str, state: State = "written", generation: int = 1, chunks: int = 2, source: str = "s"
) -> DocumentRecord:
    return DocumentRecord(uri, source, state, generation, seen=generation, chunks=chunks, content_hash="h")


async def all_of(catalog: Catalog, **conditions: object) -> list[str]:
    return [found.uri async for found in catalog.documents("docs", **conditions)]  # type: ignore[arg-type]


async def test_nothing_is_published_before_the_run_says_so(catalog: Catalog) -> None:
    """Readers see generation 0 while a run writes, and everything of it at once afterwards."""
    run = await catalog.begin_run("docs", "index_a", "model-a")
    assert (run.generation, run.published, run.resumed) == (1, 0, False)
    await catalog.record("docs", [record("u1"), record("u2", "failed", chunks=0), record("u3", "parsed", chunks=0)])
    assert await catalog.collection("docs") == Collection("docs", 0, "index_a", 0, 0)
    published = await catalog.publish(run, chunks=2, summary={"new": 1, "failed": 1})
    assert published == Collection("docs", 1, "index_a", 1, 2)
    assert await catalog.collection("docs") == published
    assert await catalog.collections() == [published]
    assert await catalog.states("docs") == {"live": 1, "failed": 1, "parsed": 1}
    (ran,) = await catalog.runs("docs")
    assert (ran.generation, ran.state, ran.summary) == (1, "published", {"new": 1, "failed": 1})
    assert ran.finished_at >= ran.started_at > 0


async def test_an_unfinished_run_is_resumed(catalog: Catalog) -> None:
    """Beginning again gives the same generation until it is published, and the next one then."""
    first = await catalog.begin_run("docs", "index_a", "model-a")
    again = await catalog.begin_run("docs", "index_a", "model-a")
    assert again == replace(first, resumed=True)
    await catalog.publish(again, chunks=0, summary={})
    following = await catalog.begin_run("docs", "index_a", "model-a")
    assert (following.generation, following.published, following.resumed) == (2, 1, False)


async def test_publishing_twice_changes_nothing(catalog: Catalog) -> None:
    """A writer that died after publishing may repeat it, even when a later generation is out already."""
    run = await catalog.begin_run("docs", "index_a", "model-a")
    await catalog.publish(run, chunks=5, summary={"new": 1})
    before = await catalog.collection("docs"), await catalog.runs("docs")
    await catalog.publish(run, chunks=7, summary={})
    assert (await catalog.collection("docs"), await catalog.runs("docs")) == before
    later = await catalog.begin_run("docs", "index_a", "model-a")
    await catalog.publish(later, chunks=9, summary={})
    await catalog.publish(run, chunks=5, summary={})
    assert (await catalog.collection("docs")).generation == 2


async def test_a_document_whose_new_text_failed_still_counts(catalog: Catalog) -> None:
    """Its old chunks are served, so it is among the documents; one that is gone, or never worked, is not."""
    run = await catalog.begin_run("docs", "index_a", "model-a")
    states: list[DocumentRecord] = [record("old", "failed", chunks=3), record("never", "failed", chunks=0)]
    await catalog.record("docs", [*states, record("away", "gone", chunks=0), record("fine", "live", chunks=1)])
    assert (await catalog.publish(run, chunks=4, summary={})).documents == 2


async def test_a_collection_keeps_its_embedding_model(catalog: Catalog) -> None:
    """Another model is refused, naming both and what to do; the first one is still welcome."""
    await catalog.begin_run("docs", "index_a", "model-a")
    with pytest.raises(ConfigurationError, match=r"'model-a'.*'model-b'.*ANCHORAGE_EMBEDDER__MODEL=model-a"):
        await catalog.begin_run("docs", "index_b", "model-b")
    with pytest.raises(ConfigurationError, match="index_a"):
        await catalog.begin_run("docs", "index_b", "model-a")
    assert (await catalog.begin_run("docs", "index_a", "model-a")).resumed


async def test_an_unknown_collection_names_the_known_ones(catalog: Catalog) -> None:
    """The message lists what there is."""
    with pytest.raises(UnknownCollection, match="Nothing is ingested yet"):
        await catalog.collection("docs")
    await catalog.begin_run("manuals", "index_a", "model-a")
    with pytest.raises(UnknownCollection, match="'manuals'") as caught:
        await catalog.collection("docs' OR '1'='1")
    assert caught.value.param == "collection"


@pytest.mark.parametrize("name", ["", "a b", "a@b", "é", ".hidden", "x" * 129, "a/b"])
async def test_a_name_that_no_model_id_could_carry_is_refused(catalog: Catalog, name: str) -> None:
    """Collection names stand in model ids and URLs."""
    with pytest.raises(InvalidRequest, match="cannot name a collection"):
        await catalog.begin_run(name, "index_a", "model-a")


async def test_records_are_found_listed_and_overwritten(catalog: Catalog) -> None:
    """Thousands of documents page by page, in the order of their uris, each once."""
    await catalog.begin_run("docs", "index_a", "model-a")
    uris = sorted(f"file:///{i:05d} 'é\".md" for i in range(2_500))
    await catalog.record("docs", [record(uri) for uri in reversed(uris)])
    await catalog.record("docs", [replace(record(uris[7], "failed"), reason="broken\nfile", title="T", mtime=1.5)])
    await catalog.record("docs", [])
    assert await all_of(catalog) == uris
    assert await all_of(catalog, states=("failed",)) == [uris[7]]
    found = await catalog.lookup("docs", [*uris[:1_200], "missing"])
    assert sorted(found) == uris[:1_200]
    seven = found[uris[7]]
    assert (seven.state, seven.reason, seven.title, seven.mtime) == ("failed", "broken\nfile", "T", 1.5)
    assert seven.updated_at > 0


async def test_what_a_run_has_not_met_is_found(catalog: Catalog) -> None:
    """Documents of a source that the run did not see, while their rows change under the reader."""
    await catalog.begin_run("docs", "index_a", "model-a")
    await catalog.record("docs", [record(f"a{i:04d}", source="a") for i in range(2_100)])
    await catalog.record("docs", [record("b", source="b")])
    await catalog.mark_seen("docs", 2, [f"a{i:04d}" for i in range(1_050)])
    gone = []
    async for found in catalog.documents("docs", source="a", unseen_by=2):
        gone.append(found.uri)
        await catalog.mark_seen("docs", 2, [found.uri]) if len(gone) % 100 == 0 else None
    assert gone == [f"a{i:04d}" for i in range(1_050, 2_100)]


async def test_tenants_do_not_meet(catalog: Catalog, catalog_settings: IndexSettings) -> None:
    """The same names under another tenant are other things."""
    await catalog.begin_run("docs", "index_a", "model-a")
    await catalog.record("docs", [record("u1")])
    other = Catalog.connect(catalog_settings.model_copy(update={"tenant": "somebody else"}))
    assert "docs" not in [found.name for found in await other.collections()]
    await other.begin_run("docs", "index_b", "model-b")
    assert await all_of(other) == []
    assert await all_of(catalog) == ["u1"]
    await other.close()


async def test_several_processes_begin_at_the_same_moment(catalog_settings: IndexSettings) -> None:
    """Tables are made once and one run is begun, however many start together."""
    catalogs = [Catalog.connect(catalog_settings) for _ in range(6)]
    begun = await asyncio.gather(*(opened.begin_run("docs", "index_a", "model-a") for opened in catalogs))
    assert [run.generation for run in begun] == [1] * 6
    assert sum(not run.resumed for run in begun) == 1
    await asyncio.gather(*(opened.record("docs", [record(f"u{i}")]) for i, opened in enumerate(catalogs)))
    assert await all_of(catalogs[0]) == [f"u{i}" for i in range(6)]
    for opened in catalogs:
        await opened.close()


async def test_a_batch_is_recorded_whole_or_not_at_all(catalog: Catalog) -> None:
    """One row the database refuses leaves none of its batch."""
    await catalog.begin_run("docs", "index_a", "model-a")
    broken = replace(record("bad"), size=None)  # type: ignore[arg-type]
    with pytest.raises(CatalogUnavailable):
        await catalog.record("docs", [record("good"), broken])
    assert await all_of(catalog) == []


async def test_a_catalog_that_is_away_is_named_without_its_password() -> None:
    """The error says which catalog, and keeps the password to itself."""
    url = f"postgresql://user:sesame@127.0.0.1:{free_port()}/db"
    away = Catalog.connect(IndexSettings(catalog_url=url))
    with pytest.raises(CatalogUnavailable, match=r"postgresql://user:\*\*\*@127") as caught:
        await away.ping()
    assert "sesame" not in str(caught.value)
    await away.close()


async def test_a_file_that_is_no_catalog_is_named(tmp_path: Path) -> None:
    """A file of something else, and a folder in its place, are errors of the catalog."""
    (tmp_path / "text.db").write_text("this is not a database, " * 100)
    for path in (tmp_path / "text.db", tmp_path):
        broken = Catalog.connect(IndexSettings(catalog_url=f"sqlite:///{path}"))
        with pytest.raises(CatalogUnavailable, match="does not answer"):
            await broken.collections()
        await broken.close()


@pytest.mark.parametrize("url", ["mysql://u:sesame@h/db", "nonsense", ""])
def test_only_sqlite_and_postgresql_are_catalogs(url: str) -> None:
    """Anything else is refused before it is tried, without showing a password."""
    with pytest.raises(ConfigurationError) as caught:
        Catalog.connect(IndexSettings(catalog_url=url))
    assert "sesame" not in str(caught.value)
