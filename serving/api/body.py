"""A request's body: bounded while it arrives, strict JSON, and errors that name the field."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serving.api.trace import trace_of
from serving.errors import BodyTooLarge, DeadlineExceeded, InvalidRequest

#: How much of a body that is too large is read and thrown away before the client is cut off.
_LINGER_BYTES = 32 * 1024 * 1024
_LINGER_S = 2.0


class JsonRoute(APIRoute):
    """A route whose body is a JSON object of at most `app.state.max_body_bytes` bytes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_json(request: Request) -> Response:
            try:
                return await handle(await _JsonRequest.read(request))
            except ClientDisconnect:
                trace_of(request.scope).gone = True
                return Response(status_code=400)  # nobody is left to read it

        return handle_json


class _JsonRequest(Request):
    """A request that has been read and parsed already: FastAPI asks it for both."""

    _raw: bytes
    _parsed: dict[str, Any]

    @classmethod
    async def read(cls, request: Request) -> _JsonRequest:
        """Raises BodyTooLarge, InvalidRequest, DeadlineExceeded, ClientDisconnect, or HTTPException 415."""
        _require_json(request)
        made = cls(request.scope, request.receive)
        try:
            async with asyncio.timeout(request.app.state.deadline_s):
                made._raw = await read_bounded(request.stream(), request.headers, request.app.state.max_body_bytes)
        except TimeoutError:
            raise DeadlineExceeded("The request's body did not arrive in time.", part="body") from None
        made._parsed = parse_object(made._raw)
        return made

    async def body(self) -> bytes:
        return self._raw

    async def json(self) -> Any:
        return self._parsed


def _require_json(request: Request) -> None:
    """No content type at all is taken for JSON; a wrong one is most often curl without a header."""
    given = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if given == "application/json" or (given.startswith("application/") and given.endswith("+json")):
        return
    raise HTTPException(415, f"The body is {given!r}; send JSON with 'Content-Type: application/json'.")


async def read_bounded(stream: AsyncIterator[bytes], headers: Headers, limit: int) -> bytes:
    """The whole body. Keeps nothing once it is known to be too large, declared or not. Raises BodyTooLarge."""
    parts = [part async for part in bounded(stream, headers, limit)]
    return b"".join(parts)


async def bounded(stream: AsyncIterator[bytes], headers: Headers, limit: int) -> AsyncGenerator[bytes]:
    """A body as it arrives, of `limit` bytes at most. Raises BodyTooLarge, declared or not."""
    declared = headers.get("content-length", "0")
    too_large = declared.isdecimal() and int(declared) > limit
    size = 0
    while not too_large:
        part = await anext(stream, None)
        if part is None:
            return
        size += len(part)
        too_large = size > limit
        if not too_large:
            yield part
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            await _discard(stream)
    raise BodyTooLarge(f"The body is larger than the {limit} bytes this server accepts.")


async def _discard(stream: AsyncIterator[bytes]) -> None:
    """Read on for a while and keep nothing: a client that is cut off while it sends does not see the answer."""
    left = _LINGER_BYTES
    while left > 0:
        part = await anext(stream, None)
        if part is None:
            return
        left -= len(part)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Strict JSON: no NaN, no Infinity, no lone surrogates, no invalid UTF-8, no nesting beyond orjson's 254."""
    if not raw.strip():
        raise InvalidRequest("The request has no body; send a JSON object.")
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error
    if not isinstance(parsed, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return parsed


def invalid_request(error: RequestValidationError) -> InvalidRequest:
    """The first validation error, with its field in dotted form: `messages[0].content`."""
    first = error.errors()[0]
    location: Sequence[str | int] = first["loc"]
    source, path = location[0], location[1:]
    if source != "body":
        name = str(path[0]) if path else str(source)
        return InvalidRequest(f"{name}: {_reason(first)}", param=name)
    param = _dotted(path, error.body) or None
    reason = _reason(first)
    return InvalidRequest(f"{param}: {reason}" if param else reason, param=param)


def _reason(error: dict[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field."
    if error["type"] == "missing":
        return "this field is required."
    message = str(error["msg"]).removeprefix("Value error, ")
    return message if message.endswith(".") else f"{message}."


def _dotted(path: Sequence[str | int], body: Any) -> str:
    """The steps of `path` that are in the body, or missing at its end: pydantic adds names of union branches."""
    dotted = ""
    here = body
    for place, step in enumerate(path):
        if isinstance(step, int):
            if isinstance(here, list) and step < len(here):
                dotted += f"[{step}]"
                here = here[step]
        elif isinstance(here, dict) and (step in here or place == len(path) - 1):
            dotted += f".{step}" if dotted else step
            here = here.get(step)
    return dotted
