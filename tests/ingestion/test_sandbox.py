"""Untrusted files are parsed apart: whatever one does to its process, it fails alone, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ingestion import sandbox_process
from ingestion.chunk import Chunker, Tokenizer
from ingestion.load import load
from ingestion.sandbox import Job, ParsedDocument, ParserPool, Rechunk, Refused
from serving.errors import ConfigurationError
from serving.settings import EmbedderSettings, IngestionSettings
from tests.ingestion.office import make_docx, make_epub, make_pptx, make_xlsx
from tests.ingestion.pdf import make_pdf

MODEL = EmbedderSettings().model
PAGE = b"---\ntitle: Own\n---\n# One\n\nSome words.\n\n## Two\n\nMore words.\n"
#: Takes some seconds to divide.
LONG = b"word " * 600_000


def _job(data: bytes = PAGE, name: str = "/d/a.md", **more: Any) -> Job:
    return Job("file:///d/a", name, data, "default", "c", 200, **more)


def _pool(**settings: Any) -> ParserPool:
    return ParserPool(IngestionSettings(**{"parse_workers": 1, **settings}), MODEL)


def _workers(parent: int | None = None) -> list[psutil.Process]:
    """The living worker processes of a process."""
    found = []
    for process in psutil.Process(parent).children():
        try:
            if "ingestion.sandbox_worker" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


async def _until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


class Workers:
    """The worker processes that a test started, the shared pool's apart."""

    def __init__(self) -> None:
        self._others = {process.pid for process in _workers()}

    def alive(self) -> list[psutil.Process]:
        return [process for process in _workers() if process.pid not in self._others]

    async def busy(self, count: int = 1) -> psutil.Process:
        """One of `count` started ones, once it works on a job."""
        await _until(lambda: len(self.alive()) == count)
        before = {process.pid: process.cpu_times().user for process in self.alive()}
        found: list[psutil.Process] = []
        await _until(lambda: found.extend(p for p in self.alive() if p.cpu_times().user > before[p.pid] + 0.1) or found)
        return found[0]


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[ParserPool]:
    """One process with the settings as they come."""
    async with _pool() as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.md", PAGE),
        ("a.docx", make_docx()),
        ("a.pptx", make_pptx()),
        ("a.xlsx", make_xlsx()),
        ("a.epub", make_epub()),
        ("a.pdf", make_pdf(["One page", "Another page"])),
        ("a.py", b"def f():\n    return 1\n"),
        ("a.html", "<h1>Café</h1><p>Words, words, words.</p>".encode()),
    ],
)
async def test_apart_gives_what_here_gives(pool: ParserPool, tokenizer: Tokenizer, name: str, data: bytes) -> None:
    """The same document and the same chunks, to the last letter."""
    parsed = await pool.parse(_job(data, f"/d/{name}", metadata={"team": "a"}))
    document = load("file:///d/a", f"/d/{name}", data, metadata={"team": "a"})
    chunks = Chunker(tokenizer, chunk_tokens=200, tenant="default", collection="c").chunk(document)
    assert parsed == ParsedDocument(document, tuple(chunks))


async def test_a_known_text_is_divided_anew(pool: ParserPool) -> None:
    """A rebuild needs no source."""
    parsed = await pool.parse(_job(make_pdf(["One page " * 30, "Another page " * 30]), "/d/a.pdf"))
    assert isinstance(parsed, ParsedDocument)
    again = await pool.parse(Rechunk(parsed.document, "default", "c", 200))
    smaller = await pool.parse(Rechunk(parsed.document, "default", "c", 20))
    assert again == parsed
    assert isinstance(smaller, ParsedDocument)
    assert len(smaller.chunks) > len(parsed.chunks)
    assert {chunk.metadata["page"] for chunk in smaller.chunks} == {1, 2}


async def test_a_file_that_cannot_be_parsed_is_refused(pool: ParserPool) -> None:
    """With the loader's own reason."""
    assert await pool.parse(_job(b"%PDF-1.4 broken", "/d/a.pdf")) == Refused(
        "broken PDF: Failed to load document (PDFium: Data format error)."
    )


