"""What one request leaves behind in the access log and the metrics."""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass, field

from starlette.types import Scope, Send

_KEY = "anchorage.trace"
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(slots=True)
class Trace:
    """Facts of one request, filled in on its way. `arrived` is on the event loop's clock, seconds.

    `direct` is the server's own send: for the body of a stream that has begun, past all middleware.
    """

    request_id: str
    arrived: float
    direct: Send
    model: str | None = None
    outcome: str | None = None
    error: str | None = None
    stage: str = "request"
    gone: bool = False
    status: int | None = None
    fields: dict[str, object] = field(default_factory=dict)

    def unique_id(self) -> str:
        """The request id with a part of our own: callers may repeat theirs, engines refuse to see one twice."""
        return f"{self.request_id}-{secrets.token_hex(4)}"


def begin(scope: Scope, send: Send) -> Trace:
    """Start the trace of a request and keep it in its scope."""
    trace = Trace(_request_id(scope), asyncio.get_running_loop().time(), send)
    scope[_KEY] = trace
    return trace


def trace_of(scope: Scope) -> Trace:
    """The trace that `begin` put there."""
    trace: Trace = scope[_KEY]
    return trace


def _request_id(scope: Scope) -> str:
    """The caller's X-Request-Id if it is fit for a log line and a header, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return str(value, "ascii")
    return secrets.token_hex(16)
