"""JSON lines stream: each line a document, each bad line a reason, whatever their number."""

from __future__ import annotations

import gzip
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ingestion.source import Found, Problem, Source, parse_sources
from serving.errors import DocumentError, SourceError
from serving.settings import IngestionSettings


def _source(path: Path, **patterns: Any) -> Source:
    settings = IngestionSettings(max_file_bytes=1000)
    (source,) = parse_sources([f"jsonl:{path}"], suffixes=set(), settings=settings, **patterns)
    return source


def _write(path: Path, *lines: object) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def _walk(source: Source) -> tuple[dict[str, Found], list[Problem]]:
    items = list(source.walk())
    return {i.uri: i for i in items if isinstance(i, Found)}, [i for i in items if isinstance(i, Problem)]


@pytest.mark.parametrize("name", ["docs.jsonl", "docs.jsonl.gz"])
def test_lines_are_documents(tmp_path: Path, name: str) -> None:
    """With title, metadata and format; an id is a document's own, whatever file it is in; equal lines look equal."""
    line = {"id": "a 1", "text": "# Head", "title": "T", "metadata": {"team": "ops"}, "format": "markdown"}
    path = _write(tmp_path / name, line, "", {"uri": "https://example.com/b", "text": "plain"}, {"id": 7, "text": "x"})
    source = _source(path)
    found, problems = _walk(source)
    assert (list(found), problems) == (
        [f"jsonl://{path}#a%201", "https://example.com/b", f"jsonl://{path}#7"],
        [],
    )
    first = pickle.loads(pickle.dumps(next(iter(found.values()))))
    body = first.read(100)
    assert (body.data, body.format, body.title, body.metadata) == (b"# Head", ".md", "T", {"team": "ops"})
    assert first.read(100, first.fingerprint).data is None
    _write(path, line, {"id": 7, "text": "y"})
    again, _ = _walk(source)
    assert again[first.uri].fingerprint == first.fingerprint
    assert again[f"jsonl://{path}#7"].fingerprint != found[f"jsonl://{path}#7"].fingerprint
    assert source.gone("https://example.com/b")


@pytest.mark.parametrize(
    ("line", "reason", "hides"),
    [
        ("{", "not JSON", True),
        ("[" * 900, "not JSON", True),
        ("[]", 'needs an "id"', True),
        ({"text": "x"}, 'needs an "id"', True),
        ({"id": "", "text": "x"}, 'needs an "id"', True),
        ({"id": "b"}, 'needs a "text"', False),
        ({"id": "b", "text": "x", "format": "pdf"}, "format", False),
        ({"id": "b", "text": "x", "metadata": [1]}, "metadata", False),
        ({"id": "b", "text": "x", "metadata": {"deep": {"er": 1}}}, "deep", False),
        ({"id": "b", "text": "x", "titel": "y"}, "unknown field 'titel'", False),
        ({"id": "a", "text": "x"}, "id 'a' appears twice (lines 1 and 2)", False),
        ({"id": "b", "text": "x" * 2000}, "longer than", True),
    ],
)
def test_a_bad_line_fails_alone(tmp_path: Path, line: object, reason: str, hides: bool) -> None:
    """With its number; one that does not say whose it is may hide a document."""
    path = _write(tmp_path / "d.jsonl", {"id": "a", "text": "x"}, line, {"id": "z", "text": "x"})
    source = _source(path)
    found, (problem,) = _walk(source)
    assert len(found) == 2
    assert reason in problem.reason
    assert problem.name.endswith("line 2")
    assert (problem.failed, problem.folder) == (True, hides)
    assert source.gone(f"jsonl://{path}#old") is not hides
    assert not source.gone(f"jsonl://{path}#a")


def test_a_cut_file_makes_nothing_gone(tmp_path: Path) -> None:
    """What was read is there; what was not may be."""
    path = _write(tmp_path / "d.jsonl.gz", *({"id": f"{number}", "text": f"{number:x}" * 9} for number in range(500)))
    path.write_bytes(path.read_bytes()[:-200])
    source = _source(path)
    _, problems = _walk(source)
    assert problems[-1].folder
    assert not source.gone(f"jsonl://{path}#old")


def test_patterns_are_about_ids(tmp_path: Path) -> None:
    """What is excluded is gone."""
    path = _write(tmp_path / "d.jsonl", {"id": "a/1", "text": "x"}, {"id": "b/1", "text": "x"})
    source = _source(path, exclude=["/b/"])
    assert list(_walk(source)[0]) == [f"jsonl://{path}#a/1"]
    assert source.gone(f"jsonl://{path}#b/1")


def test_what_is_too_large_is_said_when_it_is_read(tmp_path: Path) -> None:
    """As for any other document."""
    (found,) = _walk(_source(_write(tmp_path / "d.jsonl", {"id": "a", "text": "x" * 500})))[0].values()
    with pytest.raises(DocumentError, match="too large"):
        found.read(100)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Before anything is started."""
    with pytest.raises(SourceError):
        _source(tmp_path / "none.jsonl")


def test_a_long_stream_needs_little_memory() -> None:
    """A hundred thousand lines on standard input, gone over twice, with every id remembered."""
    code = (
        "import resource\n"
        "from ingestion.source import parse_sources\n"
        "source, = parse_sources(['jsonl:-'], suffixes=())\n"
        "next(iter(source.walk()))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "counts = [sum(1 for _ in source.walk()) for _ in range(2)]\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(counts, source.gone('jsonl:-#old'), source.gone('jsonl:-#99999'), grown // 1024)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stdin is not None
    assert running.stdout is not None
    text = "word " * 50
    for number in range(100_000):
        running.stdin.write(f'{{"id": "{number}", "text": "{text}"}}\n')
    running.stdin.close()
    answer = running.stdout.read()
    assert running.wait(60) == 0
    *facts, grown = answer.split()
    assert facts == ["[100000,", "100000]", "True", "False"]
    assert int(grown) < 40