async def test_a_file_that_takes_too_long_is_given_up() -> None:
    """The next one is parsed by a new process."""
    async with _pool(parse_timeout_s=2.0) as pool:
        refused = await pool.parse(_job(4 * LONG, "/d/a.txt"))
        assert isinstance(refused, Refused)
        assert refused.reason.startswith("took longer than 2 s")
        assert isinstance(await pool.parse(_job()), ParsedDocument)


async def test_a_file_that_needs_too_much_memory_is_given_up() -> None:
    """Its process is replaced; the limit is named."""
    async with _pool(parse_memory_bytes=64 * 1024**2) as pool:
        refused = await pool.parse(_job(b"word " * 12_000_000, "/d/a.txt"))
        assert isinstance(refused, Refused)
        assert refused.reason.startswith("needed more than 0.1 GB of memory")
        assert isinstance(await pool.parse(_job()), ParsedDocument)


async def test_a_file_with_too_much_text_is_given_up() -> None:
    """Small files may hold much, and what comes back is bounded."""
    async with _pool(max_text_characters=1000) as pool:
        refused = await pool.parse(_job(b"word " * 201))
        assert isinstance(refused, Refused)
        assert refused.reason.startswith("too large: 1,005 characters of text, the limit is 1,000")
        assert isinstance(await pool.parse(_job(b"word " * 200)), ParsedDocument)


async def test_a_file_that_crashes_its_parser_fails_alone(workers: Workers) -> None:
    """The other process goes on, and the crashed one has a successor."""
    async with _pool(parse_workers=2) as pool:
        await asyncio.gather(*(pool.parse(_job()) for _ in range(2)))
        crashing = asyncio.create_task(pool.parse(_job(LONG, "/d/a.txt")))
        (await workers.busy(2)).send_signal(signal.SIGSEGV)
        others = await asyncio.gather(*(pool.parse(_job()) for _ in range(8)))
        assert await crashing == Refused("crashed its parser (signal 11)")
        assert all(isinstance(parsed, ParsedDocument) for parsed in others)


async def test_a_process_that_somebody_kills_is_replaced(workers: Workers) -> None:
    """It is not the file's fault: at work, idle or at its start, nothing is lost."""
    async with _pool() as pool:
        parsing = asyncio.create_task(pool.parse(_job()))
        await _until(workers.alive)
        workers.alive()[0].kill()
        assert isinstance(await parsing, ParsedDocument)
        parsing = asyncio.create_task(pool.parse(_job(b"word " * 200_000, "/d/a.txt")))
        first = await workers.busy()
        first.kill()
        assert isinstance(await parsing, ParsedDocument)
        await _until(lambda: workers.alive() not in ([], [first]))
        workers.alive()[0].kill()
        assert isinstance(await pool.parse(_job()), ParsedDocument)


async def test_a_file_whose_process_is_killed_twice_fails(workers: Workers) -> None:
    """The kernel kills what takes more memory than the machine has: it cannot be tried for ever."""
    async with _pool() as pool:
        await pool.parse(_job())
        parsing = asyncio.create_task(pool.parse(_job(LONG, "/d/a.txt")))
        first = await workers.busy()
        first.kill()
        await _until(lambda: workers.alive() not in ([], [first]))
        workers.alive()[0].kill()
        refused = await parsing
        assert isinstance(refused, Refused)
        assert "killed twice" in refused.reason


async def test_a_cancelled_job_ends_its_process(workers: Workers) -> None:
    """And frees its place."""
    async with _pool() as pool:
        await pool.parse(_job())
        parsing = asyncio.create_task(pool.parse(_job(LONG, "/d/a.txt")))
        process = await workers.busy()
        parsing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await parsing
        assert process not in workers.alive()
        assert isinstance(await pool.parse(_job()), ParsedDocument)


async def test_nothing_is_left_of_a_closed_pool(workers: Workers) -> None:
    """No process, no open file, also when it is closed at work."""
    files = len(os.listdir("/proc/self/fd"))
    pool = _pool(parse_workers=2)
    parsing = asyncio.create_task(pool.parse(_job(LONG, "/d/a.txt")))
    await pool.parse(_job())
    await _until(lambda: len(workers.alive()) == 2)
    await pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        await parsing
    await pool.close()
    assert workers.alive() == []
    assert len(os.listdir("/proc/self/fd")) == files


