"""Many streams at full speed, read by one thread that looks only every few milliseconds.

It leaves the machine to the servers: what counts here is how much arrives, not when each piece does.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from dataclasses import dataclass

from loadtest.bench.client import END, BenchError, body_of, checked

#: How often the sockets are emptied. Kernel buffers hold more than a stream sends meanwhile.
_LOOK_EVERY_S = 0.002
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Flood:
    """Seconds from the first request to the last `[DONE]`, until the last request was out, of the client's own CPU."""

    total_s: float
    dispatched_s: float
    client_cpu_s: float
    responses: list[bytes]


async def flood(host: str, port: int, request: bytes, streams: int) -> Flood:
    """Send `request` on that many connections at once and read them all. Raises BenchError."""
    return await asyncio.to_thread(_flood, host, port, request, streams)


def _flood(host: str, port: int, request: bytes, streams: int) -> Flood:
    sockets = [_connected(host, port) for _ in range(streams)]
    received = {one: bytearray() for one in sockets}
    try:
        started, cpu = time.perf_counter(), time.thread_time()
        for one in sockets:
            one.sendall(request)
        dispatched = time.perf_counter() - started
        with selectors.DefaultSelector() as selector:
            for one in sockets:
                one.setblocking(False)
                selector.register(one, selectors.EVENT_READ)
            _read_all(selector, received, started + _TIMEOUT_S)
        total, cpu = time.perf_counter() - started, time.thread_time() - cpu
    finally:
        for one in sockets:
            one.close()
    return Flood(total, dispatched, cpu, [checked(bytes(response)) for response in received.values()])


def _connected(host: str, port: int) -> socket.socket:
    one = socket.create_connection((host, port), timeout=_TIMEOUT_S)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def _check_ended(response: bytes) -> None:
    """A stream whose end was cut in two by the framing ends with its connection. Raises BenchError for others."""
    if END not in body_of(checked(response)):
        raise BenchError(f"a stream ended without [DONE]: {response[:400]!r}")


def _read_all(selector: selectors.BaseSelector, received: dict[socket.socket, bytearray], deadline: float) -> None:
    while selector.get_map():
        if time.perf_counter() > deadline:
            raise BenchError(f"{len(selector.get_map())} streams did not end within {_TIMEOUT_S:.0f} s")
        for key, _ in selector.select(timeout=1.0):
            one = key.fileobj
            assert isinstance(one, socket.socket)
            data = one.recv(2**18)
            response = received[one]
            response += data
            if response.find(END, max(0, len(response) - len(data) - len(END))) >= 0:
                selector.unregister(one)
            elif not data:
                _check_ended(bytes(response))
                selector.unregister(one)
        time.sleep(_LOOK_EVERY_S)
