"""Patterns mean what git and pathlib mean by them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion.source import parse_sources
from ingestion.source.patterns import glob, patterns
from serving.errors import SourceError

NAME = st.text("ab.c", min_size=1, max_size=3).filter(lambda name: name.strip("."))
PATH = st.lists(NAME, min_size=1, max_size=4).map("/".join)
PART = st.lists(st.sampled_from(["a", "b", ".c", "*", "?", "[ab]", "[!a]", "\\*"]), min_size=1, max_size=3)
# Two stars within a name are like one, says git's manual; git itself has them match more, so it is not asked.
PIECE = st.one_of(st.just("**"), PART.map("".join).filter(lambda name: "**" not in name))
PATTERN = st.builds(
    lambda start, pieces, end: start + "/".join(pieces) + end,
    st.sampled_from(["", "/"]),
    st.lists(PIECE, min_size=1, max_size=3),
    st.sampled_from(["", "/"]),
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git says what its patterns mean")
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", folder], check=True)
    return folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PATTERN, min_size=1, max_size=3), st.lists(PATH, min_size=1, max_size=20, unique=True))
def test_exclude_means_what_git_ignores(repository: Path, texts: list[str], paths: list[str]) -> None:
    """Git itself is asked."""
    (repository / ".git" / "info" / "exclude").write_text("\n".join(texts) + "\n")
    asked = ["git", "-C", str(repository), "check-ignore", "--no-index", "-z", "--stdin"]
    done = subprocess.run(asked, input="\0".join(paths), capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    ignored = set(done.stdout.split("\0")) - {""}
    wanted = patterns(exclude=texts)
    assert {path for path in paths if not wanted.wants(path)} == ignored
    for path in paths:
        folders = ["/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 1)]
        assert not (any(map(wanted.prunes, folders)) and wanted.wants(path))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(PIECE.filter(lambda piece: "\\" not in piece), max_size=3),
    st.lists(PATH, min_size=1, max_size=10, unique=True),
)
def test_globs_mean_what_pathlib_finds(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], paths: list[str]
) -> None:
    """Among files that exist."""
    parts = [*parts, "*"]
    folder = tmp_path_factory.mktemp("glob")
    made = []
    for path in paths:
        whole = folder / path
        if not whole.exists() and not any(parent.is_file() for parent in whole.parents):
            whole.parent.mkdir(parents=True, exist_ok=True)
            whole.write_text("")
            made.append(path)
    expression = glob("/".join(parts))
    found = {path.relative_to(folder).as_posix() for path in folder.glob("/".join(parts)) if path.is_file()}
    assert {path for path in made if expression.fullmatch(path)} == found
    shutil.rmtree(folder)


def test_what_is_included_can_be_excluded() -> None:
    """Without include everything is wanted."""
    wanted = patterns(["*.md", "/docs/"], ["drafts/", "/top.md"])
    paths = ["a.md", "x/a.md", "docs/b.txt", "x/docs/b.txt", "x/drafts/a.md", "drafts", "top.md", "x/top.md"]
    assert [path for path in paths if wanted.wants(path)] == ["a.md", "x/a.md", "docs/b.txt", "x/top.md"]
    assert patterns().wants("anything")


@pytest.mark.parametrize("pattern", ["", "/", "!a", "[b-a]"])
def test_a_pattern_that_says_nothing_is_refused(pattern: str) -> None:
    """Before anything is walked."""
    with pytest.raises(SourceError, match="pattern"):
        parse_sources(["."], exclude=[pattern], suffixes={".md"})
