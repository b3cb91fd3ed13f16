"""A server that fails in every way there is, and one that answers well at known times.

The first part of the path says how: `http://host:port/NAME` is the URL of the server that does NAME. Raw bytes over
asyncio: a real HTTP server would refuse to do most of this.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"
#: As the well-behaved server waits, seconds: to the first text, between texts.
FIRST_S, GAP_S = 0.2, 0.1

#: How a client begins that wants TLS.
_TLS = b"\x16"

Reply: TypeAlias = Callable[[asyncio.StreamWriter], Awaitable[None]]


def event(delta: dict[str, Any], **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": more.pop("finish_reason", None)}
    data = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(data | more, ensure_ascii=False).encode() + b"\n\n"


def text(value: str) -> bytes:
    return event({"content": value})


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def stream(*events: bytes) -> bytes:
    """A whole response."""
    return HEAD + b"".join(map(chunk, events)) + END


def answer(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def error(code: str) -> bytes:
    return json.dumps({"error": {"message": "said so", "type": "server_error", "param": None, "code": code}}).encode()


def said(*pieces: bytes, then: Reply | None = None) -> Reply:
    """Those writes, with a moment between, then whatever comes `then`; else the connection is kept."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)
        if then is not None:
            await then(writer)

    return reply


async def reset(writer: asyncio.StreamWriter) -> None:
    """RST: nothing lingers, what was not sent is thrown away."""
    await asyncio.sleep(0.05)  # or what was said before would be lost, too
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def silence(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def comments(writer: asyncio.StreamWriter) -> None:
    """Alive, for ever, and says nothing."""
    while True:
        writer.write(chunk(b": waiting\n\n"))
        await writer.drain()
        await asyncio.sleep(0.1)


async def drip(writer: asyncio.StreamWriter) -> None:
    """A byte at a time, so slowly that it never ends."""
    for byte in stream(*[text("word")] * 100, DONE):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.1)


async def long_line(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + chunk(b"data: "))
    piece = chunk(b"x" * 2**18)
    for _ in range(400):
        writer.write(piece)
        await writer.drain()


async def long_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        writer.write(b"x-%d: %s\r\n" % (number, b"y" * 1000))
        await writer.drain()


async def timed(writer: asyncio.StreamWriter) -> None:
    """Five texts."""
    writer.write(HEAD)
    await asyncio.sleep(FIRST_S)
    for number in range(5):
        writer.write(chunk(text(f" w{number}")))
        await writer.drain()
        await asyncio.sleep(GAP_S)
    writer.write(chunk(DONE) + END)


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
#: As vLLM's: a role, texts, the reason, the usage.
GOOD = (
    event({"role": "assistant", "content": ""}),
    text("Hello"),
    text(" world"),
    event({}, finish_reason="stop"),
    b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n",
    DONE,
)
WHOLE = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "length"}],
    "usage": USAGE,
}

