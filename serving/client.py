"""Our own server as the command line asks it, over HTTP. The only importer of httpx."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from serving.errors import AnchorageError, Unavailable
from serving.ports import LOOPBACK_NAMES

#: Connecting to a server that runs takes milliseconds; an answer may take as long as the server allows.
_TIMEOUT = httpx.Timeout(None, connect=5.0)


class ServerUnreachable(Unavailable):
    """Nobody answers at the address."""

    part = "api"


class Refused(AnchorageError):
    """The server answered with an error; the message is the server's own."""


class Client:
    """One server. Every call raises ServerUnreachable and Refused."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    async def get(self, path: str) -> Mapping[str, Any]:
        """The JSON object at `path`."""
        async with self._connected() as http:
            response = await http.get(path)
            _raise_refused(response.status_code, response.content)
            return _object(response.content)

    async def readiness(self, timeout_s: float = 10.0) -> Mapping[str, Any]:
        """What /readyz says, ready or not."""
        async with self._connected() as http:
            response = await http.get("/readyz", timeout=timeout_s)
            return _object(response.content)

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        """The chunks of a streamed chat completion; `{"comment": text}` for a comment (how a cold start goes)."""
        async with (
            self._connected() as http,
            http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response,
        ):
            if response.status_code != httpx.codes.OK:
                _raise_refused(response.status_code, await response.aread())
            async for line in response.aiter_lines():
                if line.startswith(":"):
                    yield {"comment": line[1:].strip()}
                elif line.startswith("data: ") and line != "data: [DONE]":
                    chunk = _object(line.removeprefix("data: ").encode())
                    if "error" in chunk:
                        raise Refused(_message(chunk))
                    yield chunk

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[httpx.AsyncClient]:
        try:
            # A proxy from the environment cannot reach our own loopback.
            proxied = httpx.URL(self._url).host not in LOOPBACK_NAMES
            async with httpx.AsyncClient(
                base_url=self._url, headers=self._headers, timeout=_TIMEOUT, trust_env=proxied
            ) as http:
                yield http
        except httpx.InvalidURL as error:
            raise ServerUnreachable(f"{self._url} is not an address: {error}") from error
        except httpx.ConnectError as error:
            raise ServerUnreachable(f"nobody answers at {self._url}") from error
        except httpx.TransportError as error:
            raise ServerUnreachable(f"{self._url} broke off: {str(error) or type(error).__name__}") from error


def _raise_refused(status: int, content: bytes) -> None:
    if status < httpx.codes.BAD_REQUEST:
        return
    try:
        message = _message(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError):
        message = content[:200].decode(errors="replace").strip()
    raise Refused(f"the server answered {status}: {message}")


def _message(body: Mapping[str, Any]) -> str:
    return str(body["error"]["message"])


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refused("the server's answer is not of Anchorage's make: is this the right address?")
    return value
