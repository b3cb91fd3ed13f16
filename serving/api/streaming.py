"""An answer as a stream of server-sent events.

The status goes out with the first thing worth sending, a token or news of a cold start: what fails before that has
its own status. What fails after it becomes a last `{"error": …}` event, then the stream ends as HTTP says it should.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import cast

from starlette.types import Send

from serving.answer import AnswerBatch
from serving.api.chunks import END, Chunks, event, is_report_only
from serving.api.problems import Problem
from serving.api.tally import Tally
from serving.errors import EngineUnavailable

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect tokens
]
#: Proxies close connections that are silent for a minute (AWS ALB, nginx): say something before.
HEARTBEAT_S = 15.0
_HEARTBEAT = b": waiting\n\n"
#: A client that stopped reading does not get to hold its turn for the sake of an error message.
_LAST_WORDS_S = 1.0


class EventStream:
    """Work of an `Exchange`: sends one answer, batch by batch.

    Events go out through `direct`, the server's own send: the five layers of middleware in between look at the start
    of a response only, and would cost more per token than making its event does.
    """

    def __init__(
        self,
        answer: AsyncIterator[AnswerBatch],
        chunks: Chunks,
        tally: Tally,
        direct: Send,
        *,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._answer = answer
        self._chunks = chunks
        self._tally = tally
        self._direct = direct
        self._heartbeat_s = heartbeat_s
        self._held = b""
        self._started = False
        self._sent = 0

    async def run(self, send: Send) -> None:
        """Raises what the answer raises, and EngineUnavailable if it ends without a reason."""
        heart = asyncio.create_task(self._beat(send))
        try:
            async with aclosing(cast("AsyncGenerator[AnswerBatch, None]", self._answer)) as batches:
                await self._relay(batches, send)
            if not self._chunks.finished:
                raise EngineUnavailable("The engine ended its answer without saying why.")
            await self._direct({"type": "http.response.body", "body": END, "more_body": False})
        finally:
            heart.cancel()
            self._tally.close(finished=self._chunks.finished)

    async def fail(self, problem: Problem) -> bool:
        """Tell the client as the stream's last event; False if nothing was sent yet, so that a status still can."""
        if not self._started:
            return False
        body = event(problem.body())
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._direct({"type": "http.response.body", "body": body, "more_body": False})
        return True

    async def _relay(self, batches: AsyncIterator[AnswerBatch], send: Send) -> None:
        encode, direct = self._chunks.encode, self._direct
        seen_token = False
        async for batch in batches:
            body = encode(batch)
            if not seen_token:
                seen_token = self._tally.watch_for_token(batch)
                if not self._started and is_report_only(batch):
                    self._held += body
                    continue
                await self._start(send)
                body, self._held = self._held + body, b""
            if body:
                self._sent += 1
                await direct({"type": "http.response.body", "body": body, "more_body": True})

    async def _start(self, send: Send) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})

    async def _beat(self, send: Send) -> None:
        """Break a long silence once the passages are there: with them if they were held back, else with a comment."""
        while True:
            before = self._sent
            await asyncio.sleep(self._heartbeat_s)
            if self._sent != before or not (self._started or self._held):
                continue
            await self._start(send)
            body, self._held = self._held or _HEARTBEAT, b""
            await self._direct({"type": "http.response.body", "body": body, "more_body": True})
