"""A server whose capacity is known: k places, one line, service times that follow from what is asked.

    python -m loadtest.bench.knee_server --places 16 --service-s 0.3

It speaks OpenAI's streaming protocol over real HTTP. Nothing computes: when an answer begins and ends is worked out
when its question arrives, from the moments at which places get free; so a busy machine makes its answers late by
milliseconds, and its queue by nothing. `Line` is that queue alone: with the same arrivals and questions it gives the
times that users of the server have.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import heapq
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from statistics import NormalDist

MODEL = "places"
#: Of an answer: its first text comes after this share of its service time, the others evenly over the rest.
_FIRST_SHARE = 0.5
_PIECES = 4


@dataclass(frozen=True)
class Places:
    """`number` answer at a time; service times are lognormal with this mean and sigma, seconds."""

    number: int = 16
    service_s: float = 0.3
    sigma: float = 0.5

    def arguments(self) -> list[str]:
        """Of this file's command."""
        return ["--places", str(self.number), "--service-s", str(self.service_s), "--sigma", str(self.sigma)]

    @property
    def capacity(self) -> float:
        """Requests a second beyond which the line grows for ever."""
        return self.number / self.service_s

    def service_of(self, text: str) -> float:
        """The same question always takes the same time."""
        drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64
        normal = NormalDist().inv_cdf(min(1 - 1e-9, max(1e-9, drawn)))
        return self.service_s * math.exp(self.sigma * normal - self.sigma**2 / 2)


@dataclass
class Line:
    """First come, first served."""

    places: Places
    _free: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self._free = [0.0] * self.places.number

    def times(self, at: float, text: str) -> tuple[float, float]:
        """When the first text and the end of the answer come, to a question that comes at `at`; by one clock."""
        service_s = self.places.service_of(text)
        began = max(at, self._free[0])
        heapq.heapreplace(self._free, began + service_s)
        return began + _FIRST_SHARE * service_s, began + service_s


@asynccontextmanager
async def capacity(places: Places, port: int = 0) -> AsyncIterator[str]:
    """Serves on loopback; the URL."""
    line = Line(places)
    open_ones: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones.add(task)
        try:
            while True:
                await _exchange(reader, writer, line)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            open_ones.discard(task)
            writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", port, backlog=4096) as server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in list(open_ones):
                task.cancel()
            await asyncio.gather(*open_ones, return_exceptions=True)


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line) -> None:
    """One request. Raises IncompleteReadError when the client is gone."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    at = asyncio.get_running_loop().time()
    lengths = [int(one.split(":")[1]) for one in head if one.lower().startswith("content-length:")]
    body = await reader.readexactly(lengths[0]) if lengths else b""
    if head[0].startswith("GET /v1/models"):
        _whole(writer, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
    elif head[0].startswith("POST /v1/chat/completions"):
        await _stream(writer, *line.times(at, json.loads(body)["messages"][-1]["content"]))
    else:
        _whole(writer, {"error": {"message": f"there is no {head[0]}"}}, "404 Not Found")
    await writer.drain()


def _whole(writer: asyncio.StreamWriter, answer: object, status: str = "200 OK") -> None:
    body = json.dumps(answer).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


async def _stream(writer: asyncio.StreamWriter, first: float, end: float) -> None:
    loop = asyncio.get_running_loop()
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    for piece in range(_PIECES):
        due = first + (end - first) * piece / (_PIECES - 1)
        await asyncio.sleep(max(0.0, due - loop.time()))
        _event(writer, json.dumps(_chunk({"content": f"piece {piece} "})))
    _event(writer, json.dumps({**_chunk({}, "stop"), "usage": {"prompt_tokens": 8, "completion_tokens": _PIECES}}))
    _event(writer, "[DONE]")
    writer.write(b"0\r\n\r\n")


def _event(writer: asyncio.StreamWriter, data: str) -> None:
    event = f"data: {data}\n\n".encode()
    writer.write(b"%x\r\n%b\r\n" % (len(event), event))


def _chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, object]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": choices}


async def _main(places: Places, port: int) -> None:
    async with capacity(places, port) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=Places.number)
    parser.add_argument("--service-s", type=float, default=Places.service_s)
    parser.add_argument("--sigma", type=float, default=Places.sigma)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_main(Places(given.places, given.service_s, given.sigma), given.port))
