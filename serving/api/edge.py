"""The outermost layer: request ids, the access log, request metrics, and a 500 for what nobody foresaw."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.problems import problem_of, respond
from serving.api.trace import Trace, begin
from serving.telemetry import Telemetry, logger, request_context

#: nginx's number for "the client went away": only in logs and metrics, nobody is left to read it.
CLIENT_GONE = 499


class Edge:
    """Pure ASGI, so that a streamed batch passes through one function call and no task."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = begin(scope, send)
        request_id = (b"x-request-id", trace.request_id.encode())

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                message["headers"] = [*message["headers"], request_id]
            await send(message)

        with request_context(trace.request_id):
            try:
                await self._run(scope, receive, stamped, trace)
            finally:
                self._account(scope, trace)

    async def _run(self, scope: Scope, receive: Receive, send: Send, trace: Trace) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the process edge: what nobody foresaw is logged and answered here
            logger("anchorage").error("unexpected error", exc_info=error)
            problem = problem_of(error)
            trace.error = problem.code
            if trace.status is None:
                await respond(problem)(scope, receive, send)

    def _account(self, scope: Scope, trace: Trace) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        seconds = asyncio.get_running_loop().time() - trace.arrived
        status = CLIENT_GONE if trace.gone or trace.status is None else trace.status
        self._telemetry.request(_method(scope), route, status, seconds)
        facts = {"model": trace.model, "outcome": trace.outcome, "error": trace.error, **trace.fields}
        logger("anchorage.access").info(
            "request",
            method=scope["method"],
            route=route,
            status=status,
            ms=round(seconds * 1000, 2),
            **{name: fact for name, fact in facts.items() if fact is not None},
        )


def _method(scope: Scope) -> str:
    """A label from a short list: a method is free text that callers choose."""
    known = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")
    return scope["method"] if scope["method"] in known else "OTHER"
