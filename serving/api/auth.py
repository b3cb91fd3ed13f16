"""API keys: read once, compared in constant time, never logged."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api.problems import problem_of, respond
from serving.api.trace import trace_of
from serving.errors import ConfigurationError, Unauthenticated
from serving.settings import ApiSettings

#: Open without a key: the cluster's own probes and scrapers ask them, they hold counts and part names, never content.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


def read_keys(settings: ApiSettings) -> tuple[bytes, ...]:
    """All configured keys, as SHA-256 digests.

    Raises ConfigurationError if `keys_file` cannot be read or holds no key: an empty file must not open the server.
    """
    keys = [key.get_secret_value() for key in settings.keys]
    if settings.keys_file is not None:
        try:
            lines = settings.keys_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"api.keys_file {settings.keys_file} cannot be read: {error}") from error
        found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not found:
            raise ConfigurationError(f"api.keys_file {settings.keys_file} holds no key.")
        keys += found
    if not all(keys):
        raise ConfigurationError("api.keys holds an empty key.")
    return tuple(_digest(key.encode()) for key in keys)


class Auth:
    """Lets a request through that carries a known key as `Authorization: Bearer KEY`; everything, without keys."""

    def __init__(self, app: ASGIApp, digests: Sequence[bytes]) -> None:
        self._app = app
        self._digests = tuple(digests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._digests or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        given = _bearer(scope)
        if given is not None and self._known(given):
            await self._app(scope, receive, send)
            return
        said = "This API key is not known." if given else "No API key: send it as 'Authorization: Bearer KEY'."
        problem = problem_of(Unauthenticated(said))
        trace_of(scope).error = problem.code
        await respond(problem)(scope, receive, send)

    def _known(self, given: bytes) -> bool:
        """Every key is compared, whichever fits: the time taken tells nothing."""
        digest = _digest(given)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)


def _bearer(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return bytes(value[7:]).strip()
    return None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