#: Name → what it does, and what kind that is; None: a good answer.
FAULTS: dict[str, tuple[Reply, str | None]] = {
    "good": (said(stream(*GOOD)), None),
    "timed": (timed, None),
    "whole": (said(answer("200 OK", json.dumps(WHOLE).encode())), None),
    "status-400": (said(answer("400 Bad Request", error("invalid_value"))), "http_4xx"),
    "status-301": (said(answer("301 Moved", b"", "location: /elsewhere")), "http_4xx"),
    "status-429": (said(answer("429 Too Many", error("overloaded"), "retry-after: 7")), "http_429"),
    "status-500": (said(answer("500 Internal", b"<html>oh</html>")), "http_5xx"),
    "status-503": (said(answer("503 Unavailable", error("llm_cold"), "retry-after: 2")), "http_503"),
    "status-502-hangs": (said(b"HTTP/1.1 502 Bad\r\ncontent-length: 100\r\n\r\n{", then=silence), "http_5xx"),
    "status-503-reset": (said(b"HTTP/1.1 503 No\r\ncontent-length: 100\r\n\r\n{", then=reset), "http_503"),
    "reset": (reset, "reset"),
    "reset-in-head": (said(b"HTTP/1.1 200 OK\r\n", then=reset), "reset"),
    "reset-in-stream": (said(HEAD + chunk(text("Hello")), then=reset), "reset"),
    "closed": (close, "cut"),
    "closed-in-head": (said(b"HTTP/1.1 200 OK\r\ncontent-", then=close), "cut"),
    "closed-in-stream": (said(HEAD + chunk(text("Hello")), then=close), "cut"),
    "closed-in-event": (said(HEAD + chunk(text("Hello")[:-20]), then=close), "cut"),
    "no-done": (said(stream(*GOOD[:-1])), "cut"),
    "error-event": (said(stream(text("Hello"), b"data: " + error("llm_failed") + b"\n\n")), "error_event"),
    "error-old": (said(stream(b'data: {"object": "error", "message": "died", "code": 500}\n\n')), "error_event"),
    "error-text": (said(stream(b'data: {"error": "died"}\n\n', DONE)), "error_event"),
    "garbage": (said(b"220 smtp.example.org ESMTP\r\n", then=silence), "broken_stream"),
    "bad-chunk": (said(HEAD + chunk(text("Hello")) + b"zz\r\n", then=silence), "broken_stream"),
    "bad-json": (said(stream(text("Hello"), b'data: {"choices": [\n\n', DONE)), "broken_stream"),
    "not-utf-8": (said(stream(text("Hello").replace(b"Hello", b"\xff\xfe"), DONE)), "broken_stream"),
    "other-json": (said(stream(b"data: 5\n\n", DONE)), "broken_stream"),
    "other-shape": (said(stream(b'data: {"choices": {"delta": 1}}\n\n', DONE)), "broken_stream"),
    "no-events": (said(answer("200 OK", b"<html>welcome</html>")), "broken_stream"),
    "long-line": (long_line, "broken_stream"),
    "long-head": (long_head, "broken_stream"),
    "empty": (said(stream(event({"role": "assistant", "content": ""}), DONE)), "empty"),
    "only-tools": (said(stream(event({"tool_calls": [{"index": 0, "id": "t"}]}), DONE)), "empty"),
    "no-head": (silence, "stalled"),
    "no-body": (said(HEAD, then=silence), "stalled"),
    "silent": (said(HEAD + chunk(text("Hello")), then=silence), "stalled"),
    "comments": (said(HEAD, then=comments), "timeout"),
    "drip": (drip, "timeout"),
}


class Faulty:
    """`seen`: what was asked, (method and path, body), `heads`: the same with headers; `accepted`: connections."""

    def __init__(self, replies: dict[str, Reply] | None = None, *, scheme: str = "http") -> None:
        self.scheme = scheme
        self.port = 0
        self.accepted = 0
        self.seen: list[tuple[str, Any]] = []
        self.heads: list[str] = []
        self._replies = {name: reply for name, (reply, _) in FAULTS.items()} | (replies or {})
        self._running: set[asyncio.Task[Any]] = set()

    def url(self, name: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/{name}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests of one connection, one after the other."""
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while not writer.is_closing():
                first = await reader.readexactly(1)
                if first == _TLS:
                    await said(answer("400 Bad Request", b"no TLS here"), then=close)(writer)
                    break
                head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                name = path.split("/")[1]
                if name == "deaf":  # never reads the body, however large
                    reader._transport.pause_reading()  # type: ignore[attr-defined] # asyncio would buffer some
                    await silence(writer)
                length = next(
                    (line[15:] for line in head.split("\r\n") if line.lower().startswith("content-length:")), 0
                )
                body = await reader.readexactly(int(length))
                self.seen.append((f"{method} {path}", json.loads(body) if body else None))
                self.heads.append(head)
                await self._replies[name](writer)
        writer.close()
        self._running.discard(task)

    async def stop(self) -> None:
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


@asynccontextmanager
async def faulty(replies: dict[str, Reply] | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Faulty]:
    """`replies`: more of them, by name."""
    server = Faulty(replies, scheme="https" if tls else "http")
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=1024, ssl=tls) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server
        await server.stop()
