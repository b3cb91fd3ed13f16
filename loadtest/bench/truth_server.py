"""A server that streams by a script and keeps when it really wrote each token: the truth that clients are held to.

`python -m loadtest.bench.truth_server PORT LOG CORE SCRIPT`: OpenAI's chat completions, events as vLLM writes them,
each in its own chunk and (but for a flood) its own `send`, so that the clock is read right after the kernel took it. At
its end (SIGINT, SIGTERM) it writes LOG, a JSON line a request. `GET /events` says how many tokens were written so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from loadtest.bench.fidelity_process import prefer
from loadtest.bench.fidelity_script import MODEL, Script
from serving.ports import LOOPBACK

_BACKLOG = 4096
_READ_BYTES = 65536
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_END = b"0\r\n\r\n"


@dataclass(slots=True)
class Answer:
    """One request: when its bytes were there, when its tokens were due and when written. CLOCK_MONOTONIC, ns.

    It is `whole` when its end was written as well.
    """

    number: int
    accepted: int
    due: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    whole: bool = False


class TruthServer:
    """Answers on any number of connections."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.answers: list[Answer] = []
        self.tokens = 0

    async def accept(self, listening: socket.socket) -> None:
        """Until it is cancelled."""
        while True:
            connection, _ = await self._loop.sock_accept(listening)
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._converse(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _converse(self, connection: socket.socket) -> None:
        """A client that goes is no error."""
        with connection, contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                target, body = await self._request(connection)
                accepted = time.monotonic_ns()
                if target.startswith(b"POST /v1/chat/completions "):
                    await self._answer(connection, accepted, json.loads(body))
                else:
                    await self._loop.sock_sendall(connection, self._page(target.split(b" ")[1]))

    async def _request(self, connection: socket.socket) -> tuple[bytes, bytes]:
        """First line and body. Clients do not send a request before they have the answer to the last."""
        got = b""
        while b"\r\n\r\n" not in got:
            got += await self._read(connection)
        head, _, body = got.partition(b"\r\n\r\n")
        first, *fields = head.split(b"\r\n")
        lengths = [
            value for name, _, value in (one.partition(b":") for one in fields) if name.lower() == b"content-length"
        ]
        wanted = int(lengths[0]) if lengths else 0
        while len(body) < wanted:
            body += await self._read(connection)
        return first, body

    async def _read(self, connection: socket.socket) -> bytes:
        got = await self._loop.sock_recv(connection, _READ_BYTES)
        if not got:
            raise asyncio.IncompleteReadError(b"", None)
        return got

    def _page(self, path: bytes) -> bytes:
        pages: dict[bytes, Any] = {
            b"/events": {"tokens": self.tokens},
            b"/health": {},
            b"/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "anchorage"}]},
        }
        page = json.dumps(pages.get(path, {"detail": "Not Found"})).encode()
        status = b"200 OK" if path in pages else b"404 Not Found"
        return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
            status,
            len(page),
            page,
        )

    async def _answer(self, connection: socket.socket, accepted: int, asked: dict[str, Any]) -> None:
        tokens = int(asked.get("max_completion_tokens") or asked.get("max_tokens") or self._script.tokens)
        answer = Answer(len(self.answers), accepted)
        if not self.answers and (freeze := self._script.freeze_s):
            # A frozen process does nothing at all: it neither reads nor writes.
            self._loop.call_later(freeze[0], time.sleep, freeze[1])
        self.answers.append(answer)
        answer.due = [accepted + round(1e9 * due_s) for due_s in self._script.due_s(answer.number, tokens)]
        role, *events, end = _answer_parts(answer.number, tokens, usage=_wants_usage(asked))
        if self._script.flood:
            await self._flood(connection, answer, [_STREAM_HEAD, role, *events, end])
            return
        await self._send(connection, _STREAM_HEAD)
        for place, (due, event) in enumerate(zip(answer.due, events, strict=True)):
            await self._until(due)
            if not place:
                await self._send(connection, role)
            await self._send(connection, event)
            answer.written.append(time.monotonic_ns())
            self.tokens += 1
        await self._send(connection, end)
        answer.whole = True

    async def _flood(self, connection: socket.socket, answer: Answer, parts: list[bytes]) -> None:
        """All of it as fast as the client takes it: one `send` a token would make the server the limit."""
        await self._send(connection, b"".join(parts))
        answer.written = [time.monotonic_ns()] * len(answer.due)
        self.tokens += len(answer.due)
        answer.whole = True

    async def _until(self, due: int) -> None:
        await asyncio.sleep(max(0.0, (due - time.monotonic_ns()) / 1e9))

    async def _send(self, connection: socket.socket, data: bytes) -> None:
        try:
            sent = connection.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            await self._loop.sock_sendall(connection, data[sent:])


def _wants_usage(asked: dict[str, Any]) -> bool:
    return bool((asked.get("stream_options") or {}).get("include_usage"))


def _answer_parts(number: int, tokens: int, *, usage: bool) -> list[bytes]:
    """The role, every token, and all that comes after them, as chunks of HTTP."""
    head = {"id": f"chatcmpl-{number:032x}", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    deltas = [{"role": "assistant", "content": ""}, *({"content": f" w{place}"} for place in range(tokens))]
    reasons = [None] * tokens + ["length"]
    choices = [
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason, "token_ids": None}
        for delta, reason in zip(deltas, reasons, strict=True)
    ]
    counted = {"prompt_tokens": 16, "total_tokens": 16 + tokens, "completion_tokens": tokens}
    last = _event({**head, "choices": [], "usage": counted}) if usage else b""
    return [*(_event({**head, "choices": [choice]}) for choice in choices), last + _chunk(b"data: [DONE]\n\n") + _END]


def _event(data: dict[str, Any]) -> bytes:
    return _chunk(b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(port: int, log: Path, script: Script) -> None:
    """Until it is told to end."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = TruthServer(script)
    with socket.create_server((LOOPBACK, port), backlog=_BACKLOG) as listening:
        listening.setblocking(False)
        accepting = asyncio.create_task(server.accept(listening))
        await stop.wait()
        accepting.cancel()
        await asyncio.wait([accepting])
    with log.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(asdict(answer)) + "\n" for answer in server.answers)


def main() -> None:
    # Nothing here makes garbage in circles; a collection would be a pause that no client made.
    gc.disable()
    port, log, core, nice, script = sys.argv[1:6]
    os.sched_setaffinity(0, {int(core)})
    prefer(os.getpid(), int(nice))
    uvloop.run(serve(int(port), Path(log), Script.read(script)))


if __name__ == "__main__":
    main()
