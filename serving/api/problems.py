"""Error to HTTP: one table, and OpenAI's error shape for everything that leaves this server as an error.

{"error": {"message": "…", "type": "invalid_request_error", "param": "messages[0].content", "code": "…"}}
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from serving import errors


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as a client sees it."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The `{"error": …}` object, as a response body and as a stream's last event."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


#: Error class → status, type, code. The nearest ancestor in the class's own order counts.
_TABLE: dict[type[errors.AnchorageError], tuple[int, str, str]] = {
    errors.CallerError: (400, "invalid_request_error", "invalid_request"),
    errors.InvalidRequest: (400, "invalid_request_error", "invalid_value"),
    errors.InvalidFilter: (400, "invalid_request_error", "invalid_filter"),
    errors.PromptTooLong: (400, "invalid_request_error", "context_length_exceeded"),
    errors.Unauthenticated: (401, "authentication_error", "invalid_api_key"),
    errors.NotFound: (404, "invalid_request_error", "not_found"),
    errors.UnknownModel: (404, "invalid_request_error", "model_not_found"),
    errors.UnknownCollection: (404, "invalid_request_error", "collection_not_found"),
    errors.BodyTooLarge: (413, "invalid_request_error", "body_too_large"),
    errors.Overloaded: (429, "rate_limit_error", "overloaded"),
    errors.AnchorageError: (500, "server_error", "internal_error"),
    errors.ConfigurationError: (500, "server_error", "misconfigured"),
    errors.EngineUnavailable: (502, "server_error", "llm_failed"),
    errors.Unavailable: (503, "server_error", "unavailable"),
    errors.IndexUnavailable: (503, "server_error", "milvus_unavailable"),
    errors.CatalogUnavailable: (503, "server_error", "catalog_unavailable"),
    errors.EmbedderUnavailable: (503, "server_error", "embedder_unavailable"),
    errors.EngineCold: (503, "server_error", "llm_cold"),
    errors.DeadlineExceeded: (504, "server_error", "deadline_exceeded"),
}

_HTTP_CODES = {404: "unknown_url", 405: "method_not_allowed", 415: "unsupported_media_type"}

#: Said after a deadline: the load that ate the time is probably gone by then.
_RETRY_AFTER_DEADLINE_S = 1.0


def problem_of(error: Exception) -> Problem:
    """What a client is told about `error`. Anything not raised on purpose is an internal error without details."""
    if isinstance(error, HTTPException):
        return _http_problem(error)
    if not isinstance(error, errors.AnchorageError):
        return Problem(500, "server_error", "internal_error", "The server failed; its log has the reason.")
    status, kind, code = next(_TABLE[cls] for cls in type(error).__mro__ if cls in _TABLE)
    param = error.param if isinstance(error, errors.CallerError) else None
    return Problem(status, kind, code, str(error), param, _headers(error))


def respond(problem: Problem) -> Response:
    """The problem as a response."""
    return Response(
        orjson.dumps(problem.body()),
        status_code=problem.status,
        media_type="application/json",
        headers=problem.headers,
    )


def _http_problem(error: HTTPException) -> Problem:
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    code = _HTTP_CODES.get(error.status_code, "http_error")
    return Problem(error.status_code, kind, code, str(error.detail), None, dict(error.headers or {}))


def _headers(error: errors.AnchorageError) -> dict[str, str]:
    if isinstance(error, errors.Overloaded | errors.Unavailable):
        return {"Retry-After": _whole_seconds(error.retry_after_s)}
    if isinstance(error, errors.DeadlineExceeded):
        return {"Retry-After": _whole_seconds(_RETRY_AFTER_DEADLINE_S)}
    if isinstance(error, errors.BodyTooLarge):
        # Otherwise the server below would read any rest, to the end, only to keep the connection (RFC 9110, 15.5.14).
        return {"Connection": "close"}
    if isinstance(error, errors.Unauthenticated):
        return {"WWW-Authenticate": 'Bearer realm="anchorage"'}
    return {}


def _whole_seconds(seconds: float) -> str:
    return str(max(1, math.ceil(seconds)))
