"""Object stores and archives are walked like folders, without showing what opens them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestion.source import Found, Problem, Source, parse_sources
from serving.errors import DocumentError, DocumentGone, SourceError, SourceUnavailable
from serving.settings import IngestionSettings
from tests.ingestion.site import Store, s3


@pytest.fixture
def store() -> Iterator[Store]:
    with s3() as running:
        yield running


def _source(text: str, store: Store | None = None, **patterns: Any) -> Source:
    settings = IngestionSettings(stores=store.options() if store else {})
    (source,) = parse_sources([text], suffixes={".md"}, settings=settings, **patterns)
    return source


def _split(source: Source) -> tuple[dict[str, Found], list[Problem]]:
    items = list(source.walk())
    found = {item.uri: item for item in items if isinstance(item, Found)}
    return found, [item for item in items if isinstance(item, Problem)]


def test_a_bucket_is_listed_page_by_page(store: Store) -> None:
    """The first page's documents are there before the last is asked for."""
    store.objects = {f"guide/{number:03}.md": b"text" for number in range(2500)}
    store.keys_per_page = 1000
    source = _source("s3://docs/guide", store)
    walk = source.walk()
    next(walk)
    assert store.pages < 3
    assert sum(1 for _ in walk) == 2499
    assert not source.gone("s3://docs/guide/001.md")
    assert source.gone("s3://docs/guide/none.md")


def test_an_object_is_read_with_its_sidecar_on_another_machine(store: Store) -> None:
    """Content can be pickled; whatever lies between the two in the listing."""
    store.objects = {
        "g/a b+%#ü.md": b"# Text",
        "g/a b+%#ü.md-x.md": b"other",
        "g/a b+%#ü.md.meta.json": b'{"title": "Told", "team": "ops"}',
    }
    found, problems = _split(_source("s3://docs/g", store))
    assert problems == []
    one = found["s3://docs/g/a%20b+%25%23%C3%BC.md"]
    body = pickle.loads(pickle.dumps(one)).read(100)
    assert (body.data, body.title, body.metadata["team"]) == (b"# Text", "Told", "ops")
    assert body.fingerprint == one.fingerprint != ""
    store.objects["g/a b+%#ü.md.meta.json"] = b'{"title": "Told", "team": "dev"}'
    again, _ = _split(_source("s3://docs/g", store))
    assert again[one.uri].fingerprint != one.fingerprint


def test_patterns_hold_in_a_bucket(store: Store) -> None:
    """In the address, and beside it; what is excluded is gone."""
    store.objects = dict.fromkeys(["g/a.md", "g/x/b.md", "g/x/c.md", "g2/d.md", "g/.h/e.md"], b"text")
    source = _source("s3://docs/g/**/*.md", store, exclude=["c.md"])
    assert sorted(_split(source)[0]) == ["s3://docs/g/a.md", "s3://docs/g/x/b.md"]
    assert source.covers("s3://docs/g/x/c.md", source.prefix)
    assert source.gone("s3://docs/g/x/c.md")
    assert not source.covers("s3://docs/g2/d.md", source.prefix)


def test_one_named_object_is_found(store: Store) -> None:
    """Not those whose keys begin with its key."""
    store.objects = dict.fromkeys(["g/a.md", "g/a.md/b.md"], b"text")
    assert list(_split(_source("s3://docs/g/a.md", store))[0]) == ["s3://docs/g/a.md"]


def test_an_illegal_key_hides_only_its_folder(store: Store) -> None:
    """What it may hide is not gone."""
    store.objects = dict.fromkeys(["a//b.md", "a/c.md", "ok/d.md", "top.md"], b"text")
    source = _source("s3://docs", store)
    found, problems = _split(source)
    assert {"s3://docs/ok/d.md", "s3://docs/top.md"} <= set(found)
    assert any(problem.folder and problem.failed for problem in problems)
    assert not source.gone("s3://docs/a/none.md")


