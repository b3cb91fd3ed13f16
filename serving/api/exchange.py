"""One request's work under its three limits: a turn, a deadline, and a client that is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.api.admission import Admission
from serving.api.problems import Problem, problem_of
from serving.api.trace import Trace
from serving.errors import AnchorageError, DeadlineExceeded
from serving.telemetry import logger

#: The parts below keep the deadline themselves and can say where it ran out: they get this much to do so, seconds.
_GRACE_S = 0.25


class Work(Protocol):
    """What an exchange runs."""

    async def run(self, send: Send) -> None:
        """Do it, and send the whole response."""
        ...

    async def fail(self, problem: Problem) -> bool:
        """Report a failure after the first byte; False if there was none yet."""
        ...


class Reply:
    """Work whose response is one JSON body: nothing is sent before all of it is there."""

    def __init__(self, compute: Callable[[], Awaitable[bytes]]) -> None:
        self._compute = compute

    async def run(self, send: Send) -> None:
        body = await self._compute()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def fail(self, problem: Problem) -> bool:
        return False


class Exchange(Response):
    """A response that does its work while it is sent, and stops at once when the client goes away.

    Errors before the first byte are raised, for the app's handlers to answer; later ones go to `Work.fail`.
    """

    def __init__(
        self, work: Callable[[], Awaitable[Work]], admission: Admission, trace: Trace, deadline: float
    ) -> None:
        # No super().__init__: it would render a body and headers that this response does not have.
        self.background = None
        self._make = work
        self._admission = admission
        self._trace = trace
        self._deadline = deadline
        self._work: Work | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._within_limits(receive, send)
        except AnchorageError as error:
            if not await self._failed(error):
                raise
        except Exception as error:
            # The edge of a stream: after its first byte only this place can still end it in good order.
            if not await self._failed(error):
                raise
            logger("anchorage").error("unexpected error in a stream", exc_info=error)

    async def _within_limits(self, receive: Receive, send: Send) -> None:
        trace = self._trace
        try:
            async with asyncio.timeout_at(self._deadline) as limit:
                watcher = asyncio.create_task(_watch(receive, limit, trace))
                try:
                    await self._in_turn(limit, send)
                finally:
                    watcher.cancel()
        except TimeoutError:
            if not limit.expired():
                raise
            if not trace.gone:
                raise DeadlineExceeded(f"The request's time ran out ({trace.stage}).", part=trace.stage) from None

    async def _in_turn(self, limit: asyncio.Timeout, send: Send) -> None:
        self._trace.stage = "queue"
        async with self._admission.turn():
            limit.reschedule(self._deadline + _GRACE_S)
            self._trace.stage = "answer"
            self._work = await self._make()
            await self._work.run(send)

    async def _failed(self, error: Exception) -> bool:
        problem = problem_of(error)
        if self._work is None or not await self._work.fail(problem):
            return False
        self._trace.error = problem.code
        return True


async def _watch(receive: Receive, limit: asyncio.Timeout, trace: Trace) -> None:
    """Let the work's time run out in the moment the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    trace.gone = True
    if not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())
