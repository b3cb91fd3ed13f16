"""The yardstick of every relay: a bare uvicorn that streams given events.

Run as `python -m loadtest.bench.peers.bare PORT EVENTS_FILE FIRST_TOKEN_S GAP_S each|whole`. The file holds the events
as the product sent them: both sides move the same bytes. `each`: the event loop gets a turn after each event, as
it does after each token of any engine, so each event is its own write. `whole`: no turn in between, which makes
uvicorn join a whole answer into one or two writes; no token stream can do that, it is the machine's ceiling.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

from loadtest.bench.client import has_content, split_events

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


class BareStream:
    """An ASGI app that waits `first_token_s`, then sends every event, tokens `gap_s` apart.

    `turns`: the event loop has a turn after each event.
    """

    def __init__(self, events: list[bytes], first_token_s: float, gap_s: float, *, turns: bool) -> None:
        self._events = [(event, gap_s if has_content(event) else 0.0) for event in events]
        self._first_token_s = first_token_s
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        while (await receive()).get("more_body"):
            pass
        if self._first_token_s:
            await asyncio.sleep(self._first_token_s)
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        for event, pause_s in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            if self._turns:
                await asyncio.sleep(pause_s)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def main() -> None:
    port, events, first, gap, mode = sys.argv[1:6]
    spoken = split_events(Path(events).read_bytes())
    app = BareStream(spoken, float(first), float(gap), turns=mode == "each")
    uvicorn.run(
        app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False, loop="uvloop", http="httptools"
    )


if __name__ == "__main__":
    main()
