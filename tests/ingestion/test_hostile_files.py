"""Hostile files: each is parsed or refused with a reason, no process of ours falls, and memory stays bounded.

The default run has 500 mutated files; `HOSTILE_FILES=20000` and `HOSTILE_SEED=7` ask for others.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import psutil
import pytest

from ingestion.sandbox import Job, ParsedDocument, ParserPool, Refused
from serving.settings import EmbedderSettings, IngestionSettings
from tests.ingestion.hostile import classics, mutated

COUNT = int(os.environ.get("HOSTILE_FILES", "500"))
SEED = int(os.environ.get("HOSTILE_SEED", "1"))
MEMORY = 512 * 1024**2
#: What a worker is before it has read anything, and what it receives of a file before its limit begins.
BASE = 350 * 1024**2


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[ParserPool]:
    settings = IngestionSettings(
        parse_workers=2, parse_timeout_s=4, parse_memory_bytes=MEMORY, max_text_characters=5_000_000
    )
    async with ParserPool(settings, EmbedderSettings().model) as opened:
        yield opened
        assert max(_peaks()) < MEMORY + BASE


def _peaks() -> list[int]:
    """The most memory that each worker of this process ever had, bytes: 0 for one that has just ended."""
    return [0] + [
        int(line.split()[1]) * 1024
        for child in psutil.Process().children()
        if "ingestion.sandbox_worker" in child.cmdline()
        for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]


def _job(name: str, data: bytes) -> Job:
    return Job(f"file:///{name}", f"/docs/{name}", data, "default", "c", 200)


def _checked(name: str, outcome: ParsedDocument | Refused) -> str:
    """The reason, or "" for a document that is sound: exact chunks, and metadata that JSON can hold."""
    if isinstance(outcome, Refused):
        assert outcome.reason
        assert len(outcome.reason) < 600
        return outcome.reason
    orjson.dumps(dict(outcome.document.metadata))
    for chunk in outcome.chunks:
        assert chunk.text == outcome.document.text[chunk.start : chunk.end]
        orjson.dumps([chunk.title, chunk.heading, dict(chunk.metadata), chunk.text])
    return ""


async def test_mutated_files_are_parsed_or_refused(pool: ParserPool) -> None:
    """Broken and lying files of every kind, several at a time; this process stays as small as it was."""
    await pool.parse(_job("a.md", b"warm"))
    before = psutil.Process().memory_info().rss
    reasons: list[str] = []
    files = list(mutated(COUNT, SEED))

    async def work() -> None:
        while files:
            name, data = files.pop()
            reasons.append(_checked(name, await pool.parse(_job(name, data))))

    await asyncio.gather(work(), work())
    assert len(reasons) == COUNT
    assert COUNT * 0.2 < sum(map(bool, reasons)) < COUNT * 0.9
    assert psutil.Process().memory_info().rss - before < 200 * 1024**2
    assert not [reason for reason in reasons if "crashed" in reason or "killed" in reason]


@pytest.mark.parametrize(("name", "make", "expected"), [pytest.param(*file, id=file[0]) for file in classics()])
async def test_classics_are_parsed_or_refused(
    pool: ParserPool, name: str, make: Callable[[], bytes], expected: str
) -> None:
    """Bombs, entities, depth, endless lines, directories that lie; afterwards the pool works as before."""
    reason = _checked(name, await pool.parse(_job(name, make())))
    if expected != "?":
        assert bool(reason) == bool(expected), reason
        assert re.search(expected, reason)
    assert _checked("a.md", await pool.parse(_job("a.md", b"# Fine"))) == ""
