"""A client that costs little: raw sockets, events counted in the bytes as they arrive."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

_EVENT = b"data: "
_CONTENT = b'"content":"'
_END = b"data: [DONE]"


class BenchError(Exception):
    """A bench cannot be run or its peers do not return the same output."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One streamed answer: seconds to the first token and to the end, counted events and bytes of body."""

    first_s: float
    total_s: float
    events: int
    body: bytes


async def read_stream(host: str, port: int, path: str, body: dict[str, Any], *, keep: bool = False) -> Stream:
    """POST `body`, read server-sent events to `[DONE]`.

    The first token is the first event that carries content (a role-only event does not count).
    Raises BenchError when the answer is not a 200 event stream that ends with `[DONE]`.
    """
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    ).encode()
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, port, limit=2**20)
    try:
        writer.write(head + payload)
        return await _read(reader, started, keep)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, started: float, keep: bool) -> Stream:
    first, events, tail = 0.0, 0, b""
    kept = bytearray()
    while data := await reader.read(2**18):
        if not events and not tail and not data.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"not a stream: {data[:400]!r}")
        if keep:
            kept += data
        window = tail + data
        if not first and _has_content(window):
            first = time.perf_counter() - started
        events += window.count(_EVENT) - tail.count(_EVENT)
        if _END in window:
            return Stream(first, time.perf_counter() - started, events - 1, bytes(kept))
        tail = window[-(len(_END) - 1) :] if first else window
    raise BenchError(f"the stream ended without [DONE] after {events} events")


def _has_content(window: bytes) -> bool:
    at = window.find(_CONTENT)
    while at >= 0:
        after = window[at + len(_CONTENT) : at + len(_CONTENT) + 1]
        if after and after != b'"':
            return True
        at = window.find(_CONTENT, at + 1)
    return b'"text":"' in window and b'"text":""' not in window
