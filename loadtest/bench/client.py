"""A client that costs little: raw sockets, events counted in the bytes as they arrive."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

_EVENT = b"data: "
_CONTENT = b'"content":"'
END = b"data: [DONE]"


class BenchError(Exception):
    """A bench cannot be run or its peers do not return the same output."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One streamed answer: seconds to the first token and to the end, and the response as it came."""

    first_s: float
    total_s: float
    response: bytes


def request_bytes(host: str, port: int, path: str, body: dict[str, Any]) -> bytes:
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + payload


async def read_stream(host: str, port: int, path: str, body: dict[str, Any]) -> Stream:
    """POST `body`, read server-sent events to `[DONE]`.

    The first token is the first event that carries content (a role-only event does not count).
    Raises BenchError when the answer is not a 200 event stream that ends with `[DONE]`.
    """
    request = request_bytes(host, port, path, body)
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, port, limit=2**20)
    try:
        writer.write(request)
        return await _read(reader, started)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, started: float) -> Stream:
    first, seen, received, body = 0.0, 0, bytearray(), _Body()
    while data := await reader.read(2**18):
        received += data
        text = body.fed(data)
        if not first and has_content(text, seen):
            first = time.perf_counter() - started
        if text.find(END, max(0, seen - len(END))) >= 0:
            return Stream(first, time.perf_counter() - started, checked(bytes(received)))
        seen = len(text)
    checked(bytes(received))
    raise BenchError(f"the stream ended without [DONE]: {bytes(received[:400])!r}")


class _Body:
    """A response's body as it arrives, without head and chunk framing (RFC 9112, 7.1)."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._body = bytearray()
        self._chunked: bool | None = None
        self._left = 0

    def fed(self, data: bytes) -> bytearray:
        """The body so far."""
        self._raw += data
        if self._chunked is None:
            head, end, rest = self._raw.partition(b"\r\n\r\n")
            if not end:
                return self._body
            self._chunked = b"transfer-encoding: chunked" in head.lower()
            self._raw = rest
        if not self._chunked:
            self._left = len(self._raw)
        while self._take() and self._chunked and self._next_chunk():
            pass
        return self._body

    def _take(self) -> bool:
        """Moves what is left of the chunk; whether that was all of it."""
        self._body += self._raw[: self._left]
        self._left, self._raw = max(0, self._left - len(self._raw)), self._raw[self._left :]
        return self._left == 0

    def _next_chunk(self) -> bool:
        """Reads the next chunk's size; whether there is one."""
        line = self._raw.removeprefix(b"\r\n")
        size, end, rest = line.partition(b"\r\n")
        if not end:
            return False
        self._left, self._raw = int(size.split(b";")[0], 16), rest
        return self._left > 0


def has_content(received: bytes | bytearray, seen: int = 0) -> bool:
    """Whether a delta's content that is not empty has begun to arrive; `seen` bytes were looked at before."""
    at = received.find(_CONTENT, max(0, seen - len(_CONTENT)))
    while at >= 0:
        after = at + len(_CONTENT)
        if len(received) > after and received[after : after + 1] != b'"':
            return True
        at = received.find(_CONTENT, after)
    return False


def checked(response: bytes) -> bytes:
    """The response, if it is a 200. Raises BenchError."""
    if not response.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"not a stream: {response[:400]!r}")
    return response


def body_of(response: bytes) -> bytes:
    """The body without head and chunk framing, as far as it came."""
    return bytes(_Body().fed(response))


def split_events(body: bytes) -> list[bytes]:
    """Server-sent events with their terminators."""
    return [event + b"\n\n" for event in body.split(b"\n\n") if event]


def pieces_of(body: bytes) -> list[str]:
    """The pieces of text of a stream, in order: one for each event that carries text."""
    events = (event.strip() for event in split_events(body))
    data = (event.removeprefix(_EVENT) for event in events if event.startswith(_EVENT) and event != END)
    choices = (choice for event in data for choice in json.loads(event).get("choices") or ())
    pieces = ((choice.get("delta") or {}).get("content") for choice in choices)
    return [piece for piece in pieces if piece]
