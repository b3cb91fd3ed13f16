"""The yardstick of every relay: a bare uvicorn that streams given events, one write an event.

Run as `python -m loadtest.bench.bare PORT EVENTS_FILE FIRST_TOKEN_S`. The file holds the events exactly as the product
sent them, so that both sides move the same bytes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


def split_events(body: bytes) -> list[bytes]:
    """Server-sent events with their terminators."""
    return [event + b"\n\n" for event in body.split(b"\n\n") if event]


class BareStream:
    """An ASGI app that waits `first_token_s`, then sends every event."""

    def __init__(self, events: list[bytes], first_token_s: float) -> None:
        self._events = events
        self._first_token_s = first_token_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        if self._first_token_s:
            await asyncio.sleep(self._first_token_s)
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def main() -> None:
    port, events, first = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    app = BareStream(split_events(events.read_bytes()), first)
    uvicorn.run(
        app, host="127.0.0.1", port=port, log_level="warning", access_log=False, loop="uvloop", http="httptools"
    )


if __name__ == "__main__":
    main()
