"""Real locust, in processes of its own, and a small server whose timing is known."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loadtest.run import Run, Study

FILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
#: Longest for any of these runs, beyond what the test itself asks for.
PATIENCE_S = 60.0


@dataclass
class Server:
    """Says so many pieces: the first after `ttft_s`, the others `gap_s` apart. `asked`: bodies of what came.

    `frozen`: from then on, for so long (seconds after the first question) it takes requests and does nothing.
    """

    ttft_s: float = 0.02
    gap_s: float = 0.002
    pieces: int = 5
    frozen: tuple[float, float] = (0.0, 0.0)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    url: str = ""
    _first: float | None = None

    async def thawed(self) -> None:
        now = asyncio.get_running_loop().time()
        self._first = now if self._first is None else self._first
        start, length = self.frozen
        if start <= now - self._first < start + length:
            await asyncio.sleep(self._first + start + length - now)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.keys.add(headers.get("authorization", ""))
                await self.respond(head.split(" ")[1], json.loads(body or b"{}"), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def respond(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if not body:
            parts = {"llm": {"ready": True}, "index": {"ready": False, "reason": "empty"}}
            write_json(writer, {"ready": True, "parts": parts, "data": [{"id": "m"}]})
            return
        self.asked.append({"path": path, **body})
        await self.thawed()
        await asyncio.sleep(self.ttft_s)
        if body.get("stream"):
            await self.stream(writer)
        elif path == "/v1/chat/completions":
            choice = {"index": 0, "message": {"role": "assistant", "content": "word"}, "finish_reason": "stop"}
            write_json(writer, {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})
        else:
            write_json(writer, {"data": [], "status": "succeeded"})

    async def stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in range(self.pieces):
            if piece:
                await asyncio.sleep(self.gap_s)
            write_event(writer, {"choices": [{"index": 0, "delta": {"content": f" w{piece}"}, "finish_reason": None}]})
        write_event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        write_event(writer, {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": self.pieces}})
        write_event(writer, None)
        writer.write(b"0\r\n\r\n")


def write_json(writer: asyncio.StreamWriter, data: object) -> None:
    body = json.dumps(data).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


def write_error(writer: asyncio.StreamWriter, message: str) -> None:
    body = json.dumps({"error": {"message": message}}).encode()
    writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def write_event(writer: asyncio.StreamWriter, data: object) -> None:
    """None: the end."""
    event = f"data: {'[DONE]' if data is None else json.dumps(data)}\n\n".encode()
    writer.write(b"%x\r\n%s\r\n" % (len(event), event))


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    async with await asyncio.start_server(server.answer, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server


@dataclass
class Locust:
    """A process of it that runs."""

    process: asyncio.subprocess.Process
    folder: Path

    async def ended(self, within_s: float = PATIENCE_S) -> Done:
        async with asyncio.timeout(within_s):
            out, said = await self.process.communicate()
        return Done(self.process.returncode or 0, out.decode(), said.decode(), self.folder)

    async def until(self, seen: Callable[[], object]) -> None:
        """Fails at once, with its words, where it ends before that."""
        await until(lambda: seen() or self.process.returncode is not None)
        if not seen():
            pytest.fail((await self.ended()).said)

    def interrupt(self) -> None:
        """Ctrl-C: a terminal tells all of its processes."""
        os.killpg(self.process.pid, signal.SIGINT)


@dataclass
class Done:
    code: int
    out: str
    said: str
    folder: Path

    @property
    def tables(self) -> dict[str, Any]:
        """Of `--json`, by name."""
        return {one["name"]: one for one in json.loads(self.out)}

    @property
    def study(self) -> Study:
        return Study.load(self.folder / "result.json")

    @property
    def run(self) -> Run:
        (run,) = self.study.runs
        return run

    @property
    def progress(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "progress.jsonl").read_text().splitlines()]


@asynccontextmanager
async def locust(*arguments: str, folder: Path, files: Sequence[Path] = ()) -> AsyncIterator[Locust]:
    """`files`: further locustfiles. Nothing of it is left afterwards, not even what it started."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", ",".join(map(str, [FILE, *files]))),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "no_proxy": "*", "ANCHORAGE_API_KEY": "sesame", "PYTHONPATH": str(FILE.parents[1])},
        start_new_session=True,
    )
    try:
        yield Locust(process, folder)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def asking(url: str, *arguments: str, folder: Path, files: Sequence[Path] = ()) -> AbstractAsyncContextManager[Locust]:
    """Without a web page; all that `Done` looks for is kept."""
    kept = ("--result", str(folder / "result.json"), "--progress", str(folder / "progress.jsonl"))
    shown = ("--headless", "--only-summary", "--json", "--host", url)
    return locust(*shown, *kept, *arguments, folder=folder, files=files)


async def headless(
    url: str, *arguments: str, folder: Path, files: Sequence[Path] = (), within_s: float = PATIENCE_S
) -> Done:
    """From its start to its end."""
    async with asking(url, *arguments, folder=folder, files=files) as started:
        return await started.ended(within_s)


async def until(seen: Callable[[], object], within_s: float = 120.0) -> None:
    """Polls; a TimeoutError if it never becomes true."""
    async with asyncio.timeout(within_s):
        while not seen():  # noqa: ASYNC110 - what is waited for knows no events
            await asyncio.sleep(0.05)