_PARENT = f"""
import asyncio
from ingestion.sandbox import Job, ParserPool
from serving.settings import IngestionSettings
async def main():
    async with ParserPool(IngestionSettings(parse_workers=2), {MODEL!r}) as pool:
        busy = pool.parse(Job("u", "a.txt", b"word " * 2_000_000, "t", "c", 200))
        idle = pool.parse(Job("u", "a.md", b"text", "t", "c", 200))
        await asyncio.gather(busy, idle)
asyncio.run(main())
"""


async def test_workers_end_with_a_killed_parent() -> None:
    """At work or idle: `kill -9` leaves none behind."""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", _PARENT)
    try:
        await _until(lambda: len(_workers(parent.pid)) == 2)
        workers = _workers(parent.pid)
        await _until(lambda: any(process.cpu_times().user > 0.5 for process in workers))
    finally:
        parent.kill()
        await parent.wait()
    await _until(lambda: not any(process.is_running() for process in workers))


async def test_a_worker_is_replaced_after_many_jobs(monkeypatch: pytest.MonkeyPatch, workers: Workers) -> None:
    """Parsing libraries leak."""
    monkeypatch.setattr(sandbox_process, "_JOBS", 2)
    async with _pool() as pool:
        seen = []
        for _ in range(3):
            assert isinstance(await pool.parse(_job()), ParsedDocument)
            seen.append([process.pid for process in workers.alive()])
    assert seen[1] == []
    assert seen[0] != seen[2]


async def test_a_worker_knows_no_secrets(monkeypatch: pytest.MonkeyPatch, workers: Workers) -> None:
    """Of the environment only what finds programs and files; lowest in rank, and no core dump."""
    monkeypatch.setenv("ANCHORAGE_INDEX__MILVUS_TOKEN", "secret-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-2")
    async with _pool() as pool:
        await pool.parse(_job())
        (worker,) = workers.alive()
        assert not any("secret" in value for value in worker.environ().values())
        assert worker.nice() > psutil.Process().nice()
        assert worker.rlimit(psutil.RLIMIT_CORE) == (0, 0)


async def test_a_model_without_tokenizer_is_a_mistake_of_the_settings(tmp_path: Path) -> None:
    """Said once, not as the failure of a file."""
    async with ParserPool(IngestionSettings(), str(tmp_path)) as pool:
        with pytest.raises(ConfigurationError, match=r"tokenizer\.json"):
            await pool.parse(_job())


_CONFINED = """
import ctypes, os, sys, threading
from ingestion import sandbox_limits
sandbox_limits.bind_to_parent(os.getppid())
sandbox_limits.confine()
libc = ctypes.CDLL(None, use_errno=True)
thread = threading.Thread(target=print, args=("thread",))
thread.start()
thread.join()
def attempt(name, call):
    try:
        print(name, call())
    except BaseException as error:
        print(name, type(error).__name__)
import socket, subprocess
attempt("socket", socket.socket)
attempt("program", lambda: subprocess.run(["true"]))
attempt("fork", os.fork)
attempt("write", lambda: open(sys.argv[1], "w"))
attempt("read", lambda: len(open(sys.executable, "rb").read(4)))
attempt("kernel socket", lambda: libc.socket(2, 1, 0))
attempt("kernel fork", libc.fork)
attempt("kernel exec", lambda: libc.execv(b"/bin/true", None))
"""


def test_a_worker_may_neither_connect_nor_start_nor_write(tmp_path: Path) -> None:
    """The interpreter refuses, and below it the kernel, for what native code would try."""
    done = subprocess.run(
        [sys.executable, "-c", _CONFINED, str(tmp_path / "x")], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split("\n")[:-1] == [
        "thread",
        "socket DocumentError",
        "program DocumentError",
        "fork DocumentError",
        "write DocumentError",
        "read 4",
        "kernel socket -1",
        "kernel fork -1",
        "kernel exec -1",
    ]
    assert not (tmp_path / "x").exists()
