"""Sources are walked completely, whatever lies in the way, and say what they could not read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ingestion.source import Found, Problem, parse_sources, path_of, uri_of, vanished

NOBODY = 65534


def _walk(*sources: str | Path) -> list[Found | Problem]:
    found = parse_sources([str(source) for source in sources], suffixes={".md", "makefile"})
    return [item for source in found for item in source.walk()]


def _names(items: list[Found | Problem]) -> list[str]:
    return [Path(item.name).name for item in items if isinstance(item, Found)]


def _fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_folders_are_walked_in_order_without_hidden_files_and_junk(tmp_path: Path) -> None:
    """The order is the same on every machine."""
    _fill(tmp_path, "b.md", "a.md", "z/c.md", ".hidden.md", ".git/d.md", "node_modules/e.md", "old.md~")
    assert _names(_walk(tmp_path)) == ["a.md", "b.md", "c.md"]


@pytest.mark.parametrize("name", ["plain.md", "with blank.md", "50%.md", "ünïcode-字.md", "a#b?c.md"])
def test_a_uri_leads_back_to_its_file(tmp_path: Path, name: str) -> None:
    """Whatever its name is made of."""
    _fill(tmp_path, name)
    (found,) = _walk(tmp_path)
    assert found.uri.startswith("file:///")
    assert path_of(found.uri) == tmp_path / name


def test_a_uri_does_not_depend_on_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative and absolute sources find the same document."""
    _fill(tmp_path, "docs/a.md")
    absolute = _walk(tmp_path / "docs")
    monkeypatch.chdir(tmp_path / "docs")
    assert _walk(".") == _walk("../docs") == _walk("a.md") == absolute


def test_names_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    """Bytes are bytes."""
    path = os.fsencode(tmp_path) + b"/caf\xe9.md"
    Path(os.fsdecode(path)).write_text("text")
    (found,) = _walk(tmp_path)
    assert found.uri.isascii()
    assert os.fsencode(path_of(found.uri)) == path


def test_symbolic_links_neither_loop_nor_double(tmp_path: Path) -> None:
    """A link out of the source is followed, once; one back into it is not."""
    _fill(tmp_path, "docs/a.md", "docs/sub/b.md", "outside/c.md")
    for name, target in [("sub/up", "docs"), ("again", "docs/sub"), ("one", "outside"), ("two", "outside")]:
        (tmp_path / "docs" / name).symlink_to(tmp_path / target)
    (tmp_path / "outside" / "back").symlink_to(tmp_path / "docs")
    items = _walk(tmp_path / "docs")
    assert sorted(_names(items)) == ["a.md", "b.md", "c.md"]
    assert sum("loop" in item.reason for item in items if isinstance(item, Problem)) == 2


def test_an_unreadable_folder_is_reported_and_hides_nothing_else() -> None:
    """What lies in it does not look removed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _fill(folder, "closed/a.md", "open.md")
        folder.chmod(0o755)
        (folder / "closed").chmod(0)
        sources = parse_sources([name], suffixes={".md"})
        try:
            with _as_nobody():
                items = list(sources[0].walk())
                assert not vanished(sources, uri_of(folder / "closed" / "a.md"), sources[0].prefix)
                assert vanished(sources, uri_of(folder / "other.md"), sources[0].prefix)
        finally:
            (folder / "closed").chmod(0o755)
    assert _names(items) == ["open.md"]
    assert [(Path(item.name).name, item.failed) for item in items if isinstance(item, Problem)] == [("closed", True)]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.md", ["a.md"]),
        ("**/*.md", ["a.md", "b.md", "c1.md"]),
        ("x/**", ["b.md", "c1.md"]),
        ("x/y/c[0-9].md", ["c1.md"]),
        ("x/y/c[!0-9].md", []),
        ("?.md", ["a.md"]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, names: list[str]) -> None:
    """As in a shell, with `**` for any folders."""
    _fill(tmp_path, "a.md", "x/b.md", "x/y/c1.md")
    assert _names(_walk(tmp_path / pattern)) == names


def test_a_file_with_magic_letters_in_its_name_is_a_file(tmp_path: Path) -> None:
    """What exists is never read as a pattern."""
    _fill(tmp_path, "a[1].md")
    assert _names(_walk(tmp_path / "a[1].md")) == ["a[1].md"]


def test_a_named_file_of_another_kind_fails(tmp_path: Path) -> None:
    """Somebody asked for it; one met in a folder is passed over."""
    _fill(tmp_path, "a.png")
    assert [item.failed for item in (*_walk(tmp_path / "a.png"), *_walk(tmp_path)) if isinstance(item, Problem)] == [
        True,
        False,
    ]