def test_a_store_that_fails_hides_everything_and_shows_no_secret(store: Store) -> None:
    """A bucket that is not there; a store that does not answer."""
    store.objects = {"g/a.md": b"text"}
    source = _source("s3://elsewhere/g", store)
    found, (problem,) = _split(source)
    assert (found, problem.folder) == ({}, True)
    assert not source.gone("s3://elsewhere/g/a.md")
    assert "not-to-be-shown" not in repr(problem) + repr(source) + repr(IngestionSettings(stores=store.options()))


def test_what_reading_can_meet(store: Store) -> None:
    """Too large, removed meanwhile, away."""
    store.objects = {"a.md": b"x" * 100}
    (found,) = _split(_source("s3://docs", store))[0].values()
    with pytest.raises(DocumentError, match="too large"):
        found.read(99)
    store.objects.clear()
    with pytest.raises(DocumentGone):
        found.read(100)
    store.url = "http://127.0.0.1:1"
    away = _source("s3://docs/a.md", store)
    assert [problem.folder for problem in _split(away)[1]] == [True]
    with pytest.raises(SourceUnavailable, match="s3://docs/a"):
        type(found.content)(away._bucket, "a.md").read(100)  # type: ignore[attr-defined, call-arg]


def test_credentials_do_not_belong_into_an_address() -> None:
    """Nor do they stand in the error that says so."""
    with pytest.raises(SourceError) as caught:
        _source("s3://key:hidden@docs/g")
    assert "hidden" not in str(caught.value)


def test_an_archive_is_a_folder(tmp_path: Path) -> None:
    """Its documents have addresses of their own, and change with their checksums."""
    archive = tmp_path / "docs.zip"

    def pack(**files: str) -> None:
        with zipfile.ZipFile(archive, "w") as packed:
            for name, text in files.items():
                packed.writestr(name.replace("__", "/") + ".md", text)
            packed.writestr("a.md.meta.yaml", "title: Told")

    pack(a="one", x__b="two", x__c="three")
    source = _source(f"zip://::{archive}", exclude=["x/c.md"])
    found, _ = _split(source)
    root = f"zip:file://{archive}!"
    assert sorted(found) == [f"{root}/a.md", f"{root}/x/b.md"]
    assert all(source.covers(uri, source.prefix) for uri in found)
    body = pickle.loads(pickle.dumps(found[f"{root}/a.md"])).read(100)
    assert (body.data, body.title) == (b"one", "Told")
    pack(a="one", x__b="changed")
    again, _ = _split(_source(f"zip://x/*.md::{archive}"))
    assert sorted(again) == [f"{root}/x/b.md"]
    assert again[f"{root}/x/b.md"].fingerprint != found[f"{root}/x/b.md"].fingerprint


def test_a_broken_archive_hides_everything(tmp_path: Path) -> None:
    """And the message says where."""
    (tmp_path / "docs.zip").write_bytes(b"not an archive")
    source = _source(f"zip://::{tmp_path}/docs.zip")
    found, (problem,) = _split(source)
    assert (found, problem.folder, "docs.zip" in problem.name) == ({}, True, True)
    assert not source.gone(f"zip:file://{tmp_path}/docs.zip!/a.md")


def test_memory_is_a_store_like_any_other() -> None:
    """What fsspec knows needs no code of ours."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/guide-test/a.md": b"one", "/guide-test/x/b.md": b"two", "/guide-test/x/.c.md": b"hidden"})
    try:
        found, _ = _split(_source("memory://guide-test"))
        assert [one.read(10).data for one in found.values()] == [b"one", b"two"]
        assert list(_split(_source("memory://guide-test/a.md"))[0]) == ["memory://guide-test/a.md"]
    finally:
        memory.rm("/guide-test", recursive=True)


@pytest.mark.parametrize("text", ["nothing://a/b", "dropbox://a/b"])
def test_a_protocol_that_cannot_be_read_is_refused_at_once(text: str) -> None:
    """Before anything is started."""
    with pytest.raises(SourceError, match=text.split(":", maxsplit=1)[0]):
        _source(text)
