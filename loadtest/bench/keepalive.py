"""One connection, many requests: what a client library with a pool does, without its cost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from loadtest.bench.client import BenchError

_TIMEOUT_S = 60.0


class Connection:
    """Speaks HTTP/1.1 to a server that says Content-Length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    async def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        """The body of a 200. Raises BenchError for any other answer."""
        payload = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        async with asyncio.timeout(_TIMEOUT_S):
            answer = await self._reader.readuntil(b"\r\n\r\n")
            content = await self._reader.readexactly(_length(answer))
        if not answer.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"{path} answered {answer.splitlines()[0].decode()}: {content[:300]!r}")
        return content

    async def timed(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> list[float]:
        """Seconds of each request, one after the other."""
        seconds = []
        for body in bodies:
            started = time.perf_counter()
            await self.post(path, body)
            seconds.append(time.perf_counter() - started)
        return seconds


@asynccontextmanager
async def connected(host: str, port: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection(host, port, limit=2**22)
    try:
        yield Connection(reader, writer, f"{host}:{port}")
    finally:
        writer.close()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise BenchError(f"no Content-Length in {head!r}")
