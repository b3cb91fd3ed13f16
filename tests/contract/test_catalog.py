"""The catalog's contract for readers and builds, on SQLite and, where it is installed, PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serving.errors import CatalogUnavailable, ConfigurationError, InvalidRequest, UnknownCollection
from serving.index.catalog import Catalog
from serving.index.catalog_models import Build, DocumentRecord, Recipe
from serving.index.types import Collection
from serving.ports import free_port
from serving.settings import IndexSettings

RECIPE = Recipe("model-a", 8, 200)
OTHER = Recipe("model-b", 16, 300)


async def published(catalog: Catalog, build: Build, chunks: int = 3) -> None:
    run = await catalog.begin_run(build, "bulk")
    record = DocumentRecord("u1", "s", "written", run.snapshot, chunks=chunks)
    await catalog.record(build.key, [record])
    await catalog.publish(run, chunks=chunks, summary={})


async def test_a_collection_begins_empty(catalog: Catalog) -> None:
    """Its first build is live and not published, and making it again changes nothing."""
    build = await catalog.create("docs", RECIPE)
    assert (build.key, build.number, build.recipe, build.index) == ("docs", 1, RECIPE, RECIPE.index)
    assert (build.snapshot, build.generation, build.live, build.state) == (0, 0, True, "ready")
    assert await catalog.create("docs", OTHER) == build == await catalog.live_build("docs")
    assert await catalog.collection("docs") == Collection("docs", 0, 0, "docs", RECIPE.index, "model-a", 0, 0)
    assert await catalog.live_build("other") is None
    assert await catalog.builds("other") == []


async def test_readers_see_what_is_published(catalog: Catalog) -> None:
    """Generation for people, snapshot and build for the store, model and index for the embedder."""
    await published(catalog, await catalog.create("docs", RECIPE))
    seen = Collection("docs", 1, 1 << 20, "docs", RECIPE.index, "model-a", 1, 3)
    assert await catalog.collection("docs") == seen
    assert await catalog.collections() == [seen]


async def test_an_unknown_collection_names_the_known_ones(catalog: Catalog) -> None:
    """The message lists what there is, whatever was asked for."""
    with pytest.raises(UnknownCollection, match="Nothing is ingested yet"):
        await catalog.collection("docs")
    await catalog.create("manuals", RECIPE)
    for name in ("docs", "docs' OR '1'='1", "\0", "\ud83d", "manuals~1"):
        with pytest.raises(UnknownCollection, match="'manuals'") as caught:
            await catalog.collection(name)
        assert caught.value.param == "collection"


@pytest.mark.parametrize("name", ["", "a b", "a@b", "é", ".hidden", "x" * 129, "a/b", "a~2"])
async def test_a_name_that_no_model_id_could_carry_is_refused(catalog: Catalog, name: str) -> None:
    """Collection names stand in model ids and URLs."""
    with pytest.raises(InvalidRequest, match="cannot name a collection"):
        await catalog.create(name, RECIPE)


async def test_a_build_is_made_beside_the_live_one(catalog: Catalog) -> None:
    """Readers keep theirs, and are told which model is being prepared; the same recipe goes on with the same build."""
    await published(catalog, await catalog.create("docs", RECIPE))
    beside = await catalog.add_build("docs", OTHER)
    assert (beside.key, beside.number, beside.recipe, beside.live, beside.state) == (
        "docs~2",
        2,
        OTHER,
        False,
        "building",
    )
    assert await catalog.add_build("docs", OTHER) == beside
    seen = await catalog.collection("docs")
    assert (seen.build, seen.model, seen.preparing) == ("docs", "model-a", "model-b")
    with pytest.raises(InvalidRequest, match="not published yet"):
        await catalog.switch("docs", beside.key)
    await published(catalog, beside, chunks=5)
    assert (await catalog.collection("docs")).preparing == "model-b"
    switched = await catalog.switch("docs", beside.key)
    assert (switched.live, switched.state, switched.generation) == (True, "ready", 2)
    assert await catalog.collection("docs") == Collection(
        "docs", 2, 1 << 20, "docs~2", OTHER.index, "model-b", 1, 5, preparing=""
    )
    assert [build.live for build in await catalog.builds("docs")] == [False, True]


async def test_readers_can_be_switched_back(catalog: Catalog) -> None:
    """The earlier build is kept until it is dropped, and its number is not given again."""
    await published(catalog, await catalog.create("docs", RECIPE))
    await published(catalog, await catalog.add_build("docs", OTHER))
    await catalog.switch("docs", "docs~2")
    await catalog.switch("docs", "docs")
    assert (await catalog.collection("docs")).build == "docs"
    with pytest.raises(InvalidRequest, match="Switch to another one first"):
        await catalog.drop_build("docs", "docs")
    await catalog.drop_build("docs", "docs~2")
    await catalog.drop_build("docs", "docs~2")
    assert [build.key for build in await catalog.builds("docs")] == ["docs"]
    assert await catalog.lookup("docs~2", ["u1"]) == {}
    assert await catalog.generations("docs~2") == []
    assert (await catalog.add_build("docs", OTHER)).key == "docs~3"
    with pytest.raises(InvalidRequest, match="does not exist"):
        await catalog.switch("docs", "docs~2")
    with pytest.raises(UnknownCollection):
        await catalog.add_build("other", OTHER)


async def test_a_dropped_build_takes_no_runs(catalog: Catalog) -> None:
    """A run that begins over it is told that it is gone."""
    await catalog.create("docs", RECIPE)
    beside = await catalog.add_build("docs", OTHER)
    await catalog.drop_build("docs", beside.key)
    with pytest.raises(ConfigurationError, match="not there any more"):
        await catalog.begin_run(beside, "bulk")


async def test_tenants_do_not_meet(catalog: Catalog, catalog_settings: IndexSettings) -> None:
    """The same names under another tenant are other things."""
    await catalog.create("docs", RECIPE)
    await catalog.record("docs", [DocumentRecord("u1", "s", "live", 1)])
    other = Catalog.connect(catalog_settings.model_copy(update={"tenant": "somebody else"}))
    assert "docs" not in [found.name for found in await other.collections()]
    assert (await other.create("docs", OTHER)).recipe == OTHER
    assert [record async for record in other.documents("docs")] == []
    assert [record.uri async for record in catalog.documents("docs")] == ["u1"]
    await other.close()


async def test_several_processes_begin_at_the_same_moment(catalog_settings: IndexSettings) -> None:
    """One collection is made, one run is begun and one build added, however many start together."""
    catalogs = [Catalog.connect(catalog_settings) for _ in range(6)]
    made = await asyncio.gather(*(opened.create("docs", RECIPE) for opened in catalogs))
    assert {build.key for build in made} == {"docs"}
    begun = await asyncio.gather(*(opened.begin_run(made[0], "bulk") for opened in catalogs))
    assert {run.snapshot for run in begun} == {1 << 20}
    assert sum(not run.resumed for run in begun) == 1
    added = await asyncio.gather(*(opened.add_build("docs", OTHER) for opened in catalogs))
    assert {build.key for build in added} == {"docs~2"}
    records = [DocumentRecord(f"u{i}", "s", "found", 1) for i in range(50)]
    shuffled = [records[i::2] + records[::-1] for i in range(6)]
    await asyncio.gather(*(opened.record("docs", some) for opened, some in zip(catalogs, shuffled, strict=True)))
    assert len(await catalogs[0].lookup("docs", [record.uri for record in records])) == 50
    for opened in catalogs:
        await opened.close()


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
