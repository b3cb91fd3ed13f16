"""What a file's surroundings say of it: its sidecar, its times, the patterns of a call."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from ingestion.source import Found, Problem, parse_sources, uri_of
from ingestion.source.items import Source
from serving.errors import DocumentError, DocumentGone


def _source(path: Path, **patterns: Any) -> Source:
    (source,) = parse_sources([str(path)], suffixes={".md", ".json"}, **patterns)
    return source


def _walk(path: Path, **patterns: Any) -> dict[str, Found]:
    return {Path(i.name).name: i for i in _source(path, **patterns).walk() if isinstance(i, Found)}


def _age(*paths: Path, seconds: float = 60) -> None:
    moment = time.time() - seconds
    for path in paths:
        os.utime(path, (moment, moment))


def _settled(path: Path) -> bool:
    """Whether a change of times can no longer be mistaken: nothing sets them back but waiting."""
    return time.time() - path.stat().st_ctime > 2.1


def _wait(*paths: Path) -> None:
    deadline = time.monotonic() + 10
    while not all(map(_settled, paths)) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_fingerprint_changes_with_the_file_and_its_sidecar(tmp_path: Path) -> None:
    """Size and times, also when the size stays; what is too fresh has none."""
    page, beside = tmp_path / "a.md", tmp_path / "a.md.meta.json"
    page.write_text("one")
    beside.write_text('{"title": "T"}')
    assert _walk(tmp_path)["a.md"].fingerprint == ""
    _wait(page, beside)
    found = _walk(tmp_path)["a.md"]
    assert found.fingerprint
    assert found.fingerprint == _walk(tmp_path)["a.md"].fingerprint == found.read(10).fingerprint
    beside.write_text('{"title": "U"}')
    page.write_text("two")
    _age(page, beside)
    assert _walk(tmp_path)["a.md"].fingerprint == ""  # its times were set back, which ctime shows
    _wait(page, beside)
    assert _walk(tmp_path)["a.md"].fingerprint not in ("", found.fingerprint)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md.meta.json", '{"title": "Told", "tags": ["x", "y"], "year": 2026}'),
        ("a.md.metadata.json", '{"title": "Told", "tags": ["x", "y"], "year": 2026}'),
        ("a.md.meta.yaml", "title: Told\ntags: [x, y]\nyear: 2026\n"),
        ("a.md.meta.yml", "title: Told\ntags: [x, y]\nyear: 2026\n"),
    ],
)
def test_a_sidecar_tells_title_and_metadata(tmp_path: Path, name: str, text: str) -> None:
    """It is no document itself, and it travels with the content."""
    (tmp_path / "a.md").write_text("text")
    (tmp_path / name).write_text(text)
    for place in (tmp_path, tmp_path / "a.md"):
        (found,) = _walk(place).values()
        body = pickle.loads(pickle.dumps(found)).read(100)
        assert (body.data, body.title) == (b"text", "Told")
        assert body.metadata == {"path": found.name, "folder": str(tmp_path), "tags": ["x", "y"], "year": 2026}


@pytest.mark.parametrize("text", ["{", "[]", '{"title": 1}', '{"a": {"b": 1}}', "x" * 300_000, '{"a": NaN}'])
def test_a_broken_sidecar_fails_its_document(tmp_path: Path, text: str) -> None:
    """Nothing that somebody wrote is lost in silence."""
    (tmp_path / "a.md").write_text("text")
    (tmp_path / "a.md.meta.json").write_text(text)
    with pytest.raises(DocumentError, match=r"a\.md\.meta\.json"):
        _walk(tmp_path)["a.md"].read(100)


def test_a_sidecar_without_its_document_is_passed_over(tmp_path: Path) -> None:
    """It does not become a document when its own is removed."""
    (tmp_path / "a.md.meta.json").write_text("{}")
    (problem,) = _source(tmp_path).walk()
    assert isinstance(problem, Problem)
    assert not problem.failed


def test_patterns_take_documents_away(tmp_path: Path) -> None:
    """What this call excludes is gone, though its file is there; a folder that is excluded is not entered."""
    for name in ("a.md", "drafts/b.md", "x/drafts.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    source = _source(tmp_path, exclude=["drafts/"])
    assert sorted(item.name for item in source.walk()) == [f"{tmp_path}/a.md", f"{tmp_path}/x/drafts.md"]
    assert source.covers(uri_of(tmp_path / "drafts" / "b.md"), source.prefix)
    assert source.gone(uri_of(tmp_path / "drafts" / "b.md"))
    assert not source.gone(uri_of(tmp_path / "a.md"))
    assert list(_walk(tmp_path, include=["/x/"])) == ["drafts.md"]
    assert _walk(tmp_path / "a.md", exclude=["*.md"]) == {}


def test_reading_says_what_became_of_the_file(tmp_path: Path) -> None:
    """Removed, replaced by a pipe, grown too large, unchanged."""
    path = tmp_path / "a.md"
    path.write_text("text")
    found = _walk(tmp_path)["a.md"]
    with pytest.raises(DocumentError, match="too large"):
        found.read(3)
    path.unlink()
    with pytest.raises(DocumentGone):
        found.read(100)
    os.mkfifo(path)
    with pytest.raises(DocumentError, match="pipe"):
        found.read(100)


def test_sources_within_sources_are_walked_once(tmp_path: Path) -> None:
    """A file address is a path; patterns, which mean something else for each root, keep both."""
    (tmp_path / "x").mkdir()
    texts = [str(tmp_path), str(tmp_path / "x"), tmp_path.as_uri()]
    assert len(parse_sources(texts, suffixes={".md"})) == 1
    assert len(parse_sources(texts, suffixes={".md"}, exclude=["/a.md"])) == 2
